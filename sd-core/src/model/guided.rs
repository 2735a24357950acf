use burn::tensor::{FloatDType, Tensor};

use super::{Model, Prediction};
use crate::{At, Cancel, Error, Guide, Level, Network, Parameterization, Result};

/// Order in which guidance's branches are evaluated. The result is the same but for rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum BranchEvaluation {
    /// All in one batch, where the network can: the fastest.
    #[default]
    Together,
    /// One after the other: each evaluation needs the memory of one branch.
    InTurn,
}

/// The innermost model: a prepared [`Network`], and the [`Guide`] that says which of its branches
/// to evaluate and makes one output of theirs.
#[derive(Debug)]
pub struct Guided<'a> {
    network: &'a dyn Network,
    guide: &'a mut dyn Guide,
    parameterization: Parameterization,
    dtype: FloatDType,
    evaluation: BranchEvaluation,
    cancel: Cancel,
    step: usize,
    steps: usize,
    evaluations: usize,
}

impl<'a> Guided<'a> {
    /// A model of `network`, whose output means `parameterization`, under `guide`.
    pub fn new(
        network: &'a dyn Network,
        guide: &'a mut dyn Guide,
        parameterization: Parameterization,
    ) -> Self {
        Self {
            network,
            guide,
            parameterization,
            dtype: FloatDType::F32,
            evaluation: BranchEvaluation::default(),
            cancel: Cancel::new(),
            step: 0,
            steps: 1,
            evaluations: 0,
        }
    }

    /// Sets the precision the network takes; f32 if not set.
    pub fn in_precision(mut self, dtype: FloatDType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Sets how branches are evaluated.
    pub fn evaluating(mut self, evaluation: BranchEvaluation) -> Self {
        self.evaluation = evaluation;
        self
    }

    /// Sets what stops an evaluation before its end.
    pub fn cancelled_by(mut self, cancel: &Cancel) -> Self {
        self.cancel = cancel.clone();
        self
    }

    /// Sets where in the run the evaluations are: in the step number `step`, from 0, of `steps`.
    pub fn at_step(mut self, step: usize, steps: usize) -> Self {
        (self.step, self.steps) = (step, steps);
        self
    }

    /// Outputs of the `wanted` branches, in f32.
    fn outputs(&self, input: Tensor<4>, t: f64, wanted: &[usize]) -> Result<Vec<Tensor<4>>> {
        let evaluate = |branches: &[usize]| {
            let outputs = self.network.predict(&input, t, branches, &self.cancel)?;
            if outputs.len() != branches.len() {
                let expected = format!("expected one for each of {} branches", branches.len());
                return Err(Error::invalid("network outputs", outputs.len(), expected));
            }
            Ok(outputs)
        };
        let outputs = match self.evaluation {
            BranchEvaluation::Together => evaluate(wanted)?,
            BranchEvaluation::InTurn => {
                let each = wanted.iter().map(|branch| evaluate(&[*branch]));
                each.collect::<Result<Vec<_>>>()?.concat()
            }
        };
        Ok(outputs
            .into_iter()
            .map(|o| o.cast(FloatDType::F32))
            .collect())
    }
}

impl Model for Guided<'_> {
    fn parameterization(&self) -> Parameterization {
        self.parameterization
    }

    fn predict(&mut self, x: &Tensor<4>, level: Level) -> Result<Prediction> {
        self.cancel.check()?;
        self.evaluations += 1;
        let scale = self.parameterization.coefficients(level).c_in;
        let input = if scale == 1.0 {
            x.clone()
        } else {
            x.clone() * scale
        };
        let at = At {
            step: self.step,
            steps: self.steps,
            ..At::new(x, level, self.parameterization)
        };
        let wanted = self.guide.wanted(&at);
        let outputs = self.outputs(input.cast(self.dtype), level.t, &wanted)?;
        let output = self.guide.combine(&at, outputs)?;

        let channels = x.dims()[1];
        let (raw, variance) = halves(output.guided, channels);
        let uncond = output.uncond.map(|raw| halves(raw, channels).0);
        let kind = self.parameterization;
        Ok(Prediction {
            uncond_denoised: uncond.map(|raw| kind.denoised(x.clone(), level, raw)),
            variance,
            ..self.read(x, level, raw)
        })
    }

    fn read(&self, x: &Tensor<4>, level: Level, raw: Tensor<4>) -> Prediction {
        self.parameterization.read(x, level, raw)
    }

    fn evaluations(&self) -> usize {
        self.evaluations
    }
}

/// A network that also learned its variance has twice the latent's channels in its output.
fn halves(output: Tensor<4>, channels: usize) -> (Tensor<4>, Option<Tensor<4>>) {
    if output.dims()[1] != 2 * channels {
        return (output, None);
    }
    let variance = output.clone().narrow(1, channels, channels);
    (output.narrow(1, 0, channels), Some(variance))
}
