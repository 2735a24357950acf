//! One generation, step by step.

mod begin;
mod branches;
mod handover;
mod lease;
mod solving;
#[cfg(feature = "stream")]
mod stream;

use std::path::Path;

use burn::tensor::{DType, FloatDType, Tensor};
use sd_core::{
    Autoencoder, BranchEvaluation, Cancel, DenoiserSpec, Guided, Level, Noise, Plan, Scheduler,
    SeededNoise, TextEmbedding, placed,
};

use crate::finite::{self, Witness};
use crate::memory::{DECODE, DENOISE, PhasePeaks, Phases};
use crate::saved::SavedRun;
use crate::synchronized::synchronized;
use crate::{Error, Picture, Pipeline, Request, Result, Slot, Start, image_from_pixels};
use handover::Cut;
use lease::Lease;
use solving::{Settings, Solving};

pub use handover::Handover;
pub(crate) use solving::SavedSolving;
#[cfg(feature = "stream")]
pub use stream::RunStream;

/// Progress of a [`Run`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Progress {
    /// Steps done so far, the one just taken included.
    pub done: usize,
    /// Steps the run has; a solver that chooses its own steps may take more or fewer.
    pub total: usize,
    /// Share of the run that is done, in `0.0 ..= 1.0`, for a progress bar.
    pub fraction: f64,
    /// Evaluations of the network in this step.
    pub evaluations: usize,
}

/// One generation, step by step: an iterator that takes a step each time it is asked.
///
/// Between steps the [latents](Self::latents) and the [predicted picture](Self::denoised) can be
/// read. Stop asking to stop the run, or have another thread stop it inside a step with the
/// [`cancel_handle`](Self::cancel_handle); [`images`](Self::images) then gives what it has. Dropping
/// it frees everything it holds. It owns its parts, so it may move to another thread and outlive
/// the [`Pipeline`] it came from.
pub struct Run {
    lease: Lease,
    spec: DenoiserSpec,
    autoencoder: Slot<dyn Autoencoder>,
    evaluation: BranchEvaluation,
    settings: Settings,
    solving: Solving,
    noise: SeededNoise,
    cancel: Cancel,
    /// `[count, c, h, w]`, f32, in the solver's own scale; with `others`, that of the first image.
    x: Tensor<4>,
    level: Level,
    denoised: Option<Tensor<4>>,
    truncated: Vec<String>,
    warnings: Vec<String>,
    phases: Phases,
    done: usize,
    /// Share of the noise schedule at which another model goes on.
    end: Option<f64>,
    finished: bool,
    failed: bool,
    /// The other images' runs, where each image is stepped by itself.
    others: Vec<Run>,
    /// What [`latents`](Self::latents) and [`denoised`](Self::denoised) show: of all images.
    shown: (Tensor<4>, Option<Tensor<4>>),
}

/// Steps of a saved run whose solver chooses them, beyond which no run gets.
const MOST_STEPS: usize = 1 << 20;

impl Run {
    pub(crate) fn new(pipeline: &Pipeline, request: &Request) -> Result<Self> {
        let spec = pipeline.denoiser.spec().clone();
        request.latent_shape(&spec, pipeline.autoencoder.spec())?;
        let guidance = request.guidance(&spec);
        // What is wrong with steps and strength shows before anything is loaded.
        let plan = pipeline.scheduler.plan(&spec.schedule, request.steps)?;
        stages(&plan, &*pipeline.scheduler, request)?;
        begin::check(pipeline, request)?;
        if let Some(concat) = &request.concat {
            finite::require("concat", concat)?;
        }

        let phases = Phases::default();
        let texts = branches::texts(pipeline, request, &*guidance, &phases)?;
        let truncated = branches::truncated(&texts);
        let mut run = if request.count > 1 && pipeline.scheduler.steps_each_image() {
            let mut run = Self::of_texts(pipeline, &request.image(0), texts.clone(), phases)?;
            for k in 1..request.count {
                let phases = Phases::default();
                let mut other = Self::of_texts(pipeline, &request.image(k), texts.clone(), phases)?;
                other.cancel = run.cancel.clone();
                run.others.push(other);
            }
            run.show();
            run
        } else {
            Self::of_texts(pipeline, request, texts, phases)?
        };
        run.truncated = truncated;
        run.warnings = branches::warnings(pipeline, request, &*guidance);
        Ok(run)
    }

