//! Pictures drawn anew in part.

mod area;
mod blur;
mod expand;
mod paste;

use std::borrow::Cow;
use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use image::{GrayImage, RgbImage, imageops};
use sd_core::{Blend, Error, Layer, Mask, SoftMask};

use self::area::{Region, bilinear, grown, is_drawn, nearest};
use crate::{Resampling, Resize, Result};

pub use blur::gaussian_blur;
pub use expand::{Expand, Fill};
pub(crate) use paste::Paste;

/// Area of a picture to draw anew, and the way in which the rest is kept.
///
/// A network with channels for it (Stable Diffusion's inpainting models) is shown the mask and the
/// picture without the area; what the rule does comes on top, [`MaskRule::Step`] then nothing.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Inpaint {
    /// White is drawn anew, black is kept; of the picture's size.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::grey"))]
    pub mask: GrayImage,
    /// Rule by which black is kept, and the meaning of grey.
    #[cfg_attr(feature = "serde", serde(default))]
    pub rule: MaskRule,
    /// Pixels by which white grows to every side before all else; below 0 it shrinks. At most 1024.
    #[cfg_attr(feature = "serde", serde(default))]
    pub grow: i32,
    /// Standard deviation in pixels by which the mask is then [blurred](gaussian_blur), 0 to 1024.
    #[cfg_attr(feature = "serde", serde(default))]
    pub blur: f32,
    /// Pixels around the area with which it is drawn alone, at the request's size, and put back into
    /// the whole picture (diffusers' `padding_mask_crop`). `None`: all of the picture is drawn.
    #[cfg_attr(feature = "serde", serde(default))]
    pub masked_only: Option<u32>,
    /// `true` for finished pictures of the old one's size, with its bytes where the mask is black. The
    /// size that is drawn is then that of the work, not of the result.
    #[cfg_attr(feature = "serde", serde(default))]
    pub keep_unmasked: bool,
    /// Pixels within white in which the old picture fades into the new, where it is put into the old
    /// one; what is thinner fades in half its depth, and a mask that is softer stays as it is. 0 is
    /// diffusers' way; at most 254.
    pub feather: u32,
}

/// Depths beyond are not told apart.
const MOST_FEATHER: u32 = 254;

/// Means by which a run keeps what a mask says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaskRule {
    /// Putting the kept part back after each step ([`Blend`]): diffusers' inpainting pipelines. White
    /// is what is at least 128, and at strength 1 the run begins in pure noise.
    #[default]
    Step,
    /// A model that knows the kept part ([`Mask`]): ComfyUI and A1111. Grey is a mixture, a soft
    /// edge.
    Model,
    /// Strength for each pixel, which is its grey ([`SoftMask`]): differential diffusion. Not for a
    /// scheduler that chooses its own steps.
    Soft,
}

impl Inpaint {
    /// The white of `mask`, by diffusers' rule; with a seam of 8 pixels, a latent's, where it is put
    /// into the old picture.
    pub fn new(mask: GrayImage) -> Self {
        Self {
            mask,
            rule: MaskRule::default(),
            grow: 0,
            blur: 0.0,
            masked_only: None,
            keep_unmasked: false,
            feather: 8,
        }
    }

    /// A check of its parts with the picture.
    pub(crate) fn check(&self, image: &RgbImage) -> sd_core::Result<()> {
        same_size(&self.mask, image)?;
        if self.feather > MOST_FEATHER {
            let expected = format!("expected at most {MOST_FEATHER} pixels");
            return Err(Error::invalid("feather", self.feather, expected));
        }
        if self.mask.iter().all(|byte| *byte == 0) {
            let expected = "expected white where the picture is to be drawn anew";
            return Err(Error::invalid("mask", "black everywhere", expected));
        }
        Ok(())
    }

