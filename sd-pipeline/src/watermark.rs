//! Invisible watermark "dwtDct" of the Python package invisible-watermark 0.2, which diffusers puts
//! into SDXL's pictures.
//!
//! For all its name there is no cosine transform in it. Of the picture's U (blue less luma) it takes
//! Haar's transform, and in each 4 × 4 block of the low band it moves the entry of largest
//! magnitude, the first excepted, to ¼ or ¾ of the interval of 36 that it lies in. The way back
//! confuses the horizontal and vertical bands, so that every 2 × 2 pixels of U are transposed: that
//! is part of the mark as others write it, and so of this one. It survives neither scaling nor
//! much JPEG.

use std::borrow::Cow;
use std::f64::consts::FRAC_1_SQRT_2;
use std::fmt;
use std::str::FromStr;

use image::{ImageBuffer, Pixel, Rgb, RgbImage};

use crate::{Error, Result};

/// Interval of the low band's values in which a bit takes its place.
const SCALE: f64 = 36.0;
/// Side of a block of the low band, half that in pixels.
const BLOCK: usize = 4;
/// Pixels that a picture has at least, by the package's rule.
const LEAST_PIXELS: u64 = 256 * 256;

/// Bits of an invisible watermark: any number, repeated all over the picture.
///
/// ```
/// use sd_pipeline::{RgbImage, Watermark};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let picture = RgbImage::from_pixel(512, 512, image::Rgb([90, 120, 200]));
/// let marked = Watermark::sdxl().embed(&picture)?;
/// assert_eq!(Watermark::read(&marked, 48)?, Watermark::sdxl());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Watermark {
    bits: Cow<'static, [bool]>,
}

/// Order to mark a run's pictures.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Marking {
    /// The mark.
    pub watermark: Watermark,
    /// What happens where it has no place.
    #[serde(default)]
    pub too_small: TooSmall,
}

impl From<Watermark> for Marking {
    /// Refuses pictures that are too small.
    fn from(watermark: Watermark) -> Self {
        Self {
            watermark,
            too_small: TooSmall::Refuse,
        }
    }
}

/// Treatment of pictures that are too small for a watermark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TooSmall {
    /// The run is refused before it begins.
    #[default]
    Refuse,
    /// They are left unmarked, which [`Picture::is_marked`](crate::Picture::is_marked) tells.
    Leave,
}

impl Marking {
    /// Refusal of a size for which the order cannot be carried out.
    pub(crate) fn check(&self, [width, height]: [u32; 2]) -> Result<()> {
        match self.too_small {
            TooSmall::Refuse => Ok(check((width, height), self.watermark.bits.len())?),
            TooSmall::Leave => Ok(()),
        }
    }

    /// The marked picture, or none where it is left as it is.
    pub(crate) fn embed(&self, image: &RgbImage) -> Result<Option<RgbImage>> {
        match (self.too_small, self.watermark.embed(image)) {
            (TooSmall::Leave, Err(Error::Watermark(_))) => Ok(None),
            (_, marked) => marked.map(Some),
        }
    }
}

/// Why a picture takes or shows no watermark.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WatermarkError {
    /// A picture of too few pixels.
    #[error(
        "a picture of {width}x{height} pixels is too small for a watermark, \
         expected an area of at least {LEAST_PIXELS} pixels"
    )]
    TooSmall {
        /// The picture's width.
        width: u32,
        /// Its height.
        height: u32,
    },
    /// More bits than a picture has places for, or none.
    #[error("a watermark of {bits} bits, expected 1 to {room}, for so many fit into the picture")]
    Bits {
        /// The number of bits.
        bits: usize,
        /// Number that fits.
        room: usize,
    },
    /// A text that says no bits.
    #[error("'{0}' is no watermark, expected one or more 0 and 1")]
    Text(String),
}

