//! One direction of an autoencoder on pictures of any size: planned, cut and run.

use burn::tensor::{DType, FloatDType, Tensor};
use sd_core::{AutoencoderSpec, Error, Result};
use sd_kernels::OutputReplay;

use super::description::Layer;
use super::tiling::{Planner, Tiles};
use super::{DecodePlan, Direction, Limits, Tiling, strips, whole};

/// The way that pictures are cut, and the memory they may take.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cutting {
    pub(super) tiling: Tiling,
    pub(super) limits: Limits,
}

/// The layers of one direction, and all that says how they are run.
#[derive(Debug)]
pub(super) struct Way<'a> {
    pub(super) layers: Vec<Layer<'a>>,
    pub(super) direction: Direction,
    /// True where the CPU kernels of this workspace compute.
    pub(super) kernels: bool,
    /// Pixels per latent pixel in each direction.
    pub(super) factor: usize,
    pub(super) dtype: FloatDType,
    pub(super) cutting: Cutting,
}

impl Way<'_> {
    /// `x` `[n, channels, h, w]` through all layers, in the pieces that the plan for it says.
    pub(super) fn run(&self, x: Tensor<4>) -> Result<Tensor<4>> {
        let [n, _, h, w] = x.dims();
        let scale = match self.direction {
            Direction::Encode => 1,
            Direction::Decode => self.factor,
        };
        let plan = self.plan([h, w].map(|side| side.saturating_mul(scale)))?;
        let made = match &plan.strips {
            Some(rows) => per_image(x, |x| strips::run(&self.layers, x, rows)),
            None => self.in_pieces(x, plan.fits(n, self.cutting.limits)),
        };
        // Nothing else has outputs so large.
        sd_kernels::release_outputs();
        made
    }

    /// The plan for one picture of `size`, height and width in pixels.
    pub(super) fn plan(&self, size: [usize; 2]) -> Result<DecodePlan> {
        let Cutting { tiling, limits } = self.cutting;
        let mut latent = size.map(|side| side / self.factor);
        if let Tiling::Blend { tile, overlap } = tiling {
            self.tiles(tile, overlap)?;
            latent = latent.map(|side| side.min(tile / self.factor));
        }
        let number = DType::from(self.dtype).size() as u64;
        let numbers = (number, self.kernels);
        let planner = Planner::new(self.layers.clone(), self.direction, latent, numbers);
        match tiling {
            Tiling::Auto => planner.auto(limits),
            Tiling::Strips => planner.strips(limits),
            Tiling::Whole => planner.within(planner.whole(), limits),
            Tiling::Blend { .. } => {
                let mut plan = planner.whole();
                // The tiles' rows, and the picture that is made of them.
                let picture = (size[0] as u64).saturating_mul(size[1] as u64);
                let pixel = number * self.picture_channels() as u64;
                let whole = picture.saturating_mul(2 * pixel);
                plan.peak_bytes = plan.peak_bytes.saturating_add(whole);
                planner.within(plan, limits)
            }
        }
    }

    /// Bytes that one picture of `size` takes, replayed where the kernels compute; `outputs` are
    /// those that came before.
    pub(super) fn work_bytes(&self, size: [usize; 2], outputs: &mut OutputReplay) -> Result<u64> {
        let plan = self.plan(size)?;
        if !self.kernels || matches!(self.cutting.tiling, Tiling::Blend { .. }) {
            return Ok(plan.peak_bytes);
        }
        let latent = size.map(|side| side / self.factor);
        strips::replay(&self.layers, latent, plan.strips.as_ref(), outputs);
        outputs.release();
        let numbers = outputs.take_peak();
        Ok((numbers * DType::from(self.dtype).size()) as u64)
    }

    fn picture_channels(&self) -> usize {
        let end = match self.direction {
            Direction::Encode => self.layers.first().map(|layer| layer.from),
            Direction::Decode => self.layers.last().map(|layer| layer.to),
        };
        end.map_or(0, |map| map.channels)
    }

    /// `x` all at once where that `fits`, picture by picture or tile by tile.
    fn in_pieces(&self, x: Tensor<4>, fits: bool) -> Result<Tensor<4>> {
        let network = |x: Tensor<4>| match fits {
            true => Ok(whole::run(&self.layers, x)),
            false => per_image(x, |x| Ok(whole::run(&self.layers, x))),
        };
        match self.cutting.tiling {
            Tiling::Blend { tile, overlap } => self.tiles(tile, overlap)?.run(x, network),
            _ => network(x),
        }
    }

    fn tiles(&self, tile: usize, overlap: f64) -> Result<Tiles> {
        let scale = match self.direction {
            Direction::Encode => [self.factor, 1],
            Direction::Decode => [1, self.factor],
        };
        Tiles::new(tile, overlap, self.factor, scale)
    }
}

/// One picture after the other.
pub(super) fn per_image(
    x: Tensor<4>,
    run: impl Fn(Tensor<4>) -> Result<Tensor<4>>,
) -> Result<Tensor<4>> {
    let n = x.dims()[0];
    if n == 1 {
        return run(x);
    }
    let pictures = (0..n).map(|k| run(x.clone().narrow(0, k, 1)));
    Ok(Tensor::cat(pictures.collect::<Result<Vec<_>>>()?, 0))
}

/// A check that `image` `[n, channels, h, w]` is one that an autoencoder of that `spec` encodes.
///
/// # Errors
/// [`Error::Shape`], and [`Error::InvalidArgument`] for another precision.
pub(super) fn check_image(
    spec: &AutoencoderSpec,
    channels: usize,
    image: &Tensor<4>,
) -> Result<()> {
    let ([n, c, h, w], factor) = (image.dims(), spec.factor);
    let fits = |side: usize| side > 0 && side.is_multiple_of(factor);
    if n == 0 || c != channels || !fits(h) || !fits(w) {
        let expected = format!("[n, {channels}, h, w] with h and w multiples of {factor}");
        return Err(Error::shape("image", &image.dims(), expected));
    }
    check_dtype(spec, "image dtype", image)
}

/// The same of a latent to decode.
///
/// # Errors
/// Likewise.
pub(super) fn check_latent(spec: &AutoencoderSpec, latent: &Tensor<4>) -> Result<()> {
    let ([n, c, h, w], channels) = (latent.dims(), spec.latent_channels);
    if n == 0 || c != channels || h == 0 || w == 0 {
        let expected = format!("[n, {channels}, h, w]");
        return Err(Error::shape("latent", &latent.dims(), expected));
    }
    check_dtype(spec, "latent dtype", latent)
}

fn check_dtype(spec: &AutoencoderSpec, what: &'static str, x: &Tensor<4>) -> Result<()> {
    let (found, expected) = (x.dtype(), DType::from(spec.dtype));
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (format!("{found:?}"), format!("expected {expected:?}"));
    Err(Error::invalid(what, found, expected))
}
