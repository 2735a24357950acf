use image::{GrayImage, Luma, Rgb, RgbImage, imageops};
use sd_core::{Error, TorchRng};

use super::blur::gaussian_blur;
use crate::Result;

/// Growth of a picture whose new part is to be drawn: outpainting.
///
/// ```
/// use sd_pipeline::{Expand, Fill, Inpaint, PictureStart, Request, RgbImage, Start};
///
/// # fn main() -> sd_pipeline::Result<()> {
/// let photo = RgbImage::new(512, 512);
/// let expand = Expand { left: 128, right: 128, ..Expand::new(Fill::Mirror) };
/// let (canvas, mask) = expand.apply(&photo, None)?;
/// let request = Request {
///     start: Start::Picture(PictureStart {
///         inpaint: Some(Inpaint::new(mask)),
///         ..PictureStart::new(canvas, 1.0)
///     }),
///     ..Request::new("a beach with palm trees")
/// };
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Expand {
    /// Pixels more on the left.
    pub left: u32,
    /// Pixels more above.
    pub top: u32,
    /// Pixels more on the right.
    pub right: u32,
    /// Pixels more below.
    pub bottom: u32,
    /// Content of the new pixels before they are drawn. The less the strength, the more is left of it.
    pub fill: Fill,
    /// Pixels of the old picture along a new side that are drawn anew with it, so that both join.
    pub overlap: u32,
    /// Seed of [`Fill::Noise`].
    pub seed: u64,
}

/// Content of pixels that are not drawn yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Fill {
    /// The picture's nearest pixel.
    #[default]
    Edge,
    /// The same, the more blurred the farther from the picture.
    Blur,
    /// The picture mirrored at its edge.
    Mirror,
    /// Noise with the picture's mean and deviation, which rises from its edge.
    Noise,
}

/// No side may come to more pixels.
const MAX_SIDE: u32 = 16_384;
/// The larger picture may not have more pixels.
const MAX_PIXELS: u64 = 1 << 26;
/// Pixels in which a fill rises.
const RISE: f32 = 16.0;

impl Expand {
    /// No pixel more anywhere, to be filled with `fill`, and an overlap of 8.
    pub fn new(fill: Fill) -> Self {
        Self {
            left: 0,
            top: 0,
            right: 0,
            bottom: 0,
            fill,
            overlap: 8,
            seed: 0,
        }
    }

    /// The larger picture, and its mask: white are the new pixels and the overlap, and what of the
    /// old ones `mask` says.
    ///
    /// # Errors
    /// [`Error::Component`](crate::Error::Component) for an empty picture, a side that would come to
    /// more than 16384 pixels, more than 2²⁶
    /// pixels, or a mask of another size.
    pub fn apply(
        &self,
        image: &RgbImage,
        mask: Option<&GrayImage>,
    ) -> Result<(RgbImage, GrayImage)> {
        let (w, h) = image.dimensions();
        if w == 0 || h == 0 {
            let expected = "expected at least a pixel";
            return Err(Error::invalid("picture", format!("{w}x{h}"), expected).into());
        }
        if let Some(mask) = mask {
            super::same_size(mask, image)?;
        }
        let width = side(w, [self.left, self.right])?;
        let height = side(h, [self.top, self.bottom])?;
        if u64::from(width) * u64::from(height) > MAX_PIXELS {
            let expected = format!("expected at most {MAX_PIXELS} pixels");
            return Err(Error::invalid("expand", format!("{width}x{height}"), expected).into());
        }
        let [left, top] = [self.left, self.top];
        let within = |at: u32, before: u32, size: u32| (before..before + size).contains(&at);
        // A pixel of the old picture for each of the new.
        let filled = |place: fn(i64, i64) -> i64| {
            let old = |at: u32, before: u32, size: u32| {
                place(i64::from(at) - i64::from(before), i64::from(size)) as u32
            };
            RgbImage::from_fn(width, height, |x, y| {
                *image.get_pixel(old(x, left, w), old(y, top, h))
            })
        };
        let edge = |i: i64, size: i64| i.clamp(0, size - 1);
        let mut canvas = match self.fill {
            Fill::Mirror => filled(mirrored),
            Fill::Edge | Fill::Blur | Fill::Noise => filled(edge),
        };
        match self.fill {
            Fill::Edge | Fill::Mirror => {}
            Fill::Blur => {
                let most = [left, top, self.right, self.bottom].into_iter().max();
                let radius = (most.unwrap_or(0) as f32 / 4.0).clamp(1.0, 64.0);
                let blurred = gaussian_blur(&canvas, radius)?;
                self.rise(&mut canvas, (w, h), |x, y| {
                    blurred.get_pixel(x, y).0.map(f64::from)
                });
            }
            Fill::Noise => {
                let mut noise = Lookalike::of(image, self.seed);
                self.rise(&mut canvas, (w, h), |_, _| noise.next());
            }
        }
        imageops::replace(&mut canvas, image, left.into(), top.into());

        let overlap = |at: u32, [before, behind]: [u32; 2], size: u32| {
            let at = at - before;
            (before > 0 && at < self.overlap) || (behind > 0 && size - 1 - at < self.overlap)
        };
        let mask = GrayImage::from_fn(width, height, |x, y| {
            let is_old = within(x, left, w) && within(y, top, h);
            let is_drawn = !is_old
                || overlap(x, [self.left, self.right], w)
                || overlap(y, [self.top, self.bottom], h);
            match (is_drawn, mask) {
                (true, _) => Luma([255]),
                (false, Some(mask)) => *mask.get_pixel(x - left, y - top),
                (false, None) => Luma([0]),
            }
        });
        Ok((canvas, mask))
    }

