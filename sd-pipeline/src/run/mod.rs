//! One generation, step by step.

mod begin;
mod branches;
mod lease;
mod solving;
#[cfg(feature = "stream")]
mod stream;

use std::path::Path;

use burn::tensor::{DType, FloatDType, Tensor};
use sd_core::{
    Autoencoder, BranchEvaluation, Cancel, DenoiserSpec, Guided, Level, Noise, Plan, SeededNoise,
    placed,
};

use crate::finite::{self, Witness};
use crate::memory::{DECODE, DENOISE, PhasePeaks, Phases};
use crate::saved::SavedRun;
use crate::synchronized::synchronized;
use crate::{Error, Picture, Pipeline, Request, Result, Slot, Start, image_from_pixels};
use lease::Lease;
use solving::{Settings, Solving};

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
    /// `[count, c, h, w]`, f32, in the solver's own scale.
    x: Tensor<4>,
    level: Level,
    denoised: Option<Tensor<4>>,
    truncated: Vec<String>,
    warnings: Vec<String>,
    phases: Phases,
    done: usize,
    finished: bool,
    failed: bool,
}

impl Run {
    pub(crate) fn new(pipeline: &Pipeline, request: &Request) -> Result<Self> {
        let spec = pipeline.denoiser.spec().clone();
        let factor = pipeline.autoencoder.spec().factor;
        let shape = request.latent_shape(&spec, pipeline.autoencoder.spec())?;
        let [_, _, h, w] = shape;
        let guidance = request.guidance(&spec);
        // What is wrong with steps and strength shows before anything is loaded.
        let plan = pipeline.scheduler.plan(&spec.schedule, request.steps)?;
        first_stage(&plan, request)?;

        let phases = Phases::default();
        let size = [h * factor, w * factor];
        let branches = branches::branches(pipeline, request, &*guidance, size, &phases)?;
        let denoiser = pipeline.denoiser.clone();
        let lease = phases.watch(DENOISE, || Lease::new(denoiser, branches.conditioning))?;
        let schedule = pipeline.denoiser.get()?.schedule([h, w])?;
        let plan = pipeline.scheduler.plan(&schedule, request.steps)?;
        let first = first_stage(&plan, request)?;

        if let Some(concat) = &request.concat {
            finite::require("concat", concat)?;
        }
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
        };
        let settings = Settings {
            scheduler: pipeline.scheduler.clone(),
            guidance,
            layers,
            plan,
            first,
            noise: initial,
        };
        Ok(Self {
            lease,
            autoencoder: pipeline.autoencoder.clone(),
            evaluation: request.evaluation,
            solving: Solving::start(&settings)?,
            x,
            level: settings.plan.stages[first].from,
            noise,
            cancel: Cancel::new(),
            denoised: None,
            truncated: branches.truncated,
            warnings: branches::warnings(request, &*settings.guidance),
            settings,
            spec,
            phases,
            done: 0,
            finished: false,
            failed: false,
        })
    }

    /// The levels this run visits.
    pub fn plan(&self) -> &Plan {
        &self.settings.plan
    }

    /// The current latents `[count, c, h, w]`, f32, in the solver's scale (`α·x₀ + σ·ε`) at
    /// [`level`](Self::level). After the last step: the final latents, diffusers'
    /// `output_type="latent"`.
    pub fn latents(&self) -> &Tensor<4> {
        &self.x
    }

    /// The level of the [`latents`](Self::latents).
    pub fn level(&self) -> Level {
        self.level
    }

    /// The clean latents `[count, c, h, w]` the model saw in its last evaluation: what the
    /// pictures will about be. `None` before the first step.
    pub fn denoised(&self) -> Option<&Tensor<4>> {
        self.denoised.as_ref()
    }

    /// `true` once the last step is done.
    pub fn is_finished(&self) -> bool {
        self.finished
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
        let saved = SavedRun {
            latents: self.x.clone(),
            solving: self.solving.save(),
            done: self.done,
            draws: self.noise.draws(),
        };
        synchronized(&[&self.x.device()], "saving the run", || {
            saved.write(path.as_ref())
        })
    }

    /// A run of `request` that goes on where the one in the file `path` stopped.
    pub(crate) fn resume(pipeline: &Pipeline, request: &Request, path: &Path) -> Result<Self> {
        let mut run = Self::new(pipeline, request)?;
        let saved = SavedRun::read(path, &run.x.device())?;
        let misfit = |reason: String| Error::SavedRun {
            path: path.to_path_buf(),
            reason,
        };
        let (shape, stages) = (run.x.dims(), run.settings.plan.stages.len());
        if saved.latents.dims() != shape {
            let found = saved.latents.dims();
            return Err(misfit(format!(
                "its latents are {found:?}, the request's {shape:?}"
            )));
        }
        if saved.done >= stages || saved.solving.sampler.index() >= stages {
            let done = saved.done;
            return Err(misfit(format!(
                "{done} steps are done, the request has {stages}"
            )));
        }
        let layers = run.settings.layers.len();
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
        run.solving = Solving::restored(&run.settings, &saved.solving)?;
        // Seeds and the number of draws are the whole state of the noise.
        while run.noise.draws() < saved.draws {
            run.noise.normal(shape)?;
        }
        run.x = saved.latents;
        run.done = saved.done;
        if let Some(before) = saved.done.checked_sub(1) {
            let stages = &run.settings.plan.stages;
            run.level = stages[(run.settings.first + before).min(stages.len() - 1)].to;
        }
        Ok(run)
    }

    /// The pictures: of the final latents, or, of a run stopped early, of the clean latents it
    /// predicts. Decoded one after the other, so memory does not grow with their number.
    ///
    /// # Errors
    /// Those of the autoencoder, and [`NotFinite`](sd_core::Error::NotFinite) for a picture with a
    /// NaN in it or an infinite value.
    pub fn images(&self) -> Result<Vec<Picture>> {
        let latents = match &self.denoised {
            Some(denoised) if !self.finished => denoised,
            _ => &self.x,
        };
        let spec = self.autoencoder.spec();
        let devices = [&latents.device(), &spec.device];
        // The denoiser has done its work; should the run go on, it is loaded again.
        self.lease.give_back();
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
            self.noise
                .seeds()
                .into_iter()
                .enumerate()
                .map(decode)
                .collect()
        })
    }

    fn step(&mut self) -> Result<Progress> {
        let total = self.settings.plan.stages.len() - self.settings.first;
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
                let made = self.solving.step(self.x.clone(), model, noise)?;
                let outputs = lease.witnesses();
                check_finite(outputs, &made.0.x, done + 1, spec.dtype.into())?;
                Ok(made)
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
        self.finished = step.done;
        if self.finished {
            self.lease.give_back();
        }
        self.x = step.x;
        self.level = step.level;
        self.denoised = Some(step.denoised);
        Ok(Progress {
            done: self.done,
            total,
            fraction: step.progress,
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

/// The stage at which `request` begins.
fn first_stage(plan: &Plan, request: &Request) -> Result<usize> {
    match &request.start {
        Start::Picture { strength, .. } => Ok(plan.first_stage(request.steps, *strength)?),
        _ => Ok(0),
    }
}

impl Iterator for Run {
    type Item = Result<Progress>;

    /// Takes the next step; `None` after the last one, and after an error other than a
    /// [cancellation](Self::cancel_handle).
    fn next(&mut self) -> Option<Self::Item> {
        if self.finished || self.failed {
            return None;
        }
        let step = self.step();
        let cancelled = matches!(step, Err(Error::Component(sd_core::Error::Cancelled)));
        self.failed = step.is_err() && !cancelled;
        Some(step)
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("latents", &self.x.dims())
            .field("done", &self.done)
            .field("of", &self.settings.plan.stages.len())
            .finish_non_exhaustive()
    }
}
