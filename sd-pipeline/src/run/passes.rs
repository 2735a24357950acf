//! The second pass of a run: what the first drew is enlarged and drawn on.

use burn::tensor::{FloatDType, Tensor};
use sd_core::{Error as CoreError, Guidance, Noise, Prompt, SeededNoise, Syntax, placed};

use super::{Progress, Prompts, Run, begin, branches};
use crate::finite;
use crate::hires::{Drawn, Upscale, Upscaled};
use crate::memory::Phases;
use crate::synchronized::synchronized;
use crate::{Pipeline, Request, Result, Start};

/// The pass that is still to come.
pub(super) struct SecondPass {
    pipeline: Pipeline,
    /// Of this pass, but for what it starts from.
    request: Request,
    strength: f64,
    upscaler: Upscale,
    prompts: Prompts,
    /// Height and width in pixels.
    size: [usize; 2],
    /// Number of its steps.
    steps: usize,
}

/// The pass that is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Passed {
    /// Steps it took.
    pub(crate) steps: usize,
    /// Draws of noise before the one that this pass begins with.
    pub(crate) draws: u64,
}

impl SecondPass {
    /// The second pass that `request` asks for behind one of `size` pixels, height and width.
    ///
    /// # Errors
    /// A number that is out of range, and all that belongs to a single size.
    pub(super) fn of(
        pipeline: &Pipeline,
        request: &Request,
        size: [usize; 2],
    ) -> Result<Option<Self>> {
        let Some(hires) = &request.hires else {
            return Ok(None);
        };
        let masked = matches!(&request.start, Start::Picture(start) if start.inpaint.is_some());
        let of_one_size = [
            (request.end.is_some(), "an end"),
            (request.concat.is_some(), "channels beside the latent"),
            (request.picture.is_some(), "a picture beside the latent"),
            (masked, "a mask"),
        ];
        if let Some((_, what)) = of_one_size.iter().find(|(is, _)| *is) {
            let expected = "expected none of it: it belongs to one pass";
            return Err(CoreError::invalid("hires", format!("beside {what}"), expected).into());
        }
        let spec = pipeline.denoiser.spec();
        let autoencoder = pipeline.autoencoder.spec();
        let size = hires.size(size, autoencoder.factor)?;
        let request = Request {
            width: Some(size[1]),
            height: Some(size[0]),
            steps: hires.steps.unwrap_or(request.steps),
            start: Start::Noise,
            hires: None,
            ..request.clone()
        };
        request.latent_shape(spec, autoencoder)?;
        let scheduler = &pipeline.scheduler;
        let (plan, first) =
            scheduler.plan_from_picture(&spec.schedule, request.steps, hires.strength)?;
        Ok(Some(Self {
            pipeline: pipeline.clone(),
            strength: hires.strength,
            upscaler: hires.upscaler.clone(),
            prompts: Prompts::default(),
            size,
            steps: plan.stages.len() - first,
            request,
        }))
    }

    /// The same with what the first pass, of `behind` steps, encoded; texts that may say
    /// something else from there on are encoded anew.
    pub(super) fn with_prompts(
        self,
        prompts: &Prompts,
        behind: usize,
        guidance: &dyn Guidance,
        phases: &Phases,
    ) -> Result<Self> {
        let negative = self.request.negative_prompt.as_ref();
        let changes = |prompt: &Prompt| matches!(prompt.syntax, Syntax::A1111(_));
        let mut regions = self.request.regions.iter();
        let any = changes(&self.request.prompt)
            || negative.is_some_and(changes)
            || regions.any(|region| changes(&region.prompt));
        let texts = match any {
            true => branches::texts(&self.pipeline, &self.request, behind, guidance, phases)?,
            false => prompts.texts.clone(),
        };
        let images = prompts.images.clone();
        let prompts = Prompts { texts, images };
        Ok(Self { prompts, ..self })
    }

    /// The run of this pass on the clean latents `[count, c, h, w]`, behind `draws` of noise.
    fn start(&self, latents: Tensor<4>, draws: u64, phases: Phases) -> Result<Run> {
        let request = Request {
            start: Start::Latents {
                latents,
                strength: self.strength,
                draws,
            },
            ..self.request.clone()
        };
        Run::of_images(&self.pipeline, &request, self.prompts.clone(), phases)
    }

    /// Height and width of its pictures, in pixels.
    pub(super) fn size(&self) -> [usize; 2] {
        self.size
    }

    /// The shape `[count, c, h, w]` of its latents.
    fn shape(&self) -> sd_core::Result<[usize; 4]> {
        let autoencoder = self.pipeline.autoencoder.spec();
        self.request
            .latent_shape(self.pipeline.denoiser.spec(), autoencoder)
    }