    /// Makes of `canvas`, with an old picture of `size` in it, what `new` says, the more the farther
    /// from it.
    fn rise(
        &self,
        canvas: &mut RgbImage,
        (width, height): (u32, u32),
        mut new: impl FnMut(u32, u32) -> [f64; 3],
    ) {
        let far =
            |at: u32, before: u32, size: u32| at.abs_diff(at.clamp(before, before + size - 1));
        for (x, y, pixel) in canvas.enumerate_pixels_mut() {
            let distance = far(x, self.left, width).max(far(y, self.top, height));
            let share = f64::from((distance as f32 / RISE).min(1.0));
            let new = new(x, y);
            *pixel = Rgb(std::array::from_fn(|c| {
                let old = f64::from(pixel.0[c]);
                (old + (new[c] - old) * share).round().clamp(0.0, 255.0) as u8
            }));
        }
    }
}

/// Noise with the mean and the deviation of each of a picture's colours.
struct Lookalike {
    means: [f64; 3],
    deviations: [f64; 3],
    generator: TorchRng,
    /// Drawn and not taken.
    values: std::vec::IntoIter<f32>,
}

impl Lookalike {
    fn of(image: &RgbImage, seed: u64) -> Self {
        let count = f64::from(image.width()) * f64::from(image.height());
        let mean = |channel: usize, of: &dyn Fn(f64) -> f64| {
            let values = image.pixels().map(|p| of(f64::from(p.0[channel])));
            values.sum::<f64>() / count
        };
        let means = [0, 1, 2].map(|c| mean(c, &|v| v));
        Self {
            means,
            deviations: [0, 1, 2].map(|c| mean(c, &|v| (v - means[c]).powi(2)).sqrt()),
            generator: TorchRng::new(seed),
            values: Vec::new().into_iter(),
        }
    }

    fn next(&mut self) -> [f64; 3] {
        std::array::from_fn(|c| {
            let value = self.values.next().unwrap_or_else(|| {
                self.values = self.generator.randn(4096).into_iter();
                self.values.next().unwrap_or_default()
            });
            self.means[c] + self.deviations[c] * f64::from(value)
        })
    }
}

/// A side of `size` pixels with more at its ends.
fn side(size: u32, more: [u32; 2]) -> Result<u32> {
    let whole = u64::from(size) + more.into_iter().map(u64::from).sum::<u64>();
    match u32::try_from(whole) {
        Ok(whole) if whole <= MAX_SIDE => Ok(whole),
        _ => {
            let expected = format!("expected sides of at most {MAX_SIDE} pixels");
            Err(Error::invalid("expand", format!("{size} to {whole} pixels"), expected).into())
        }
    }
}

