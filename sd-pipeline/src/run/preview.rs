use sd_core::{Autoencoder, Error as CoreError};

use super::Run;
use crate::synchronized::synchronized;
use crate::{LatentRgb, Marking, Picture, Result, Slot, TooSmall};

/// Way to show what a run's pictures will about be.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Preview {
    /// Colours of the latent's channels, those that the [pipeline](crate::Pipeline::latent_rgb) has:
    /// at once, an eighth as wide and high as the picture.
    #[default]
    Colours,
    /// Colours of the program's choice, likewise.
    LatentRgb(LatentRgb),
    /// Pictures of an autoencoder of the program's choice, such as a tiny one
    /// ([`TinyVae`](sd_models::vae::TinyVae)), as large as the finished ones.
    Autoencoder(Slot<dyn Autoencoder>),
}

impl Run {
    /// Previews of all the run's pictures, in their order, at any time: of the clean latents that
    /// the model saw in its last evaluation, of a finished run those it has, and before the first
    /// step of what it begins with, which is noise.
    ///
    /// With a safety checker all of them are blurred, those of a finished run too: nobody has looked
    /// at them. The denoiser stays where it is.
    ///
    /// # Errors
    /// [`Unsupported`](sd_core::Error::Unsupported) where the pipeline has no colours,
    /// [`Shape`](sd_core::Error::Shape) where the latents have other channels, those of the
    /// autoencoder.
    pub fn preview(&self, preview: &Preview) -> Result<Vec<Picture>> {
        let latents = self.clean_latents();
        let coloured = |colours: &LatentRgb| {
            synchronized(&[&latents.device()], "the preview", || {
                colours.images(&latents)
            })
        };
        let images = match preview {
            Preview::LatentRgb(colours) => coloured(colours)?,
            Preview::Colours => match &self.latent_rgb {
                Some(colours) => coloured(colours)?,
                None => {
                    let what = "a preview by colours: the pipeline has none (Pipeline::latent_rgb, \
                                LatentRgb::fit)";
                    return Err(CoreError::Unsupported(what.into()).into());
                }
            },
            Preview::Autoencoder(autoencoder) => self.decoded(autoencoder, &latents)?,
        };
        let unfinished = vec![false; images.len()];
        // Where there is room for the mark, a preview has it.
        let marking = self.marking.clone().map(|marking| Marking {
            too_small: TooSmall::Leave,
            ..marking
        });
        let mut pictures = self.let_out(images, unfinished, marking.as_ref())?;
        for picture in &mut pictures {
            picture.record.unrecorded.push("a preview".into());
        }
        Ok(pictures)
    }
}