    /// The run of images that take the same steps.
    fn of_texts(
        pipeline: &Pipeline,
        request: &Request,
        texts: Vec<TextEmbedding>,
        phases: Phases,
    ) -> Result<Self> {
        let spec = pipeline.denoiser.spec().clone();
        let factor = pipeline.autoencoder.spec().factor;
        let shape = request.latent_shape(&spec, pipeline.autoencoder.spec())?;
        let [_, _, h, w] = shape;
        let guidance = request.guidance(&spec);
        let size = [h * factor, w * factor];
        let branches = branches::branches(pipeline, request, &*guidance, size, texts)?;
        let denoiser = pipeline.denoiser.clone();
        let lease = phases.watch(DENOISE, || Lease::new(denoiser, branches))?;
        let schedule = pipeline.denoiser.get()?.schedule([h, w])?;
        let plan = pipeline.scheduler.plan(&schedule, request.steps)?;
        let (first, cut) = stages(&plan, &*pipeline.scheduler, request)?;

        // The order of draws is diffusers': a picture's posterior, then the initial noise.
        let mut noise = SeededNoise::new(request.seed, request.count);
        let mut layers = request.layers.clone();
        let (initial, x) = match &request.start {
            Start::Noise => {
                let initial = begin::noise(&mut noise, shape, &spec.device)?;
                let x = initial.clone() * plan.init_noise_sigma;
                (initial, x)
            }
            Start::Initial(latents) => {
                let initial = placed(latents.clone(), &spec.device, FloatDType::F32)?;
                finite::require("latents", &initial)?;
                let x = initial.clone() * plan.init_noise_sigma;
                (initial, x)
            }
            Start::Picture { image, mask, .. } => {
                let clean = begin::encoded(pipeline, image, request.count, &mut noise, &phases)?;
                let initial = begin::noise(&mut noise, shape, &spec.device)?;
                if let Some(mask) = mask {
                    layers.push(std::sync::Arc::new(begin::mask(mask, &clean)));
                }
                let x = begin::noised(&clean, &initial, plan.stages[first].from);
                (initial, x)
            }
            Start::Handover(handover) => {
                begin::skip(&mut noise, handover.draws, shape, &plan)?;
                let x = handover.in_scale_of(plan.stages[first].from);
                let x = placed(x, &spec.device, FloatDType::F32)?;
                finite::require("latents", &x)?;
                let initial = match &handover.noise {
                    Some(noise) if noise.dims() != shape => {
                        let expected = format!("{shape:?}, as the latents");
                        let found = noise.dims();
                        return Err(sd_core::Error::shape("noise", &found, expected).into());
                    }
                    Some(noise) => placed(noise.clone(), &spec.device, FloatDType::F32)?,
                    None => x.zeros_like(),
                };
                (initial, x)
            }
        };
        let settings = Settings {
            scheduler: pipeline.scheduler.clone(),
            guidance,
            layers,
            plan,
            first,
            cut,
            noise: initial,
        };
        Ok(Self {
            lease,
            autoencoder: pipeline.autoencoder.clone(),
            evaluation: request.evaluation,
            solving: Solving::start(&settings)?,
            shown: (x.clone(), None),
            x,
            level: settings.plan.stages[first].from,
            noise,
            cancel: Cancel::new(),
            denoised: None,
            truncated: Vec::new(),
            warnings: Vec::new(),
            settings,
            spec,
            phases,
            done: 0,
            end: request.end,
            finished: false,
            failed: false,
            others: Vec::new(),
        })
    }