/// The place within `size` that is at `i` when both ends are mirrors, which are not doubled.
fn mirrored(i: i64, size: i64) -> i64 {
    let period = (2 * size - 2).max(1);
    let i = i.rem_euclid(period);
    i.min(period - i).min(size - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grey(values: &[u8]) -> RgbImage {
        RgbImage::from_fn(values.len() as u32, 1, |x, _| Rgb([values[x as usize]; 3]))
    }

    fn row(image: &RgbImage) -> Vec<u8> {
        image.pixels().map(|p| p.0[0]).collect()
    }

    #[test]
    fn new_pixels_are_white_and_join_the_old() {
        let expand = Expand {
            left: 2,
            right: 5,
            overlap: 1,
            ..Expand::new(Fill::Mirror)
        };
        let given = GrayImage::from_raw(4, 1, vec![0, 7, 0, 0]).unwrap();
        let (canvas, mask) = expand
            .apply(&grey(&[10, 20, 30, 40]), Some(&given))
            .unwrap();
        assert_eq!(row(&canvas), [30, 20, 10, 20, 30, 40, 30, 20, 10, 20, 30]);
        let w = 255;
        assert_eq!(mask.into_raw(), [w, w, w, 7, 0, w, w, w, w, w, w]);
        let edge = Expand {
            fill: Fill::Edge,
            ..expand
        };
        let (canvas, _) = edge.apply(&grey(&[10, 20]), None).unwrap();
        assert_eq!(row(&canvas), [10, 10, 10, 20, 20, 20, 20, 20, 20]);
        // A single pixel is its own mirror image.
        let (canvas, _) = expand.apply(&grey(&[9]), None).unwrap();
        assert_eq!(row(&canvas), [9; 8]);
    }

    #[test]
    fn the_old_picture_is_in_the_new_whatever_fills_it() {
        let old = RgbImage::from_fn(20, 12, |x, y| [x as u8 * 9, y as u8 * 21, 99].into());
        for fill in [Fill::Edge, Fill::Blur, Fill::Mirror, Fill::Noise] {
            let expand = Expand {
                left: 12,
                top: 20,
                right: 28,
                ..Expand::new(fill)
            };
            let (canvas, mask) = expand.apply(&old, None).unwrap();
            assert_eq!(canvas.dimensions(), (60, 32));
            assert_eq!(mask.dimensions(), (60, 32));
            let part = imageops::crop_imm(&canvas, 12, 20, 20, 12).to_image();
            assert_eq!(part, old, "{fill:?}");
            // Nothing new is below, so nothing old is drawn there.
            let old = |x: u32, y: u32| (20..24).contains(&x) && y >= 28;
            for (x, y, pixel) in mask.enumerate_pixels() {
                assert_eq!(pixel.0[0] == 0, old(x, y), "{x} {y}");
            }
            // No jump where they meet.
            for y in 20..32 {
                let [a, b] = [11, 12].map(|x| canvas.get_pixel(x, y).0.map(i32::from));
                let jump = a.iter().zip(b).map(|(a, b)| (a - b).abs()).max();
                assert!(jump < Some(25), "{fill:?} {jump:?}");
            }
        }
    }

    #[test]
    fn sizes_that_no_picture_has() {
        let picture = grey(&[1, 2]);
        let refused = |expand: Expand, picture: &RgbImage| {
            let error = expand.apply(picture, None).unwrap_err().to_string();
            assert!(error.contains("expected"), "{error}");
        };
        let wide = Expand {
            left: u32::MAX,
            right: 9,
            ..Expand::new(Fill::Edge)
        };
        refused(wide, &picture);
        refused(
            Expand {
                top: 16_384,
                ..Expand::new(Fill::Noise)
            },
            &picture,
        );
        refused(Expand::new(Fill::Blur), &RgbImage::new(0, 4));
        let error = Expand::new(Fill::Edge).apply(&picture, Some(&GrayImage::new(1, 1)));
        let error = error.unwrap_err().to_string();
        assert!(error.contains("mask is 1x1; expected 2x1"), "{error}");
    }
}
