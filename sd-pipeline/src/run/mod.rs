//! One generation, step by step.

mod begin;
mod branches;
mod from_picture;
mod handover;
mod images;
mod lease;
mod passes;
mod pictures;
mod preview;
mod saving;
mod script;
mod solving;
mod stepping;
#[cfg(feature = "stream")]
mod stream;
mod varying;

use std::sync::Arc;

use burn::tensor::{FloatDType, Tensor};
use sd_core::{
    Autoencoder, BranchEvaluation, Cancel, DenoiserSpec, Level, NoiseSchedule, Plan, Scheduler,
    SeededNoise, TextEmbedding, placed,
};

use crate::control;
use crate::finite;
use crate::inpaint::Paste;
use crate::memory::{DENOISE, PhasePeaks, Phases};
use crate::safety::Gate;
use crate::{LatentRgb, Marking, Pipeline, Record, Request, Result, Slot, Start, regions};
use from_picture::FromPicture;
use handover::Cut;
use images::Images;
use lease::Lease;
use passes::SecondPass;
use script::Script;
use solving::{Settings, Solving};

pub(crate) use begin::{encoded, pixels};
pub use handover::Handover;
pub(crate) use passes::Passed;
pub use preview::Preview;
pub(crate) use script::parts;
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
    /// The way out for pictures, where they are checked.
    gate: Option<Gate>,
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
    /// Of all pictures but for their seeds.
    record: Record,
    marking: Option<Marking>,
    /// The way of a drawn part back into the whole picture.
    paste: Option<Arc<Paste>>,
    done: usize,
    /// Share of the noise schedule at which another model goes on.
    end: Option<f64>,
    finished: bool,
    failed: bool,
    /// The other images' runs, where each image is stepped by itself.
    others: Vec<Run>,
    /// The first pass, where this is the second.
    passed: Option<Passed>,
    /// The second pass, where this is the first of two.
    ahead: Option<Box<SecondPass>>,
    /// Colours of the latents, for previews.
    latent_rgb: Option<LatentRgb>,
    /// What [`latents`](Self::latents) and [`denoised`](Self::denoised) show: of all images.
    shown: (Tensor<4>, Option<Tensor<4>>),
}

/// What a request says, encoded.
#[derive(Clone, Default)]
struct Prompts {
    texts: Vec<Script<TextEmbedding>>,
    images: Images,
}

impl Run {
    pub(crate) fn new(pipeline: &Pipeline, request: &Request) -> Result<Self> {
        let spec = pipeline.denoiser.spec().clone();
        let [.., h, w] = request.latent_shape(&spec, pipeline.autoencoder.spec())?;
        begin::check(pipeline, request)?;
        regions::shares(&request.regions, [h, w])?;
        if let Some(tiles) = request.tiles {
            tiles.check(&spec)?;
        }
        let factor = pipeline.autoencoder.spec().factor;
        let drawn = [h * factor, w * factor];
        let ahead = SecondPass::of(pipeline, request, drawn)?;
        if let Some(marking) = &request.watermark {
            let [height, width] = ahead.as_ref().map_or(drawn, SecondPass::size);
            let drawn = [width, height].map(|side| side as u32);
            marking.check(request.start.result_size().unwrap_or(drawn))?;
        }
        let guidance = request.guidance(pipeline);
        // What is wrong with steps and strength shows before anything is loaded.
        planned(&*pipeline.scheduler, &spec.schedule, request)?;
        if let Some(concat) = &request.concat {
            finite::require("concat", concat)?;
        }

        let phases = Phases::default();
        let prompts = Prompts {
            texts: branches::texts(pipeline, request, 0, &*guidance, &phases)?,
            images: Images::of(pipeline, request, &*guidance, &phases)?,
        };
        let truncated = branches::truncated(&prompts.texts);
        let behind = request.steps;
        let ahead = ahead.map(|pass| pass.with_prompts(&prompts, behind, &*guidance, &phases));
        let ahead = ahead.transpose()?.map(Box::new);
        let mut run = Self::of_images(pipeline, request, prompts, phases)?;
        run.truncated = truncated;
        run.warnings = branches::warnings(pipeline, request, &*guidance);
        run.ahead = ahead;
        Ok(run)
    }

    /// The run of one pass.
    fn of_images(
        pipeline: &Pipeline,
        request: &Request,
        prompts: Prompts,
        phases: Phases,
    ) -> Result<Self> {
        if request.count == 1 || !pipeline.scheduler.steps_each_image() {
            return Self::of_prompts(pipeline, request, prompts, phases);
        }
        let mut run = Self::of_prompts(pipeline, &request.image(0), prompts.clone(), phases)?;
        for k in 1..request.count {
            let phases = Phases::default();
            let mut other = Self::of_prompts(pipeline, &request.image(k), prompts.clone(), phases)?;
            other.cancel = run.cancel.clone();
            run.others.push(other);
        }
        run.show();
        Ok(run)
    }

