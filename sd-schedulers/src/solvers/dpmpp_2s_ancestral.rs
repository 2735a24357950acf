use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, Scheduler, noise_like};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Levels, SigmaTable};
use crate::solver::{
    PlannedSampler, Position, Solver, Update, ancestral, both, check_ancestral, check_noise_scale,
    check_scale,
};

/// DPM-Solver++ (2S) made ancestral ("DPM++ 2S a", k-diffusion's `sample_dpmpp_2s_ancestral`):
/// algorithm 1 of Lu et al. 2022 (arXiv:2211.01095) with the ratio ½ down to `σ_down`, then noise.
/// Second order without noise; two model calls a step but for the last one to σ = 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dpmpp2sAncestral {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Share of ancestral noise, 0 (plain DPM++ 2S) to 1.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
    /// CFG++: the unconditional branch leads, and guidance is added to the latent at the end of a
    /// step (ComfyUI's `dpmpp_2s_ancestral_cfg_pp`).
    pub cfg_pp: bool,
}

impl Default for Dpmpp2sAncestral {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            eta: 1.0,
            s_noise: 1.0,
            cfg_pp: false,
        }
    }
}

impl Dpmpp2sAncestral {
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

impl Scheduler for Dpmpp2sAncestral {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_ancestral(self.eta, self.s_noise)?;
        check_noise_scale(train, "DPM++ 2S a", self.eta)?;
        check_scale(train, self.cfg_pp, "DPM++ 2S a CFG++", "cfg_pp false")?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = Dpmpp2sAncestralSampler {
            settings: self.clone(),
            table: self.levels.table(&plan.schedule),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct Dpmpp2sAncestralSampler {
    settings: Dpmpp2sAncestral,
    table: SigmaTable,
}

impl Solver for Dpmpp2sAncestralSampler {
    const NAME: &'static str = "Dpmpp2sAncestral";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from, at.stage().to);
        let (down, up) = ancestral(from.sigma, to.sigma, self.settings.eta);
        let (denoised, uncond) = both(model.predict(&x, from)?);
        let cfg_pp = self.settings.cfg_pp;
        let led_by = |guided: Tensor<4>, uncond| if cfg_pp { uncond } else { guided };
        let shift = cfg_pp.then(|| denoised.clone() - uncond.clone());
        let output = led_by(denoised.clone(), uncond);
        let towards = |sigma: f64, x0: Tensor<4>| {
            let kept = sigma / from.sigma;
            x.clone() * kept + x0 * (1.0 - kept)
        };
        if down == 0.0 {
            return Ok(Update::to_clean(denoised));
        }
        // Half way in λ is the geometric mean in σ.
        let middle = (from.sigma * down).sqrt();
        let level = self.table.level(middle);
        let (there, uncond) = both(model.predict(&towards(middle, output), level)?);
        let mut next = towards(down, led_by(there, uncond));
        if up > 0.0 {
            next = next.clone() + noise_like(&next, noise)? * (up * self.settings.s_noise);
        }
        if let Some(shift) = shift {
            next = next + shift;
        }
        Ok(Update { x: next, denoised })
    }
}
