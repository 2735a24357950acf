//! Records in pictures' files: how a picture came to be, in words that others read too.
//!
//! A record stands in a file three times: as the JSON of [`Record`], from which this library draws
//! the picture again; as A1111's text, which most programs and sites parse; and as XMP, which says
//! that the picture was generated. PNG has them as text chunks, JPEG and WebP as EXIF and XMP.

mod a1111;
mod container;
mod exif;
mod fingerprint;
mod foreign;
mod guidance;
mod request;
mod xmp;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use sd_core::{Prompt, Tiles};
use sd_models::unet::{FreeU, StepCache};

use crate::{Error, MaskRule, PictureFormat, Rectangle, Resize, Result, SampleMode, Watermark};
use container::Found;

pub(crate) use fingerprint::Fingerprint;
pub use guidance::{RecordedCombination, RecordedContrast, RecordedGuidance};

/// Name and version of this library, as records have them.
const SOFTWARE: &str = concat!("sd-pipeline ", env!("CARGO_PKG_VERSION"));
/// Keyword and mark of the JSON.
const OWN: &str = "sd-pipeline";

/// Record of how a picture was made.
///
/// It is read from files of anyone, so its numbers are what a file says and its texts nothing to
/// rely on: [`request`](Self::request) makes a request of it, which is checked as any other.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Record {
    /// Program that wrote the record, with its version.
    pub software: Option<String>,
    /// Name of the model.
    pub model: Option<String>,
    /// Short hash of the model's files, where the program that wrote the record knows one.
    pub model_hash: Option<String>,
    /// The prompt.
    pub prompt: String,
    /// Text for a second text encoder, where it is another.
    pub second_prompt: Option<String>,
    /// The negative prompt.
    pub negative_prompt: Option<String>,
    /// Negative text for a second text encoder, where it is another.
    pub second_negative_prompt: Option<String>,
    /// Name of the prompt's [`Syntax`](crate::Syntax), where it is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syntax: Option<String>,
    /// That of the negative prompt's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_syntax: Option<String>,
    /// Layers of the text encoder that the prompt leaves out, where it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_skip: Option<usize>,
    /// Those that the negative prompt leaves out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub negative_clip_skip: Option<usize>,
    /// The seed of this picture, whatever its number in a run.
    pub seed: Option<u64>,
    /// Steps of the scheduler.
    pub steps: Option<usize>,
    /// The scheduler, by a name that [`set_scheduler`](crate::Pipeline::set_scheduler) takes.
    pub scheduler: Option<String>,
    /// Guidance scale.
    pub guidance_scale: Option<f64>,
    /// Prompts of parts of the picture.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<RecordedRegion>,
    /// Guidance of another kind, in which the guidance scale has no say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guidance: Option<RecordedGuidance>,
    /// FreeU's factors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub freeu: Option<FreeU>,
    /// Cache of features.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<StepCache>,
    /// Windows through which the network saw the latent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tiles: Option<Tiles>,
    /// Guidance scale of the picture that was changed, where it was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_guidance_scale: Option<f64>,
    /// Width in pixels.
    pub width: Option<usize>,
    /// Height in pixels.
    pub height: Option<usize>,
    /// Share of the run that was taken, of a picture made from another.
    pub strength: Option<f64>,
    /// Second pass at a larger size; width and height are the first's then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hires: Option<RecordedHiRes>,
    /// The picture that it was made from, and what was done with that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub original: Option<OriginalRecord>,
    /// Number of pictures that were drawn at once, which shows in their last bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    /// Number of this one among them, from 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub index: usize,
    /// Precision that the denoiser computed in, as "F32".
    pub precision: Option<String>,
    /// `true` where its linear layers and convolutions multiplied in int8.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub int8: bool,
    /// What the weights were rounded to in memory, "q8" or "q4", where they were.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<String>,
    /// Invisible watermark in the picture.
    pub watermark: Option<Watermark>,
    /// What went into the picture and does not stand here, by the names of the request's fields:
    /// `start`, `layers`, … With any of them the picture cannot be drawn again from the record.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unrecorded: Vec<String>,
    /// Adapters that changed the model: LoRAs, each with its strength behind a colon, and words of
    /// textual inversion; as [`Pipeline::adapters`](crate::Pipeline::adapters) names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<String>,
    /// What another program's record says beyond this, by the names it has there.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub further: BTreeMap<String, String>,
}

/// Record of a second pass: [`HiRes`](crate::HiRes) in plain values.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct RecordedHiRes {
    /// Sides of the picture in those of the first pass.
    pub factor: f64,
    /// Share of the second pass's steps that was taken.
    pub strength: f64,
    /// Steps of the second pass, of which `strength` was taken; the first pass's without them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// Short name of the way to the larger size.
    pub upscaler: String,
}

/// What a record says of the picture that its own was made from. That picture itself is in no record.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct OriginalRecord {
    /// Short hash of its pixels.
    pub hash: String,
    /// Its way to a size of other proportions.
    pub resize: Resize,
    /// The latent that was taken of it.
    pub sample_mode: SampleMode,
    /// The area that was drawn anew, where not all was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inpaint: Option<RecordedInpaint>,
    /// `true` of a picture that the network saw beside the latent (InstructPix2Pix).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub beside: bool,
}

/// Record of an area that was drawn anew: [`Inpaint`](crate::Inpaint) in plain values. The mask
/// itself is in no record.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct RecordedInpaint {
    /// Short hash of the mask's pixels.
    pub mask: String,
    /// Rule by which black was kept.
    pub rule: MaskRule,
    /// Pixels by which white grew.
    pub grow: i32,
    /// Deviation by which the mask was blurred.
    pub blur: f32,
    /// Pixels around the area with which it was drawn alone.
    pub masked_only: Option<u32>,
    /// `true` where the old bytes were kept.
    pub keep_unmasked: bool,
    /// Pixels in which the old picture faded into the new.
    pub feather: u32,
}

