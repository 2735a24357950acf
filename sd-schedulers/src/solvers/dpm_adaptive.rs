use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Error, Model, Noise, NoiseSchedule, Plan, Result, Sampler, SavedState, Scheduler, Step,
};
use serde::{Deserialize, Serialize};

use crate::config::{Built, Fields};
use crate::levels::{Conventions, Levels, SigmaTable, Sigmas, check_steps, linspace};
use crate::solver::Steps;

/// "DPM adaptive" (DPM-Solver-23, appendix C of Lu et al. 2022, arXiv:2206.00927, as in
/// k-diffusion): DPM-Solver-3 with steps chosen so that its distance from DPM-Solver-2 stays within
/// a tolerance. Three model calls a try; the number of steps asked for only says from where
/// image-to-image may start. It ends at the model's smallest σ, not at 0.
///
/// Its steps follow from the picture, so it steps each image of a run by itself. Of a batch that it
/// is given all the same, the error is that of the worst image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DpmAdaptive {
    /// Tolerance relative to the latent.
    pub rtol: f64,
    /// Absolute tolerance.
    pub atol: f64,
    /// The first step tried, in λ.
    pub h_init: f64,
    /// Least factor from a step's length to the predicted one at which it is accepted, 0 to 1.
    pub accept_safety: f64,
    /// Conventions that settle the rest.
    pub conventions: Conventions,
}

impl Default for DpmAdaptive {
    fn default() -> Self {
        Self {
            rtol: 0.05,
            atol: 0.0078,
            h_init: 0.05,
            accept_safety: 0.81,
            conventions: Conventions::diffusers(),
        }
    }
}

impl DpmAdaptive {
    fn levels(&self) -> Levels {
        Levels {
            conventions: self.conventions,
            ..Levels::default()
        }
    }
}

/// Steps end here before the end, in λ.
const CLOSE: f64 = 1e-5;
/// Tries after which a step is given up: no tolerance within reach of f32 takes that many.
const TRIES: usize = 100;

impl DpmAdaptive {
    pub(crate) fn from_config(fields: &Fields<'_>) -> Built {
        let default = Self::default();
        Ok(Arc::new(Self {
            rtol: fields.number("rtol", default.rtol)?,
            atol: fields.number("atol", default.atol)?,
            conventions: fields.conventions(default.conventions)?,
            ..default
        }))
    }
}

impl Scheduler for DpmAdaptive {
    fn steps_each_image(&self) -> bool {
        true
    }

    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        check_steps(steps, train.len())?;
        let settings = [
            ("rtol", self.rtol, 1e-6),
            ("atol", self.atol, 0.0),
            ("h_init", self.h_init, 1e-6),
            ("accept_safety", self.accept_safety, 0.0),
        ];
        for (name, value, least) in settings {
            if !(least..=1.0).contains(&value) {
                return Err(Error::invalid(
                    name,
                    value,
                    format!("expected {least} to 1"),
                ));
            }
        }
        let levels = self.levels();
        let table = levels.table(train);
        let logs = linspace(table.max().ln(), table.min().ln(), steps + 1);
        let values: Vec<f64> = logs.into_iter().map(f64::exp).collect();
        let timesteps = values[..steps].iter().map(|&s| table.timestep(s)).collect();
        Ok(Sigmas { values, timesteps }.exploding(train, &levels))
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        let count = plan.stages.len();
        let Some(stage) = plan.stages.get(first) else {
            let expected = format!("the plan has the stages 0 to {}", count.saturating_sub(1));
            return Err(Error::invalid("first", first, expected));
        };
        let lambda = -stage.from.sigma.ln();
        Ok(Box::new(DpmAdaptiveSampler {
            settings: self.clone(),
            table: self.levels().table(&plan.schedule),
            begin: lambda,
            lambda,
            end: -plan.stages[count - 1].to.sigma.ln(),
            h: self.h_init,
            stages: count,
            before: None,
            taken: 0,
        }))
    }
}

