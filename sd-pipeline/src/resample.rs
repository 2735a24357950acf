//! Resampling with Pillow's arithmetic, byte for byte.

use image::{ImageBuffer, Luma, Pixel, Rgb, imageops};
use rayon::prelude::*;
use sd_core::Error as CoreError;

use crate::Result;

/// Picture of bytes whose channels have the pixels `P`.
type Pixels<P> = ImageBuffer<P, Vec<u8>>;

/// Kernel by which pixels are weighed, as Pillow names them (`Image.Resampling`). Where a picture
/// shrinks, all but [`Nearest`](Self::Nearest) widen, so that every pixel has its share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Resampling {
    /// The one pixel in which the middle of the new one lies.
    Nearest,
    /// Mean of the pixels that a new one covers.
    Box,
    /// Triangle.
    Bilinear,
    /// Cubic convolution with a = −½ (Keys 1981).
    Bicubic,
    /// sinc(x)·sinc(x/3).
    #[default]
    Lanczos,
}

impl Resampling {
    /// Distance in pixels at which the kernel ends.
    fn support(self) -> f64 {
        match self {
            Self::Nearest | Self::Box => 0.5,
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Self::Nearest | Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Bicubic if distance < 1.0 => (1.5 * distance - 2.5) * distance * distance + 1.0,
            Self::Bicubic if distance < 2.0 => {
                (((distance - 5.0) * distance + 8.0) * distance - 4.0) * -0.5
            }
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Bicubic | Self::Lanczos => 0.0,
        }
    }
}

fn sinc(x: f64) -> f64 {
    let x = x * std::f64::consts::PI;
    if x == 0.0 { 1.0 } else { x.sin() / x }
}

/// Way to a size of other proportions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// Covers the size and loses what is beyond it on both sides.
    Crop,
    /// Lies whole in its middle; the bars beside it continue its edges.
    Fit,
    /// Changes its proportions.
    #[default]
    Stretch,
}

impl Resize {
    /// `image` at `width` × `height`. The sizes in between and where the picture is put are those of
    /// diffusers' `VaeImageProcessor` (`resize_mode` "crop", "fill" and "default"), and A1111's.
    ///
    /// # Errors
    /// As those of [`resize`].
    pub fn apply<P: Opaque>(
        self,
        image: &Pixels<P>,
        width: u32,
        height: u32,
        kernel: Resampling,
    ) -> Result<Pixels<P>> {
        check("picture", image.dimensions())?;
        check("size", (width, height))?;
        let (w, h) = image.dimensions();
        let wider = f64::from(width) / f64::from(height) > f64::from(w) / f64::from(h);
        // The other side in proportion, at least a pixel.
        let by_width = || (width, part(h, width, w));
        let by_height = || (part(w, height, h), height);
        let (inner_width, inner_height) = match (self, wider) {
            (Self::Stretch, _) => (width, height),
            (Self::Crop, true) => by_width(),
            (Self::Crop, false) => by_height(),
            (Self::Fit, true) => by_height(),
            (Self::Fit, false) => by_width(),
        };
        let inner = resize(image, inner_width, inner_height, kernel)?;
        let [left, inner_left] = offsets(width, inner_width);
        let [top, inner_top] = offsets(height, inner_height);
        match self {
            Self::Stretch => Ok(inner),
            Self::Crop => {
                let view = imageops::crop_imm(&inner, inner_left, inner_top, width, height);
                Ok(view.to_image())
            }
            Self::Fit => {
                let mut whole = Pixels::<P>::new(width, height);
                // Of the edge, and as Pillow does of its neighbour, the weights of a bicubic kernel
                // in a box without extent.
                let mut bar = |at: u32, vertical: bool, far: bool| {
                    let place = |size: u32| if far { f64::from(size) } else { 0.0 };
                    let edge = match vertical {
                        true => columns(&inner, 1, |size| [place(size); 2], Resampling::Bicubic),
                        false => rows(&inner, 1, |size| [place(size); 2], Resampling::Bicubic),
                    };
                    let end = if vertical { width } else { height };
                    let [first, last] = if far { [at, end] } else { [0, at] };
                    for line in first..last {
                        let [x, y] = if vertical { [line, 0] } else { [0, line] };
                        imageops::replace(&mut whole, &edge, x.into(), y.into());
                    }
                };
                if inner_width < width {
                    bar(left, true, false);
                    bar(left + inner_width, true, true);
                }
                if inner_height < height {
                    bar(top, false, false);
                    bar(top + inner_height, false, true);
                }
                imageops::replace(&mut whole, &inner, left.into(), top.into());
                Ok(whole)
            }
        }
    }
}