/// Record of a [`Region`](crate::Region) that is a rectangle.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub struct RecordedRegion {
    /// Its prompt.
    pub prompt: Prompt,
    /// Its place.
    pub area: Rectangle,
    /// Share of its prompt there.
    pub weight: f64,
}

/// Why a file gives no record, or a record no request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A file of another kind.
    #[error("no PNG, JPEG or WebP, whose records are read")]
    NotAPicture,
    /// A picture that says nothing, or nothing that is understood.
    #[error(
        "no record of how it was drawn, expected one of this library, A1111, ComfyUI or InvokeAI"
    )]
    Absent,
    /// A record without which a picture cannot be drawn.
    #[error("its record says no {0}, without which the picture cannot be drawn again")]
    Lacks(&'static str),
    /// A picture that was made from another, and the other is not there.
    #[error(
        "it was made from another picture, which no record holds: it can be drawn again from its \
         record and that picture together"
    )]
    NeedsOriginal,
    /// A picture that another was not made from, though one was.
    #[error(
        "it was made from a picture with the hash {expected}, that of the one given is {found}"
    )]
    OtherOriginal {
        /// The hash in the record.
        expected: String,
        /// The hash of the picture given.
        found: String,
    },
    /// A picture that was made from no other.
    #[error("it was made from no other picture, expected a record of one that was")]
    NoOriginal,
    /// A picture of which a part was drawn anew, and the mask of that is not there.
    #[error(
        "a part of it was drawn anew by a mask, which no record holds: it can be drawn again from its \
         record, the picture it was made from and that mask together"
    )]
    NeedsMask,
    /// A mask by which a picture was not drawn, though by one.
    #[error("it was drawn by a mask with the hash {expected}, that of the one given is {found}")]
    OtherMask {
        /// The hash in the record.
        expected: String,
        /// The hash of the mask given.
        found: String,
    },
    /// A picture that was drawn by no mask.
    #[error("it was drawn by no mask, expected the picture that it was made from alone")]
    NoMask,
    /// A picture into which went what no record holds.
    #[error("it was drawn with what its record does not hold: {}", .0.join(", "))]
    Unrecorded(Vec<String>),
}

fn is_zero(index: &usize) -> bool {
    *index == 0
}

impl Record {
    /// The record in the picture `path`: a PNG (tEXt, zTXt, iTXt), JPEG or WebP (EXIF), by this
    /// library, A1111 and what writes as it does, ComfyUI or InvokeAI. Whatever the file's size, a
    /// few megabytes of it are read at most; a text of more than one is passed over.
    ///
    /// # Errors
    /// [`Error::Record`] when there is none, [`Error::Io`] when the file cannot be read.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let file = File::open(path).map_err(Error::io(path))?;
        Self::of(BufReader::new(file))
            .map_err(Error::io(path))?
            .map_err(|reason| Error::Record {
                path: path.to_path_buf(),
                reason,
            })
    }

    /// As [`read`](Self::read), from the bytes of a file.
    ///
    /// # Errors
    /// [`RecordError`] when there is none.
    pub fn from_bytes(file: &[u8]) -> Result<Self, RecordError> {
        // Nothing but the end can be met in memory, and that is no error.
        Self::of(Cursor::new(file)).unwrap_or(Err(RecordError::Absent))
    }

    fn of(file: impl Read + Seek) -> std::io::Result<Result<Self, RecordError>> {
        Ok(container::read(file)?.and_then(|found| {
            let readers: [fn(&Found) -> Option<Self>; 4] = [
                |found| serde_json::from_str(found.text(OWN)?).ok(),
                |found| a1111::read(found.text("parameters")?),
                |found| foreign::comfy_ui(found.text("prompt")?),
                |found| foreign::invoke_ai(found.text("invokeai_metadata")?),
            ];
            let mut records = readers.iter().filter_map(|read| read(&found));
            records.next().ok_or(RecordError::Absent)
        }))
    }

    /// The record that A1111's text says, its "infotext", as its own parser reads it.
    ///
    /// # Errors
    /// [`RecordError::Absent`] for a text without a line of settings.
    pub fn from_parameters(text: &str) -> Result<Self, RecordError> {
        a1111::read(text).ok_or(RecordError::Absent)
    }

    /// A1111's text of it.
    pub fn parameters(&self) -> String {
        a1111::write(self)
    }

    /// `file`, a picture as an encoder made it, with this record in it. The pixels stay as they are.
    /// JPEG has room for 64 KiB: of a longer record that remains which fits.
    pub(crate) fn insert(&self, format: PictureFormat, file: Vec<u8>) -> Vec<u8> {
        let parameters = self.parameters().replace('\0', "");
        let own = serde_json::to_string(self).unwrap_or_default();
        let xmp = xmp::packet(self);
        match format {
            PictureFormat::Png => {
                let texts = [
                    ("parameters", &*parameters),
                    (OWN, &own),
                    (xmp::KEYWORD, &xmp),
                ];
                container::png(file, &texts)
            }
            PictureFormat::WebP => {
                container::webp(file, &exif::write(Some(&parameters), Some(&own)), &xmp)
            }
            PictureFormat::Jpeg => {
                let all = exif::write(Some(&parameters), Some(&own));
                let exif = match all.len() <= container::JPEG_ROOM {
                    true => all,
                    false => exif::write(None, Some(&own)),
                };
                container::jpeg(file, &exif, &xmp)
            }
        }
    }
}
