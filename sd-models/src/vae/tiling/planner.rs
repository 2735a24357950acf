use sd_core::{Error, Result};

use super::cost::{Costs, product};
use super::{DecodePlan, Direction, Limits, StripRows};
use crate::vae::description::Layer;

/// Bytes of a strip to begin with: enough to keep threads busy, few enough for what a layer reads
/// and writes to stay in the last-level cache.
const STRIP_BYTES: u64 = 16 << 20;

/// No side of a latent is longer.
const LONGEST: usize = 1 << 14;

/// A choice among the ways to run the layers of one direction.
#[derive(Debug)]
pub(in crate::vae) struct Planner<'a> {
    layers: Vec<Layer<'a>>,
    direction: Direction,
    /// Height and width of the latent.
    latent: [usize; 2],
    /// Bytes of a number.
    number: u64,
    /// True where the CPU kernels of this workspace compute.
    kernels: bool,
}

impl<'a> Planner<'a> {
    pub(in crate::vae) fn new(
        layers: Vec<Layer<'a>>,
        direction: Direction,
        latent: [usize; 2],
        (number, kernels): (u64, bool),
    ) -> Self {
        Self {
            layers,
            direction,
            latent,
            number,
            kernels,
        }
    }

    /// In strips or whole, whichever is the better way that fits.
    pub(in crate::vae) fn auto(&self, limits: Limits) -> Result<DecodePlan> {
        self.check()?;
        let whole = self.whole();
        let fits = whole.misfit(limits).is_none();
        if fits && !self.kernels {
            return Ok(whole);
        }
        let strips = self.strips(limits)?;
        let is_cut = (strips
            .strips
            .iter()
            .flat_map(|strips| strips.rows.iter().enumerate()))
        .any(|(level, rows)| *rows < self.costs().size(level)[0]);
        Ok(if fits && !is_cut { whole } else { strips })
    }

    /// `plan`, if it fits.
    pub(in crate::vae) fn within(&self, plan: DecodePlan, limits: Limits) -> Result<DecodePlan> {
        match plan.misfit(limits) {
            None => Ok(plan),
            Some(misfit) => Err(self.too_large("", misfit)),
        }
    }

    /// The picture in one piece.
    pub(in crate::vae) fn whole(&self) -> DecodePlan {
        let cost = self.costs().whole();
        DecodePlan {
            strips: None,
            peak_bytes: cost.peak,
            largest_buffer: cost.largest,
        }
    }

    /// The largest strips that fit.
    pub(in crate::vae) fn strips(&self, limits: Limits) -> Result<DecodePlan> {
        self.check()?;
        let mut bytes = limits.largest_buffer.unwrap_or(u64::MAX).min(STRIP_BYTES);
        loop {
            let plan = self.strips_of(bytes);
            let Some(misfit) = plan.misfit(limits) else {
                return Ok(plan);
            };
            let smallest = (plan.strips.iter()).all(|strips| {
                (self.kernels || strips.attention == 1) && strips.rows.iter().all(|rows| *rows == 1)
            });
            if smallest {
                return Err(self.too_large(" in strips of one row", misfit));
            }
            bytes /= 2;
        }
    }

    /// Strips of about `bytes` bytes.
    fn strips_of(&self, bytes: u64) -> DecodePlan {
        let costs = self.costs();
        let rows = |level: usize| {
            let [height, width] = costs.size(level);
            let row = product(&[self.widest(level), width, self.number as usize]);
            let rows = (bytes / row.max(1)).clamp(1, height as u64) as usize;
            // Whole tiles of Winograd's, which are 4 or 6 rows high.
            match rows {
                12.. if rows < height => rows - rows % 12,
                6.. if rows < height => 6,
                _ => rows,
            }
        };
        let rows: Vec<usize> = (0..=self.finest()).map(rows).collect();
        let [height, width] = self.latent;
        let attention = if self.kernels {
            height
        } else {
            let scores = product(&[width, height, width, 4]);
            (bytes / scores.max(1)).clamp(1, rows[0] as u64) as usize
        };
        let strips = StripRows { rows, attention };
        let cost = costs.strips(&strips);
        DecodePlan {
            strips: Some(strips),
            peak_bytes: cost.peak,
            largest_buffer: cost.largest,
        }
    }

    fn costs(&self) -> Costs<'_> {
        Costs {
            layers: &self.layers,
            latent: self.latent,
            number: self.number,
            kernels: self.kernels,
        }
    }

    /// Most channels that a picture of `level` has.
    fn widest(&self, level: usize) -> usize {
        let maps = self.layers.iter().flat_map(|layer| [layer.from, layer.to]);
        let maps = maps.filter(|map| map.level == level);
        maps.map(|map| map.channels).max().unwrap_or(1)
    }

    /// The picture's level; the latent's is 0.
    fn finest(&self) -> usize {
        let levels = self.layers.iter().map(|layer| layer.from.level);
        levels.max().unwrap_or(0)
    }

    fn check(&self) -> Result<()> {
        let is_out = |side: &&usize| !(1..=LONGEST).contains(*side);
        match self.latent.iter().find(is_out) {
            None => Ok(()),
            Some(side) => {
                let expected = format!("expected 1 to {LONGEST} latent pixels");
                Err(Error::invalid("side", side, expected))
            }
        }
    }

    fn too_large(&self, how: &str, (limit, needed, allowed): (&'static str, u64, u64)) -> Error {
        let factor = 1 << self.finest();
        let [h, w] = self.latent.map(|side| side.saturating_mul(factor));
        Error::Memory {
            work: format!("{} {w}x{h} pixels{how}", self.direction),
            limit,
            needed,
            allowed,
        }
    }
}