    /// The runs of images that take the same steps.
    fn runs(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.others)
    }

    /// Has the accessors show what the images now are.
    fn show(&mut self) {
        if self.others.is_empty() {
            self.shown = (self.x.clone(), self.denoised.clone());
            return;
        }
        let denoised: Option<Vec<_>> = self.runs().map(|run| run.denoised.clone()).collect();
        let x = self.runs().map(|run| run.x.clone()).collect();
        self.shown = (Tensor::cat(x, 0), denoised.map(|all| Tensor::cat(all, 0)));
    }

    /// The levels this run visits.
    pub fn plan(&self) -> &Plan {
        &self.settings.plan
    }

    /// Number of steps it has; a solver that chooses its own steps may take more or fewer.
    pub fn steps(&self) -> usize {
        self.settings.steps()
    }

    /// The current latents `[count, c, h, w]`, f32, in the solver's scale (`α·x₀ + σ·ε`) at
    /// [`level`](Self::level). After the last step: the final latents, diffusers'
    /// `output_type="latent"`.
    pub fn latents(&self) -> &Tensor<4> {
        &self.shown.0
    }

    /// The level of the [`latents`](Self::latents); of the first image, where each is stepped by
    /// itself.
    pub fn level(&self) -> Level {
        self.level
    }

    /// The clean latents `[count, c, h, w]` the model saw in its last evaluation: what the
    /// pictures will about be. `None` before the first step.
    pub fn denoised(&self) -> Option<&Tensor<4>> {
        self.shown.1.as_ref()
    }

    /// `true` once the last step is done.
    pub fn is_finished(&self) -> bool {
        self.runs().all(|run| run.finished)
    }

    /// Text of the prompts that did not fit into the text encoder and was left out.
    pub fn truncated(&self) -> &[String] {
        &self.truncated
    }

    /// Words on what the request asks for in vain, such as a negative prompt for a network that
    /// knows none. They are logged too.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The handle with which any thread stops this run inside a step.
    ///
    /// Once it is [pulled](Cancel::pull) the network stops between two of its layers and the step
    /// returns [`Error::Component`] with [`Cancelled`](sd_core::Error::Cancelled). The run keeps
    /// what its last finished step left, its [`images`](Self::images) can be had and it can be
    /// [saved](Self::save); asked for another step it goes on as if it had not been stopped.
    pub fn cancel_handle(&self) -> Cancel {
        self.cancel.clone()
    }

    /// The most memory the process occupied in each phase so far.
    pub fn memory_peaks(&self) -> PhasePeaks {
        self.phases.peaks()
    }

    /// Writes this run to a file, from which [`Pipeline::resume`] continues it, in this process
    /// or another, as if it had not been interrupted.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the file cannot be written; it appears whole or not at
    /// all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let saved = self.saved();
        synchronized(&[&self.x.device()], "saving the run", || {
            saved.write(path.as_ref())
        })
    }

    fn saved(&self) -> SavedRun {
        SavedRun {
            latents: self.x.clone(),
            solving: self.solving.save(),
            done: self.done,
            draws: self.noise.draws(),
            finished: self.finished,
            others: self.others.iter().map(Self::saved).collect(),
        }
    }

    /// A run of `request` that goes on where the one in the file `path` stopped.
    pub(crate) fn resume(pipeline: &Pipeline, request: &Request, path: &Path) -> Result<Self> {
        // What is wrong with the file shows before anything is loaded.
        let saved = SavedRun::read(path, &pipeline.denoiser.spec().device)?;
        let mut run = Self::new(pipeline, request)?;
        let own_steps = pipeline.scheduler.steps_each_image();
        run.restore(saved, own_steps, &|reason: String| Error::SavedRun {
            path: path.to_path_buf(),
            reason,
        })?;
        run.show();
        Ok(run)
    }

    /// `own_steps` says whether the solver decides how many steps there are.
    fn restore(
        &mut self,
        saved: SavedRun,
        own_steps: bool,
        misfit: &dyn Fn(String) -> Error,
    ) -> Result<()> {
        let (shape, stages) = (self.x.dims(), self.settings.plan.stages.len());
        if saved.latents.dims() != shape {
            let found = saved.latents.dims();
            return Err(misfit(format!(
                "its latents are {found:?}, the request's {shape:?}"
            )));
        }
        let (found, images) = (1 + saved.others.len(), 1 + self.others.len());
        if found != images {
            return Err(misfit(format!(
                "it has {found} images, the request {images}"
            )));
        }
        let most = if own_steps { MOST_STEPS } else { stages };
        if saved.done >= most || saved.solving.sampler.index() >= most {
            let done = saved.done;
            return Err(misfit(format!(
                "{done} steps are done, the request has {stages}"
            )));
        }
        let tensors = &saved.solving.sampler.tensors;
        if let Some((name, found)) = tensors.iter().find(|(_, t)| t.dims() != shape) {
            let found = found.dims();
            return Err(misfit(format!(
                "its solver's '{name}' is {found:?}, the request's latents {shape:?}"
            )));
        }
        let layers = self.settings.layers.len();
        if saved.solving.layers.len() != layers {
            let found = saved.solving.layers.len();
            return Err(misfit(format!(
                "it has {found} layers around the model, the request {layers}"
            )));
        }
        // No solver draws as often in one step; a file that claims it would keep us drawing.
        let most = 16 * (stages as u64 + 2);
        if saved.draws > most {
            let reason = format!(
                "it counts {} noise draws, expected at most {most}",
                saved.draws
            );
            return Err(misfit(reason));
        }
        self.solving = Solving::restored(&self.settings, &saved.solving)?;
        // Seeds and the number of draws are the whole state of the noise.
        while self.noise.draws() < saved.draws {
            self.noise.normal(shape)?;
        }
        self.x = saved.latents;
        self.done = saved.done;
        self.finished = saved.finished;
        if let Some(before) = saved.done.checked_sub(1) {
            let stages = &self.settings.plan.stages;
            self.level = stages[(self.settings.first + before).min(stages.len() - 1)].to;
        }
        for (other, saved) in self.others.iter_mut().zip(saved.others) {
            other.restore(saved, own_steps, misfit)?;
        }
        Ok(())
    }

    /// The latents that another model goes on with, in a run that
    /// [ends before the last step](Request::end).
    ///
    /// # Errors
    /// [`Unsupported`](sd_core::Error::Unsupported) of a run that does not, or is not at its end.
    pub fn hand_over(&self) -> Result<Handover> {
        let cut = self.settings.cut.is_some();
        match self.end.filter(|_| cut && self.is_finished()) {
            Some(at) => Ok(Handover {
                noise: Some(self.settings.noise.clone()),
                draws: self.noise.draws(),
                ..Handover::new(self.x.clone(), self.level, at)
            }),
            None => {
                let what = "a run is handed over at its end, which `Request::end` says";
                Err(sd_core::Error::Unsupported(what.into()).into())
            }
        }
    }

    /// The pictures: of the final latents, or, of a run stopped early or handed over, of the clean latents it
    /// predicts. Decoded one after the other, so memory does not grow with their number.
    ///
    /// # Errors
    /// Those of the autoencoder, and [`NotFinite`](sd_core::Error::NotFinite) for a picture with a
    /// NaN in it or an infinite value.
    pub fn images(&self) -> Result<Vec<Picture>> {
        let latents = self.runs().map(|run| match &run.denoised {
            Some(denoised) if !run.finished || run.settings.cut.is_some() => denoised.clone(),
            _ => run.x.clone(),
        });
        let latents = Tensor::cat(latents.collect(), 0);
        let spec = self.autoencoder.spec();
        let devices = [&latents.device(), &spec.device];
        // The denoiser has done its work; should the run go on, it is loaded again.
        self.runs().for_each(|run| run.lease.give_back());
        self.phases.watch(DECODE, || {
            let autoencoder = synchronized(&devices, "loading the autoencoder", || {
                self.autoencoder.get()
            })?;
            let decode = |(k, seed)| {
                let _span = tracing::info_span!(
                    "decode", image = k, shape = ?latents.dims(), device = ?spec.device
                )
                .entered();
                let image = synchronized(&devices, "the autoencoder", || {
                    let latent = latents.clone().narrow(0, k, 1);
                    let latent = placed(latent, &spec.device, spec.dtype)?;
                    image_from_pixels(autoencoder.decode(latent)?)
                });
                Ok(Picture::new(image?, seed))
            };
            let seeds = self.runs().flat_map(|run| run.noise.seeds());
            seeds.enumerate().map(decode).collect()
        })
    }

    /// A step of every image that is not finished.
    fn round(&mut self) -> Result<Progress> {
        if self.others.is_empty() {
            return self.step();
        }
        let unfinished = self.runs().filter(|run| !run.finished);
        // Behind a round that was cancelled in its middle some are a step ahead.
        let round = unfinished.map(|run| run.done).min().unwrap_or_default();
        let mut all = Progress {
            done: round + 1,
            total: self.settings.steps(),
            fraction: 1.0,
            evaluations: 0,
        };
        let mut others = std::mem::take(&mut self.others);
        let mut step = || {
            for run in std::iter::once(&mut *self).chain(&mut others) {
                if !run.finished && run.done == round {
                    let progress = run.step()?;
                    all.fraction = all.fraction.min(progress.fraction);
                    all.evaluations += progress.evaluations;
                }
            }
            Ok(all)
        };
        let result = step();
        self.others = others;
        result
    }

    fn step(&mut self) -> Result<Progress> {
        let total = self.settings.steps();
        let halves = self.settings.cut.is_some_and(|cut| cut.halves) && self.done + 1 == total;
        let _span = tracing::info_span!(
            "step", index = self.done, shape = ?self.x.dims(), device = ?self.spec.device
        )
        .entered();
        // A step that is stopped must leave no trace.
        let before = (self.solving.save(), self.noise.clone());
        let result = self.phases.watch(DENOISE, || {
            synchronized(&[&self.x.device()], "the scheduler", || {
                self.lease.take()?;
                // Those of a step that was stopped.
                drop(self.lease.witnesses());
                let (lease, spec, cancel) = (&self.lease, &self.spec, &self.cancel);
                let (evaluation, done) = (self.evaluation, self.done);
                let model = |guide| -> Box<dyn sd_core::Model + '_> {
                    let guided = Guided::new(lease, guide, spec.parameterization)
                        .in_precision(spec.dtype)
                        .evaluating(evaluation)
                        .cancelled_by(cancel)
                        .at_step(done, total);
                    Box::new(guided)
                };
                let noise = &mut self.noise;
                let (mut step, evaluations) =
                    self.solving.step(self.x.clone(), halves, model, noise)?;
                step.x = self.solving.after_step(step.x, step.level)?;
                let outputs = lease.witnesses();
                check_finite(outputs, &step.x, done + 1, spec.dtype.into())?;
                Ok((step, evaluations))
            })
        });
        if let Err(Error::Component(sd_core::Error::Cancelled)) = &result {
            self.cancel.release();
            let (solving, noise) = before;
            self.solving = Solving::restored(&self.settings, &solving)?;
            self.noise = noise;
        }
        let (step, evaluations) = result?;
        self.done += 1;
        let cut = self.settings.cut.is_some();
        self.finished = step.done || (cut && self.done == total);
        if self.finished {
            self.lease.give_back();
        }
        self.x = step.x;
        self.level = step.level;
        self.denoised = Some(step.denoised);
        Ok(Progress {
            done: self.done,
            total,
            fraction: match cut {
                true => self.done as f64 / total as f64,
                false => step.progress,
            },
            evaluations,
        })
    }
}

