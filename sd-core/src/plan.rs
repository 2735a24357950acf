use std::sync::Arc;

use crate::{Error, NoiseSchedule, Result};

/// Noise level of a latent: `x = alpha · x₀ + sigma · ε`, and the timestep the network is told.
///
/// All solvers are spelled this way: variance-preserving ones have `alpha² + sigma² = 1`,
/// k-diffusion's have `alpha = 1`, along a flow `alpha + sigma = 1`. Pure σ-space would not do: a schedule
/// with zero terminal SNR has `alpha = 0` at its end, and with `set_alpha_to_one = false` the last
/// DDIM step ends just short of `alpha = 1`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Level {
    /// The timestep given to the network, 0 ..= 999; fractions are allowed.
    pub t: f64,
    /// Share of the clean latent.
    pub alpha: f64,
    /// Share of the noise.
    pub sigma: f64,
}

impl Level {
    /// A variance-preserving level, `alpha² + sigma² = 1`, from the cumulative product `ᾱ`.
    pub fn variance_preserving(t: f64, alpha_cumprod: f64) -> Self {
        Self {
            t,
            alpha: alpha_cumprod.sqrt(),
            sigma: (1.0 - alpha_cumprod).sqrt(),
        }
    }

    /// A level in k-diffusion's scale, `alpha = 1`.
    pub fn variance_exploding(t: f64, sigma: f64) -> Self {
        Self {
            t,
            alpha: 1.0,
            sigma,
        }
    }

    /// A flow's level, `alpha = 1 − sigma`.
    pub fn linear(t: f64, sigma: f64) -> Self {
        Self {
            t,
            alpha: 1.0 - sigma,
            sigma,
        }
    }

    /// Half the logarithm of the signal-to-noise ratio, `λ = ln(alpha / sigma)`.
    pub fn log_snr(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }
}

/// Step of a [`Plan`]: the level it starts from and the one it reaches.
///
/// `to` need not equal the next stage's `from`: DDIM and PNDM step to `t − 1000/N` by their own
/// table whatever timestep comes next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    /// The level the latent has before the step.
    pub from: Level,
    /// The level it has after it.
    pub to: Level,
}

/// The numbers of a whole run, fixed before it starts: pure, in f64, on the host.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The model's own noise levels, for solvers that evaluate between the stages.
    pub schedule: Arc<NoiseSchedule>,
    /// The initial latent is this times unit-variance noise (diffusers' `init_noise_sigma`).
    pub init_noise_sigma: f64,
    /// The steps in order, noisiest first.
    pub stages: Vec<Stage>,
}

impl Plan {
    /// The stage at which image-to-image begins: of `steps` steps, those the plan was made for, it
    /// takes the last `steps · strength`, rounded down. `strength` goes from just above 0, the
    /// picture all but kept, to 1, the whole run.
    ///
    /// This is diffusers' `get_timesteps` for every solver. A plan may have more stages than steps
    /// (PNDM without Runge–Kutta steps does one twice); they are counted from the beginning, so that
    /// its last one is left at any strength, 0 included.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for a strength outside `0.0 ..= 1.0` or one that leaves no step.
    pub fn first_stage(&self, steps: usize, strength: f64) -> Result<usize> {
        if !(0.0..=1.0).contains(&strength) {
            return Err(Error::invalid("strength", strength, "expected 0 to 1"));
        }
        let first = steps - ((steps as f64 * strength) as usize).min(steps);
        if first >= self.stages.len() {
            let expected = format!("expected at least 1/{steps}: no step is left of {steps}");
            return Err(Error::invalid("strength", strength, expected));
        }
        Ok(first)
    }
}