    /// The run of images that take the same steps.
    fn of_prompts(
        pipeline: &Pipeline,
        request: &Request,
        prompts: Prompts,
        phases: Phases,
    ) -> Result<Self> {
        let spec = pipeline.denoiser.spec().clone();
        let factor = pipeline.autoencoder.spec().factor;
        let shape = request.latent_shape(&spec, pipeline.autoencoder.spec())?;
        let [_, _, h, w] = shape;
        let guidance = request.guidance(pipeline);
        let size = [h * factor, w * factor];
        let mut noise = SeededNoise::new(request.seed, request.count);
        let mut picture = match &request.start {
            Start::Picture(start) => {
                let noise = &mut noise;
                let picture = FromPicture::draw(pipeline, request, start, shape, noise, &phases)?;
                Some(picture)
            }
            _ => None,
        };
        let concat = picture.as_mut().and_then(|picture| picture.concat.take());
        let concat = match (&request.picture, concat) {
            (Some(picture), _) => {
                let picture = picture.resized(size)?;
                Some(begin::beside(pipeline, &picture, &phases)?)
            }
            (None, None) => request.concat.clone(),
            (None, concat) => concat,
        };
        let (plan, first, cut) = planned(&*pipeline.scheduler, &spec.schedule, request)?;
        let steps = cut.map_or(plan.stages.len(), |cut| cut.end()) - first;
        let guidance = control::steered(pipeline, request, guidance, size, steps)?;
        // A run that goes on with another's is in its schedule, too.
        let behind = match request.start {
            Start::Handover(_) => first,
            _ => 0,
        };
        let images = prompts.images.over(request, size, behind, steps)?;
        let texts = prompts.texts;
        let (guidance, branches) = branches::branches(
            pipeline, request, guidance, size, behind, concat, texts, &images,
        )?;
        let (guidance, branches) = branches::staged(pipeline, guidance, branches, steps);
        let denoiser = pipeline.denoiser.clone();
        let lease = phases.watch(DENOISE, || Lease::new(denoiser, request.tiles, branches))?;
        let schedule = pipeline.denoiser.get()?.schedule([h, w])?;
        let (plan, first, cut) = planned(&*pipeline.scheduler, &schedule, request)?;

        let mut layers = request.layers.clone();
        let mut paste = None;
        let (initial, x) = match &request.start {
            Start::Initial(latents) => {
                let initial = placed(latents.clone(), &spec.device, FloatDType::F32)?;
                finite::require("latents", &initial)?;
                let x = initial.clone() * plan.init_noise_sigma;
                (initial, x)
            }
            Start::Latents { latents, draws, .. } => {
                begin::skip(&mut noise, *draws, shape, &plan)?;
                let clean = placed(latents.clone(), &spec.device, FloatDType::F32)?;
                finite::require("latents", &clean)?;
                let initial = begin::noise(&mut noise, shape, &spec.device)?;
                let x = begin::noised(&clean, &initial, plan.stages[first].from);
                (initial, x)
            }
            Start::Noise | Start::Picture(_) => match picture {
                None => {
                    let initial = begin::noise(&mut noise, shape, &spec.device)?;
                    let x = initial.clone() * plan.init_noise_sigma;
                    (initial, x)
                }
                Some(picture) => {
                    let x = picture.latent(&plan, first);
                    layers.extend(picture.layer);
                    paste = picture.paste.map(Arc::new);
                    (picture.noise, x)
                }
            },
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
            gate: pipeline.safety_checker.clone().map(|checker| Gate {
                checker,
                on_flagged: pipeline.on_flagged,
            }),
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
            record: Record::begin(pipeline, request, size),
            marking: request.watermark.clone(),
            paste,
            done: 0,
            end: request.end,
            finished: false,
            failed: false,
            others: Vec::new(),
            passed: None,
            ahead: None,
            latent_rgb: pipeline.latent_rgb.clone(),
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

    /// The levels this run visits; of two passes those of the one it is in.
    pub fn plan(&self) -> &Plan {
        &self.settings.plan
    }

    /// Number of steps it has, those of a second pass included; a solver that chooses its own steps
    /// may take more or fewer.
    pub fn steps(&self) -> usize {
        let [behind, ahead] = self.other_steps();
        behind + self.settings.steps() + ahead
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
        self.ahead.is_none() && self.runs().all(|run| run.finished)
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
    /// returns [`Error::Component`](crate::Error::Component) with [`Cancelled`](sd_core::Error::Cancelled). The run keeps
    /// what its last finished step left, its [`images`](Self::images) can be had and it can be
    /// [saved](Self::save); asked for another step it goes on as if it had not been stopped.
    pub fn cancel_handle(&self) -> Cancel {
        self.cancel.clone()
    }

    /// The most memory the process occupied in each phase so far.
    pub fn memory_peaks(&self) -> PhasePeaks {
        self.phases.peaks()
    }
}

/// The levels of `request`'s run, the stage at which it begins, and the place at which another model
/// goes on.
fn planned(
    scheduler: &dyn Scheduler,
    schedule: &Arc<NoiseSchedule>,
    request: &Request,
) -> Result<(Plan, usize, Option<Cut>)> {
    let steps = request.steps;
    let (plan, first) = match &request.start {
        Start::Picture(start) => scheduler.plan_from_picture(schedule, steps, start.strength)?,
        Start::Latents { strength, .. } => {
            scheduler.plan_from_picture(schedule, steps, *strength)?
        }
        Start::Handover(handover) => {
            let plan = scheduler.plan(schedule, steps)?;
            let first = Cut::at("handover", handover.at, &plan, scheduler)?.stage;
            (plan, first)
        }
        _ => (scheduler.plan(schedule, steps)?, 0),
    };
    let cut = request.end.map(|end| Cut::at("end", end, &plan, scheduler));
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
    Ok((plan, first, cut))
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
