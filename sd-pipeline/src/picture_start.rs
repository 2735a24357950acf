use std::borrow::Cow;

use image::RgbImage;
use sd_core::Error;

use crate::{Inpaint, Resampling, Resize, Result};

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
    /// it begins at the first step's level, which leaves a trace of the picture, but by
    /// [`MaskRule::Step`](crate::MaskRule::Step), which begins in noise alone.
    pub strength: f64,
    /// Area to draw anew, and the way to keep the rest; all is drawn without one.
    #[cfg_attr(feature = "serde", serde(default))]
    pub inpaint: Option<Inpaint>,
    /// Way of the picture to a size of other proportions.
    #[cfg_attr(feature = "serde", serde(default))]
    pub resize: Resize,
    /// Latent that is taken of those which the autoencoder finds likely for the picture.
    #[cfg_attr(feature = "serde", serde(default))]
    pub sample_mode: SampleMode,
}

/// Latent of a picture among those of the autoencoder's posterior.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
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
            inpaint: None,
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
        match &self.inpaint {
            Some(inpaint) => inpaint.check(&self.image),
            None => Ok(()),
        }
    }

    /// Width and height of the finished pictures where they are not those that are drawn.
    pub(crate) fn result_size(&self) -> Option<[u32; 2]> {
        let inpaint = self.inpaint.as_ref()?;
        let is_own = inpaint.keep_unmasked || inpaint.masked_only.is_some();
        is_own.then(|| [self.image.width(), self.image.height()])
    }

    /// The picture at `height` and `width`.
    pub(crate) fn resized(&self, [height, width]: [usize; 2]) -> Result<Cow<'_, RgbImage>> {
        resized(&self.image, self.resize, [height, width])
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
