//! Masks as pictures: grown, measured, brought to the latent's size.

use image::{GrayImage, Luma};
use rayon::prelude::*;
use sd_core::Error;

use crate::Result;

/// Largest growth in pixels.
const MOST: u32 = 1024;

/// `mask` whose white grows by `by` pixels to every side, as a square's, or shrinks where that is
/// negative: Pillow's `MaxFilter` and `MinFilter` of 2·`by` + 1.
///
/// # Errors
/// [`Error::InvalidArgument`] for more than 1024 pixels.
pub(crate) fn grown(mask: &GrayImage, by: i32) -> Result<GrayImage> {
    let reach = by.unsigned_abs();
    if reach > MOST {
        let expected = format!("expected -{MOST} to {MOST} pixels");
        return Err(Error::invalid("grow", by, expected).into());
    }
    if by == 0 || mask.is_empty() {
        return Ok(mask.clone());
    }
    let inverted = |mask: &GrayImage| {
        let mut inverted = mask.clone();
        inverted.iter_mut().for_each(|byte| *byte = 255 - *byte);
        inverted
    };
    Ok(match by > 0 {
        true => dilated(mask, reach),
        // What is beyond the picture has no say.
        false => inverted(&dilated(&inverted(mask), reach)),
    })
}

/// The largest byte within `reach` pixels along both sides.
pub(super) fn dilated(mask: &GrayImage, reach: u32) -> GrayImage {
    let along_rows = transposed(&dilated_rows(mask, reach as usize));
    transposed(&dilated_rows(&along_rows, reach as usize))
}

fn dilated_rows(mask: &GrayImage, reach: usize) -> GrayImage {
    let mut new = mask.clone();
    let width = mask.width() as usize;
    new.par_chunks_exact_mut(width).for_each(|row| {
        // The largest of `length` bytes from each place on, doubled until one more is too long.
        let window = 2 * reach + 1;
        let mut longest = vec![0; width + 2 * reach];
        longest[reach..reach + width].copy_from_slice(row);
        let mut length = 1;
        while 2 * length <= window {
            for i in 0..longest.len() - length {
                longest[i] = longest[i].max(longest[i + length]);
            }
            length *= 2;
        }
        for (i, byte) in row.iter_mut().enumerate() {
            *byte = longest[i].max(longest[i + window - length]);
        }
    });
    new
}

fn transposed(mask: &GrayImage) -> GrayImage {
    GrayImage::from_fn(mask.height(), mask.width(), |x, y| *mask.get_pixel(y, x))
}

/// Distance of each pixel to the nearest black one, in steps to any of its eight neighbours, at most
/// 255. Black is not beyond the picture.
pub(super) fn distances(mask: &GrayImage) -> GrayImage {
    let (width, height) = mask.dimensions();
    let mut distances = GrayImage::from_fn(width, height, |x, y| {
        Luma([if mask.get_pixel(x, y).0[0] == 0 {
            0
        } else {
            255
        }])
    });
    let mut nearer = |x: u32, y: u32, neighbours: [(i64, i64); 4]| {
        let at = |(dx, dy): (i64, i64)| {
            let x = u32::try_from(i64::from(x) + dx).ok()?;
            let y = u32::try_from(i64::from(y) + dy).ok()?;
            Some(distances.get_pixel_checked(x, y)?.0[0])
        };
        let nearest = neighbours.into_iter().filter_map(at).min();
        let own = &mut distances.get_pixel_mut(x, y).0[0];
        *own = (*own).min(nearest.unwrap_or(255).saturating_add(1));
    };
    for y in 0..height {
        for x in 0..width {
            nearer(x, y, [(-1, 0), (-1, -1), (0, -1), (1, -1)]);
        }
    }
    for y in (0..height).rev() {
        for x in (0..width).rev() {
            nearer(x, y, [(1, 0), (1, 1), (0, 1), (-1, 1)]);
        }
    }
    distances
}

/// Part of a picture: its left, upper, right and lower edge in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) left: u32,
    pub(crate) top: u32,
    pub(crate) right: u32,
    pub(crate) bottom: u32,
}

impl Region {
    /// All of a picture of that size.
    pub(super) fn whole((width, height): (u32, u32)) -> Self {
        Self {
            left: 0,
            top: 0,
            right: width,
            bottom: height,
        }
    }

