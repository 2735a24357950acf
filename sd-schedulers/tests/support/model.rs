use burn::tensor::Tensor;
use sd_core::{Level, Model, NetworkOutput, Parameterization, Prediction, Result};

/// A model whose network is a formula in the tensors' own precision: it gets the scaled latent and
/// the timestep.
pub(crate) struct FormulaModel<F> {
    parameterization: Parameterization,
    formula: F,
    evaluations: usize,
}

impl<F: FnMut(Tensor<4>, f64) -> NetworkOutput> FormulaModel<F> {
    pub(crate) fn new(parameterization: Parameterization, formula: F) -> Self {
        Self {
            parameterization,
            formula,
            evaluations: 0,
        }
    }
}

impl<F: FnMut(Tensor<4>, f64) -> NetworkOutput> Model for FormulaModel<F> {
    fn parameterization(&self) -> Parameterization {
        self.parameterization
    }

    fn predict(&mut self, x: &Tensor<4>, level: Level) -> Result<Prediction> {
        self.evaluations += 1;
        let scale = self.parameterization.coefficients(level).c_in;
        let output = (self.formula)(x.clone() * scale, level.t);
        let channels = x.dims()[1];
        let learned = output.guided.dims()[1] == 2 * channels;
        let variance = learned.then(|| output.guided.clone().narrow(1, channels, channels));
        let raw = output.guided.narrow(1, 0, channels);
        let denoised = |raw: Tensor<4>| {
            let raw = raw.narrow(1, 0, channels);
            self.parameterization.denoised(x.clone(), level, raw)
        };
        Ok(Prediction {
            uncond_denoised: output.uncond.map(denoised),
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
