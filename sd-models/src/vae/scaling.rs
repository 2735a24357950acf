use burn::tensor::{DType, Tensor, TensorData};

/// The map from a network's latents to those of about unit variance that denoisers work on.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scaling {
    /// `(x − shift) · factor`.
    Uniform { shift: f64, factor: f64 },
    /// The same with a mean and a factor for each channel.
    PerChannel { mean: Vec<f64>, factor: Vec<f64> },
}

impl Scaling {
    /// A network's latents `[n, c, h, w]` as denoisers see them.
    pub(super) fn scale(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Uniform { shift, factor } => (x - *shift) * *factor,
            Self::PerChannel { mean, factor } => {
                let (mean, factor) = (per_channel(mean, &x), per_channel(factor, &x));
                (x - mean) * factor
            }
        }
    }

    /// The way back.
    pub(super) fn unscale(&self, x: Tensor<4>) -> Tensor<4> {
        match self {
            Self::Uniform { shift, factor } => x / *factor + *shift,
            Self::PerChannel { mean, factor } => {
                let (mean, factor) = (per_channel(mean, &x), per_channel(factor, &x));
                x / factor + mean
            }
        }
    }
}

/// Numbers for the channels of `x`, `[1, c, 1, 1]`.
fn per_channel(values: &[f64], x: &Tensor<4>) -> Tensor<4> {
    let (device, shape) = (x.device(), [1, values.len(), 1, 1]);
    let values: Vec<f32> = values.iter().map(|value| *value as f32).collect();
    let values = TensorData::new(values, shape);
    Tensor::<4>::from_data(values, (&device, DType::F32)).cast(x.dtype())
}
