use sd_core::{Error, Result};

use super::steps::{ConvStep, Map, Step, steps};
use super::{Limits, Work};
use crate::layers::SCORES;
use crate::vae::VaeConfig;

/// How a picture is encoded or decoded, and what that takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
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

/// Bytes of a strip to begin with: enough to keep threads busy, few enough for what a layer reads
/// and writes to stay in the last-level cache.
const STRIP_BYTES: u64 = 16 << 20;

/// No side of a latent is longer.
const LONGEST: usize = 1 << 14;

/// What a planner must know.
#[derive(Debug, Clone, Copy)]
pub(in crate::vae) struct Planner<'a> {
    pub(in crate::vae) config: &'a VaeConfig,
    pub(in crate::vae) work: Work,
    /// Height and width of the latent.
    pub(in crate::vae) latent: [usize; 2],
    /// Bytes of a number.
    pub(in crate::vae) number: u64,
    /// Whether the CPU kernels of this workspace compute, which make no copies of their own.
    pub(in crate::vae) kernels: bool,
}

impl Plan {
    /// How one picture is encoded or decoded by a network of `config` within `limits`, in strips as
    /// large as fit or whole. `latent` is the latent's height and width, `number` the bytes of a
    /// number; `kernels` says whether this workspace's CPU kernels compute. With them strips are
    /// the faster way; where a backend computes they are taken if the whole does not fit.
    ///
    /// # Errors
    /// [`Error::Memory`] where strips of single rows do not fit, [`Error::InvalidArgument`] for
    /// sides of 0 and of more than 16384 latent pixels.
    pub fn new(
        config: &VaeConfig,
        work: Work,
        latent: [usize; 2],
        (number, kernels): (u64, bool),
        limits: Limits,
    ) -> Result<Self> {
        Planner {
            config,
            work,
            latent,
            number,
            kernels,
        }
        .auto(limits)
    }

    /// One picture whole, whatever it takes.
    pub fn whole(
        config: &VaeConfig,
        work: Work,
        latent: [usize; 2],
        (number, kernels): (u64, bool),
    ) -> Self {
        Planner {
            config,
            work,
            latent,
            number,
            kernels,
        }
        .whole()
    }

    /// Whether `n` pictures fit at once, computed like this one.
    pub(in crate::vae) fn fits(&self, n: usize, limits: Limits) -> bool {
        let times = |bytes: u64| bytes.saturating_mul(n as u64);
        let plan = Self {
            strips: None,
            peak_bytes: times(self.peak_bytes),
            largest_buffer: times(self.largest_buffer),
        };
        plan.misfit(limits).is_none()
    }

    /// What does not fit: its name, what it takes and what it may take.
    fn misfit(&self, limits: Limits) -> Option<(&'static str, u64, u64)> {
        let over = |what, takes, limit: Option<u64>| {
            let limit = limit.filter(|limit| takes > *limit)?;
            Some((what, takes, limit))
        };
        let buffer = "the device's largest buffer";
        over(buffer, self.largest_buffer, limits.largest_buffer)
            .or_else(|| over("the memory budget", self.peak_bytes, limits.budget))
    }
}