/// Number in which a picture's channels are stored.
///
/// With floats, 0 to 255, arithmetic is that of the package with float pictures, and the result is
/// not clamped: diffusers marks the decoder's output so, before it is rounded. With bytes it is that
/// with pictures of files, which is what readers of files expect.
pub trait Channel: image::Primitive + sealed::Arithmetic {}

impl Channel for u8 {}
impl Channel for f32 {}

mod sealed {
    /// Arithmetic of the package for one type of pictures.
    pub trait Arithmetic: Copy {
        /// Luma and the two differences of colour.
        fn yuv(rgb: [Self; 3]) -> [Self; 3];
        /// The way back.
        fn rgb(yuv: [Self; 3]) -> [Self; 3];
        fn to_f64(self) -> f64;
        /// What is stored of a value.
        fn from_f64(value: f64) -> Self;
        /// A value as Haar's transform of such pictures has it.
        fn round(value: f64) -> f64;
    }
}

use sealed::Arithmetic;

/// OpenCV's numbers of 14 binary places.
impl Arithmetic for u8 {
    fn yuv([r, g, b]: [u8; 3]) -> [u8; 3] {
        let [r, g, b] = [r, g, b].map(i32::from);
        let y = places(4899 * r + 9617 * g + 1868 * b);
        let difference = |colour: i32, scale| byte(places((colour - y) * scale + (128 << 14)));
        [byte(y), difference(b, 8061), difference(r, 14369)]
    }

    fn rgb([y, u, v]: [u8; 3]) -> [u8; 3] {
        let (y, u, v) = (i32::from(y), i32::from(u) - 128, i32::from(v) - 128);
        let r = y + places(18678 * v);
        let g = y + places(-6472 * u - 9519 * v);
        let b = y + places(33292 * u);
        [r, g, b].map(byte)
    }

    fn to_f64(self) -> f64 {
        self.into()
    }

    /// Cut off, as numpy stores a float among bytes.
    fn from_f64(value: f64) -> u8 {
        value as u8
    }

    fn round(value: f64) -> f64 {
        value
    }
}

fn places(value: i32) -> i32 {
    (value + (1 << 13)) >> 14
}

fn byte(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}

impl Arithmetic for f32 {
    fn yuv([r, g, b]: [f32; 3]) -> [f32; 3] {
        let y = b * 0.114 + g * 0.587 + r * 0.299;
        [y, (b - y) * 0.492 + 0.5, (r - y) * 0.877 + 0.5]
    }

    fn rgb([y, u, v]: [f32; 3]) -> [f32; 3] {
        let (u, v) = (u - 0.5, v - 0.5);
        [y + v * 1.14, y + u * -0.395 + v * -0.581, y + u * 2.032]
    }

    fn to_f64(self) -> f64 {
        self.into()
    }

    fn from_f64(value: f64) -> f32 {
        value as f32
    }

    /// A sum or product of two f32, rounded again from f64, is that of f32's own arithmetic.
    fn round(value: f64) -> f64 {
        f64::from(value as f32)
    }
}

/// SDXL's, from the most significant bit on.
const SDXL: u64 = 0b1011_0011_1110_1100_1001_0000_0111_1011_1011_0001_1001_1110;
const SDXL_BITS: [bool; 48] = {
    let mut bits = [false; 48];
    let mut k = 0;
    while k < 48 {
        bits[k] = SDXL >> (47 - k) & 1 == 1;
        k += 1;
    }
    bits
};

impl Watermark {
    /// The 48 bits of Stability AI's SDXL, which diffusers writes too.
    pub const fn sdxl() -> Self {
        Self {
            bits: Cow::Borrowed(&SDXL_BITS),
        }
    }

    /// A watermark of these bits.
    pub fn new(bits: impl IntoIterator<Item = bool>) -> Self {
        Self {
            bits: bits.into_iter().collect(),
        }
    }