    /// Clean latents of what the upscaler made, and the draws of noise that took.
    fn latents(&self, upscaled: Upscaled, phases: &Phases) -> Result<(Tensor<4>, u64)> {
        let shape = self.shape()?;
        match upscaled {
            Upscaled::Latents(latents) => {
                let found = latents.dims();
                if found != shape {
                    let expected = format!("{shape:?}, as the second pass's");
                    return Err(CoreError::shape("upscaled latents", &found, expected).into());
                }
                let device = &self.pipeline.denoiser.spec().device;
                let latents = placed(latents, device, FloatDType::F32)?;
                finite::require("upscaled latents", &latents)?;
                Ok((latents, 0))
            }
            Upscaled::Pictures(pictures) => {
                let [height, width] = self.size;
                let fits = |(w, h): (u32, u32)| [h as usize, w as usize] == self.size;
                let wrong = pictures.iter().find(|image| !fits(image.dimensions()));
                if let Some(image) = wrong {
                    let found = format!("{}x{}", image.width(), image.height());
                    let expected = format!("expected {width}x{height}");
                    return Err(CoreError::invalid("upscaled picture", found, expected).into());
                }
                if pictures.len() != shape[0] {
                    let expected = format!("expected {}", shape[0]);
                    let found = pictures.len();
                    return Err(CoreError::invalid("upscaled pictures", found, expected).into());
                }
                let (pipeline, count) = (&self.pipeline, shape[0]);
                let mut noise = SeededNoise::new(self.request.seed, count);
                let drawn = Some(&mut noise);
                let pixels = pictures.iter().flat_map(begin::pixels).collect();
                let latents = begin::encoded(pipeline, pixels, self.size, count, drawn, phases)?;
                Ok((latents, noise.draws()))
            }
        }
    }
}

impl Run {
    /// Begins the second pass, where the first is done.
    pub(super) fn begin_due_pass(&mut self) -> Result<()> {
        if !self.runs().all(|run| run.finished) {
            return Ok(());
        }
        let Some(pass) = &self.ahead else {
            return Ok(());
        };
        if self.cancel.release() {
            return Err(CoreError::Cancelled.into());
        }
        let _span = tracing::info_span!("second_pass", size = ?pass.size).entered();
        let devices = [&self.spec.device, &self.autoencoder.spec().device];
        let (latents, draws) = synchronized(&devices, "enlarging the pictures", || {
            let latents = self.clean_latents();
            let decode = || self.decoded(&self.autoencoder, &latents);
            let drawn = Drawn {
                latents: &latents,
                decode: &decode,
            };
            let factor = self.autoencoder.spec().factor;
            let upscaled = pass.upscaler.apply(&drawn, pass.size, factor)?;
            pass.latents(upscaled, &self.phases)
        })?;
        self.pass_on(latents, draws)
    }

    /// Begins the second pass of a saved run, whose latents are in its file.
    pub(super) fn resume_pass(&mut self, passed: Passed) -> Result<()> {
        if let Some(pass) = &self.ahead {
            let latents = Tensor::zeros(pass.shape()?, &self.spec.device);
            self.pass_on(latents, passed.draws)?;
            self.passed = Some(passed);
        }
        Ok(())
    }

    /// Becomes the run of the second pass on the clean `latents`, behind `draws` of noise.
    fn pass_on(&mut self, latents: Tensor<4>, draws: u64) -> Result<()> {
        let Some(pass) = &self.ahead else {
            return Ok(());
        };
        let phases = std::mem::take(&mut self.phases);
        let mut run = pass.start(latents, draws, phases)?;
        let steps = self.runs().map(|run| run.done).max().unwrap_or_default();
        run.passed = Some(Passed { steps, draws });
        run.truncated = std::mem::take(&mut self.truncated);
        run.warnings = std::mem::take(&mut self.warnings);
        run.record = self.record.clone();
        run.cancel = self.cancel.clone();
        for other in &mut run.others {
            other.cancel = self.cancel.clone();
        }
        *self = run;
        Ok(())
    }

    /// Steps of the pass behind, and of the one ahead.
    pub(super) fn other_steps(&self) -> [usize; 2] {
        let behind = self.passed.map_or(0, |passed| passed.steps);
        [behind, self.ahead.as_ref().map_or(0, |pass| pass.steps)]
    }

    /// The progress in this pass as one in both.
    pub(super) fn over_both(&self, progress: Progress) -> Progress {
        let [behind, ahead] = self.other_steps();
        if behind + ahead == 0 {
            return progress;
        }
        let total = behind + progress.total + ahead;
        let done = behind as f64 + progress.fraction * progress.total as f64;
        Progress {
            done: behind + progress.done,
            total,
            fraction: done / total as f64,
            ..progress
        }
    }
}
