//! Pictures in two passes: a small one is drawn, enlarged and drawn on.

use std::fmt::{self, Debug, Display};
use std::str::FromStr;
use std::sync::Arc;

use burn::tensor::Tensor;
use image::RgbImage;

use crate::interpolate::Interpolation;
use crate::resample::{Resampling, resize};
use crate::{Error, Result};

/// Order for a second pass: what the first drew is enlarged, gets noise and is drawn on, as from a
/// picture (A1111's "hires. fix"). A model that was trained at 64 × 64 latent pixels repeats itself
/// on a larger canvas; with the small picture below, it fills in what is missing.
///
/// The second pass is the run that a [`Start::Latents`](crate::Start::Latents) or a
/// [`Start::Picture`](crate::Start::Picture) of what was enlarged begins, with the same seeds: the
/// noise of image `k` comes anew from a generator seeded `seed + k`, and where a picture was
/// enlarged the sample of its posterior is drawn before.
#[derive(Debug, Clone)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default))]
pub struct HiRes {
    /// Sides of the finished picture in those of the first pass, from 1. They are cut to multiples
    /// of the autoencoder's factor (8).
    pub factor: f64,
    /// Share of the second pass's steps that is taken. A latent that was enlarged is blurred up to
    /// about 0.5.
    pub strength: f64,
    /// Steps of the second pass, of which `strength` is taken; the first pass's without them.
    pub steps: Option<usize>,
    /// Way to the larger size.
    pub upscaler: Upscale,
}

impl Default for HiRes {
    /// Twice the sides.
    fn default() -> Self {
        Self::new(2.0)
    }
}

impl HiRes {
    /// A second pass at `factor` times the sides, with A1111's defaults: the latent is enlarged, and
    /// 0.7 of the steps are taken.
    pub fn new(factor: f64) -> Self {
        Self {
            factor,
            strength: 0.7,
            steps: None,
            upscaler: Upscale::default(),
        }
    }

    /// Height and width in pixels of the second pass behind `size` in the first, multiples of
    /// `unit`.
    pub(crate) fn size(&self, size: [usize; 2], unit: usize) -> sd_core::Result<[usize; 2]> {
        if !(self.factor >= 1.0 && self.factor.is_finite()) {
            let expected = "expected 1 or more, usually 1.5 to 2";
            return Err(sd_core::Error::invalid(
                "hires.factor",
                self.factor,
                expected,
            ));
        }
        Ok(size.map(|side| (side as f64 * self.factor) as usize / unit * unit))
    }
}

/// Way from what the first pass drew to the second's size.
///
/// In text, as command lines and files have it, it is a short name: `latent`, `latent-nearest` and
/// `latent-bicubic`; `lanczos`, `bicubic`, `bilinear`, `box` and `nearest`.
#[derive(Debug, Clone)]
pub enum Upscale {
    /// The latent is interpolated, and never decoded.
    Latent(Interpolation),
    /// The picture is decoded, resampled and encoded.
    Picture(Resampling),
    /// A program's own way, such as another network.
    Other(Arc<dyn Upscaler>),
}

impl Default for Upscale {
    fn default() -> Self {
        Self::Latent(Interpolation::default())
    }
}

/// Upscaler of the program's own: a network that enlarges pictures or latents.
pub trait Upscaler: Debug + Send + Sync {
    /// Latents or pictures of all that the first pass drew, enlarged to `size`, height and width in
    /// pixels.
    ///
    /// # Errors
    /// Whatever keeps it from doing so. A result of another number or size is an error of the run.
    fn upscale(&self, drawn: &Drawn<'_>, size: [usize; 2]) -> Result<Upscaled>;
}

/// Work of the first pass.
pub struct Drawn<'a> {
    pub(crate) latents: &'a Tensor<4>,
    pub(crate) decode: &'a dyn Fn() -> Result<Vec<RgbImage>>,
}

impl Drawn<'_> {
    /// The final latents `[count, c, h, w]`, f32, on the denoiser's device.
    pub fn latents(&self) -> &Tensor<4> {
        self.latents
    }

    /// The pictures, decoded when they are asked for. The run's safety checker has not seen them: it
    /// looks at what leaves the run.
    ///
    /// # Errors
    /// Those of the autoencoder.
    pub fn pictures(&self) -> Result<Vec<RgbImage>> {
        (self.decode)()
    }
}