impl Planner<'_> {
    /// In strips or whole, whichever is the better way that fits.
    pub(in crate::vae) fn auto(&self, limits: Limits) -> Result<Plan> {
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
        .any(|(level, rows)| *rows < self.size(level)[0]);
        Ok(if fits && !is_cut { whole } else { strips })
    }

    /// `plan`, if it fits.
    pub(in crate::vae) fn within(&self, plan: Plan, limits: Limits) -> Result<Plan> {
        match plan.misfit(limits) {
            None => Ok(plan),
            Some(misfit) => Err(self.too_large("", misfit)),
        }
    }

    fn too_large(&self, how: &str, (limit, needed, allowed): (&'static str, u64, u64)) -> Error {
        let factor = self.config.factor();
        let [h, w] = self.latent.map(|side| side.saturating_mul(factor));
        Error::Memory {
            work: format!("{} {w}x{h} pixels{how}", self.work),
            limit,
            needed,
            allowed,
        }
    }

    /// The picture in one piece.
    pub(in crate::vae) fn whole(&self) -> Plan {
        let mut plan = Plan {
            strips: None,
            peak_bytes: 0,
            largest_buffer: 0,
        };
        for step in steps(self.config, self.work) {
            let (peak, largest) = match step {
                Step::Conv(conv) => self.whole_conv(conv),
                Step::Attention(map) => self.whole_attention(map),
            };
            plan.peak_bytes = plan.peak_bytes.max(peak);
            plan.largest_buffer = plan.largest_buffer.max(largest);
        }
        plan
    }

    fn check(&self) -> Result<()> {
        match self
            .latent
            .iter()
            .find(|side| !(1..=LONGEST).contains(*side))
        {
            None => Ok(()),
            Some(side) => {
                let expected = format!("expected 1 to {LONGEST} latent pixels");
                Err(Error::invalid("side", side, expected))
            }
        }
    }

    /// The largest strips that fit.
    pub(in crate::vae) fn strips(&self, limits: Limits) -> Result<Plan> {
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
    fn strips_of(&self, bytes: u64) -> Plan {
        let steps = steps(self.config, self.work);
        let widest = |level: usize| {
            let maps = steps.iter().flat_map(|step| match step {
                Step::Conv(conv) => [conv.from, conv.to],
                Step::Attention(map) => [*map; 2],
            });
            let maps = maps.filter(|map| map.level == level);
            maps.map(|map| map.channels).max().unwrap_or(1)
        };
        let rows = |level: usize| {
            let [height, width] = self.size(level);
            let row = product(&[widest(level), width, self.number as usize]);
            let rows = (bytes / row.max(1)).clamp(1, height as u64) as usize;
            // Whole tiles of Winograd's, which are 4 or 6 rows high.
            match rows {
                12.. if rows < height => rows - rows % 12,
                6.. if rows < height => 6,
                _ => rows,
            }
        };
        let rows: Vec<usize> = (0..self.config.block_out_channels.len())
            .map(rows)
            .collect();
        let [height, width] = self.latent;
        let attention = if self.kernels {
            height
        } else {
            let scores = product(&[width, height, width, 4]);
            (bytes / scores.max(1)).clamp(1, rows[0] as u64) as usize
        };
        let strips = StripRows { rows, attention };
        // What goes into the network and comes out of it is in one piece.
        let image = Map {
            level: self.config.block_out_channels.len() - 1,
            channels: self.config.in_channels.max(self.config.out_channels),
        };
        let (mut peak_bytes, mut largest_buffer) = (0, self.bytes(image));
        for step in steps {
            let (peak, largest) = match step {
                Step::Conv(conv) => self.strip_conv(&strips, conv),
                Step::Attention(map) => self.strip_attention(&strips, map),
            };
            peak_bytes = peak_bytes.max(peak);
            largest_buffer = largest_buffer.max(largest);
        }
        Plan {
            strips: Some(strips),
            peak_bytes,
            largest_buffer,
        }
    }

    fn size(&self, level: usize) -> [usize; 2] {
        self.latent.map(|side| side.saturating_mul(1 << level))
    }

    fn bytes(&self, map: Map) -> u64 {
        self.rows_bytes(map, self.size(map.level)[0])
    }

    fn rows_bytes(&self, map: Map, rows: usize) -> u64 {
        let [_, width] = self.size(map.level);
        product(&[map.channels, rows, width, self.number as usize])
    }

    /// Copies of its input that a layer makes beside the input and the output: the normalised one,
    /// and where a backend computes those of its element-wise steps and its layout.
    fn copies(&self) -> u64 {
        if self.kernels { 1 } else { 3 }
    }

    fn whole_conv(&self, conv: ConvStep) -> (u64, u64) {
        let (x, y) = (self.bytes(conv.from), self.bytes(conv.to));
        let kept = if conv.keeps { x } else { 0 };
        let aside = conv.aside.map(|channels| Map {
            channels,
            ..conv.to
        });
        let (beside, shortcut) = match aside {
            None => (0, 0),
            Some(map) if map == conv.to => (y, 0),
            Some(map) => (self.bytes(map), y),
        };
        // An input that is needed again is copied before it is normalised.
        let norm = match conv.normed {
            true => kept + x + x * self.copies() + beside,
            false => x,
        };
        let input = kept + x * self.copies();
        let residual = if shortcut > 0 { shortcut } else { beside };
        let convolution = input + (beside + shortcut).max(residual + y * self.copies());
        (norm.max(convolution), x.max(y))
    }

    fn whole_attention(&self, map: Map) -> (u64, u64) {
        let x = self.bytes(map);
        let scores = self.scores(self.latent[0]);
        (7 * x + 2 * scores, x.max(scores))
    }

    /// Of `rows` of queries, which attention takes no more of at a time than [`SCORES`] allows. The
    /// kernels keep none.
    fn scores(&self, rows: usize) -> u64 {
        let [height, width] = self.latent;
        let keys = product(&[height, width]);
        let scores = product(&[rows, width, height, width]);
        match self.kernels {
            true => 0,
            false => 4 * scores.min(keys.max(SCORES as u64)),
        }
    }

    fn strip_conv(&self, strips: &StripRows, conv: ConvStep) -> (u64, u64) {
        let ConvStep { from, to, .. } = conv;
        let (step, [height, _]) = (strips.rows[to.level], self.size(to.level));
        let [input_height, _] = self.size(from.level);
        let input_step = strips.rows[from.level];
        let aside = conv.aside.map(|channels| Map { channels, ..to });
        let (mut peak, mut largest) = (0, 0);
        let mut first = 0;
        while first < height {
            let end = height.min(first + step);
            // The input's rows that are reached, and the first strip of it that is still held.
            let scale = |row: usize| match to.level.cmp(&from.level) {
                std::cmp::Ordering::Greater => row / 2,
                std::cmp::Ordering::Equal => row,
                std::cmp::Ordering::Less => 2 * row,
            };
            let top = scale(first).saturating_sub(1);
            let bottom = input_height.min(scale(end) + 1);
            let held = if conv.keeps {
                0
            } else {
                top - top % input_step
            };
            let input = self.rows_bytes(from, input_height - held);
            let gathered = self.rows_bytes(from, bottom - top);
            let strip = self.rows_bytes(to, end - first);
            let made = self.rows_bytes(to, end);
            let beside = aside.map_or(0, |map| {
                let shortcut = if map == to { 0 } else { strip };
                self.rows_bytes(map, height - first) + shortcut
            });
            let work = gathered * self.copies() + (self.copies() - 1) * strip;
            peak = peak.max(input + beside + made + work);
            largest = largest.max(gathered).max(strip);
            first = end;
        }
        (peak, largest)
    }

    fn strip_attention(&self, strips: &StripRows, map: Map) -> (u64, u64) {
        let x = self.bytes(map);
        let strip = self.rows_bytes(map, strips.attention.min(self.latent[0]));
        let scores = self.scores(strips.attention);
        // The picture, keys, values and the copies of them that are multiplied, the result.
        (6 * x + 4 * strip + 2 * scores, x.max(scores))
    }
}

/// The product, at most what may be added a hundred times.
fn product(factors: &[usize]) -> u64 {
    let factors = factors.iter().map(|factor| *factor as u64);
    factors.fold(1, u64::saturating_mul).min(1 << 56)
}
