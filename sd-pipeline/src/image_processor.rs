use burn::tensor::{DType, Device, Tensor, TensorData};
use image::RgbImage;
use sd_models::{ConfigFile, Files, UnknownSettings};
use serde::Deserialize;

use crate::resample::{Resampling, resize};
use crate::{Error, Result};

/// The way from a picture to the pixels that CLIP's tower of pictures takes, as transformers'
/// `CLIPImageProcessor` goes it: resized, cut at its centre, scaled, normalised.
///
/// It resizes with Pillow's bytes, as transformers does without torchvision and always did before
/// its version 5. With torchvision that differs by a grey level in places.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageProcessor {
    size: Option<Size>,
    kernel: Resampling,
    /// Height and width.
    crop: Option<[u32; 2]>,
    scale: Option<f64>,
    normalisation: Option<Normalisation>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Size {
    /// That of the shorter side; the other in proportion.
    Shorter(u32),
    /// Height and width, whatever the proportions.
    Both([u32; 2]),
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Normalisation {
    mean: [f32; 3],
    deviation: [f32; 3],
}

/// A size as it is written: old files have a number.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Side(u32),
    Shorter { shortest_edge: u32 },
    Both { height: u32, width: u32 },
}

/// No side may be longer, in pixels.
const MAX_SIDE: u32 = 4096;

/// Settings that are read.
const READ: &[&str] = &[
    "crop_size",
    "do_center_crop",
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "processor_class",
    "resample",
    "rescale_factor",
    "size",
];

/// The processor's class in the course of time, whichever setting names it.
const CLASSES: &[&str] = &[
    "\"CLIPFeatureExtractor\"",
    "\"CLIPImageProcessor\"",
    "\"CLIPImageProcessorFast\"",
    "\"CLIPImageProcessorPil\"",
];

/// Settings that may have these values.
const FIXED: &[(&str, &[&str])] = &[
    ("image_processor_type", CLASSES),
    ("feature_extractor_type", CLASSES),
    ("data_format", &["\"channels_first\""]),
    ("do_pad", &[]),
];

/// Mean and deviation of the pictures that CLIP was trained on.
const MEAN: [f32; 3] = [0.48145466, 0.4578275, 0.40821073];
const DEVIATION: [f32; 3] = [0.26862954, 0.2613026, 0.2757771];

impl ImageProcessor {
    /// Reads `preprocessor_config.json` in a folder, or the image processor's part of
    /// `processor_config.json`. What it does not say is as in transformers' `CLIPImageProcessor`.
    ///
    /// # Errors
    /// [`Error::Model`]: neither can be read, a setting is out of range, or it is not implemented,
    /// known or unknown.
    pub fn read(files: &Files, unknown: UnknownSettings) -> Result<Self> {
        const NAME: &str = "preprocessor_config.json";
        const WHOLE: &str = "processor_config.json";
        if !files.has(NAME) && files.has(WHOLE) {
            let whole = ConfigFile::read(files, WHOLE)?;
            if let Some(part) = whole.within("image_processor")? {
                return Self::from_file(&part.on_unknown(unknown));
            }
        }
        Self::from_file(&ConfigFile::read(files, NAME)?.on_unknown(unknown))
    }

    /// CLIP's own for pictures of `side` × `side` pixels.
    pub(crate) fn of_clip(side: u32) -> Self {
        Self {
            size: Some(Size::Shorter(side)),
            kernel: Resampling::Bicubic,
            crop: Some([side; 2]),
            scale: Some(1.0 / 255.0),
            normalisation: Some(Normalisation {
                mean: MEAN,
                deviation: DEVIATION,
            }),
        }
    }

    /// As [`read`](Self::read), from a file already read.
    ///
    /// # Errors
    /// [`Error::Model`], likewise.
    pub fn from_file(file: &ConfigFile) -> Result<Self> {
        file.refuse_others(READ, FIXED)?;
        let does = |field| file.flag(field, true);
        let size = match does("do_resize")? {
            true => Some(size(file)?),
            false => None,
        };
        let crop = match does("do_center_crop")? {
            true => Some(crop(file)?),
            false => None,
        };
        let scale = match does("do_rescale")? {
            true => Some(file.positive("rescale_factor", 1.0 / 255.0)?),
            false => None,
        };
        let normalisation = match does("do_normalize")? {
            true => Some(Normalisation {
                mean: three(file, "image_mean", MEAN, f32::is_finite)?,
                deviation: three(file, "image_std", DEVIATION, |v| v.is_finite() && v > 0.0)?,
            }),
            false => None,
        };
        Ok(Self {
            size,
            kernel: kernel(file)?,
            crop,
            scale,
            normalisation,
        })
    }

    /// Height and width of what it makes, where it makes all pictures of one size.
    pub fn output_size(&self) -> Option<[u32; 2]> {
        self.crop.or(match self.size {
            Some(Size::Both(size)) => Some(size),
            _ => None,
        })
    }