    /// A watermark of these bytes, each from its most significant bit on.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let bits = |byte: &u8| (0..8).rev().map(|k| byte >> k & 1 == 1).collect::<Vec<_>>();
        Self::new(bytes.iter().flat_map(bits))
    }

    /// The bits.
    pub fn bits(&self) -> &[bool] {
        &self.bits
    }

    /// `picture` with this mark, each bit as often as it has place.
    ///
    /// # Errors
    /// [`Error::Watermark`](crate::Error::Watermark) for a picture of fewer than 65,536 pixels, and
    /// where there is not a place for each bit.
    pub fn embed<C: Channel>(
        &self,
        picture: &ImageBuffer<Rgb<C>, Vec<C>>,
    ) -> Result<ImageBuffer<Rgb<C>, Vec<C>>>
    where
        Rgb<C>: Pixel<Subpixel = C>,
    {
        check(picture.dimensions(), self.bits.len())?;
        let mut marked = picture.clone();
        for pixel in marked.pixels_mut() {
            pixel.0 = C::yuv(pixel.0);
        }
        let mut bands = Bands::of(&marked);
        for ((row, column), bit) in bands.blocks().zip(self.bits.iter().cycle()) {
            let low = bands.largest(row, column);
            let middle = if *bit { 0.75 } else { 0.25 };
            let moved = (floor_of_scales::<C>(low.abs()) + middle) * SCALE;
            *low = if *low >= 0.0 { moved } else { -moved };
        }
        bands.store(&mut marked);
        for pixel in marked.pixels_mut() {
            pixel.0 = C::rgb(pixel.0);
        }
        Ok(marked)
    }

    /// The `bits` bits that `picture` shows, by the majority of each one's places. There are such
    /// bits in any picture; that they are a mark shows only by their being the ones expected.
    ///
    /// # Errors
    /// Those of [`embed`](Self::embed).
    pub fn read<C: Channel>(picture: &ImageBuffer<Rgb<C>, Vec<C>>, bits: usize) -> Result<Self>
    where
        Rgb<C>: Pixel<Subpixel = C>,
    {
        check(picture.dimensions(), bits)?;
        let mut colours = picture.clone();
        for pixel in colours.pixels_mut() {
            pixel.0 = C::yuv(pixel.0);
        }
        let mut bands = Bands::of(&colours);
        let mut seen = vec![(0_u32, 0_u32); bits];
        for ((row, column), k) in bands.blocks().zip((0..bits).cycle()) {
            let low = bands.largest(row, column).abs();
            seen[k].0 += u32::from(low % SCALE > SCALE / 2.0);
            seen[k].1 += 1;
        }
        // The package's bound for a mean, a little below a half.
        let one = |(ones, all)| f64::from(ones) / f64::from(all) * 255.0 > 127.0;
        Ok(Self::new(seen.into_iter().map(one)))
    }
}

fn check((width, height): (u32, u32), bits: usize) -> Result<(), WatermarkError> {
    if u64::from(width) * u64::from(height) < LEAST_PIXELS {
        return Err(WatermarkError::TooSmall { width, height });
    }
    let side = |pixels: u32| pixels as usize / (2 * BLOCK);
    let room = side(width) * side(height);
    match (1..=room).contains(&bits) {
        true => Ok(()),
        false => Err(WatermarkError::Bits { bits, room }),
    }
}

/// ⌊value/36⌋, by the steps of numpy's `//`.
fn floor_of_scales<C: Arithmetic>(value: f64) -> f64 {
    let quotient = C::round(C::round(value - value % SCALE) / SCALE);
    let floor = quotient.floor();
    if quotient - floor > 0.5 {
        floor + 1.0
    } else {
        floor
    }
}

/// Haar's transform of U, as far as width and height are multiples of 4.
struct Bands {
    /// Cells in a row.
    width: usize,
    /// Of each 2 × 2 pixels: low, detail from row to row, detail from column to column, both.
    cells: Vec<[f64; 4]>,
}