    /// The smallest part with all of `mask` that is not black and `padding` pixels around it, widened
    /// towards the proportions of `width` and `height` as far as the picture reaches: diffusers'
    /// `get_crop_region`, roundings included. `None` where all is black.
    pub(super) fn around(
        mask: &GrayImage,
        padding: u32,
        [height, width]: [usize; 2],
    ) -> Option<Self> {
        let size = mask.dimensions();
        let mut drawn = mask.enumerate_pixels().filter(|(_, _, p)| p.0[0] != 0);
        let (x, y, _) = drawn.next()?;
        let tight = drawn.fold([x, y, x, y], |[l, t, r, b], (x, y, _)| {
            [l.min(x), t.min(y), r.max(x), b.max(y)]
        });
        let [left, top, right, bottom] = tight.map(i64::from);
        let (w, h) = (i64::from(size.0), i64::from(size.1));
        let padding = i64::from(padding);
        let across = [(left - padding).max(0), (right + 1 + padding).min(w)];
        let down = [(top - padding).max(0), (bottom + 1 + padding).min(h)];
        let length = |[first, last]: [i64; 2]| (last - first) as f64;
        let ratio = width as f64 / height as f64;
        let (across, down) = if length(across) / length(down) > ratio {
            (across, widened(down, length(across) / ratio, h))
        } else {
            (widened(across, length(down) * ratio, w), down)
        };
        let [[left, right], [top, bottom]] =
            [across, down].map(|side| side.map(|edge| edge.clamp(0, i64::from(u32::MAX)) as u32));
        Some(Self {
            left,
            top,
            right,
            bottom,
        })
    }

    pub(crate) fn width(self) -> u32 {
        self.right - self.left
    }

    pub(crate) fn height(self) -> u32 {
        self.bottom - self.top
    }
}

/// A stretch made `wanted` long, half of it before; moved within `most`, and cut there.
fn widened([mut first, mut last]: [i64; 2], wanted: f64, most: i64) -> [i64; 2] {
    let more = (wanted - (last - first) as f64) as i64;
    first -= more / 2;
    last += more - more / 2;
    if last >= most {
        first -= last - most;
        last = most;
    }
    if first < 0 {
        last -= first;
        first = 0;
    }
    [first, last.min(most)]
}

/// `mask` at the latent's size, within 0 and 1: linear between the four nearest pixels of each
/// latent pixel's centre, as torch's `interpolate` without antialiasing and ComfyUI do it.
pub(crate) fn bilinear(mask: &GrayImage, [h, w]: [usize; 2]) -> Vec<f32> {
    let (width, height) = mask.dimensions();
    let place = |i: usize, to: usize, from: u32| {
        let at = (i as f64 + 0.5) * f64::from(from) / to as f64 - 0.5;
        let at = at.clamp(0.0, f64::from(from - 1));
        let low = at.floor();
        let high = (low + 1.0).min(f64::from(from - 1));
        (low as u32, high as u32, (at - low) as f32)
    };
    let at = |x: u32, y: u32| f32::from(mask.get_pixel(x, y).0[0]) / 255.0;
    let mix = |a: f32, b: f32, share: f32| a + (b - a) * share;
    let value = |i: usize| {
        let (left, right, x) = place(i % w, w, width);
        let (top, bottom, y) = place(i / w, h, height);
        let above = mix(at(left, top), at(right, top), x);
        mix(above, mix(at(left, bottom), at(right, bottom), x), y)
    };
    (0..h * w).map(value).collect()
}

/// `true` of what a hard mask has drawn: diffusers' limit.
pub(crate) fn is_drawn(byte: u8) -> bool {
    byte >= 128
}

/// `mask` at the latent's size, 0 or 1: what it says of each latent pixel's first pixel, as torch's
/// nearest `interpolate` of diffusers' pipelines takes it.
pub(crate) fn nearest(mask: &GrayImage, [h, w]: [usize; 2]) -> Vec<f32> {
    let (width, height) = mask.dimensions();
    let place = |i: usize, to: usize, from: u32| (i * from as usize / to) as u32;
    let value = |i: usize| {
        let pixel = mask.get_pixel(place(i % w, w, width), place(i / w, h, height));
        f32::from(u8::from(is_drawn(pixel.0[0])))
    };
    (0..h * w).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_is_linear_between_its_pixels() {
        let ramp = GrayImage::from_fn(16, 8, |x, _| Luma([(x * 17) as u8]));
        // Centres of eight pixels lie between the fourth and the fifth.
        let found = bilinear(&ramp, [1, 2]);
        let expected = [3.5f32, 11.5].map(|x| x * 17.0 / 255.0);
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
    }

    #[test]
    fn a_distance_counts_steps_from_the_nearest_black_pixel() {
        let mask = GrayImage::from_fn(6, 4, |x, y| Luma([if (x, y) == (1, 1) { 0 } else { 9 }]));
        let found = distances(&mask);
        let expected =
            GrayImage::from_fn(6, 4, |x, y| Luma([x.abs_diff(1).max(y.abs_diff(1)) as u8]));
        assert_eq!(found, expected);
        assert!(
            distances(&GrayImage::from_pixel(3, 3, Luma([1])))
                .iter()
                .all(|d| *d == 255)
        );
    }
}