/// `side`·`to`/`from`, cut off.
fn part(side: u32, to: u32, from: u32) -> u32 {
    let part = u64::from(side) * u64::from(to) / u64::from(from);
    u32::try_from(part).unwrap_or(u32::MAX).max(1)
}

/// Where the middle of `inner` comes to that of `outer`: the place in the outer, or in the inner.
fn offsets(outer: u32, inner: u32) -> [u32; 2] {
    [
        (outer / 2).saturating_sub(inner / 2),
        (inner / 2).saturating_sub(outer / 2),
    ]
}

/// Pixels that are resampled channel by channel. With an alpha channel that would mix in the colours
/// of what is not seen.
pub trait Opaque: Pixel<Subpixel = u8> + Send + Sync + 'static {}

impl Opaque for Luma<u8> {}
impl Opaque for Rgb<u8> {}

/// No picture made on the way may have more pixels.
const MAX_PIXELS: u64 = 1 << 28;

/// `image` at `width` × `height`, with the bytes of Pillow's `Image.resize`: weights of 22 binary
/// places, and bytes between the pass along the rows and that along the columns.
///
/// # Errors
/// [`Error::Component`](crate::Error::Component) for a side of 0, and where a pass would make more
/// than 2²⁸ pixels.
pub fn resize<P: Opaque>(
    image: &Pixels<P>,
    width: u32,
    height: u32,
    kernel: Resampling,
) -> Result<Pixels<P>> {
    check("picture", image.dimensions())?;
    check("size", (width, height))?;
    let (w, h) = image.dimensions();
    if kernel == Resampling::Nearest {
        return Ok(nearest(image, width, height));
    }
    let whole = |size: u32| [0.0, f64::from(size)];
    let along_columns = |image: &Pixels<P>| rows(image, height, whole, kernel);
    let along_rows = |image: &Pixels<P>| columns(image, width, whole, kernel);
    // Pillow's order, since version 13: columns first where they lose the most.
    let lost = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let columns_first = height < h && lost(h, height) > 2 * lost(w, width);
    let between = if columns_first {
        (w, height)
    } else {
        (width, h)
    };
    check("picture on the way", between)?;
    Ok(match (width != w, height != h) {
        (false, false) => image.clone(),
        (true, false) => along_rows(image),
        (false, true) => along_columns(image),
        (true, true) if columns_first => along_rows(&along_columns(image)),
        (true, true) => along_columns(&along_rows(image)),
    })
}

fn check(what: &'static str, (width, height): (u32, u32)) -> sd_core::Result<()> {
    let pixels = u64::from(width) * u64::from(height);
    if (1..=MAX_PIXELS).contains(&pixels) {
        return Ok(());
    }
    let expected = format!("expected from 1 to {MAX_PIXELS} pixels");
    Err(CoreError::invalid(
        what,
        format!("{width}x{height}"),
        expected,
    ))
}

fn nearest<P: Opaque>(image: &Pixels<P>, width: u32, height: u32) -> Pixels<P> {
    // Pillow adds the scale up instead of multiplying: its roundings are part of the result.
    let places = |from: u32, to: u32| {
        let scale = f64::from(from) / f64::from(to);
        let places = std::iter::successors(Some(scale * 0.5), move |place| Some(place + scale));
        let places = places.take(to as usize);
        places
            .map(move |place| (place as u32).min(from - 1))
            .collect::<Vec<_>>()
    };
    let (xs, ys) = (places(image.width(), width), places(image.height(), height));
    Pixels::from_fn(width, height, |x, y| {
        *image.get_pixel(xs[x as usize], ys[y as usize])
    })
}

