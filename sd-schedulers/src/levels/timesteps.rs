//! Levels of the solvers that go from training timestep to training timestep.

use std::sync::Arc;

use sd_core::{Error, Level, NoiseSchedule, Plan, Result, Stage};

use super::{check_steps, linspace};

/// The level of timestep `t`; below 0 the end of the run, `ᾱ = 1` or that of timestep 0.
pub(crate) fn level_or_end(train: &NoiseSchedule, t: f64, set_alpha_to_one: bool) -> Level {
    if t >= 0.0 {
        return train.level(t as usize);
    }
    let end = if set_alpha_to_one {
        Level::variance_preserving(t, 1.0)
    } else {
        train.level(0)
    };
    Level { t, ..end }
}

/// A plan from each of A1111's timesteps for DDIM and PLMS, multiples of `N / steps` plus 1, to the
/// next.
pub(crate) fn between_timesteps(train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
    check_steps(steps, train.len())?;
    let last = train.len() - 1;
    let rising = (0..train.len()).step_by(train.len() / steps);
    let levels: Vec<Level> = rising.map(|t| train.level((t + 1).min(last))).collect();
    let stages = levels.windows(2).rev().map(|pair| Stage {
        from: pair[1],
        to: pair[0],
    });
    let stages: Vec<Stage> = stages.collect();
    if stages.is_empty() {
        let expected = "expected at least 2: A1111's DDIM takes the steps between its timesteps";
        return Err(Error::invalid("steps", steps, expected));
    }
    Ok(Plan {
        schedule: train.clone(),
        init_noise_sigma: 1.0,
        stages,
    })
}

/// `own` if it has `steps` timesteps that fall and that a model of `train` timesteps has.
pub(crate) fn own_timesteps(
    own: &[usize],
    train: usize,
    steps: usize,
) -> Result<impl Iterator<Item = usize>> {
    let falling = own.windows(2).all(|pair| pair[0] > pair[1]);
    if own.len() == steps && falling && own.first().is_some_and(|&t| t < train) {
        return Ok(own.iter().copied());
    }
    let expected = format!("expected {steps} falling ones, one per step, below {train}");
    let found = format!("a list of {}", own.len());
    Err(Error::invalid("timesteps", found, expected))
}

/// `steps` of the share `strength` (0 to 1) of the `original` timesteps that a model was distilled
/// on, falling.
pub(crate) fn distilled_timesteps(
    train: usize,
    original: usize,
    strength: f64,
    steps: usize,
) -> Result<Vec<usize>> {
    check_steps(steps, train)?;
    if !(1..=train).contains(&original) {
        let expected = format!("expected 1 to {train}");
        return Err(Error::invalid(
            "original_inference_steps",
            original,
            expected,
        ));
    }
    if !(0.0..=1.0).contains(&strength) {
        return Err(Error::invalid("strength", strength, "expected 0 to 1"));
    }
    let (distilled, original) = (original, (original as f64 * strength) as usize);
    if steps > original {
        let expected = format!(
            "the model was distilled on {distilled} timesteps, of which the strength leaves {original}"
        );
        return Err(Error::invalid("steps", steps, expected));
    }
    let ratio = train / distilled;
    // One point more than there are steps, the last left out, is numpy's endpoint=False.
    let picks = linspace(0.0, original as f64, steps + 1);
    let picks = picks[..steps].iter().map(|pick| *pick as usize);
    Ok(picks.map(|pick| (original - pick) * ratio - 1).collect())
}