/// Names who made the first NaN or infinite value in the step of number `step`: the denoiser, of
/// `dtype`, by its `outputs`, or what made the latent `x` of them.
fn check_finite(outputs: Vec<Witness>, x: &Tensor<4>, step: usize, dtype: DType) -> Result<()> {
    let evaluations = outputs.len();
    let all = outputs.into_iter().chain([Witness::of(x)]);
    let (component, dtype) = match Witness::first_bad(all)? {
        None => return Ok(()),
        Some(bad) if bad < evaluations => ("the denoiser", dtype),
        Some(_) => ("the scheduler", x.dtype()),
    };
    Err(sd_core::Error::NotFinite {
        component,
        step: Some(step),
        dtype,
    }
    .into())
}

/// The stage at which `request` begins, and the place at which another model goes on.
fn stages(
    plan: &Plan,
    scheduler: &dyn Scheduler,
    request: &Request,
) -> Result<(usize, Option<Cut>)> {
    let first = match &request.start {
        Start::Picture { strength, .. } => plan.first_stage(request.steps, *strength)?,
        Start::Handover(handover) => Cut::at("handover", handover.at, plan, scheduler)?.stage,
        _ => 0,
    };
    let cut = request.end.map(|end| Cut::at("end", end, plan, scheduler));
    let cut = cut.transpose()?;
    if let Start::Handover(handover) = &request.start
        && first >= plan.stages.len()
    {
        let expected = "expected less: no step is left behind it";
        return Err(sd_core::Error::invalid("handover", handover.at, expected).into());
    }
    if let (Some(cut), Some(end)) = (cut, request.end)
        && first >= cut.end()
    {
        let expected = "expected more: no step is left before it";
        return Err(sd_core::Error::invalid("end", end, expected).into());
    }
    Ok((first, cut))
}

impl Iterator for Run {
    type Item = Result<Progress>;

    /// Takes the next step; `None` after the last one, and after an error other than a
    /// [cancellation](Self::cancel_handle).
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.is_finished() {
            return None;
        }
        let step = self.round();
        self.show();
        let cancelled = matches!(step, Err(Error::Component(sd_core::Error::Cancelled)));
        self.failed = step.is_err() && !cancelled;
        Some(step)
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("latents", &self.shown.0.dims())
            .field("done", &self.done)
            .field("of", &self.settings.steps())
            .finish_non_exhaustive()
    }
}