    /// The part of `image` to draw at `height` and `width`, and its mask.
    pub(crate) fn part<'a>(
        &self,
        image: &'a RgbImage,
        resize: Resize,
        [height, width]: [usize; 2],
    ) -> Result<Part<'a>> {
        let mask = gaussian_blur(&grown(&self.mask, self.grow)?, self.blur)?;
        let black = || {
            let expected = "expected some white to be left of it";
            Error::invalid("mask", "black everywhere once shrunk and blurred", expected)
        };
        let (region, resize) = match self.masked_only {
            Some(padding) => {
                let region = Region::around(&mask, padding, [height, width]);
                (region.ok_or_else(black)?, Resize::Fit)
            }
            None => (Region::whole(image.dimensions()), resize),
        };
        let is_whole = region == Region::whole(image.dimensions());
        let size = (width as u32, height as u32);
        let is_pasted = self.masked_only.is_some() || self.keep_unmasked;
        if is_pasted && resize == Resize::Crop && image.dimensions() != size {
            let expected = "expected stretch or fit: what is cut off cannot be kept";
            return Err(Error::invalid("resize", "crop", expected).into());
        }
        let paste =
            is_pasted.then(|| Paste::new(image, &self.share(&mask), self.feather, region, resize));
        let Region { left, top, .. } = region;
        let (picture, mask) = match is_whole {
            true => (Cow::Borrowed(image), mask),
            false => (
                Cow::Owned(
                    imageops::crop_imm(image, left, top, region.width(), region.height())
                        .to_image(),
                ),
                imageops::crop_imm(&mask, left, top, region.width(), region.height()).to_image(),
            ),
        };
        let to = |picture: &_| resize.apply(picture, size.0, size.1, Resampling::Lanczos);
        let (picture, mask) = match picture.dimensions() == size {
            true => (picture, mask),
            false => (
                Cow::Owned(to(&picture)?),
                resize.apply(&mask, size.0, size.1, Resampling::Lanczos)?,
            ),
        };
        Ok(Part {
            picture,
            mask,
            rule: self.rule,
            paste,
        })
    }

    /// The part of the picture that alone is drawn, at `height` and `width`; `None` where all is.
    pub(crate) fn region(&self, size: [usize; 2]) -> Result<Option<Region>> {
        let Some(padding) = self.masked_only else {
            return Ok(None);
        };
        let mask = gaussian_blur(&grown(&self.mask, self.grow)?, self.blur)?;
        Ok(Region::around(&mask, padding, size))
    }

    /// Share of what is drawn in the finished picture.
    fn share<'a>(&self, mask: &'a GrayImage) -> Cow<'a, GrayImage> {
        match self.rule {
            MaskRule::Step | MaskRule::Model => Cow::Borrowed(mask),
            // Grey is drawn, if less.
            MaskRule::Soft => {
                let mut share = mask.clone();
                share
                    .iter_mut()
                    .for_each(|byte| *byte = if *byte == 0 { 0 } else { 255 });
                Cow::Owned(share)
            }
        }
    }
}

/// An error where a mask is not of its picture's size.
fn same_size(mask: &GrayImage, image: &RgbImage) -> sd_core::Result<()> {
    if mask.dimensions() == image.dimensions() {
        return Ok(());
    }
    let [(w, h), (width, height)] = [mask.dimensions(), image.dimensions()];
    let expected = format!("expected {width}x{height}, the picture's size");
    Err(Error::invalid("mask", format!("{w}x{h}"), expected))
}

/// The part of a picture that a run draws anew, at the size at which it does.
pub(crate) struct Part<'a> {
    pub(crate) picture: Cow<'a, RgbImage>,
    mask: GrayImage,
    pub(crate) rule: MaskRule,
    pub(crate) paste: Option<Paste>,
}

impl Part<'_> {
    /// Pixels of the picture without what is drawn anew, in `[-1, 1]`, one after the other: that is
    /// grey to the autoencoder.
    pub(crate) fn without(&self) -> Vec<f32> {
        let pixels = self.picture.pixels().zip(self.mask.pixels());
        let values = pixels.flat_map(|(pixel, mask)| {
            let hidden = is_drawn(mask.0[0]);
            pixel.0.map(|v| {
                if hidden {
                    0.0
                } else {
                    f32::from(v) / 127.5 - 1.0
                }
            })
        });
        values.collect()
    }

    /// The mask for a network that has a channel for it, `[1, 1, h, w]`.
    pub(crate) fn channel(&self, size: [usize; 2], device: &Device) -> Result<Tensor<4>> {
        at_latents(nearest(&self.mask, size), size, device)
    }

    /// The layer that keeps the `known` latent where the mask says it; none for a network that sees
    /// the mask and needs no more.
    pub(crate) fn layer(&self, known: &Tensor<4>) -> Result<Arc<dyn Layer>> {
        let [_, _, h, w] = known.dims();
        let mask = |values| at_latents(values, [h, w], &known.device());
        let known = known.clone();
        Ok(match self.rule {
            MaskRule::Step => Arc::new(Blend {
                mask: mask(nearest(&self.mask, [h, w]))?,
                known,
            }),
            MaskRule::Model => Arc::new(Mask {
                mask: mask(bilinear(&self.mask, [h, w]))?,
                known,
            }),
            MaskRule::Soft => Arc::new(SoftMask {
                mask: mask(bilinear(&self.mask, [h, w]))?,
                known,
            }),
        })
    }
}

