use std::ops::Range;

use burn::tensor::{DType, Tensor, TensorData};
use image::{GrayImage, RgbImage, imageops};
use sd_core::Error;
use sd_models::unet::ControlSpec;

use super::steps_between;
use crate::{Resampling, Resize, Result, Start};

/// A picture that steers what is drawn, and how strongly: one for each of a pipeline's
/// [`controls`](crate::Pipeline::controls).
///
/// It is what the network was trained on, such as white lines on black; what makes it of a photograph
/// is the program's affair.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ControlPicture {
    /// The picture, of any size: it is stretched to the one that is drawn, with Lanczos' kernel. Of a
    /// network that sees grey its luma is taken.
    #[cfg_attr(feature = "serde", serde(with = "crate::serde_values::rgb"))]
    pub image: RgbImage,
    /// Area that an inpainting ControlNet is to see as absent, white, of the picture's size.
    #[cfg_attr(
        feature = "serde",
        serde(default, with = "crate::serde_values::optional_grey")
    )]
    pub mask: Option<GrayImage>,
    /// Factor on what the network adds: 1 as trained, 0 nothing.
    pub scale: f64,
    /// Share of the run at which it begins to steer, 0 to 1.
    pub start: f64,
    /// Share of the run at which it ends, above the start; a step steers when it lies between the two as
    /// a whole.
    pub end: f64,
    /// Number of the picture's kind, for a network that knows several (union).
    #[cfg_attr(feature = "serde", serde(default))]
    pub kind: Option<usize>,
}

impl ControlPicture {
    /// `image` at scale 1 over the whole run.
    pub fn new(image: RgbImage) -> Self {
        Self {
            image,
            mask: None,
            scale: 1.0,
            start: 0.0,
            end: 1.0,
            kind: None,
        }
    }

    /// The same at another scale.
    #[must_use]
    pub fn scale(self, scale: f64) -> Self {
        Self { scale, ..self }
    }

    /// The same between two shares of the run.
    #[must_use]
    pub fn between(self, range: Range<f64>) -> Self {
        Self {
            start: range.start,
            end: range.end,
            ..self
        }
    }

    pub(super) fn check(&self) -> sd_core::Result<()> {
        if !self.scale.is_finite() {
            let expected = "expected a finite number, usually 0 to 2";
            return Err(Error::invalid("control scale", self.scale, expected));
        }
        let (start, end) = (self.start, self.end);
        // Also where one is NaN.
        let is_sound = start >= 0.0 && end <= 1.0 && start < end;
        if !is_sound {
            let expected = "expected shares of the run from 0 to 1, the start below the end";
            return Err(Error::invalid(
                "control range",
                format!("{start} to {end}"),
                expected,
            ));
        }
        let (w, h) = self.image.dimensions();
        if w == 0 || h == 0 {
            let expected = "expected at least one pixel";
            return Err(Error::invalid(
                "control picture",
                format!("{w}x{h}"),
                expected,
            ));
        }
        match &self.mask {
            Some(mask) if mask.dimensions() != (w, h) => {
                let (found_w, found_h) = mask.dimensions();
                let expected = format!("expected {w}x{h}, the control picture's size");
                Err(Error::invalid(
                    "control mask",
                    format!("{found_w}x{found_h}"),
                    expected,
                ))
            }
            _ => Ok(()),
        }
    }

    /// The steps of `all` in which it steers.
    pub(super) fn steps(&self, all: usize) -> Range<usize> {
        steps_between(&(self.start..self.end), all)
    }

