use sd_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Spread of the timesteps of a run over the training timesteps (table 2 of Lin et al. 2023,
/// arXiv:2305.08891). Along a flow σ is spread evenly, before its shift, whatever this says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Multiples of `N / steps`, rounded down, plus `steps_offset`; the last timestep is left out.
    Leading,
    /// Equal distances from the last timestep to the first, both included.
    Linspace,
    /// Equal distances counted down from the last timestep.
    Trailing,
}

impl Spacing {
    /// `steps` falling timesteps out of `train` ones, not yet rounded for [`Self::Linspace`].
    ///
    /// This is the division by `N` that diffusers' DDIM, PNDM and all its k-diffusion classes
    /// make.
    pub(crate) fn timesteps(self, train: usize, steps: usize, offset: usize) -> Result<Vec<f64>> {
        check_steps(steps, train)?;
        match self {
            Self::Linspace => {
                let mut points = linspace(0.0, (train - 1) as f64, steps);
                points.reverse();
                Ok(points)
            }
            Self::Leading => leading(train / steps, steps, 0, offset, train),
            Self::Trailing => Ok(trailing(train, train, steps)),
        }
    }

    /// `steps` falling whole timesteps out of the first `last` of `train` ones.
    ///
    /// This is the division by `N + 1` that diffusers' exponential multistep classes make
    /// (DPM-Solver, DEIS, UniPC, SA-Solver): a point more than there are steps, and the last one,
    /// timestep 0, dropped.
    pub(crate) fn timesteps_plus_one(
        self,
        train: usize,
        last: usize,
        steps: usize,
        offset: usize,
    ) -> Result<Vec<f64>> {
        check_steps(steps, train)?;
        match self {
            Self::Linspace if steps < last => {
                let points = linspace(0.0, (last - 1) as f64, steps + 1);
                let whole = points.into_iter().skip(1).map(f64::round_ties_even);
                Ok(whole.rev().collect())
            }
            Self::Leading if steps < last => leading(last / (steps + 1), steps, 1, offset, train),
            Self::Trailing => Ok(trailing(last, train, steps)),
            _ => Err(Error::invalid(
                "steps",
                steps,
                format!(
                    "this spacing of {last} timesteps has room for at most {}",
                    last - 1
                ),
            )),
        }
    }
}

/// An error unless there are 1 to `train` steps.
pub(crate) fn check_steps(steps: usize, train: usize) -> Result<()> {
    if (1..=train).contains(&steps) {
        return Ok(());
    }
    let expected = format!("expected 1 to {train}, the model's number of training timesteps");
    Err(Error::invalid("steps", steps, expected))
}

/// `numpy.linspace`: `n` points from `start` to `end`, only `start` when there is one.
pub(crate) fn linspace(start: f64, end: f64, n: usize) -> Vec<f64> {
    let step = (end - start) / n.saturating_sub(1).max(1) as f64;
    let point = |i: usize| match i {
        // numpy puts the end there exactly, whatever the rounding of the steps added up to.
        _ if i > 0 && i + 1 == n => end,
        _ => i as f64 * step + start,
    };
    (0..n).map(point).collect()
}

fn leading(
    ratio: usize,
    steps: usize,
    first: usize,
    offset: usize,
    train: usize,
) -> Result<Vec<f64>> {
    let top = (first + steps - 1) * ratio;
    // diffusers goes on with a timestep the network was never trained on.
    if offset >= train || top + offset >= train {
        let expected = format!(
            "{steps} leading steps end at timestep {top} before the offset, and the last of the \
             model's is {}",
            train - 1
        );
        return Err(Error::invalid("steps_offset", offset, expected));
    }
    let points = (first..first + steps).map(|i| (i * ratio + offset) as f64);
    Ok(points.rev().collect())
}

/// `round(arange(last, 0, -train / steps)) - 1`, with the length that it has in exact arithmetic:
/// in floating point numpy's has one element too many at 61, 103, 121, … of 1000 steps.
fn trailing(last: usize, train: usize, steps: usize) -> Vec<f64> {
    let ratio = train as f64 / steps as f64;
    let count = (last * steps).div_ceil(train);
    let start = last as f64;
    // numpy fills an arange with multiples of the difference of its first two elements.
    let step = (start - ratio) - start;
    let point = |i: usize| (start + i as f64 * step).round_ties_even() - 1.0;
    (0..count).map(point).collect()
}
