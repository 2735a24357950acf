//! The σ of a run along a flow.

use sd_core::{Error, NoiseSchedule, Result};

use super::{Levels, Sigmas};

/// The largest σ at which the log-SNR counts as finite: 1 − 1e-6 in f32, as diffusers has it.
pub(super) const ALMOST_NOISE: f64 = 1.0 - 17.0 / 16_777_216.0;

impl Levels {
    /// The `even` σ, or the settings' own, shifted and stretched; what is spread in σ goes from the
    /// first of them to the last.
    pub(super) fn along_flow(&self, train: &NoiseSchedule, even: &[f64]) -> Result<Sigmas> {
        let table = self.table(train);
        let shifted = || even.iter().map(|sigma| train.shifted(*sigma)).collect();
        let own = self.sigmas.on(&table, even.len())?;
        let mut sigmas: Vec<f64> = own.unwrap_or_else(shifted);
        if let Some(terminal) = self.shift_terminal {
            stretch(&mut sigmas, terminal)?;
        }
        let ends = match self.conventions.spaced_ends {
            true => (sigmas[0], sigmas[sigmas.len() - 1]),
            false => (table.max(), table.min()),
        };
        let sigmas = self.between(ends, sigmas.len())?.unwrap_or(sigmas);
        let timesteps = sigmas.iter().map(|&s| table.timestep(s)).collect();
        self.finish(&table, sigmas, timesteps)
    }
}

/// Stretches the picture's shares `1 − σ` so that the last σ is `terminal`. Where the last is pure
/// noise there is nothing to stretch.
fn stretch(sigmas: &mut [f64], terminal: f64) -> Result<()> {
    if !(terminal > 0.0 && terminal < 1.0) {
        let expected = "expected above 0, below 1";
        return Err(Error::invalid("shift_terminal", terminal, expected));
    }
    let scale = (1.0 - sigmas[sigmas.len() - 1]) / (1.0 - terminal);
    if scale > 0.0 {
        for sigma in sigmas {
            *sigma = 1.0 - (1.0 - *sigma) / scale;
        }
    }
    Ok(())
}
