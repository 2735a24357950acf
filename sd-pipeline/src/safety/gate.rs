use burn::tensor::Device;
use image::RgbImage;

use super::{OnFlagged, SafetyChecker};
use crate::resample::{Resampling, resize};
use crate::synchronized::synchronized;
use crate::{Error, Picture, Result, Slot};

/// The way out of a run, past its safety checker.
#[derive(Clone)]
pub(crate) struct Gate {
    pub(crate) checker: Slot<dyn SafetyChecker>,
    pub(crate) on_flagged: OnFlagged,
}

impl Gate {
    /// The pictures as they may leave. Those that are `finished` are checked; the others are
    /// blurred, for nobody knows yet what becomes of them. The checker computes on `device`, if on
    /// any.
    pub(crate) fn pass(
        &self,
        pictures: Vec<Picture>,
        finished: &[bool],
        device: &Device,
    ) -> Result<Vec<Picture>> {
        let checker = match finished.contains(&true) {
            true => {
                let load = || self.checker.get();
                Some(synchronized(&[device], "loading the safety checker", load)?)
            }
            false => None,
        };
        let pictures = pictures.into_iter().zip(finished);
        let pictures = pictures.map(|(mut picture, finished)| match &checker {
            Some(checker) if *finished => self.judge(&**checker, picture, device),
            _ => {
                let image = blurred(&picture.image)?;
                replace(&mut picture, image);
                Ok(picture)
            }
        });
        pictures.collect()
    }

    fn judge(
        &self,
        checker: &dyn SafetyChecker,
        mut picture: Picture,
        device: &Device,
    ) -> Result<Picture> {
        let verdict = synchronized(&[device], "the safety checker", || {
            checker.check(&picture.image)
        })?;
        let seed = picture.seed;
        if verdict.flagged {
            tracing::warn!("the safety checker on the picture of seed {seed}: {verdict}");
            match self.on_flagged {
                OnFlagged::Flag => {}
                OnFlagged::Blur => {
                    let image = blurred(&picture.image)?;
                    replace(&mut picture, image);
                }
                OnFlagged::Black => {
                    let (width, height) = picture.image.dimensions();
                    replace(&mut picture, RgbImage::new(width, height));
                }
                OnFlagged::Refuse => return Err(Error::Flagged { seed, verdict }),
            }
        }
        picture.verdict = Some(verdict);
        Ok(picture)
    }
}

/// Puts `image` in the place of a picture's own, which also had the watermark.
fn replace(picture: &mut Picture, image: RgbImage) {
    picture.image = image;
    picture.is_marked = false;
}

/// Blotches that are left of a picture's longer side.
const BLOTCHES: u32 = 12;

/// A picture of which only the rough distribution of colours is left.
fn blurred(image: &RgbImage) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    // Means over squares, at least 8 pixels wide.
    let square = width.max(height).div_ceil(BLOTCHES).max(8);
    let [w, h] = [width, height].map(|side| side.div_ceil(square));
    let means = resize(image, w, h, Resampling::Box)?;
    resize(&means, width, height, Resampling::Bilinear)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_left_of_a_blurred_picture() {
        for (width, height) in [(512, 512), (128, 96), (8, 8), (16, 2048), (72, 56)] {
            let check = |x: u32, y: u32| [((x / 4 + y / 4) % 2 * 255) as u8; 3].into();
            let image = RgbImage::from_fn(width, height, check);
            let blurred = blurred(&image).unwrap();
            assert_eq!(blurred.dimensions(), (width, height));
            let bytes = blurred.iter();
            let far = bytes.map(|byte| byte.abs_diff(128)).max().unwrap();
            assert!(far < 40, "{width}x{height}: {far}");
        }
        // The colours' distribution is what stays.
        let image = RgbImage::from_fn(256, 64, |x, _| [if x < 128 { 0 } else { 255 }; 3].into());
        let blurred = blurred(&image).unwrap();
        assert!(blurred.get_pixel(2, 30)[0] < 10 && blurred.get_pixel(253, 30)[0] > 245);
    }
}
