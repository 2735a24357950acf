//! DPM-Solver's single steps in k-diffusion's σ (Lu et al. 2022, arXiv:2206.00927, algorithms 1 and
//! 2 with α = 1, so that λ = −ln σ): what DPM adaptive is made of.

use burn::tensor::Tensor;
use sd_core::{Model, Result};

use crate::levels::SigmaTable;

/// A step from one λ to another, with the model outputs made on the way.
pub(crate) struct Steps<'a> {
    pub(crate) model: &'a mut dyn Model,
    pub(crate) table: &'a SigmaTable,
    /// The latent the step begins with.
    pub(crate) x: Tensor<4>,
    /// The λ it begins at.
    pub(crate) lambda: f64,
    /// ε there.
    pub(crate) epsilon: Tensor<4>,
}

impl<'a> Steps<'a> {
    /// Asks the model at the beginning; also gives x₀ there.
    pub(crate) fn begin(
        model: &'a mut dyn Model,
        table: &'a SigmaTable,
        x: Tensor<4>,
        lambda: f64,
    ) -> Result<(Self, Tensor<4>)> {
        let prediction = model.predict(&x, table.level((-lambda).exp()))?;
        let epsilon = (x.clone() - prediction.denoised.clone()) * lambda.exp();
        let steps = Self {
            model,
            table,
            x,
            lambda,
            epsilon,
        };
        Ok((steps, prediction.denoised))
    }

    /// ε at the share `r` of a step `h`, for the latent `x`.
    fn epsilon_at(&mut self, x: &Tensor<4>, r: f64, h: f64) -> Result<Tensor<4>> {
        let lambda = self.lambda + r * h;
        let prediction = self.model.predict(x, self.table.level((-lambda).exp()))?;
        Ok((x.clone() - prediction.denoised) * lambda.exp())
    }

    /// `x − σ(λ + r h) (e^{r h} − 1) ε`: DDIM's step to the share `r` of `h`.
    pub(crate) fn first_order(&self, r: f64, h: f64) -> Tensor<4> {
        let sigma = (-(self.lambda + r * h)).exp();
        self.x.clone() - self.epsilon.clone() * (sigma * (r * h).exp_m1())
    }

    /// ε at the share `r` of `h`, where [`first_order`](Self::first_order) leads.
    pub(crate) fn stage(&mut self, r: f64, h: f64) -> Result<Tensor<4>> {
        let x = self.first_order(r, h);
        self.epsilon_at(&x, r, h)
    }

    /// DPM-Solver-2 with its stage `there` at the share `r`.
    pub(crate) fn second_order(&self, r: f64, h: f64, there: &Tensor<4>) -> Tensor<4> {
        let sigma = (-(self.lambda + h)).exp();
        let change = there.clone() - self.epsilon.clone();
        self.first_order(1.0, h) - change * (sigma / (2.0 * r) * h.exp_m1())
    }

    /// DPM-Solver-3 with its first stage `there` at the share ⅓ and the second at ⅔.
    pub(crate) fn third_order(&mut self, h: f64, there: &Tensor<4>) -> Result<Tensor<4>> {
        let (r1, r2) = (1.0 / 3.0, 2.0 / 3.0);
        let weight = |r: f64| (r * h).exp_m1() / (r * h) - 1.0;
        let sigma = (-(self.lambda + r2 * h)).exp();
        let change = there.clone() - self.epsilon.clone();
        let x = self.first_order(r2, h) - change * (sigma * (r2 / r1) * weight(r2));
        let further = self.epsilon_at(&x, r2, h)?;
        let sigma = (-(self.lambda + h)).exp();
        let change = further - self.epsilon.clone();
        Ok(self.first_order(1.0, h) - change * (sigma / r2 * weight(1.0)))
    }
}
