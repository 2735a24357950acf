use std::io::Cursor;
use std::path::Path;

use burn::tensor::Tensor;
use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};
use sd_core::Error as CoreError;

use crate::{Error, OutputFile, Record, Result, Verdict};

/// Picture of a run, with the seed that draws it again. It is its image: `picture.save("a.png")`.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Picture {
    /// The pixels.
    pub image: RgbImage,
    /// Its own seed, whatever its number in the run.
    pub seed: u64,
    /// The safety checker's verdict. `None` where there is none, and of a picture that is not
    /// finished, which a run with a checker shows blurred.
    pub verdict: Option<Verdict>,
    /// `true` if it has the [watermark](crate::Request::watermark) that was asked for.
    pub is_marked: bool,
    /// How it was drawn: with it in its file the picture can be drawn again.
    pub record: Record,
}

impl Picture {
    /// A picture drawn with `seed`.
    pub fn new(image: RgbImage, seed: u64) -> Self {
        let record = Record {
            seed: Some(seed),
            ..Record::default()
        };
        Self {
            image,
            seed,
            verdict: None,
            is_marked: false,
            record,
        }
    }

    /// Writes the picture as [`write_picture`] does, with its [record](Self::record), from which
    /// [`Record::read`] and [`Record::request`] draw it again. [`write_picture`] writes none.
    ///
    /// # Errors
    /// Those of [`write_picture`].
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let format = format(path)?;
        let file = format.encoded(&self.image, path)?;
        OutputFile::write(path, &self.record.insert(format, file))
    }
}

/// Pictures are equal by their pixels and seeds, whatever model's name is in their records.
impl PartialEq for Picture {
    fn eq(&self, other: &Self) -> bool {
        (&self.image, self.seed) == (&other.image, other.seed)
    }
}

impl Eq for Picture {}

impl std::ops::Deref for Picture {
    type Target = RgbImage;

    fn deref(&self) -> &RgbImage {
        &self.image
    }
}

/// Pixels `[1, 3, h, w]` in `[-1, 1]` to an 8-bit picture. Values outside are clamped; rounding is
/// diffusers' (half to even).
///
/// # Errors
/// [`Error::Component`] when the tensor has another shape, cannot be read from its device, or
/// holds a NaN or an infinite value: that would else be a black picture, or white spots in it,
/// without an explanation.
pub fn image_from_pixels(pixels: Tensor<4>) -> Result<RgbImage> {
    let [n, c, h, w] = pixels.dims();
    if [n, c] != [1, 3] {
        return Err(CoreError::shape("pixels", &[n, c, h, w], "[1, 3, h, w]").into());
    }
    let dtype = pixels.dtype();
    // One row of RGB after the other, as pictures are stored.
    let pixels = pixels.permute([0, 2, 3, 1]);
    let values = pixels.try_into_vec_as::<f32>();
    let values = values.map_err(|e| CoreError::backend("reading the picture", e))?;
    if !values.iter().all(|v| v.is_finite()) {
        let component = "the autoencoder";
        return Err(CoreError::NotFinite {
            component,
            step: None,
            dtype,
        }
        .into());
    }
    let to_byte = |v: f32| ((v / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0).round_ties_even() as u8;
    let bytes = values.into_iter().map(to_byte).collect();
    RgbImage::from_raw(w as u32, h as u32, bytes)
        .ok_or_else(|| CoreError::shape("pixels", &[n, c, h, w], "fewer than 2³² pixels").into())
}

/// Format of a picture's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PictureFormat {
    /// Lossless: `.png`, and a name without an ending.
    Png,
    /// With losses that are hardly seen: `.jpg` and `.jpeg`.
    Jpeg,
    /// Lossless, too: `.webp`.
    WebP,
}

/// Of JPEG's 1 to 100: above it files grow faster than they look better.
const JPEG_QUALITY: u8 = 95;

impl PictureFormat {
    /// The format that the ending of `path` says.
    ///
    /// # Errors
    /// [`Error::PictureFormat`] for an ending that says none of them.
    pub fn of(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let Some(ending) = path.extension() else {
            return Ok(Self::Png);
        };
        match &*ending.to_string_lossy().to_ascii_lowercase() {
            "png" => Ok(Self::Png),
            "jpg" | "jpeg" => Ok(Self::Jpeg),
            "webp" => Ok(Self::WebP),
            _ => Err(Error::PictureFormat {
                path: path.to_path_buf(),
            }),
        }
    }

    fn encode(self, image: &RgbImage) -> image::ImageResult<Vec<u8>> {
        let mut file = Cursor::new(Vec::new());
        match self {
            Self::Png => image.write_to(&mut file, ImageFormat::Png),
            Self::Jpeg => {
                image.write_with_encoder(JpegEncoder::new_with_quality(&mut file, JPEG_QUALITY))
            }
            Self::WebP => image.write_to(&mut file, ImageFormat::WebP),
        }?;
        Ok(file.into_inner())
    }

    /// The file's bytes; `path` is for the error.
    fn encoded(self, image: &RgbImage, path: &Path) -> Result<Vec<u8>> {
        let bytes = self.encode(image);
        bytes.map_err(|e| Error::io(path)(std::io::Error::other(e)))
    }
}

/// Writes `image` in the format that the name's ending says, to wherever an
/// [`OutputFile`](crate::OutputFile) may be. A device or a pipe of another ending gets a PNG.
///
/// # Errors
/// [`Error::PictureFormat`] for an unknown ending, [`Error::Io`] when the folder does not exist or
/// cannot be written to.
pub fn write_picture(image: &RgbImage, path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    write_as(format(path)?, image, path)
}

fn format(path: &Path) -> Result<PictureFormat> {
    PictureFormat::of(path).or_else(|unknown| match OutputFile::new(path) {
        Ok(place) if place.is_stream() => Ok(PictureFormat::Png),
        _ => Err(unknown),
    })
}

/// Writes `image` as a PNG, whatever the name's ending. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Io`] when the folder does not exist or cannot be written to.
pub fn write_png(image: &RgbImage, path: impl AsRef<Path>) -> Result<()> {
    write_as(PictureFormat::Png, image, path.as_ref())
}

fn write_as(format: PictureFormat, image: &RgbImage, path: &Path) -> Result<()> {
    OutputFile::write(path, &format.encoded(image, path)?)
}
