use sd_core::{Level, NoiseSchedule};

/// The training schedule as k-diffusion sees it: one σ per timestep, rising, and the way from a
/// timestep to its σ and back.
#[derive(Debug, Clone)]
pub(crate) struct SigmaTable {
    train: NoiseSchedule,
    /// Rounding of the timesteps that are looked up.
    rounds: bool,
}

impl SigmaTable {
    /// The table of `train`.
    pub(crate) fn new(train: &NoiseSchedule) -> Self {
        Self {
            train: train.clone(),
            rounds: false,
        }
    }

    /// The same table, whose timesteps are rounded to the nearest if `rounds`.
    pub(crate) fn rounding(self, rounds: bool) -> Self {
        Self { rounds, ..self }
    }

    /// Number of timesteps.
    pub(crate) fn len(&self) -> usize {
        self.train.len()
    }

    /// The σ of every timestep, rising.
    pub(crate) fn sigmas(&self) -> &[f64] {
        self.train.sigmas()
    }

    /// The smallest σ, that of timestep 0.
    pub(crate) fn min(&self) -> f64 {
        self.sigmas()[0]
    }

    /// The largest σ.
    pub(crate) fn max(&self) -> f64 {
        self.sigmas()[self.len() - 1]
    }

    /// σ at timestep `t`.
    pub(crate) fn sigma(&self, t: f64) -> f64 {
        self.train.sigma(t)
    }

    /// As [`sigma`](Self::sigma), linear in ln σ.
    pub(crate) fn log_sigma(&self, t: f64) -> f64 {
        let t = t.clamp(0.0, (self.len() - 1) as f64);
        let low = t.floor() as usize;
        let high = (low + 1).min(self.len() - 1);
        let share = t - low as f64;
        (self.sigmas()[low].ln() * (1.0 - share) + self.sigmas()[high].ln() * share).exp()
    }

    /// As [`sigma`](Self::sigma), linear in ln α, with `σ² = 1/α² − 1`.
    pub(crate) fn log_alpha_sigma(&self, t: f64) -> f64 {
        let t = t.clamp(0.0, (self.len() - 1) as f64);
        let low = t.floor() as usize;
        let high = (low + 1).min(self.len() - 1);
        let share = t - low as f64;
        let [a, b] = [low, high].map(|i| self.sigmas()[i].hypot(1.0).ln());
        (2.0 * (a * (1.0 - share) + b * share)).exp_m1().sqrt()
    }

    /// σ of a run in place of the unshifted `sigma`.
    pub(crate) fn shifted(&self, sigma: f64) -> f64 {
        self.train.shifted(sigma)
    }

    /// The level of `sigma` in the scale in which `dx/dσ = (x − x₀)/σ`.
    pub(crate) fn level(&self, sigma: f64) -> Level {
        self.train.level_exploding(self.timestep(sigma), sigma)
    }

    /// The timestep of `sigma`, rounded where the table rounds.
    pub(crate) fn timestep(&self, sigma: f64) -> f64 {
        let t = self.train.timestep(sigma);
        if self.rounds { t.round_ties_even() } else { t }
    }
}
