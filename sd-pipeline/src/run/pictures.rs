//! The pictures that a run hands out.

use burn::tensor::Tensor;
use image::RgbImage;
use sd_core::{Noise, placed};

use super::Run;
use crate::memory::{DECODE, SAFETY};
use crate::synchronized::synchronized;
use crate::{Picture, Result, image_from_pixels};

impl Run {
    /// The pictures: of the final latents, or, of a run stopped early or handed over, of the clean
    /// latents it predicts. Decoded one after the other, so memory does not grow with their number.
    ///
    /// With a safety checker these are the pictures as they may be shown: finished ones are checked,
    /// with what [`on_flagged`](crate::Pipeline::on_flagged) says done to those it flags, and others are
    /// blurred. What a program decodes itself, of [`latents`](Self::latents) or
    /// [`denoised`](Self::denoised), nobody has looked at.
    ///
    /// # Errors
    /// [`Error::Flagged`](crate::Error::Flagged) where a picture is refused, those of the autoencoder and of the checker,
    /// and [`NotFinite`](sd_core::Error::NotFinite) for a picture with a
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
        let pictures = self.phases.watch(DECODE, || {
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
                self.picture(image?, k, seed)
            };
            let seeds = self.runs().flat_map(|run| run.noise.seeds());
            seeds.enumerate().map(decode).collect::<Result<Vec<_>>>()
        })?;
        let Some(gate) = &self.gate else {
            return Ok(pictures);
        };
        let finished = |run: &Self| vec![run.finished; run.noise.seeds().len()];
        let finished: Vec<bool> = self.runs().flat_map(finished).collect();
        let check = || gate.pass(pictures, &finished, &spec.device);
        self.phases.watch(SAFETY, check)
    }

    /// `image` in the picture that it is a part of, with the mark that was asked for, and with its record.
    fn picture(&self, image: RgbImage, k: usize, seed: u64) -> Result<Picture> {
        let image = match &self.paste {
            Some(paste) => paste.apply(&image)?,
            None => image,
        };
        let marked = match &self.marking {
            Some(marking) => marking.embed(&image)?,
            None => None,
        };
        let mut record = self.record.clone();
        record.seed = Some(seed);
        if record.count.is_some() {
            record.index = k;
        }
        if marked.is_none() {
            record.watermark = None;
        }
        if !self.is_finished() {
            record.unrecorded.push("steps that were not taken".into());
        }
        let is_marked = marked.is_some();
        let mut picture = Picture::new(marked.unwrap_or(image), seed);
        picture.is_marked = is_marked;
        picture.record = record;
        Ok(picture)
    }
}
