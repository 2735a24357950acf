use std::io::{Cursor, Write};
use std::path::Path;

use burn::tensor::Tensor;
use image::{ImageFormat, RgbImage};
use sd_core::Error as CoreError;

use crate::{Error, Result};

/// Picture of a run, with the seed that draws it again. It is its image: `picture.save("a.png")`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Picture {
    /// The pixels.
    pub image: RgbImage,
    /// Its own seed, whatever its number in the run.
    pub seed: u64,
}

impl Picture {
    /// A picture drawn with `seed`.
    pub fn new(image: RgbImage, seed: u64) -> Self {
        Self { image, seed }
    }
}

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

/// Writes `image` as a PNG. The file appears whole or not at all.
///
/// # Errors
/// [`Error::Io`] when the folder does not exist or cannot be written to.
pub fn write_png(image: &RgbImage, path: impl AsRef<Path>) -> Result<()> {
    let mut png = Cursor::new(Vec::new());
    let encoded = image.write_to(&mut png, ImageFormat::Png);
    encoded.map_err(|e| Error::io(path.as_ref())(std::io::Error::other(e)))?;
    write_whole(path.as_ref(), png.get_ref())
}

/// Writes next to `path` first and renames, so that no half-written file is ever there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let write = || {
        let mut builder = tempfile::Builder::new();
        // As readable as any other new file, that is as the umask says; a temporary one is not.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(Error::io(path))
}
