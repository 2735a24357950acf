use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{
    History, PlannedSampler, Position, Solver, Update, ancestral, both, check_ancestral,
    check_noise_scale, check_scale,
};

/// Refined exponential solver in its multistep form (Zhang et al. 2023, arXiv:2308.02157; ComfyUI's
/// `res_multistep`): the exponential method of second order whose coefficients satisfy the order
/// conditions of table 1 exactly, with the last step's output as second stage. One model call a
/// step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResMultistep {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Share of ancestral noise, 0 (none) to 1.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
    /// CFG++: the unconditional x₀ takes the guided one's place wherever noise is put back
    /// (ComfyUI's `res_multistep_cfg_pp`).
    pub cfg_pp: bool,
}

impl Default for ResMultistep {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            eta: 0.0,
            s_noise: 1.0,
            cfg_pp: false,
        }
    }
}

impl ResMultistep {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            eta: fields.number("eta", default.eta)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
            cfg_pp: fields.flag("cfg_pp", default.cfg_pp)?,
        }))
    }
}

impl Scheduler for ResMultistep {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(self.eta, self.s_noise)?;
        check_noise_scale(train, "Res Multistep a", self.eta)?;
        check_scale(train, self.cfg_pp, "Res Multistep CFG++", "cfg_pp false")?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = ResMultistepSampler {
            settings: self.clone(),
            outputs: History::new(2),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct ResMultistepSampler {
    settings: ResMultistep,
    outputs: History,
}

impl Solver for ResMultistepSampler {
    const NAME: &'static str = "ResMultistep";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let eta = self.settings.eta;
        let (down, up) = ancestral(from.sigma, to.sigma, eta);
        let (denoised, uncond) = both(model.predict(&x, from)?);
        // What the latent is led by, and what guidance adds to it.
        let (output, shift) = match self.settings.cfg_pp {
            true => (uncond.clone(), Some(denoised.clone() - uncond)),
            false => (denoised.clone(), None),
        };
        self.outputs.push(output.clone());
        let before = at.before(1).filter(|_| self.outputs.len() > 1);
        let mut next = match before {
            Some(before) if down > 0.0 && down < from.sigma => {
                let h = (from.sigma / down).ln();
                // λ of the earlier output seen from where that step's deterministic part ended.
                let (ended, _) = ancestral(before.from.sigma, from.sigma, eta);
                let c2 = (ended / before.from.sigma).ln() / h;
                let phi_1 = -(-h).exp_m1() / h;
                let phi_2 = (1.0 - phi_1) / h;
                let (b1, b2) = (phi_1 - phi_2 / c2, phi_2 / c2);
                let x = match shift {
                    Some(shift) => x + shift,
                    None => x,
                };
                x * (-h).exp() + output * (h * b1) + self.outputs.get(1) * (h * b2)
            }
            _ => {
                let slope = (x - output) / from.sigma;
                denoised.clone() + slope * down
            }
        };
        if up > 0.0 {
            next = next.clone() + noise_like(&next, noise)? * (up * self.settings.s_noise);
        }
        Ok(Update { x: next, denoised })
    }

    fn save(&self, state: SavedState) -> SavedState {
        self.outputs.save(state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.outputs.restore(state)
    }
}