    /// The picture at `height` and `width` as the network of `spec` sees it, `[1, c, h, w]`; of a run
    /// that starts from a part of a picture the same part.
    pub(super) fn tensor(
        &self,
        spec: &ControlSpec,
        start: &Start,
        [height, width]: [usize; 2],
    ) -> Result<Tensor<4>> {
        let (w, h) = (width as u32, height as u32);
        let mut image = self.image.clone();
        let mut mask = self.mask.clone();
        let mut way = Resize::Stretch;
        if let Start::Picture(picture) = start
            && let Some(inpaint) = &picture.inpaint
            && let Some(region) = inpaint.region([height, width])?
        {
            let (own, whole) = (image.dimensions(), picture.image.dimensions());
            if own != whole {
                let found = format!("{}x{}", own.0, own.1);
                let expected = format!(
                    "expected {}x{}, the picture's size: the part that is drawn is cut out of both",
                    whole.0, whole.1
                );
                return Err(Error::invalid("control picture", found, expected).into());
            }
            let [left, top] = [region.left, region.top];
            let [part_w, part_h] = [region.width(), region.height()];
            image = imageops::crop_imm(&image, left, top, part_w, part_h).to_image();
            mask = mask.map(|m| imageops::crop_imm(&m, left, top, part_w, part_h).to_image());
            way = Resize::Fit;
        }
        if image.dimensions() != (w, h) {
            image = way.apply(&image, w, h, Resampling::Lanczos)?;
        }
        let mask = mask.map(|mask| match mask.dimensions() == (w, h) {
            true => Ok(mask),
            false => way.apply(&mask, w, h, Resampling::Lanczos),
        });
        let mask = mask.transpose()?;
        let pixel = |k: usize| {
            let hidden = mask.as_ref().is_some_and(|mask| mask.as_raw()[k] > 127);
            let [r, g, b]: [u8; 3] = std::array::from_fn(|c| image.as_raw()[3 * k + c]);
            let values = match (spec.channels, spec.is_bgr) {
                (1, _) => vec![luma([r, g, b])],
                (_, false) => vec![r, g, b],
                (_, true) => vec![b, g, r],
            };
            values.into_iter().map(move |value| match hidden {
                true => -1.0,
                false => f32::from(value) / 255.0,
            })
        };
        let values: Vec<f32> = (0..width * height).flat_map(pixel).collect();
        let channels = values.len() / (width * height).max(1);
        let data = TensorData::new(values, [1, height, width, channels]);
        let picture = Tensor::<4>::from_data(data, (&spec.device, DType::F32));
        Ok(picture.permute([0, 3, 1, 2]))
    }
}

/// A colour's grey, as Pillow rounds it.
fn luma([r, g, b]: [u8; 3]) -> u8 {
    let [r, g, b] = [r, g, b].map(u32::from);
    ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use image::{Luma, Rgb};
    use sd_models::controlnet::ControlNetFiles;
    use sd_models::{Files, LoadOptions};

    use super::*;
    use crate::{Inpaint, PictureStart};

    /// A part that the picture's edges keep from the proportions drawn lies between bars: what is
    /// hidden lies where the picture shows it.
    #[test]
    fn the_mask_is_where_the_picture_has_it() {
        let folder = Files::directory(sd_fixtures::path("control/sd1_edges"));
        let files = ControlNetFiles::open(&folder, &LoadOptions::new(&Device::flex())).unwrap();
        let is_white = |x: u32, y: u32| (20..60).contains(&x) && (6..14).contains(&y);
        let grey = |x, y| if is_white(x, y) { 255 } else { 0 };
        let mask = GrayImage::from_fn(100, 20, |x, y| Luma([grey(x, y)]));
        let image = RgbImage::from_fn(100, 20, |x, y| Rgb([grey(x, y); 3]));
        let inpaint = Inpaint {
            masked_only: Some(8),
            ..Inpaint::new(mask.clone())
        };
        let start = Start::Picture(PictureStart {
            inpaint: Some(inpaint),
            ..PictureStart::new(image.clone(), 1.0)
        });
        let picture = ControlPicture {
            mask: Some(mask),
            ..ControlPicture::new(image)
        };
        let seen = |picture: &ControlPicture| {
            let seen = picture.tensor(files.spec(), &start, [64, 64]).unwrap();
            seen.try_into_vec_as::<f32>().unwrap()
        };
        let hidden = seen(&picture).into_iter().map(|x| x == -1.0);
        let shown = ControlPicture {
            mask: None,
            ..picture.clone()
        };
        let white = seen(&shown).into_iter().map(|x| x > 0.5);
        assert!(white.clone().any(|is| is));
        assert!(hidden.eq(white));
    }
}
