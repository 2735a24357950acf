use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Model, Noise, NoiseSchedule, Parameterization, Plan, Result, Sampler, Scheduler, noise_like,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Levels, SigmaSchedule, SigmaTable, Sigmas, linspace};
use crate::solver::{
    PlannedSampler, Position, Solver, Update, check_churn, check_scale, unbounded,
};

/// Euler's method on the probability-flow ODE `dx/dσ = (x − x₀(x, σ))/σ` (Karras et al. 2022,
/// arXiv:2206.00364), one model call a step, first order. With `s_churn` above 0 noise is added
/// before each step (their algorithm 2).
///
/// Its default settings are those of diffusers' `EulerDiscreteScheduler`, and for a model of a flow
/// those of its `FlowMatchEulerDiscreteScheduler`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Euler {
    /// Noise levels that a run visits.
    pub levels: Levels,
    /// Origin of a σ between two timesteps.
    pub interpolation: Interpolation,
    /// Form in which the network is told of a noise level.
    pub timestep_type: TimestepType,
    /// Added noise of a whole run, 0 for none; no step adds more than a factor √2 to σ.
    pub s_churn: f64,
    /// Noise is added from this σ on.
    pub s_tmin: f64,
    /// Noise is added up to this σ.
    #[serde(with = "unbounded")]
    pub s_tmax: f64,
    /// Standard deviation of the added noise.
    pub s_noise: f64,
}

/// Origin of the σ of a step (`interpolation_type` in diffusers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// Linear in σ between the model's timesteps.
    #[default]
    Linear,
    /// A point more than there are steps, at equal distances in ln σ over the model's whole range;
    /// the run ends at the smallest of them.
    LogLinear,
}

/// Form in which the network is told of a noise level (`timestep_type` in diffusers).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestepType {
    /// The training timestep.
    #[default]
    Discrete,
    /// `¼ ln σ`, for models trained on continuous noise levels.
    Continuous,
}

impl Default for Euler {
    fn default() -> Self {
        Self {
            levels: Levels::default(),
            interpolation: Interpolation::Linear,
            timestep_type: TimestepType::Discrete,
            s_churn: 0.0,
            s_tmin: 0.0,
            s_tmax: f64::INFINITY,
            s_noise: 1.0,
        }
    }
}

impl Euler {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        let interpolations = [
            ("linear", Interpolation::Linear),
            ("log_linear", Interpolation::LogLinear),
        ];
        let timestep_types = [
            ("discrete", TimestepType::Discrete),
            ("continuous", TimestepType::Continuous),
        ];
        let timestep_type =
            fields.choice("timestep_type", default.timestep_type, &timestep_types)?;
        // diffusers heeds continuous timesteps for v-prediction only.
        let heeded = fields.parameterization()? == Parameterization::VPrediction;
        Ok(Arc::new(Self {
            levels: fields.levels_with_ends(default.levels)?,
            interpolation: fields.choice(
                "interpolation_type",
                default.interpolation,
                &interpolations,
            )?,
            timestep_type: match heeded {
                true => timestep_type,
                false => TimestepType::Discrete,
            },
            s_churn: fields.number("s_churn", default.s_churn)?,
            s_tmin: fields.number("s_tmin", default.s_tmin)?,
            s_tmax: fields.number("s_tmax", default.s_tmax)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
        }))
    }
}

impl Euler {
    /// diffusers' `EDMEulerScheduler`; what it says of the model is in the model's schedule.
    pub(crate) fn edm_from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            levels: fields.edm_levels(default.levels)?,
            s_churn: fields.number("s_churn", default.s_churn)?,
            s_noise: fields.number("s_noise", default.s_noise)?,
            ..Self::default()
        }))
    }
}

impl Scheduler for Euler {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_churn(self.s_churn, self.s_tmin, self.s_tmax, self.s_noise)?;
        check_scale(
            train,
            self.s_churn > 0.0,
            "Euler with s_churn above 0",
            "s_churn 0, or stochastic_sampling",
        )?;
        let mut sigmas = self.levels.resolve(train, steps)?;
        if self.interpolation == Interpolation::LogLinear
            && self.levels.sigmas == SigmaSchedule::Spaced
        {
            let table = SigmaTable::new(train);
            let logs = linspace(table.max().ln(), table.min().ln(), steps + 1);
            sigmas.values = logs.into_iter().map(f64::exp).collect();
        }
        if self.timestep_type == TimestepType::Continuous {
            let Sigmas { values, timesteps } = &mut sigmas;
            for (t, sigma) in timesteps.iter_mut().zip(values) {
                *t = 0.25 * sigma.ln();
            }
        }
        Ok(sigmas.exploding(train, &self.levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        PlannedSampler::start(plan, first, self.clone())
    }
}

impl Solver for Euler {
    const NAME: &'static str = "Euler";

    fn step(
        &mut self,
        at: &Position<'_>,
        x: Tensor<4>,
        model: &mut dyn Model,
        noise: &mut dyn Noise,
    ) -> Result<Update> {
        let stage = at.stage();
        let (sigma, next) = (stage.from.sigma, stage.to.sigma);
        let prediction = model.predict(&x, stage.from)?;
        let gamma = if (self.s_tmin..=self.s_tmax).contains(&sigma) {
            (self.s_churn / at.stages().len() as f64).min(2f64.sqrt() - 1.0)
        } else {
            0.0
        };
        if gamma == 0.0 {
            let denoised = prediction.denoised;
            let derivative = (x.clone() - denoised.clone()) / sigma;
            let x = x + derivative * (next - sigma);
            return Ok(Update { x, denoised });
        }
        // As in diffusers, the model has been asked about the latent before noise was added; its
        // answer is read at the raised σ, a v-prediction's at the old one.
        let mut raised = stage.from;
        raised.sigma = sigma * (1.0 + gamma);
        let added = (raised.sigma.powi(2) - sigma.powi(2)).sqrt() * self.s_noise;
        let x = x.clone() + noise_like(&x, noise)? * added;
        let level = match model.parameterization() {
            Parameterization::VPrediction => stage.from,
            _ => raised,
        };
        let denoised = model.read(&x, level, prediction.raw).denoised;
        let derivative = (x.clone() - denoised.clone()) / raised.sigma;
        let x = x + derivative * (next - raised.sigma);
        Ok(Update { x, denoised })
    }
}