struct DpmAdaptiveSampler {
    settings: DpmAdaptive,
    table: SigmaTable,
    begin: f64,
    lambda: f64,
    end: f64,
    h: f64,
    stages: usize,
    /// The second-order latent of the last step, which the relative tolerance refers to.
    before: Option<Tensor<4>>,
    taken: usize,
}

impl Sampler for DpmAdaptiveSampler {
    fn step(
        &mut self,
        x: Tensor<4>,
        model: &mut dyn Model,
        _noise: &mut dyn Noise,
    ) -> Result<Step> {
        if self.lambda >= self.end - CLOSE {
            return Err(Error::invalid(
                "step",
                self.taken,
                "the run is already done",
            ));
        }
        let before = self.before.take().unwrap_or_else(|| x.clone());
        let (mut steps, denoised) = Steps::begin(model, &self.table, x, self.lambda)?;
        for _ in 0..TRIES {
            let next = (self.lambda + self.h).min(self.end);
            let h = next - self.lambda;
            let there = steps.stage(1.0 / 3.0, h)?;
            let low = steps.second_order(1.0 / 3.0, h, &there);
            let high = steps.third_order(h, &there)?;
            let error = self.settings.error(&low, &high, &before)?;
            // k-diffusion's controller with its integral term alone, for order 3.
            let factor = 1.0 + ((error + 1e-8).powf(-1.0 / 3.0) - 1.0).atan();
            self.h *= factor;
            if factor >= self.settings.accept_safety {
                self.lambda = next;
                self.before = Some(low);
                self.taken += 1;
                let progress = (next - self.begin) / (self.end - self.begin);
                let done = next >= self.end - CLOSE;
                let level = self.table.level((-next).exp());
                return Ok(Step {
                    x: high,
                    level,
                    denoised,
                    progress: if done { 1.0 } else { progress },
                    done,
                });
            }
        }
        let message = format!(
            "no step within tolerance in {TRIES} tries at λ = {}",
            self.lambda
        );
        Err(Error::Unsupported(message))
    }

    fn save(&self) -> SavedState {
        let state = SavedState::at(self.taken)
            .with_number("DpmAdaptive", self.stages as f64)
            .with_number("begin", self.begin)
            .with_number("lambda", self.lambda)
            .with_number("h", self.h);
        match &self.before {
            Some(before) => state.with_tensor("before", before.clone()),
            None => state,
        }
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        let number = |name: &str| {
            let value = state.number(name).filter(|value| value.is_finite());
            value.ok_or_else(|| Error::SavedState(format!("it lacks the number '{name}'")))
        };
        if number("DpmAdaptive")? != self.stages as f64 {
            return Err(Error::SavedState("it is of another plan".into()));
        }
        let (begin, lambda, h) = (number("begin")?, number("lambda")?, number("h")?);
        let consistent = begin <= lambda && lambda <= self.end && h > 0.0;
        if !consistent || (state.index() > 0) != (lambda > begin) {
            return Err(Error::SavedState("its λ do not follow each other".into()));
        }
        (self.begin, self.lambda, self.h) = (begin, lambda, h);
        self.taken = state.index();
        self.before = state.tensor("before");
        Ok(())
    }
}

impl DpmAdaptive {
    /// The root mean square of the difference in units of the tolerance, of the worst image.
    fn error(&self, low: &Tensor<4>, high: &Tensor<4>, before: &Tensor<4>) -> Result<f64> {
        let scale = low.clone().abs().max_pair(before.clone().abs()) * self.rtol;
        let scale = scale.clamp_min(self.atol);
        let [n, c, h, w] = low.dims();
        let ratio = ((low.clone() - high.clone()) / scale).reshape([n, c * h * w]);
        let mean = (ratio.clone() * ratio).mean_dim(1);
        let values = mean
            .try_into_vec_as::<f32>()
            .map_err(|e| Error::backend("reading a step's error", e))?;
        let worst = values
            .into_iter()
            .fold(0.0f64, |worst, v| worst.max(f64::from(v)));
        Ok(worst.sqrt())
    }
}
