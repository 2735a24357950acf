use sd_core::NoiseSchedule;

/// The training schedule as k-diffusion sees it: one `σ = √((1 − ᾱ)/ᾱ)` per timestep, rising, and
/// the way from a timestep to its σ and back.
#[derive(Debug, Clone)]
pub(crate) struct SigmaTable {
    sigmas: Vec<f64>,
    /// ln σ, rounded to f32 as diffusers' table is: with Karras' and other σ the timestep is a whole
    /// number made from these, and the first and last would otherwise fall to the other side.
    logs: Vec<f64>,
    /// Rounding of the timesteps that are looked up.
    rounds: bool,
}

impl SigmaTable {
    /// The table of `train`. Where a schedule with zero terminal SNR has `ᾱ = 0`, σ is that of
    /// `ᾱ = 2⁻²⁴`, the smallest that half precision tells from 0; diffusers puts it there too.
    pub(crate) fn new(train: &NoiseSchedule) -> Self {
        let sigma = |&bar: &f32| {
            let bar = if bar == 0.0 {
                2f64.powi(-24)
            } else {
                f64::from(bar)
            };
            ((1.0 - bar) / bar).sqrt()
        };
        let sigmas: Vec<f64> = train.alphas_cumprod().iter().map(sigma).collect();
        let log = |&sigma: &f64| f64::from(f64::from(sigma as f32).max(1e-10).ln() as f32);
        let logs = sigmas.iter().map(log).collect();
        Self {
            sigmas,
            logs,
            rounds: false,
        }
    }

    /// The same table, whose timesteps are rounded to the nearest if `rounds`.
    pub(crate) fn rounding(self, rounds: bool) -> Self {
        Self { rounds, ..self }
    }

    /// Number of timesteps.
    pub(crate) fn len(&self) -> usize {
        self.sigmas.len()
    }

    /// The σ of every timestep, rising.
    pub(crate) fn sigmas(&self) -> &[f64] {
        &self.sigmas
    }

    /// The smallest σ, that of timestep 0.
    pub(crate) fn min(&self) -> f64 {
        self.sigmas[0]
    }

    /// The largest σ.
    pub(crate) fn max(&self) -> f64 {
        self.sigmas[self.len() - 1]
    }

    /// σ at timestep `t`, linear between two timesteps and constant beyond the ends.
    pub(crate) fn sigma(&self, t: f64) -> f64 {
        let t = t.clamp(0.0, (self.len() - 1) as f64);
        let low = t.floor() as usize;
        let high = (low + 1).min(self.len() - 1);
        let slope = self.sigmas[high] - self.sigmas[low];
        slope * (t - low as f64) + self.sigmas[low]
    }

    /// As [`sigma`](Self::sigma), linear in ln σ.
    pub(crate) fn log_sigma(&self, t: f64) -> f64 {
        let t = t.clamp(0.0, (self.len() - 1) as f64);
        let low = t.floor() as usize;
        let high = (low + 1).min(self.len() - 1);
        let share = t - low as f64;
        (self.sigmas[low].ln() * (1.0 - share) + self.sigmas[high].ln() * share).exp()
    }

    /// As [`sigma`](Self::sigma), linear in ln α, with `σ² = 1/α² − 1`.
    pub(crate) fn log_alpha_sigma(&self, t: f64) -> f64 {
        let t = t.clamp(0.0, (self.len() - 1) as f64);
        let low = t.floor() as usize;
        let high = (low + 1).min(self.len() - 1);
        let share = t - low as f64;
        let [a, b] = [low, high].map(|i| self.sigmas[i].hypot(1.0).ln());
        (2.0 * (a * (1.0 - share) + b * share)).exp_m1().sqrt()
    }

    /// The timestep of `sigma`, linear in ln σ between two timesteps, within the table's ends; the
    /// nearest where the table rounds.
    pub(crate) fn timestep(&self, sigma: f64) -> f64 {
        if self.len() == 1 {
            return 0.0;
        }
        let log = sigma.max(1e-10).ln();
        let above = self.logs.partition_point(|&l| l <= log);
        let low = above.saturating_sub(1).min(self.len() - 2);
        let (a, b) = (self.logs[low], self.logs[low + 1]);
        let w = ((a - log) / (a - b)).clamp(0.0, 1.0);
        let t = (1.0 - w) * low as f64 + w * (low + 1) as f64;
        if self.rounds { t.round_ties_even() } else { t }
    }
}
