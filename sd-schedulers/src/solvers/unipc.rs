use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Level, Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{FinalSigma, Levels, MultistepLevels};
use crate::solver::{
    Algorithm, History, NO_STEP, PlannedSampler, Position, Solver, Thresholding, Update,
    check_final, check_order, solver_output,
};

/// UniPC (Zhao et al. 2023, arXiv:2302.04867): a predictor of any order, and a corrector that uses
/// the next model call, which is made anyway, to raise the order of the step before by one. One
/// model call a step.
///
/// Its default settings are those of diffusers' `UniPCMultistepScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UniPc {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// The predictor's order, 1 to 3 (higher ones work, and are seldom stable).
    pub order: usize,
    /// Integration of x₀, as in DPM-Solver++, not of ε.
    pub predict_x0: bool,
    /// The function `B(h)`.
    pub variant: UniPcVariant,
    /// Lower orders for the last steps; one that ends at σ = 0 always has order 1.
    pub lower_order_final: bool,
    /// Numbers of the steps that are not corrected.
    pub disable_corrector: Vec<usize>,
    /// Thresholding of the predicted x₀.
    pub thresholding: Thresholding,
}

/// UniPC's function `B(h)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UniPcVariant {
    /// `B(h) = h`: better with few steps and weak guidance.
    Bh1,
    /// `B(h) = eʰ − 1`.
    #[default]
    Bh2,
}

impl Default for UniPc {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            order: 2,
            predict_x0: true,
            variant: UniPcVariant::Bh2,
            lower_order_final: true,
            disable_corrector: Vec::new(),
            thresholding: Thresholding::Off,
        }
    }
}

impl UniPc {
    fn algorithm(&self) -> Algorithm {
        if self.predict_x0 {
            Algorithm::OdePlusPlus
        } else {
            Algorithm::Ode
        }
    }

    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        let variants = [
            ("bh1", UniPcVariant::Bh1),
            ("bh2", UniPcVariant::Bh2),
            // What other classes leave in a file counts as the default.
            ("midpoint", UniPcVariant::Bh2),
            ("heun", UniPcVariant::Bh2),
            ("logrho", UniPcVariant::Bh2),
        ];
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            order: fields.count("solver_order", default.order)?,
            predict_x0: fields.flag("predict_x0", default.predict_x0)?,
            variant: fields.choice("solver_type", default.variant, &variants)?,
            lower_order_final: fields.flag("lower_order_final", default.lower_order_final)?,
            disable_corrector: fields.counts("disable_corrector")?,
            thresholding: fields.thresholding(default.thresholding)?,
        }))
    }
}

