use std::borrow::Cow;

use image::{GrayImage, RgbImage};
use sd_core::Error;

use crate::{Resampling, Resize, Result};

/// Picture that a run starts from, and what is made of it before.
///
/// ```
/// use sd_pipeline::{PictureStart, Request, RgbImage, Start};
///
/// let sketch = RgbImage::new(300, 200);
/// let request = Request {
///     // Drawn is the picture's own size, down to multiples of 8: 296x200.
///     start: Start::Picture(PictureStart::new(sketch, 0.7)),
///     ..Request::new("a lighthouse in a storm, oil on canvas")
/// };
/// ```
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct PictureStart {
    /// The picture, of any size: it comes to the one that is drawn by [`resize`](Self::resize), with
    /// Lanczos' kernel.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::rgb"))]
    pub image: RgbImage,
    /// Share of the run that is taken, from just above 0, the picture all but kept, to 1. At 1, too,
    /// it begins at the first step's level, which leaves a trace of the picture.
    pub strength: f64,
    /// Area to draw: white is drawn anew, black is kept, grey is between; all without one. Of the
    /// picture's size.
    #[cfg_attr(
        feature = "serde",
        serde(default, with = "crate::serde_values::optional_grey")
    )]
    pub mask: Option<GrayImage>,
    /// Way of the picture to a size of other proportions.
    #[cfg_attr(feature = "serde", serde(default))]
    pub resize: Resize,
    /// Latent that is taken of those which the autoencoder finds likely for the picture.
    #[cfg_attr(feature = "serde", serde(default))]
    pub sample_mode: SampleMode,
}

/// Latent of a picture among those of the autoencoder's posterior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum SampleMode {
    /// One drawn with each image's own noise, before all other noise: diffusers' and A1111's rule.
    #[default]
    Sample,
    /// The likeliest, their mean, which takes no noise: ComfyUI's rule.
    Mean,
}

impl PictureStart {
    /// All of `image`, of which a run takes the share `strength`.
    pub fn new(image: RgbImage, strength: f64) -> Self {
        Self {
            image,
            strength,
            mask: None,
            resize: Resize::default(),
            sample_mode: SampleMode::default(),
        }
    }

    /// Height and width that are drawn of it where the request does not say them.
    pub(crate) fn size(
        &self,
        asked: [Option<usize>; 2],
        factor: usize,
    ) -> sd_core::Result<[usize; 2]> {
        size_of(&self.image, asked, factor)
    }

    /// A check of its parts with each other.
    pub(crate) fn check(&self) -> sd_core::Result<()> {
        let Some(mask) = &self.mask else {
            return Ok(());
        };
        if mask.dimensions() != self.image.dimensions() {
            let [(w, h), (width, height)] = [mask.dimensions(), self.image.dimensions()];
            let expected = format!("expected {width}x{height}, the picture's size");
            return Err(Error::invalid("mask", format!("{w}x{h}"), expected));
        }
        Ok(())
    }

    /// The picture at `height` and `width`.
    pub(crate) fn resized(&self, [height, width]: [usize; 2]) -> Result<Cow<'_, RgbImage>> {
        resized(&self.image, self.resize, [height, width])
    }

    /// The mask, likewise.
    pub(crate) fn resized_mask(
        &self,
        [height, width]: [usize; 2],
    ) -> Result<Option<Cow<'_, GrayImage>>> {
        let (width, height) = (width as u32, height as u32);
        let Some(mask) = &self.mask else {
            return Ok(None);
        };
        if mask.dimensions() == (width, height) {
            return Ok(Some(Cow::Borrowed(mask)));
        }
        let resized = self.resize.apply(mask, width, height, KERNEL)?;
        Ok(Some(Cow::Owned(resized)))
    }
}

/// Height and width that are drawn of `image` where they are not `asked` for: its own, down to
/// multiples of `factor`.
pub(crate) fn size_of(
    image: &RgbImage,
    asked: [Option<usize>; 2],
    factor: usize,
) -> sd_core::Result<[usize; 2]> {
    let (width, height) = image.dimensions();
    let own = [height, width].map(|side| side as usize / factor * factor);
    let is_small = |(own, asked): (&usize, &Option<usize>)| *own == 0 && asked.is_none();
    if width == 0 || height == 0 || own.iter().zip(&asked).any(is_small) {
        let expected =
            format!("expected at least {factor}x{factor}, or a width and a height to draw it at");
        let found = format!("{width}x{height}");
        return Err(Error::invalid("picture", found, expected));
    }
    Ok(own)
}

/// `image` at `height` and `width`.
pub(crate) fn resized(
    image: &RgbImage,
    resize: Resize,
    [height, width]: [usize; 2],
) -> Result<Cow<'_, RgbImage>> {
    let (width, height) = (width as u32, height as u32);
    if image.dimensions() == (width, height) {
        return Ok(Cow::Borrowed(image));
    }
    let resized = resize.apply(image, width, height, KERNEL)?;
    Ok(Cow::Owned(resized))
}

/// diffusers' and A1111's.
const KERNEL: Resampling = Resampling::Lanczos;