impl Debug for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drawn")
            .field("latents", &self.latents.dims())
            .finish_non_exhaustive()
    }
}

/// Beginning of the second pass, one of each of the run's images in their order.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one in a run, and it is taken apart at once"
)]
pub enum Upscaled {
    /// Clean latents `[count, c, height/8, width/8]`, f32.
    Latents(Tensor<4>),
    /// Pictures, which are encoded.
    Pictures(Vec<RgbImage>),
}

impl Upscale {
    pub(crate) fn apply(
        &self,
        drawn: &Drawn<'_>,
        size: [usize; 2],
        factor: usize,
    ) -> Result<Upscaled> {
        let [height, width] = size;
        match self {
            Self::Latent(way) => {
                let latents = way.apply(drawn.latents(), size.map(|side| side / factor))?;
                Ok(Upscaled::Latents(latents))
            }
            Self::Picture(kernel) => {
                let enlarged = |image| resize(image, width as u32, height as u32, *kernel);
                let pictures = drawn.pictures()?;
                let pictures = pictures.iter().map(enlarged).collect::<Result<_>>()?;
                Ok(Upscaled::Pictures(pictures))
            }
            Self::Other(upscaler) => upscaler.upscale(drawn, size),
        }
    }

    /// The row of [`NAMED`] that it is, unless it is the program's own.
    fn row(&self) -> Option<&'static Named> {
        NAMED.iter().find(|row| match (&row.way, self) {
            (Self::Latent(a), Self::Latent(b)) => a == b,
            (Self::Picture(a), Self::Picture(b)) => a == b,
            _ => false,
        })
    }

    /// Its short name; none of a program's own.
    pub(crate) fn name(&self) -> Option<&'static str> {
        self.row().map(|row| row.name)
    }

    /// The name that A1111 has for it, or else the short one.
    pub(crate) fn a1111(name: &str) -> &str {
        let row = NAMED.iter().find(|row| row.name == name);
        row.map_or(name, |row| row.a1111)
    }
}

/// A way with its names.
struct Named {
    name: &'static str,
    a1111: &'static str,
    way: Upscale,
}

const fn named(name: &'static str, a1111: &'static str, way: Upscale) -> Named {
    Named { name, a1111, way }
}

/// The ways of this library.
static NAMED: &[Named] = &[
    named("latent", "Latent", Upscale::Latent(Interpolation::Bilinear)),
    named(
        "latent-bicubic",
        "Latent (bicubic)",
        Upscale::Latent(Interpolation::Bicubic),
    ),
    named(
        "latent-nearest",
        "Latent (nearest-exact)",
        Upscale::Latent(Interpolation::Nearest),
    ),
    named("lanczos", "Lanczos", Upscale::Picture(Resampling::Lanczos)),
    named("bicubic", "bicubic", Upscale::Picture(Resampling::Bicubic)),
    named(
        "bilinear",
        "bilinear",
        Upscale::Picture(Resampling::Bilinear),
    ),
    named("box", "box", Upscale::Picture(Resampling::Box)),
    named("nearest", "Nearest", Upscale::Picture(Resampling::Nearest)),
];

impl Display for Upscale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.name()) {
            (_, Some(name)) => f.write_str(name),
            (Self::Other(upscaler), None) => write!(f, "{upscaler:?}"),
            (way, None) => write!(f, "{way:?}"),
        }
    }
}

impl FromStr for Upscale {
    type Err = Error;

    /// # Errors
    /// [`Error::Component`] for a name that is not known; it lists the known ones.
    fn from_str(name: &str) -> Result<Self> {
        let row = NAMED.iter().find(|row| row.name == name);
        row.map(|row| row.way.clone()).ok_or_else(|| {
            let names: Vec<_> = NAMED.iter().map(|row| row.name).collect();
            let expected = format!("expected {}", names.join(", "));
            sd_core::Error::invalid("upscaler", name, expected).into()
        })
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Upscale {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let own = "an upscaler of the program's own type cannot be written";
        let name = self.name().ok_or_else(|| serde::ser::Error::custom(own))?;
        to.serialize_str(name)
    }
}

#[cfg(feature = "serde")]
impl<'a> serde::Deserialize<'a> for Upscale {
    fn deserialize<D: serde::Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        let name = String::deserialize(from)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}
