use burn::tensor::Tensor;

use crate::{Level, Prediction, PredictionType, Result};

/// What one guided evaluation of the network gives.
#[derive(Debug, Clone)]
pub struct NetworkOutput {
    /// The output to follow, guidance applied: of the latent's shape, or with twice its channels,
    /// whose second half is what the network learned of its variance (Nichol & Dhariwal 2021).
    pub guided: Tensor<4>,
    /// The unconditional branch's output, when guidance ran.
    pub uncond: Option<Tensor<4>>,
}

/// The denoiser as a [`Sampler`](crate::Sampler) sees it: guidance, input scaling and the meaning
/// of the output are settled, so a solver is nothing but its formula.
pub struct Model<'a> {
    prediction: PredictionType,
    network: &'a mut dyn FnMut(Tensor<4>, f64) -> Result<NetworkOutput>,
    evaluations: usize,
}

impl<'a> Model<'a> {
    /// A model around `network`, which maps a latent of unit variance and a timestep to the
    /// network's output, of the meaning `prediction`.
    pub fn new(
        prediction: PredictionType,
        network: &'a mut dyn FnMut(Tensor<4>, f64) -> Result<NetworkOutput>,
    ) -> Self {
        Self {
            prediction,
            network,
            evaluations: 0,
        }
    }

    /// What the network's output means.
    pub fn prediction_type(&self) -> PredictionType {
        self.prediction
    }

    /// How often the network ran so far: the honest unit of a solver's cost.
    pub fn evaluations(&self) -> usize {
        self.evaluations
    }

    /// Evaluates the model on `x`, a latent at `level`.
    ///
    /// # Errors
    /// Those of the network.
    pub fn predict(&mut self, x: &Tensor<4>, level: Level) -> Result<Prediction> {
        self.evaluations += 1;
        let scale = level.scale();
        let input = if scale == 1.0 {
            x.clone()
        } else {
            x.clone() / scale
        };
        let output = (self.network)(input, level.t)?;
        let kind = self.prediction;
        let channels = x.dims()[1];
        let (raw, variance) = halves(output.guided, channels);
        let uncond = output.uncond.map(|raw| halves(raw, channels).0);
        Ok(Prediction {
            denoised: kind.denoised(x.clone(), level, raw.clone()),
            noise: kind.noise(x.clone(), level, raw.clone()),
            uncond_denoised: uncond.map(|raw| kind.denoised(x.clone(), level, raw)),
            variance,
            raw,
        })
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

impl std::fmt::Debug for Model<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model")
            .field("prediction", &self.prediction)
            .field("evaluations", &self.evaluations)
            .finish_non_exhaustive()
    }
}