impl Scheduler for UniPc {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_order("solver_order", self.order, 4)?;
        check_final(self.algorithm(), self.levels.final_sigma)?;
        self.thresholding.check()?;
        let choice = MultistepLevels {
            begins_in_noise: true,
            ..MultistepLevels::default()
        };
        let mut sigmas = choice.resolve(&self.levels, train, steps)?;
        if self.levels.are_spread() && self.levels.final_sigma == FinalSigma::SigmaMin {
            sigmas.end_at_last();
        }
        Ok(sigmas.preserving(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = UniPcSampler {
            settings: self.clone(),
            outputs: History::new(self.order.clamp(1, 4) + 1),
            last: None,
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct UniPcSampler {
    settings: UniPc,
    outputs: History,
    /// The latent and the order of the step before.
    last: Option<(Tensor<4>, usize)>,
}

impl Solver for UniPcSampler {
    const NAME: &'static str = "UniPc";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (s, t) = (at.stage().from, at.stage().to);
        let prediction = model.predict(&x, s)?;
        let thresholding = if self.settings.predict_x0 {
            self.settings.thresholding
        } else {
            Thresholding::Off
        };
        let algorithm = self.settings.algorithm();
        let (output, denoised) = solver_output(algorithm, thresholding, &x, s, prediction);
        self.outputs.push(output);

        let corrected = match (self.last.take(), at.before(1)) {
            (Some((last, order)), Some(before)) if self.corrects(at.index - 1) => {
                // Not the newest output but the one before is the origin here.
                let levels = self.levels(at, 1, order);
                self.update(last, before.from, s, &levels, 1, true)
            }
            _ => x,
        };

        let order = self.order(at);
        let levels = self.levels(at, 0, order);
        let next = self.update(corrected.clone(), s, t, &levels, 0, false);
        self.last = Some((corrected, order));
        Ok(Update { x: next, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        let state = self.outputs.save(state);
        match &self.last {
            Some((x, order)) => {
                let state = state.with_number("last_order", *order as f64);
                state.with_tensor("last_latent", x.clone())
            }
            None => state,
        }
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.last = state
            .tensor("last_latent")
            .zip(state.number("last_order").map(|n| n as usize));
        self.outputs.restore(state)?;
        let order = self.last.as_ref().map_or(0, |(_, order)| *order);
        if order > self.outputs.len() {
            let held = self.outputs.len();
            return Err(Error::SavedState(format!(
                "a step of order {order} needs as many outputs, it holds {held}"
            )));
        }
        Ok(())
    }
}

impl UniPcSampler {
    fn corrects(&self, step: usize) -> bool {
        !self.settings.disable_corrector.contains(&step)
    }

    fn order(&self, at: &Position<'_>) -> usize {
        let mut order = self.settings.order;
        if self.settings.lower_order_final {
            order = order.min(at.remaining() + 1);
        }
        if at.stage().to.sigma == 0.0 {
            order = 1;
        }
        order.min(self.outputs.len())
    }

    /// The levels of the `order` outputs from the one `origin` pushes ago.
    fn levels(&self, at: &Position<'_>, origin: usize, order: usize) -> Vec<Level> {
        let before = (origin..origin + order).filter_map(|age| at.before(age));
        before.map(|stage| stage.from).collect()
    }

    /// Equations 3 (predictor) and 9 (corrector) from `s` to `t`. `levels[k]` is that of the
    /// output `origin + k` pushes ago; the corrector also has the newest, at `t` itself.
    fn update(
        &self,
        x: Tensor<4>,
        s: Level,
        t: Level,
        levels: &[Level],
        origin: usize,
        corrects: bool,
    ) -> Tensor<4> {
        let m0 = self.outputs.get(origin);
        let predict_x0 = self.settings.predict_x0;
        // e^{−h} without the detour by an infinite h at σ = 0.
        let decay = (t.sigma / t.alpha) * (s.alpha / s.sigma);
        let h = -decay.ln();
        if h < NO_STEP {
            return x;
        }
        let (hh, phi) = if predict_x0 {
            (-h, decay - 1.0)
        } else {
            (h, h.exp_m1())
        };
        let (carried, scale) = if predict_x0 {
            (t.sigma / s.sigma, t.alpha)
        } else {
            (t.alpha / s.alpha, t.sigma)
        };
        let base = x * carried - m0.clone() * (scale * phi);

        let mut ratios: Vec<f64> = levels[1..]
            .iter()
            .map(|level| (level.log_snr() - s.log_snr()) / h)
            .collect();
        let mut differences: Vec<Tensor<4>> = ratios
            .iter()
            .enumerate()
            .map(|(k, ratio)| (self.outputs.get(origin + 1 + k) - m0.clone()) / *ratio)
            .collect();
        if corrects {
            ratios.push(1.0);
            differences.push(self.outputs.get(origin - 1) - m0);
        }
        if ratios.is_empty() {
            return base;
        }
        let b_h = match self.settings.variant {
            UniPcVariant::Bh1 => hh,
            UniPcVariant::Bh2 => phi,
        };
        // With a single difference the paper takes 1/2 rather than solve.
        let weights = match ratios.len() {
            1 => vec![0.5],
            _ => solve(&ratios, hh, b_h),
        };
        let terms = differences.into_iter().zip(weights);
        terms.fold(base, |x, (d, weight)| x - d * (scale * b_h * weight))
    }
}

/// The weights `a` with `Σ_k a_k r_k^{i−1} = φ_i(h) i!/B(h)` for i = 1, 2, … (equation 5).
fn solve(ratios: &[f64], hh: f64, b_h: f64) -> Vec<f64> {
    let n = ratios.len();
    let (mut phi, mut factorial) = (hh.exp_m1() / hh - 1.0, 1.0);
    let mut rows = Vec::with_capacity(n);
    for i in 1..=n {
        let mut row: Vec<f64> = ratios.iter().map(|r| r.powi(i as i32 - 1)).collect();
        row.push(phi * factorial / b_h);
        rows.push(row);
        factorial *= (i + 1) as f64;
        phi = phi / hh - 1.0 / factorial;
    }
    eliminate(rows)
}

/// Gauss's elimination with pivots on a small system, the right side in the last column.
fn eliminate(mut rows: Vec<Vec<f64>>) -> Vec<f64> {
    let n = rows.len();
    for i in 0..n {
        let largest = (i..n).max_by(|&a, &b| rows[a][i].abs().total_cmp(&rows[b][i].abs()));
        rows.swap(i, largest.unwrap_or(i));
        let pivot = rows[i].clone();
        for (j, row) in rows.iter_mut().enumerate() {
            if j != i {
                let factor = row[i] / pivot[i];
                row.iter_mut()
                    .zip(&pivot)
                    .for_each(|(a, p)| *a -= factor * p);
            }
        }
    }
    (0..n).map(|i| rows[i][n] / rows[i][i]).collect()
}
