use image::{GrayImage, RgbImage, imageops};

use super::area::{Region, dilated, distances};
use crate::{Resampling, Resize, Result};

/// The way of a drawn picture back into the one it was cut from.
#[derive(Debug, Clone)]
pub(crate) struct Paste {
    /// The picture as it was, of its own size.
    picture: RgbImage,
    /// Share of what is drawn, of that size.
    share: GrayImage,
    /// The part that was drawn.
    region: Region,
    /// Way of that part to the size at which it was drawn.
    resize: Resize,
}

impl Paste {
    /// With a seam of `feather` pixels within `mask`.
    pub(super) fn new(
        picture: &RgbImage,
        mask: &GrayImage,
        feather: u32,
        region: Region,
        resize: Resize,
    ) -> Self {
        Self {
            picture: picture.clone(),
            share: feathered(mask, feather),
            region,
            resize,
        }
    }

    /// The whole picture with `drawn` in it, the old one's bytes where the mask is black: diffusers'
    /// `apply_overlay`, with Pillow's bytes.
    ///
    /// # Errors
    /// Those of [`resize`](crate::resize).
    pub(crate) fn apply(&self, drawn: &RgbImage) -> Result<RgbImage> {
        let region = self.region;
        let back = match self.resize {
            // What lies beside the part is cut off again.
            Resize::Fit => Resize::Crop,
            other => other,
        };
        let part = back.apply(drawn, region.width(), region.height(), Resampling::Lanczos)?;
        let mut whole = RgbImage::new(self.picture.width(), self.picture.height());
        imageops::replace(&mut whole, &part, region.left.into(), region.top.into());
        let pixels = whole.pixels_mut().zip(self.picture.pixels());
        for ((new, old), share) in pixels.zip(self.share.pixels()) {
            for (new, old) in new.0.iter_mut().zip(old.0) {
                *new = laid_over(old, 255 - share.0[0], *new);
            }
        }
        Ok(whole)
    }
}

/// `a`/255 rounded, as Pillow does without a division.
fn div_255(a: u32) -> u32 {
    let a = a + 128;
    ((a >> 8) + a) >> 8
}

/// The byte `over`, opaque to the share `alpha`, on `under`: Pillow's roundings on the way to
/// premultiplied colours, back, and over an opaque picture.
fn laid_over(over: u8, alpha: u8, under: u8) -> u8 {
    let [over, alpha, under] = [over, alpha, under].map(u32::from);
    let premultiplied = div_255(over * alpha);
    let over = match alpha {
        0 => return under as u8,
        255 => premultiplied,
        _ => (255 * premultiplied / alpha).min(255),
    };
    let share = alpha * 128;
    let sum = over * share + under * (255 * 128 - share) + (128 << 7);
    ((((sum >> 8) + sum) >> 8) >> 7) as u8
}

/// `mask` that rises from its edge in `feather` pixels. What is thinner rises in half its depth.
///
/// It lies all within, so that no byte beyond is touched, and its first pixel is all the old
/// picture's: at the edge itself there is nothing to be seen.
fn feathered(mask: &GrayImage, feather: u32) -> GrayImage {
    if feather == 0 {
        return mask.clone();
    }
    let distances = distances(mask);
    let depths = dilated(&distances, feather);
    let mut feathered = mask.clone();
    for (byte, (distance, depth)) in feathered
        .iter_mut()
        .zip(distances.iter().zip(depths.iter()))
    {
        let rise = (feather as f32).min(f32::from(*depth) / 2.0);
        // Of one or two pixels nothing would be left.
        if *depth > 2 && *distance < 255 {
            let share = ((f32::from(*distance) - 1.0) / rise).clamp(0.0, 1.0);
            let smooth = share * share * (3.0 - 2.0 * share);
            *byte = (*byte).min((smooth * 255.0).round() as u8);
        }
    }
    feathered
}

#[cfg(test)]
mod tests {
    use image::Luma;

    use super::*;

    fn row(mask: &[u8]) -> Vec<u8> {
        let mask = GrayImage::from_raw(mask.len() as u32, 1, mask.to_vec()).unwrap();
        feathered(&mask, 4).into_raw()
    }

    #[test]
    fn a_seam_lies_within_and_begins_with_nothing() {
        let mut wide = [255; 20];
        wide[..4].fill(0);
        let found = row(&wide);
        assert_eq!(found[..5], [0; 5]);
        assert!(found[4..9].is_sorted() && found[5] > 0);
        assert_eq!(found[8..], [255; 12]);
        // Thin lines are drawn.
        assert_eq!(row(&[0, 0, 255, 255, 0, 0]), [0, 0, 255, 255, 0, 0]);
        let line = row(&[0, 255, 255, 255, 255, 255, 255, 0]);
        assert_eq!(line[1], 0);
        assert_eq!(line[3], 255);
        // A soft edge that is wider stays as it is but for its first pixel; what has no edge stays.
        let mut soft: Vec<u8> = (0..20).map(|i| i * 12).collect();
        let found = row(&soft);
        soft[1] = 0;
        assert_eq!(found, soft);
        assert_eq!(row(&[255; 9]), [255; 9]);
    }

    #[test]
    fn nothing_is_changed_where_the_mask_is_black() {
        for old in 0..=255 {
            for new in [0, 1, 99, 255] {
                assert_eq!(laid_over(old, 255, new), old);
                assert_eq!(laid_over(old, 0, new), new);
            }
        }
        let picture = RgbImage::from_fn(13, 9, |x, y| [x as u8 * 19, y as u8 * 28, 7].into());
        let mask = GrayImage::from_fn(13, 9, |x, _| Luma([if x < 6 { 0 } else { 255 }]));
        let region = Region::whole(picture.dimensions());
        let paste = Paste::new(&picture, &mask, 2, region, Resize::Stretch);
        let found = paste
            .apply(&RgbImage::from_pixel(16, 8, [200; 3].into()))
            .unwrap();
        for (x, y, pixel) in found.enumerate_pixels() {
            // The first within is the old one, too.
            assert_eq!(pixel == picture.get_pixel(x, y), x < 7, "{x} {y}");
        }
    }
}
