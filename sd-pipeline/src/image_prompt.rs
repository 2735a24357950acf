//! Pictures that say what to draw.

use std::ops::Range;

use image::{GrayImage, RgbImage};
use sd_core::{Error, Result};
use sd_models::unet::{LayerScale, TokenMask};

use crate::{Pipeline, Resampling, resize};

/// Pictures that say with the prompt what to draw, by way of an [`IpAdapter`](crate::IpAdapter).
///
/// What several pictures of one say is weighed against each other. Several of a request each add
/// their own: their scales add up, and masks tell where.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ImagePrompt {
    /// Number of the adapter in [`Pipeline::image_adapters`].
    #[cfg_attr(feature = "serde", serde(default))]
    pub adapter: usize,
    /// The pictures, one at least, of any size: the adapter sees the square in the middle of each.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::rgbs"))]
    pub pictures: Vec<RgbImage>,
    /// Strength, of all layers or of each by itself: 0 none, 1 as trained, which leaves the text
    /// little to say; about 0.5 beside a text.
    #[cfg_attr(feature = "serde", serde(default))]
    pub scale: LayerScale,
    /// The part of the drawn picture that follows it, white from 128 on; of any size, for it is
    /// stretched to the drawn one's. `None`: all of it.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::optional_grey"))]
    #[cfg_attr(feature = "serde", serde(default))]
    pub mask: Option<GrayImage>,
    /// Pictures to lead away from, for the branch of the negative prompt. None: that has none, as
    /// the adapter was trained.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::rgbs"))]
    #[cfg_attr(feature = "serde", serde(default))]
    pub negative: Vec<RgbImage>,
    /// Part of the run in which it counts, in fractions of its steps: from step `⌊start·steps⌋` to
    /// before `⌊end·steps⌋`; of a second pass by itself.
    #[cfg_attr(feature = "serde", serde(default = "all"))]
    pub interval: Range<f64>,
}

/// All of a run.
fn all() -> Range<f64> {
    0.0..1.0
}

impl ImagePrompt {
    /// One picture at scale 1, by the first adapter.
    pub fn new(picture: RgbImage) -> Self {
        Self {
            adapter: 0,
            pictures: vec![picture],
            scale: LayerScale::default(),
            mask: None,
            negative: Vec::new(),
            interval: all(),
        }
    }

    /// The same at another scale.
    #[must_use]
    pub fn scale(self, scale: impl Into<LayerScale>) -> Self {
        let scale = scale.into();
        Self { scale, ..self }
    }

    /// A check of all that needs no adapter's work.
    pub(crate) fn check(&self, pipeline: &Pipeline) -> crate::Result<()> {
        let count = pipeline.image_adapters.len();
        let Some(adapter) = pipeline.image_adapters.get(self.adapter) else {
            let expected = match count {
                0 => "expected no image prompts: the pipeline has no adapter for them \
                      (Pipeline::with_image_prompt)"
                    .into(),
                count => format!("expected less than {count}, the number of adapters"),
            };
            return Err(Error::invalid("an image prompt's adapter", self.adapter, expected).into());
        };
        pipeline.check_image_adapter(adapter.spec())?;
        if self.pictures.is_empty() {
            let expected = "expected at least one";
            return Err(Error::invalid("an image prompt's pictures", 0, expected).into());
        }
        let scales = self.scale.layers.iter().map(|(_, scale)| *scale);
        if let Some(scale) = scales.chain([self.scale.all]).find(|s| !s.is_finite()) {
            let expected = "expected a finite number, usually 0 to 1";
            return Err(Error::invalid("an image prompt's scale", scale, expected).into());
        }
        let Range { start, end } = self.interval;
        if !(0.0..=1.0).contains(&start) || !(0.0..=1.0).contains(&end) || start >= end {
            let expected = "expected a part of 0..1, of some length";
            let interval = format!("{start}..{end}");
            return Err(Error::invalid("an image prompt's interval", interval, expected).into());
        }
        if self
            .mask
            .as_ref()
            .is_some_and(|mask| mask.iter().all(|byte| *byte < WHITE))
        {
            let expected = "expected white where the picture follows the image prompt";
            return Err(Error::invalid("an image prompt's mask", "black", expected).into());
        }
        Ok(())
    }

    /// Steps of a run of `steps` in which it counts.
    pub(crate) fn steps(&self, steps: usize) -> Range<usize> {
        let [start, end] = [self.interval.start, self.interval.end];
        let [start, end] = [start, end].map(|share| (share * steps as f64) as usize);
        start..end
    }

    /// The mask for pictures of `size`, height and width.
    pub(crate) fn token_mask(
        &self,
        [height, width]: [usize; 2],
    ) -> crate::Result<Option<TokenMask>> {
        let Some(mask) = &self.mask else {
            return Ok(None);
        };
        let mask = resize(mask, width as u32, height as u32, Resampling::Lanczos)?;
        let shares = mask.iter().map(|byte| f32::from(*byte >= WHITE));
        let mask: Result<_> = TokenMask::new(shares.collect(), [height, width]);
        Ok(Some(mask?))
    }
}

/// The least byte of a mask that is white.
const WHITE: u8 = 128;
