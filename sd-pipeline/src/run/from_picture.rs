use std::borrow::Cow;
use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Layer, Noise, Plan, SeededNoise};

use super::begin;
use crate::inpaint::{Part, Paste};
use crate::memory::Phases;
use crate::{MaskRule, PictureStart, Pipeline, Request, Result, SampleMode};

/// All that a run takes from the picture it starts from.
pub(super) struct FromPicture {
    /// Its clean latents; none where the run sees nothing of them.
    clean: Option<Tensor<4>>,
    /// The initial noise.
    pub(super) noise: Tensor<4>,
    /// `true` where the run begins in that alone.
    is_pure: bool,
    /// Channels for a network that sees the mask and the picture without its white.
    pub(super) concat: Option<Tensor<4>>,
    /// The layer that keeps what the mask says.
    pub(super) layer: Option<Arc<dyn Layer>>,
    /// The way back into the whole picture.
    pub(super) paste: Option<Paste>,
}

impl FromPicture {
    /// Encodes the picture and draws the noise, in diffusers' order: the picture's posterior, the
    /// initial noise, and with a mask the posterior of the picture without its white, which takes its
    /// noise where nothing needs it, too.
    pub(super) fn draw(
        pipeline: &Pipeline,
        request: &Request,
        start: &PictureStart,
        [count, channels, h, w]: [usize; 4],
        noise: &mut SeededNoise,
        phases: &Phases,
    ) -> Result<Self> {
        let spec = pipeline.denoiser.spec();
        let factor = pipeline.autoencoder.spec().factor;
        let size = [h * factor, w * factor];
        let part = start.inpaint.as_ref();
        let part = part.map(|inpaint| inpaint.part(&start.image, start.resize, size));
        let part = part.transpose()?;
        let picture = match &part {
            Some(part) => Cow::Borrowed(&*part.picture),
            None => start.resized(size)?,
        };
        let by_step = |part: &Part<'_>| part.rule == MaskRule::Step;
        let is_pure = start.strength == 1.0 && part.as_ref().is_some_and(by_step);
        let sees_mask =
            part.is_some() && request.concat.is_none() && spec.concat_channels == channels + 1;
        let encoded = |pixels, noise: &mut SeededNoise| {
            let noise = match start.sample_mode {
                SampleMode::Sample => Some(noise),
                SampleMode::Mean => None,
            };
            begin::encoded(pipeline, pixels, size, count, noise, phases)
        };
        let clean = match is_pure && sees_mask {
            true => None,
            false => Some(encoded(begin::pixels(&picture), noise)?),
        };
        let shape = [count, channels, h, w];
        let initial = begin::noise(noise, shape, &spec.device)?;
        let (mut concat, mut layer) = (None, None);
        if let Some(part) = &part {
            if sees_mask {
                let without = encoded(part.without(), noise)?;
                let mask = part.channel([h, w], &spec.device)?.repeat_dim(0, count);
                concat = Some(Tensor::cat(vec![mask, without], 1));
            } else if by_step(part) && start.sample_mode == SampleMode::Sample {
                noise.normal(shape)?;
            }
            if let Some(clean) = clean.as_ref().filter(|_| !(sees_mask && by_step(part))) {
                layer = Some(part.layer(clean)?);
            }
        }
        Ok(Self {
            clean,
            noise: initial,
            is_pure,
            concat,
            layer,
            paste: part.and_then(|part| part.paste),
        })
    }

    /// The latent at the beginning of stage `first`.
    pub(super) fn latent(&self, plan: &Plan, first: usize) -> Tensor<4> {
        match &self.clean {
            Some(clean) if !self.is_pure => {
                begin::noised(clean, &self.noise, plan.stages[first].from)
            }
            _ => self.noise.clone() * plan.init_noise_sigma,
        }
    }
}