/// A mask's `values` as a tensor.
///
/// # Errors
/// [`Error::InvalidArgument`] where nothing is left to draw: a run would keep the whole picture.
fn at_latents(values: Vec<f32>, [h, w]: [usize; 2], device: &Device) -> Result<Tensor<4>> {
    if values.iter().all(|value| *value == 0.0) {
        let expected = format!("expected an area that grows to a pixel of the latent's {w}x{h}");
        return Err(Error::invalid("mask", "too small or too dark to be drawn", expected).into());
    }
    let data = TensorData::new(values, [1, 1, h, w]);
    Ok(Tensor::from_data(data, (device, DType::F32)))
}

#[cfg(test)]
mod tests {
    use image::ImageBuffer;
    use sd_fixtures::Fixture;

    use super::*;
    use crate::Opaque;

    fn pixels<P: Opaque>(fixture: &Fixture, key: &str) -> ImageBuffer<P, Vec<u8>> {
        let shape = fixture.shape(key);
        let bytes = fixture.values(key).into_iter().map(|byte| byte as u8);
        ImageBuffer::from_raw(shape[1] as u32, shape[0] as u32, bytes.collect()).unwrap()
    }

    fn region(values: &serde_json::Value) -> Region {
        let [left, top, right, bottom] = [0, 1, 2, 3].map(|i| values[i].as_u64().unwrap() as u32);
        Region {
            left,
            top,
            right,
            bottom,
        }
    }

    #[test]
    fn a_part_is_cut_where_diffusers_cuts_it() {
        let fixture = Fixture::open("inpaint");
        let settings = fixture.settings();
        let cases = settings["regions"].as_array().unwrap();
        assert_eq!(cases.len(), 60);
        for (k, case) in cases.iter().enumerate() {
            let mask: GrayImage = pixels(&fixture, &format!("region.{k}"));
            let [height, width, padding] =
                ["height", "width", "padding"].map(|key| case[key].as_u64().unwrap() as usize);
            let found = Region::around(&mask, padding as u32, [height, width]);
            assert_eq!(found, Some(region(&case["region"])), "{k}");
        }
        assert_eq!(Region::around(&GrayImage::new(4, 4), 2, [8, 8]), None);
    }

    #[test]
    fn a_part_is_put_back_with_the_bytes_of_diffusers_overlay() {
        let fixture = Fixture::open("inpaint");
        let settings = fixture.settings();
        let regions = settings["overlays"].as_array().unwrap();
        for (k, place) in regions.iter().enumerate() {
            let old: RgbImage = pixels(&fixture, &format!("overlay.{k}.old"));
            let share: GrayImage = pixels(&fixture, &format!("overlay.{k}.share"));
            let paste = Paste::new(&old, &share, 0, region(place), Resize::Fit);
            let found = paste
                .apply(&pixels(&fixture, &format!("overlay.{k}.new")))
                .unwrap();
            assert!(
                found == pixels(&fixture, &format!("overlay.{k}.result")),
                "{k}"
            );
        }
    }

    #[test]
    fn masks_grow_and_are_blurred_with_the_bytes_of_pillow() {
        let fixture = Fixture::open("inpaint");
        let settings = fixture.settings();
        let filters = settings["filters"].as_array().unwrap();
        for k in 0..3 {
            let mask: GrayImage = pixels(&fixture, &format!("filtered.{k}"));
            for filter in filters {
                let filter = filter.as_str().unwrap();
                let found = match filter.split_once('.').unwrap() {
                    ("grow", by) => grown(&mask, by.parse().unwrap()),
                    (_, radius) => gaussian_blur(&mask, radius.parse().unwrap()),
                };
                let expected = pixels(&fixture, &format!("filtered.{k}.{filter}"));
                assert!(found.unwrap() == expected, "{k} {filter}");
            }
        }
        let colours: RgbImage = pixels(&fixture, "colours");
        let found = gaussian_blur(&colours, 2.0).unwrap();
        assert!(found == pixels(&fixture, "colours.blurred"));
    }
}
