//! The pictures that a run hands out.

use burn::tensor::Tensor;
use image::RgbImage;
use sd_core::{Autoencoder, Noise, placed};

use super::Run;
use crate::memory::{DECODE, SAFETY};
use crate::synchronized::synchronized;
use crate::{Marking, Picture, Result, Slot, image_from_pixels};

impl Run {
    /// The pictures: of the final latents, or, of a run stopped early or handed over, of the clean
    /// latents it predicts; of one stopped in the first of two passes those of that pass. Decoded one after the other, so memory does not grow with their number.
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
        // The denoiser has done its work; should the run go on, it is loaded again.
        self.runs().for_each(|run| run.lease.give_back());
        let mut images = self.decoded(&self.autoencoder, &self.clean_latents())?;
        if let Some(paste) = &self.paste {
            // A part goes back into the picture that it is of.
            let whole = images.iter().map(|image| paste.apply(image));
            images = whole.collect::<Result<_>>()?;
        }
        let last_pass = self.ahead.is_none();
        let finished = |run: &Self| vec![run.finished && last_pass; run.noise.seeds().len()];
        let finished = self.runs().flat_map(finished).collect();
        self.let_out(images, finished, self.marking.as_ref())
    }

    /// The clean latents `[count, c, h, w]` of the pictures: the final ones, or, of those that are not
    /// finished, what they will about be.
    pub(super) fn clean_latents(&self) -> Tensor<4> {
        let latents = self.runs().map(|run| match &run.denoised {
            Some(denoised) if !run.finished || run.settings.cut.is_some() => denoised.clone(),
            _ => run.x.clone(),
        });
        Tensor::cat(latents.collect(), 0)
    }

    /// `latents` decoded by `autoencoder`, one after the other.
    pub(super) fn decoded(
        &self,
        autoencoder: &Slot<dyn Autoencoder>,
        latents: &Tensor<4>,
    ) -> Result<Vec<RgbImage>> {
        let spec = autoencoder.spec();
        let devices = [&latents.device(), &spec.device];
        self.phases.watch(DECODE, || {
            let loaded = || autoencoder.get();
            let autoencoder = synchronized(&devices, "loading the autoencoder", loaded)?;
            let decode = |k| {
                let _span = tracing::info_span!(
                    "decode", image = k, shape = ?latents.dims(), device = ?spec.device
                )
                .entered();
                synchronized(&devices, "the autoencoder", || {
                    let latent = latents.clone().narrow(0, k, 1);
                    let latent = placed(latent, &spec.device, spec.dtype)?;
                    image_from_pixels(autoencoder.decode(latent)?)
                })
            };
            (0..latents.dims()[0]).map(decode).collect()
        })
    }

    /// `images`, one of each of the run's, as pictures that may leave, with the mark `marking`: those
    /// that are `finished` are checked, and others are blurred, where there is a safety checker.
    pub(super) fn let_out(
        &self,
        images: Vec<RgbImage>,
        finished: Vec<bool>,
        marking: Option<&Marking>,
    ) -> Result<Vec<Picture>> {
        let seeds = self.runs().flat_map(|run| run.noise.seeds());
        let pictures = images.into_iter().zip(seeds).enumerate();
        let pictures = pictures.map(|(k, (image, seed))| self.picture(image, k, seed, marking));
        let pictures = pictures.collect::<Result<Vec<_>>>()?;
        let Some(gate) = &self.gate else {
            return Ok(pictures);
        };
        let device = &self.autoencoder.spec().device;
        let check = || gate.pass(pictures, &finished, device);
        self.phases.watch(SAFETY, check)
    }

    /// `image` with the mark that was asked for, and with its record.
    fn picture(
        &self,
        image: RgbImage,
        k: usize,
        seed: u64,
        marking: Option<&Marking>,
    ) -> Result<Picture> {
        let marked = match marking {
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