/// Binary places of a weight. A byte and two more bits, for sums beyond 0 to 1, fill the word.
const PLACES: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PLACES - 1);

fn to_byte(sum: i32) -> u8 {
    (sum >> PLACES).clamp(0, 255) as u8
}

/// Weights of one new pixel, from the old pixel `first` on.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

/// The windows of `to` new pixels in the stretch between `start` and `end` of `size` old ones.
fn windows(size: u32, [start, end]: [f64; 2], to: u32, kernel: Resampling) -> Vec<Window> {
    let scale = (end - start) / f64::from(to);
    let widened = scale.max(1.0);
    let support = kernel.support() * widened;
    let window = |i| {
        let centre = start + (f64::from(i) + 0.5) * scale;
        let first = (centre - support + 0.5).max(0.0) as u32;
        let last = ((centre + support + 0.5) as u32).min(size);
        let inverse = 1.0 / widened;
        let weight = |j| kernel.weight((f64::from(j) - centre + 0.5) * inverse);
        let weights: Vec<f64> = (first..last).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let sum = if sum == 0.0 { 1.0 } else { sum };
        let fixed = |weight: f64| (weight / sum * f64::from(1 << PLACES)).round() as i32;
        Window {
            first: first as usize,
            weights: weights.into_iter().map(fixed).collect(),
        }
    };
    (0..to).map(window).collect()
}

/// `image` with `width` columns, which are those of the stretch that `place` makes of its width.
fn columns<P: Opaque>(
    image: &Pixels<P>,
    width: u32,
    place: impl Fn(u32) -> [f64; 2],
    kernel: Resampling,
) -> Pixels<P> {
    let windows = windows(image.width(), place(image.width()), width, kernel);
    let mut new = Pixels::<P>::new(width, image.height());
    let channels = usize::from(P::CHANNEL_COUNT);
    let lines = image.par_chunks_exact(image.width() as usize * channels);
    let new_lines = new.par_chunks_exact_mut(width as usize * channels);
    new_lines.zip(lines).for_each(|(new, line)| match channels {
        3 => row::<3>(new, line, &windows),
        _ => row::<1>(new, line, &windows),
    });
    new
}

fn row<const C: usize>(new: &mut [u8], old: &[u8], windows: &[Window]) {
    let old = old.as_chunks::<C>().0;
    for (pixel, window) in new.as_chunks_mut::<C>().0.iter_mut().zip(windows) {
        let mut sums = [HALF; C];
        for (pixel, weight) in old[window.first..].iter().zip(&window.weights) {
            for (sum, byte) in sums.iter_mut().zip(pixel) {
                *sum += i32::from(*byte) * weight;
            }
        }
        *pixel = sums.map(to_byte);
    }
}

/// `image` with `height` rows, likewise.
fn rows<P: Opaque>(
    image: &Pixels<P>,
    height: u32,
    place: impl Fn(u32) -> [f64; 2],
    kernel: Resampling,
) -> Pixels<P> {
    let windows = windows(image.height(), place(image.height()), height, kernel);
    let mut new = Pixels::<P>::new(image.width(), height);
    let line = image.width() as usize * usize::from(P::CHANNEL_COUNT);
    let new_lines = new.par_chunks_exact_mut(line).zip(&windows);
    new_lines.for_each(|(new, window)| {
        let mut sums = vec![HALF; line];
        let old = image.chunks_exact(line).skip(window.first);
        for (old, weight) in old.zip(&window.weights) {
            for (sum, byte) in sums.iter_mut().zip(old) {
                *sum += i32::from(*byte) * weight;
            }
        }
        for (byte, sum) in new.iter_mut().zip(sums) {
            *byte = to_byte(sum);
        }
    });
    new
}
