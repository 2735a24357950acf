use std::borrow::Cow;

use image::RgbImage;

use crate::picture_start::{resized, size_of};
use crate::{Resize, Result};

/// Picture that a network sees beside the latent, to draw it changed.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PictureToChange {
    /// The picture, of any size: it comes to the one that is drawn by [`resize`](Self::resize), with
    /// Lanczos' kernel.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::rgb"))]
    pub image: RgbImage,
    /// Way of the picture to a size of other proportions.
    #[cfg_attr(feature = "serde", serde(default))]
    pub resize: Resize,
}

impl From<RgbImage> for PictureToChange {
    /// All of the picture.
    fn from(image: RgbImage) -> Self {
        Self {
            image,
            resize: Resize::default(),
        }
    }
}

impl PictureToChange {
    /// Height and width that are drawn of it where the request does not say them.
    pub(crate) fn size(
        &self,
        asked: [Option<usize>; 2],
        factor: usize,
    ) -> sd_core::Result<[usize; 2]> {
        size_of(&self.image, asked, factor)
    }

    /// The picture at `height` and `width`.
    pub(crate) fn resized(&self, size: [usize; 2]) -> Result<Cow<'_, RgbImage>> {
        resized(&self.image, self.resize, size)
    }
}