impl Bands {
    fn of<C: Channel>(yuv: &ImageBuffer<Rgb<C>, Vec<C>>) -> Self
    where
        Rgb<C>: Pixel<Subpixel = C>,
    {
        let [width, height] = [yuv.width(), yuv.height()].map(|side| side / 4 * 2);
        let at = |x, y| yuv.get_pixel(x, y).0[1].to_f64();
        let cell = |y, x| {
            let [left, right] =
                [2 * x, 2 * x + 1].map(|x| haar::<C>(at(x, 2 * y), at(x, 2 * y + 1)));
            let [low, columns] = haar::<C>(left[0], right[0]);
            let [rows, both] = haar::<C>(left[1], right[1]);
            [low, rows, columns, both]
        };
        let cells = (0..height).flat_map(|y| (0..width).map(move |x| cell(y, x)));
        Self {
            width: width as usize,
            cells: cells.collect(),
        }
    }

    /// Where the blocks begin, row by row: row and column of their first cell.
    fn blocks(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let columns = self.width / BLOCK;
        let rows = self.cells.len() / self.width / BLOCK;
        (0..rows).flat_map(move |i| (0..columns).map(move |j| (i * BLOCK, j * BLOCK)))
    }

    /// The low band's entry of largest magnitude in a block, its first excepted.
    fn largest(&mut self, row: usize, column: usize) -> &mut f64 {
        let place = |k: usize| (row + k / BLOCK) * self.width + column + k % BLOCK;
        let mut largest = place(1);
        for k in 2..BLOCK * BLOCK {
            if self.cells[place(k)][0].abs() > self.cells[largest][0].abs() {
                largest = place(k);
            }
        }
        &mut self.cells[largest][0]
    }

    /// The way back into U, with the details of rows and columns confused.
    fn store<C: Channel>(&self, yuv: &mut ImageBuffer<Rgb<C>, Vec<C>>)
    where
        Rgb<C>: Pixel<Subpixel = C>,
    {
        for (k, [low, columns, rows, both]) in self.cells.iter().enumerate() {
            let [low_left, low_right] = haar::<C>(*low, *columns);
            let [high_left, high_right] = haar::<C>(*rows, *both);
            let (x, y) = (2 * (k % self.width) as u32, 2 * (k / self.width) as u32);
            for (x, low, high) in [(x, low_left, high_left), (x + 1, low_right, high_right)] {
                for (y, value) in [y, y + 1].into_iter().zip(haar::<C>(low, high)) {
                    yuv.get_pixel_mut(x, y).0[1] = C::from_f64(value);
                }
            }
        }
    }
}

/// Sum and difference of two neighbours, by PyWavelets' roundings; of these two, the neighbours.
fn haar<C: Arithmetic>(first: f64, second: f64) -> [f64; 2] {
    let half = C::round(FRAC_1_SQRT_2);
    let [first, second] = [first, second].map(|value| C::round(half * value));
    [C::round(second + first), C::round(first - second)]
}

impl fmt::Display for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bits = self.bits.iter();
        bits.try_for_each(|bit| f.write_str(if *bit { "1" } else { "0" }))
    }
}

impl FromStr for Watermark {
    type Err = WatermarkError;

    fn from_str(text: &str) -> Result<Self, WatermarkError> {
        let bits = text.chars().map(|c| match c {
            '0' => Some(false),
            '1' => Some(true),
            _ => None,
        });
        match bits.collect::<Option<Vec<_>>>() {
            Some(bits) if !bits.is_empty() => Ok(Self::new(bits)),
            _ => Err(WatermarkError::Text(text.chars().take(80).collect())),
        }
    }
}

impl From<Watermark> for String {
    fn from(mark: Watermark) -> Self {
        mark.to_string()
    }
}

impl TryFrom<String> for Watermark {
    type Error = WatermarkError;

    fn try_from(text: String) -> Result<Self, WatermarkError> {
        text.parse()
    }
}
