use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, FloatDType, Tensor};
use image::RgbImage;
use sd_core::{Autoencoder, Model, Noise, Plan, Sampler, SeededNoise};

use crate::devices::to_device;
use crate::guidance::Guidance;
use crate::memory::{DECODE, DENOISE, PhasePeaks, Phases, hold};
use crate::saved::SavedRun;
use crate::synchronized::synchronized;
use crate::{Error, Pipeline, Request, Result, image_from_pixels};

/// How far a [`Run`] is.
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
/// read. Stop asking to stop the run; [`images`](Self::images) then gives what it has. Dropping
/// it frees everything it holds. It owns its parts, so it may move to another thread and outlive
/// the [`Pipeline`] it came from.
pub struct Run {
    guidance: Guidance,
    autoencoder: Arc<dyn Autoencoder>,
    plan: Plan,
    sampler: Box<dyn Sampler>,
    noise: SeededNoise,
    /// `[count, c, h, w]`, f32, in the solver's own scale.
    x: Tensor<4>,
    denoised: Option<Tensor<4>>,
    cut: Vec<String>,
    phases: Phases,
    done: usize,
    finished: bool,
    failed: bool,
}

impl Run {
    pub(crate) fn new(pipeline: &Pipeline, request: &Request) -> Result<Self> {
        let spec = pipeline.denoiser.spec();
        let shape = request.latent_shape(spec, pipeline.autoencoder.spec())?;
        let plan = pipeline.scheduler.plan(&spec.schedule, request.steps)?;
        let sampler = pipeline.scheduler.start(&plan, 0)?;

        let phases = Phases::default();
        let (guidance, cut) = Guidance::new(
            &*pipeline.text_encoder,
            pipeline.denoiser.clone(),
            [&request.prompt, &request.negative_prompt],
            request.guidance_scale,
            request.count,
            &phases,
        )?;
        let mut noise = SeededNoise::new(request.seed, request.count);
        let initial = match &request.latents {
            Some(latents) => to_device(latents.clone(), &spec.device)?.cast(FloatDType::F32),
            None => Tensor::from_data(noise.normal(shape)?, (&spec.device, DType::F32)),
        };
        Ok(Self {
            guidance,
            autoencoder: pipeline.autoencoder.clone(),
            x: initial * plan.init_noise_sigma,
            plan,
            sampler,
            noise,
            denoised: None,
            cut,
            phases,
            done: 0,
            finished: false,
            failed: false,
        })
    }

    /// The levels this run visits.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The current latents `[count, c, h, w]`, f32, in the solver's scale (`α·x₀ + σ·ε`). After
    /// the last step: the final latents, diffusers' `output_type="latent"`.
    pub fn latents(&self) -> &Tensor<4> {
        &self.x
    }

    /// The clean latents `[count, c, h, w]` the model saw in its last evaluation: what the
    /// pictures will about be. `None` before the first step.
    pub fn denoised(&self) -> Option<&Tensor<4>> {
        self.denoised.as_ref()
    }

    /// Whether the last step is done.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Text of the prompts that did not fit into the text encoder and was left out.
    pub fn cut_text(&self) -> &[String] {
        &self.cut
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
            sampler: self.sampler.save(),
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
        let (shape, stages) = (run.x.dims(), run.plan.stages.len());
        if saved.latents.dims() != shape {
            let found = saved.latents.dims();
            return Err(misfit(format!(
                "its latents are {found:?}, the request's {shape:?}"
            )));
        }
        if saved.done >= stages || saved.sampler.index >= stages {
            let done = saved.done;
            return Err(misfit(format!(
                "{done} steps are done, the request has {stages}"
            )));
        }
        // No solver draws as often in one step; a file that claims it would keep us drawing.
        let most = 16 * (stages as u64 + 1);
        if saved.draws > most {
            let reason = format!(
                "it counts {} noise draws, expected at most {most}",
                saved.draws
            );
            return Err(misfit(reason));
        }
        run.sampler.restore(&saved.sampler)?;
        // Seeds and the number of draws are the whole state of the noise.
        while run.noise.draws() < saved.draws {
            run.noise.normal(shape)?;
        }
        run.x = saved.latents;
        run.done = saved.done;
        Ok(run)
    }

    /// The pictures: of the final latents, or, of a run stopped early, of the clean latents it
    /// predicts. Decoded one after the other, so memory does not grow with their number.
    ///
    /// # Errors
    /// Those of the autoencoder, and a picture with a NaN in it.
    pub fn images(&self) -> Result<Vec<RgbImage>> {
        let latents = match &self.denoised {
            Some(denoised) if !self.finished => denoised,
            _ => &self.x,
        };
        let spec = self.autoencoder.spec();
        let devices = [&latents.device(), &spec.device];
        let decode = |k| {
            synchronized(&devices, "the autoencoder", || {
                let latent = latents.clone().narrow(0, k, 1);
                let latent = to_device(latent, &spec.device)?.cast(spec.dtype);
                image_from_pixels(self.autoencoder.decode(latent)?)
            })
        };
        // The denoiser has done its work; should the run go on, it is loaded again.
        self.guidance.release();
        self.phases.watch(DECODE, || {
            let _held = synchronized(&devices, "loading the autoencoder", || {
                Ok(hold(self.autoencoder.resident())?)
            })?;
            (0..latents.dims()[0]).map(decode).collect()
        })
    }

    fn step(&mut self) -> Result<Progress> {
        let guidance = &self.guidance;
        let mut network = |x, t| guidance.evaluate(x, t);
        let prediction = self.guidance.prediction_type();
        let mut model = Model::new(prediction, &mut network);
        let (sampler, noise, x) = (&mut self.sampler, &mut self.noise, self.x.clone());
        let step = self.phases.watch(DENOISE, || {
            synchronized(&[&x.device()], "the scheduler", || {
                Ok(sampler.step(x, &mut model, noise)?)
            })
        })?;
        self.done += 1;
        self.finished = step.done;
        if self.finished {
            self.guidance.release();
        }
        self.x = step.x;
        self.denoised = Some(step.denoised);
        Ok(Progress {
            done: self.done,
            total: self.plan.stages.len(),
            fraction: step.progress,
            evaluations: model.evaluations(),
        })
    }
}

impl Iterator for Run {
    type Item = Result<Progress>;

    /// Takes the next step; `None` after the last one, and after an error.
    fn next(&mut self) -> Option<Self::Item> {
        if self.finished || self.failed {
            return None;
        }
        let step = self.step();
        self.failed = step.is_err();
        Some(step)
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("latents", &self.x.dims())
            .field("done", &self.done)
            .field("of", &self.plan.stages.len())
            .finish_non_exhaustive()
    }
}