    /// `picture` as pixels `[1, 3, height, width]` in f32 on `device`.
    ///
    /// # Errors
    /// [`Error::Component`] for a picture without pixels, and one so long and narrow that it would
    /// have more than 2²⁸ pixels on the way.
    pub fn pixels(&self, picture: &RgbImage, device: &Device) -> Result<Tensor<4>> {
        let (width, height) = picture.dimensions();
        let resized = match self.size.map(|size| size.of([height, width])) {
            Some([height, width]) => Some(resize(picture, width, height, self.kernel)?),
            None => None,
        };
        let picture = resized.as_ref().unwrap_or(picture);
        let (width, height) = picture.dimensions();
        let [rows, columns] = self.crop.unwrap_or([height, width]);
        // Where the picture is smaller it lies in the middle of black.
        let first = |side: u32, of: u32| (i64::from(of) - i64::from(side)).div_euclid(2);
        let (top, left) = (first(rows, height), first(columns, width));
        let pixel = |x: u32, y: u32| {
            let [x, y] =
                [(x, left), (y, top)].map(|(at, first)| u32::try_from(i64::from(at) + first));
            let found = picture.get_pixel_checked(x.ok()?, y.ok()?);
            found.map(|pixel| pixel.0)
        };
        let mut values = Vec::with_capacity(3 * rows as usize * columns as usize);
        for channel in 0..3 {
            for y in 0..rows {
                for x in 0..columns {
                    let byte = pixel(x, y).map_or(0, |pixel| pixel[channel]);
                    values.push(self.value(byte, channel));
                }
            }
        }
        let data = TensorData::new(values, [1, 3, rows as usize, columns as usize]);
        Ok(Tensor::from_data(data, (device, DType::F32)))
    }

    /// numpy scales in f64 and normalises in f32.
    fn value(&self, byte: u8, channel: usize) -> f32 {
        let value = match self.scale {
            Some(scale) => (f64::from(byte) * scale) as f32,
            None => f32::from(byte),
        };
        match self.normalisation {
            Some(Normalisation { mean, deviation }) => (value - mean[channel]) / deviation[channel],
            None => value,
        }
    }
}

impl Size {
    /// Height and width of what a picture of that height and width becomes.
    fn of(self, [height, width]: [u32; 2]) -> [u32; 2] {
        let longer = |side: u32, long: u32, short: u32| {
            let longer = u64::from(side) * u64::from(long) / u64::from(short.max(1));
            u32::try_from(longer).unwrap_or(u32::MAX)
        };
        match self {
            Self::Both(size) => size,
            Self::Shorter(side) if width <= height => [longer(side, height, width), side],
            Self::Shorter(side) => [side, longer(side, width, height)],
        }
    }
}

fn size(file: &ConfigFile) -> Result<Size> {
    let expected = format!("a shortest_edge, or a height and a width, from 1 to {MAX_SIDE}");
    let size = match file.get("size", &expected)? {
        None => Size::Shorter(224),
        Some(
            Written::Side(side)
            | Written::Shorter {
                shortest_edge: side,
            },
        ) => Size::Shorter(side),
        Some(Written::Both { height, width }) => Size::Both([height, width]),
    };
    let sides = match size {
        Size::Shorter(side) => [side; 2],
        Size::Both(sides) => sides,
    };
    match sides.iter().all(|side| (1..=MAX_SIDE).contains(side)) {
        true => Ok(size),
        false => Err(file.error("size", &expected).into()),
    }
}

fn crop(file: &ConfigFile) -> Result<[u32; 2]> {
    let expected = format!("a side, or a height and a width, from 1 to {MAX_SIDE}");
    let sides = match file.get("crop_size", &expected)? {
        None => Some([224; 2]),
        Some(Written::Side(side)) => Some([side; 2]),
        Some(Written::Both { height, width }) => Some([height, width]),
        Some(Written::Shorter { .. }) => None,
    };
    let sides = sides.filter(|sides| sides.iter().all(|side| (1..=MAX_SIDE).contains(side)));
    sides.ok_or_else(|| file.error("crop_size", &expected).into())
}

/// The kernel by Pillow's number for it.
fn kernel(file: &ConfigFile) -> Result<Resampling> {
    match file.size("resample", Some(3), 0..=5)? {
        0 => Ok(Resampling::Nearest),
        1 => Ok(Resampling::Lanczos),
        2 => Ok(Resampling::Bilinear),
        3 => Ok(Resampling::Bicubic),
        4 => Ok(Resampling::Box),
        _ => Err(Error::from(file.unsupported("resample"))),
    }
}

/// A number for each colour.
fn three(
    file: &ConfigFile,
    field: &str,
    default: [f32; 3],
    holds: impl Fn(f32) -> bool,
) -> Result<[f32; 3]> {
    let expected = "three numbers, those of a deviation above 0";
    let values = file.get::<[f32; 3]>(field, expected)?.unwrap_or(default);
    match values.iter().all(|value| holds(*value)) {
        true => Ok(values),
        false => Err(file.error(field, expected).into()),
    }
}
