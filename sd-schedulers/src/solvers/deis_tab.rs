use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{History, PlannedSampler, Position, Solver, Update, check_order};

/// DEIS-tAB on σ (Zhang & Chen 2022, arXiv:2204.13902, equation 15; ComfyUI's `deis`): the last
/// slopes `dx/dσ` as a polynomial in the time of a variance-preserving process, integrated over the
/// step. One model call a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeisTab {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Number of slopes, 1 to 4.
    pub order: usize,
}

impl Default for DeisTab {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            order: 3,
        }
    }
}

impl DeisTab {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            order: fields.count("order", default.order)?,
        }))
    }
}

impl Scheduler for DeisTab {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("order", self.order, 4)?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(
            plan,
            first,
            DeisTabSampler(History::new(self.order.clamp(1, 4))),
        )
    }
}

/// The slopes, the newest first.
struct DeisTabSampler(History);

impl Solver for DeisTabSampler {
    const NAME: &'static str = "DeisTab";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let denoised = model.predict(&x, from)?.denoised;
        self.0.push((x.clone() - denoised.clone()) / from.sigma);
        if to.sigma == 0.0 {
            return Ok(Update::to_clean(denoised));
        }
        let nodes: Vec<f64> = (0..self.0.len())
            .filter_map(|age| Some(at.before(age)?.from.sigma))
            .collect();
        let weights = match nodes.len() {
            1 => vec![to.sigma - from.sigma],
            _ => integrals(&nodes, to.sigma),
        };
        let terms = weights.into_iter().enumerate();
        let x = terms.fold(x, |x, (age, weight)| x + self.0.get(age) * weight);
        Ok(Update { x, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.0.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.0.restore(state)
    }
}

/// `∫ l_j dσ` from `nodes[0]` to `end` of Lagrange's polynomials over the time of `nodes`, by the
/// authors' sum over 10,000 points of the time.
fn integrals(nodes: &[f64], end: f64) -> Vec<f64> {
    const POINTS: usize = 10_000;
    let process = Process::new();
    let times: Vec<f64> = nodes.iter().map(|&sigma| process.time(sigma)).collect();
    let (begin, end) = (times[0], process.time(end));
    let width = (end - begin) / POINTS as f64;
    let mut sums = vec![0.0; nodes.len()];
    for i in 0..POINTS {
        let t = begin + (end - begin) * i as f64 / (POINTS - 1) as f64;
        let share = process.sigma_rate(t) * width;
        for (j, sum) in sums.iter_mut().enumerate() {
            let others = times.iter().enumerate().filter(|(k, _)| *k != j);
            let product: f64 = others.map(|(_, u)| (t - u) / (times[j] - u)).product();
            *sum += product * share;
        }
    }
    sums
}

/// A variance-preserving process of `ln ᾱ = −d t²/2 − min t`.
struct Process {
    d: f64,
    min: f64,
}

impl Process {
    /// With σ = 0.002 at t = 0.001 and σ = 80 at t = 1.
    fn new() -> Self {
        const FIRST: f64 = 1e-3;
        let (low, high) = ((0.002f64 * 0.002).ln_1p(), (80.0f64 * 80.0).ln_1p());
        let d = 2.0 * (low / FIRST - high) / (FIRST - 1.0);
        let min = high - 0.5 * d;
        Self { d, min }
    }

    /// The time at which it has the noise `sigma`.
    fn time(&self, sigma: f64) -> f64 {
        let Self { d, min } = self;
        ((min * min + 2.0 * d * (sigma * sigma).ln_1p()).sqrt() - min) / d
    }

    /// `dσ/dt`.
    fn sigma_rate(&self, t: f64) -> f64 {
        let Self { d, min } = self;
        let bar = (-0.5 * d * t * t - min * t).exp();
        0.5 * (d * t + min) / (bar * (1.0 - bar)).sqrt()
    }
}
