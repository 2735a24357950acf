use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Conventions, Levels, Sigmas, check_steps, linspace};
use crate::solver::{History, PlannedSampler, Position, Solver, Update};

/// "DPM fast" (section 3.4 of Lu et al. 2022, arXiv:2206.00927, as in k-diffusion): DPM-Solver-3 at
/// equal steps in λ = −ln σ, the last steps of lower order, such that a run makes exactly `steps`
/// model calls, one a stage. It ends at the model's smallest σ, not at 0.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DpmFast {
    /// Conventions that settle the rest.
    pub conventions: Conventions,
}

/// The order of each solver step of a run with `calls` model calls.
fn orders(calls: usize) -> Vec<usize> {
    let mut orders = vec![3; calls / 3];
    match calls % 3 {
        0 => {
            orders.pop();
            orders.extend([2, 1]);
        }
        rest => orders.push(rest),
    }
    orders
}

/// For each model call its number within its solver step, from 0, and that step's order.
fn calls(count: usize) -> Vec<(usize, usize)> {
    let orders = orders(count).into_iter();
    orders
        .flat_map(|order| (0..order).map(move |k| (k, order)))
        .collect()
}

impl DpmFast {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        Ok(Arc::new(Self {
            conventions: fields.conventions(Conventions::default())?,
        }))
    }
}

impl Scheduler for DpmFast {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_steps(steps, train.len())?;
        let levels = Levels {
            conventions: self.conventions,
            ..Levels::default()
        };
        let table = levels.table(train);
        let orders = orders(steps);
        let ends = linspace(-table.max().ln(), -table.min().ln(), orders.len() + 1);
        let mut lambdas = Vec::with_capacity(steps + 1);
        for (order, ends) in orders.iter().zip(ends.windows(2)) {
            let share = (ends[1] - ends[0]) / *order as f64;
            lambdas.extend((0..*order).map(|k| ends[0] + k as f64 * share));
        }
        lambdas.push(-table.min().ln());
        let values: Vec<f64> = lambdas.iter().map(|lambda| (-lambda).exp()).collect();
        let timesteps = values[..steps].iter().map(|&s| table.timestep(s)).collect();
        Ok(Sigmas { values, timesteps }.exploding(train, &levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = DpmFastSampler {
            calls: calls(plan.stages.len()),
            origin: None,
            noises: History::new(3),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct DpmFastSampler {
    calls: Vec<(usize, usize)>,
    /// The latent that the solver step under way began with.
    origin: Option<Tensor<4>>,
    /// ε at the calls of that step.
    noises: History,
}

impl Solver for DpmFastSampler {
    const NAME: &'static str = "DpmFast";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (k, order) = self.calls[at.index];
        let prediction = model.predict(&x, at.stage().from)?;
        let denoised = prediction.denoised;
        let noise = (x.clone() - denoised.clone()) / at.stage().from.sigma;
        let begun = at.before(k).zip(self.origin.take().filter(|_| k > 0));
        let to = at.stage().to.sigma;
        let Some((begin, origin)) = begun else {
            // A new step. One entered in its middle goes on in first order.
            self.noises = History::new(3);
            let h = (at.stage().from.sigma / to).ln();
            if k == 0 {
                self.origin = Some(x.clone());
                self.noises.push(noise.clone());
            }
            let x = x - noise * (to * h.exp_m1());
            return Ok(Update { x, denoised });
        };
        self.noises.push(noise);
        let first = self.noises.get(k);
        // Of the whole step, and of the part that leads to the next call.
        let h = (at.stage().from.sigma / to).ln() * order as f64;
        let part = (begin.from.sigma / to).ln();
        let change = self.noises.get(0) - first.clone();
        let weight = match (k, order) {
            // Equation of algorithm 1 with r₁ = ½.
            (1, 2) => part.exp_m1(),
            // Algorithm 2 with r₁ = ⅓, r₂ = ⅔: its second stage, then its end.
            (1, _) => 2.0 * (part.exp_m1() / part - 1.0),
            _ => 1.5 * (h.exp_m1() / h - 1.0),
        };
        let next = origin.clone() - first * (to * part.exp_m1()) - change * (to * weight);
        self.origin = Some(origin);
        Ok(Update { x: next, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        let state = self.noises.save(state);
        match &self.origin {
            Some(origin) => state.with_tensor("origin", origin.clone()),
            None => state,
        }
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.origin = state.tensor("origin");
        self.noises.restore(state)?;
        let (k, _) = self.calls.get(state.index()).copied().unwrap_or((0, 1));
        if self.origin.is_some() && self.noises.len() < k {
            let held = self.noises.len();
            return Err(Error::SavedState(format!(
                "it holds {held} model outputs of {k}"
            )));
        }
        Ok(())
    }
}
