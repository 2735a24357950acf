use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::Levels;
use crate::solver::{
    Brownian, History, NO_STEP, PlannedSampler, Position, Solver, Update, check_noise_scale,
    check_up_to_ten,
};

/// DPM-Solver++ (3M) on the SDE ("DPM++ 3M SDE", k-diffusion's `sample_dpmpp_3m_sde`): an
/// exponential integrator with the outputs of two earlier steps, on the SDE with
/// noise share η, `h_η = (1 + η) h`, driven by a Brownian path. One model call a step.
///
/// Its third-order term is the authors' and k-diffusion's, half of what the second derivative's
/// exact integral gives, so that it converges with order 2 in practice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dpmpp3mSde {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Share of noise: 0 for the ODE, 1 for the SDE of training.
    pub eta: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

impl Default for Dpmpp3mSde {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            eta: 1.0,
            s_noise: 1.0,
        }
    }
}

impl Dpmpp3mSde {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            eta: fields.number("eta", default.eta)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
        }))
    }
}

impl Scheduler for Dpmpp3mSde {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_up_to_ten("eta", self.eta)?;
        check_up_to_ten("s_noise", self.s_noise)?;
        check_noise_scale(train, "DPM++ 3M SDE", self.eta)?;
        self.levels.exploding(train, steps)
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let sampler = Dpmpp3mSdeSampler {
            settings: self.clone(),
            path: Brownian::over(plan),
            outputs: History::new(3),
        };
        PlannedSampler::start(plan, first, sampler)
    }
}

struct Dpmpp3mSdeSampler {
    settings: Dpmpp3mSde,
    path: Brownian,
    outputs: History,
}

impl Solver for Dpmpp3mSdeSampler {
    const NAME: &'static str = "Dpmpp3mSde";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let (from, to) = (at.stage().from.sigma, at.stage().to.sigma);
        let denoised = model.predict(&x, at.stage().from)?.denoised;
        self.outputs.push(denoised.clone());
        if to == 0.0 {
            return Ok(Update::to_clean(denoised));
        }
        let eta = self.settings.eta;
        let h = (from / to).ln();
        if h < NO_STEP {
            return Ok(Update { x, denoised });
        }
        let h_eta = h * (1.0 + eta);
        let phi_1 = -(-h_eta).exp_m1();
        let phi_2 = 1.0 - phi_1 / h_eta;
        let phi_3 = phi_2 / h_eta - 0.5;
        let mut next = x.clone() * (-h_eta).exp() + denoised.clone() * phi_1;

        // Divided differences over λ in units of the step.
        let sigma = |age| at.before(age).map_or(from, |stage| stage.from.sigma);
        let slope = |age: usize| {
            let ratio = (sigma(age + 1) / sigma(age)).ln() / h;
            (
                (self.outputs.get(age) - self.outputs.get(age + 1)) / ratio,
                ratio,
            )
        };
        match self.outputs.len() {
            1 => {}
            2 => next = next + slope(0).0 * phi_2,
            _ => {
                let ((near, r0), (far, r1)) = (slope(0), slope(1));
                let bend = (near.clone() - far) / (r0 + r1);
                next = next + (near + bend.clone() * r0) * phi_2 - bend * phi_3;
            }
        }
        if eta > 0.0 {
            let deviation = to * (-(-2.0 * h * eta).exp_m1()).sqrt() * self.settings.s_noise;
            next = next + self.path.increment(from, to, &x, noise)? * deviation;
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
