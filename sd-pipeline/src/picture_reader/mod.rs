//! Pictures from files of anyone: within bounds whatever the file says of itself, and upright.

mod flat;
mod jpeg;
mod png;

use std::fs::File;
use std::io::{Cursor, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, GrayImage, ImageDecoder, ImageError, ImageResult, Limits, RgbImage};

use crate::{Error, Result};

/// Bytes that a file may have: with its pixels it takes less than a gigabyte and a half.
const MAX_BYTES: u64 = 1 << 28;
/// Pixels along a side of a picture, the most that WebP's and half of what JPEG's have.
const MAX_SIDE: u32 = (1 << 15) - 1;
/// Pixels of a picture.
const MAX_PIXELS: u64 = 1 << 26;

/// Why a file gives no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// A file without a byte.
    #[error("the file is empty")]
    Empty,
    /// A file of another kind.
    #[error("no PNG, JPEG or WebP, whose pictures are read")]
    NotAPicture,
    /// A file longer than any picture of a size that is read.
    #[error("the file is longer than {0} bytes")]
    TooLong(u64),
    /// A picture of more pixels than can be of use.
    #[error(
        "the picture has {width}x{height} pixels, expected at most {MAX_SIDE} a side and \
         {MAX_PIXELS} in all"
    )]
    TooLarge {
        /// Pixels along its rows.
        width: u32,
        /// Pixels along its columns.
        height: u32,
    },
    /// A picture that moves.
    #[error("the picture is animated, expected a single one")]
    Animated,
    /// A picture in printers' colours, which look other without the profile of their inks.
    #[error("the picture is in CMYK, expected RGB or grey")]
    Cmyk,
    /// A file that ends within its picture.
    #[error("the file ends before its picture does")]
    Truncated,
    /// A file that its format's decoder does not understand.
    #[error("the picture cannot be decoded: {0}")]
    Broken(String),
}

/// The picture in the file `path`: a PNG, JPEG or WebP of up to 2²⁶ pixels.
///
/// Whatever the file holds (grey, a palette, 16 bits), these are 8 bits of RGB. What is transparent
/// lies over white; a camera's turned picture is turned upright (EXIF's orientation). A file's
/// colour profile is not applied, its other metadata are not looked at.
///
/// # Errors
/// [`Error::UnreadablePicture`] with the reason, [`Error::Io`] when the file cannot be read. Memory
/// stays below a gigabyte and a half whatever the file is.
pub fn read_picture(path: impl AsRef<Path>) -> Result<RgbImage> {
    read(path.as_ref(), picture_from_bytes)
}

/// The mask in the file `path`: the brightness of the picture that [`read_picture`] reads, as
/// Pillow has it, 0 black to 255 white. What is transparent is white.
///
/// # Errors
/// Those of [`read_picture`].
pub fn read_mask(path: impl AsRef<Path>) -> Result<GrayImage> {
    read(path.as_ref(), mask_from_bytes)
}

/// As [`read_picture`], from the bytes of a file.
///
/// # Errors
/// [`PictureError`], the reason why it is none.
pub fn picture_from_bytes(file: &[u8]) -> Result<RgbImage, PictureError> {
    guarded(|| decode(file)).map(flat::rgb)
}

/// As [`read_mask`], from the bytes of a file.
///
/// # Errors
/// [`PictureError`], the reason why it is none.
pub fn mask_from_bytes(file: &[u8]) -> Result<GrayImage, PictureError> {
    let image = guarded(|| decode(file))?;
    Ok(flat::grey(&flat::rgb(image)))
}

fn read<T>(path: &Path, decode: fn(&[u8]) -> Result<T, PictureError>) -> Result<T> {
    let unreadable = |reason| Error::UnreadablePicture {
        path: path.to_path_buf(),
        reason,
    };
    let file = File::open(path).map_err(Error::io(path))?;
    let mut bytes = Vec::new();
    let whole = file.take(MAX_BYTES + 1).read_to_end(&mut bytes);
    whole.map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(unreadable(PictureError::TooLong(MAX_BYTES)));
    }
    decode(&bytes).map_err(unreadable)
}

fn decode(file: &[u8]) -> Result<DynamicImage, PictureError> {
    if file.is_empty() {
        Err(PictureError::Empty)
    } else if file.starts_with(png::SIGNATURE) {
        // The decoder's own error for one too large would be of memory.
        if let Some(size) = png::size(file) {
            check_size(size)?;
        }
        let picture = png::picture(file)?;
        pixels(PngDecoder::with_limits(Cursor::new(picture), limits()))
    } else if file.starts_with(jpeg::START) {
        jpeg::check(file)?;
        pixels(JpegDecoder::new(Cursor::new(file)))
    } else if file.starts_with(b"RIFF") && file.get(8..12) == Some(b"WEBP") {
        let decoder = WebPDecoder::new(Cursor::new(file));
        if decoder.as_ref().is_ok_and(WebPDecoder::has_animation) {
            return Err(PictureError::Animated);
        }
        pixels(decoder)
    } else {
        Err(PictureError::NotAPicture)
    }
}

/// Bounds for what a decoder takes on the way. Sides are looked at here, for the error's sake.
fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(16 * MAX_PIXELS);
    limits
}

/// `decode`, of decoders of others: should one of them panic, the file is broken.
fn guarded<T>(decode: impl FnOnce() -> Result<T, PictureError>) -> Result<T, PictureError> {
    let decoded = catch_unwind(AssertUnwindSafe(decode));
    decoded.unwrap_or_else(|_| Err(PictureError::Broken("its decoder panicked".into())))
}

/// The upright picture of a decoder that has read the file's beginning.
fn pixels<D: ImageDecoder>(decoder: ImageResult<D>) -> Result<DynamicImage, PictureError> {
    let mut decoder = decoder.map_err(broken)?;
    check_size(decoder.dimensions())?;
    decoder.set_limits(limits()).map_err(broken)?;
    // Metadata that say nothing of it, or nothing understood, turn nothing.
    let turned = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut image = DynamicImage::from_decoder(decoder).map_err(broken)?;
    image.apply_orientation(turned);
    Ok(image)
}

fn check_size((width, height): (u32, u32)) -> Result<(), PictureError> {
    let pixels = u64::from(width) * u64::from(height);
    match width > MAX_SIDE || height > MAX_SIDE || pixels > MAX_PIXELS {
        true => Err(PictureError::TooLarge { width, height }),
        false => Ok(()),
    }
}

fn broken(error: ImageError) -> PictureError {
    match error {
        ImageError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            PictureError::Truncated
        }
        error => PictureError::Broken(error.to_string()),
    }
}
