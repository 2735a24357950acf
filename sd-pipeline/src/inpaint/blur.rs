use image::ImageBuffer;
use rayon::prelude::*;
use sd_core::Error as CoreError;

use crate::{Opaque, Result};

/// Largest radius in pixels.
const MOST: f32 = 1024.0;
/// Box blurs that stand for a Gaussian one, along each side.
const PASSES: usize = 3;

/// `image` blurred by a Gaussian with the standard deviation `radius`, in pixels, with the bytes of
/// Pillow's `ImageFilter.GaussianBlur`, which is diffusers' mask blur: three box blurs along the
/// rows and three along the columns, each of them rounded. Beyond its edges a picture goes on as at
/// them.
///
/// # Errors
/// [`Error::Component`](crate::Error::Component) for a radius outside `0.0 ..= 1024.0`.
pub fn gaussian_blur<P: Opaque>(
    image: &ImageBuffer<P, Vec<u8>>,
    radius: f32,
) -> Result<ImageBuffer<P, Vec<u8>>> {
    if !(0.0..=MOST).contains(&radius) {
        let expected = format!("expected 0 to {MOST} pixels");
        return Err(CoreError::invalid("blur", radius, expected).into());
    }
    let kernel = Kernel::of(radius);
    if radius == 0.0 || image.is_empty() {
        return Ok(image.clone());
    }
    let along_rows = transposed(&blurred(image, &kernel));
    Ok(transposed(&blurred(&along_rows, &kernel)))
}

/// A box with a share of the pixels at both its ends, in 24 binary places.
struct Kernel {
    reach: usize,
    inner: u32,
    outer: u32,
}

impl Kernel {
    /// The box that comes, in all its passes, to the variance of a Gaussian (Gwosdek et al. 2011,
    /// "Theoretical foundations of Gaussian convolution by extended box filtering").
    fn of(radius: f32) -> Self {
        let variance = radius * radius / PASSES as f32;
        let length = (12.0 * f64::from(variance) + 1.0).sqrt() as f32;
        let whole = ((f64::from(length) - 1.0) / 2.0).floor() as f32;
        let rest = (2.0 * whole + 1.0) * (whole * (whole + 1.0) - 3.0 * variance);
        let rest = rest / (6.0 * (variance - (whole + 1.0) * (whole + 1.0)));
        let radius = whole + rest;
        let reach = radius as u32;
        let inner = ((1 << 24) as f32 / (radius * 2.0 + 1.0)) as u32;
        Self {
            reach: reach as usize,
            inner,
            outer: ((1 << 24) - (reach * 2 + 1) * inner) / 2,
        }
    }

    /// One pass along a line of bytes that lie `step` apart.
    fn pass(&self, old: &[u8], new: &mut [u8], step: usize) {
        let last = old.len().div_ceil(step) - 1;
        let at = |i: isize| u32::from(old[i.clamp(0, last as isize) as usize * step]);
        let reach = self.reach as isize;
        let mut sum: u32 = (-reach..=reach).map(at).sum();
        for (i, byte) in new.iter_mut().step_by(step).enumerate() {
            let i = i as isize;
            let [before, behind] = [at(i - reach - 1), at(i + reach + 1)];
            let value = sum * self.inner + (before + behind) * self.outer;
            *byte = ((value + (1 << 23)) >> 24) as u8;
            sum = sum + behind - at(i - reach);
        }
    }
}

/// All passes along the rows.
fn blurred<P: Opaque>(image: &ImageBuffer<P, Vec<u8>>, kernel: &Kernel) -> ImageBuffer<P, Vec<u8>> {
    let mut new = image.clone();
    let channels = usize::from(P::CHANNEL_COUNT);
    let line = image.width() as usize * channels;
    new.par_chunks_exact_mut(line).for_each(|row| {
        for _ in 0..PASSES {
            let old = row.to_vec();
            for channel in 0..channels {
                kernel.pass(&old[channel..], &mut row[channel..], channels);
            }
        }
    });
    new
}

fn transposed<P: Opaque>(image: &ImageBuffer<P, Vec<u8>>) -> ImageBuffer<P, Vec<u8>> {
    ImageBuffer::from_fn(image.height(), image.width(), |x, y| *image.get_pixel(y, x))
}
