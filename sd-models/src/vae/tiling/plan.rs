use sd_core::{Error, Result};

use super::planner::Planner;
use super::{Direction, Limits};
use crate::vae::AutoencoderKL;

/// The way that a picture is encoded or decoded, and the memory that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodePlan {
    /// The strips, or `None`: the picture is computed whole.
    pub strips: Option<StripRows>,
    /// Bytes that are held at once, at most, weights and the backend's own reserves not counted.
    pub peak_bytes: u64,
    /// Bytes of the largest single buffer.
    pub largest_buffer: u64,
}

/// Rows of a strip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StripRows {
    /// At each resolution, the latent's first.
    pub rows: Vec<usize>,
    /// Rows of the latent whose queries are put at once to all pixels.
    pub attention: usize,
}

impl StripRows {
    pub(in crate::vae) fn check(&self, resolutions: usize) -> Result<()> {
        let rows = &self.rows;
        if rows.len() == resolutions && !rows.contains(&0) && self.attention > 0 {
            return Ok(());
        }
        let expected = format!("expected at least 1 row at each of {resolutions} resolutions");
        Err(Error::invalid("strips", format!("{self:?}"), expected))
    }
}

impl DecodePlan {
    /// A plan for one picture that keeps `limits`, in strips as large as fit or whole. Of `model`
    /// only the layers' sizes are looked at. `latent` is the latent's height and width, `number` the
    /// bytes of a number; `kernels` says whether this workspace's CPU kernels compute. With them
    /// strips are the faster way; where a backend computes they are taken if the whole does not fit.
    ///
    /// # Errors
    /// [`Error::Memory`] where strips of single rows do not fit, [`Error::InvalidArgument`] for
    /// sides of 0 and of more than 16384 latent pixels.
    pub fn new(
        model: &AutoencoderKL,
        direction: Direction,
        latent: [usize; 2],
        (number, kernels): (u64, bool),
        limits: Limits,
    ) -> Result<Self> {
        Planner::new(
            model.layers(direction),
            direction,
            latent,
            (number, kernels),
        )
        .auto(limits)
    }

    /// One picture whole, whatever it takes.
    pub fn whole(
        model: &AutoencoderKL,
        direction: Direction,
        latent: [usize; 2],
        (number, kernels): (u64, bool),
    ) -> Self {
        Planner::new(
            model.layers(direction),
            direction,
            latent,
            (number, kernels),
        )
        .whole()
    }

    /// True where `n` pictures fit at once, computed like this one.
    pub(in crate::vae) fn fits(&self, n: usize, limits: Limits) -> bool {
        let times = |bytes: u64| bytes.saturating_mul(n as u64);
        let plan = Self {
            strips: None,
            peak_bytes: times(self.peak_bytes),
            largest_buffer: times(self.largest_buffer),
        };
        plan.misfit(limits).is_none()
    }

    /// The limit that is exceeded: its name, what is taken and what may be.
    pub(super) fn misfit(&self, limits: Limits) -> Option<(&'static str, u64, u64)> {
        let over = |what, takes, limit: Option<u64>| {
            let limit = limit.filter(|limit| takes > *limit)?;
            Some((what, takes, limit))
        };
        let buffer = "the device's largest buffer";
        over(buffer, self.largest_buffer, limits.largest_buffer)
            .or_else(|| over("the memory budget", self.peak_bytes, limits.budget))
    }
}
