use burn::module::Module;
use burn::tensor::activation::silu;
use burn::tensor::{Device, Tensor};

use crate::layers::{Epilogue, Linear, pack_fields};

/// Sines and cosines of `t` at `channels / 2` frequencies falling from 1 to about 1/10000
/// (Vaswani et al. 2017, arXiv:1706.03762, section 3.5): all that a network learns of a timestep,
/// which may be fractional.
///
/// The sines come first, with `flip_sin_to_cos` the cosines; an odd `channels` ends with a zero.
/// Computed on the host in f32, step by step as torch does: f64 would differ by 4e-5 at t = 999,
/// and a GPU's sine is only specified near zero.
///
/// ```
/// use sd_models::unet::timestep_embedding;
///
/// assert_eq!(timestep_embedding(0.0, 4, true, 0.0), [1.0, 1.0, 0.0, 0.0]);
/// ```
pub fn timestep_embedding(
    t: f64,
    channels: usize,
    flip_sin_to_cos: bool,
    freq_shift: f64,
) -> Vec<f32> {
    let half = channels / 2;
    let steps = (half as f64 - freq_shift) as f32;
    let slope = -(10_000f64.ln()) as f32;
    let angle = |i: usize| t as f32 * exp(slope * i as f32 / steps);
    let sines = (0..half).map(|i| sin(angle(i)));
    let cosines = (0..half).map(|i| cos(angle(i)));
    let mut embedding: Vec<f32> = if flip_sin_to_cos {
        cosines.chain(sines).collect()
    } else {
        sines.chain(cosines).collect()
    };
    embedding.resize(channels, 0.0);
    embedding
}

// Through f64, so that every platform rounds the same way.
fn exp(x: f32) -> f32 {
    f64::from(x).exp() as f32
}

fn sin(x: f32) -> f32 {
    f64::from(x).sin() as f32
}

fn cos(x: f32) -> f32 {
    f64::from(x).cos() as f32
}

/// Two linear layers that turn sines and cosines, or other vectors, into the embedding that all
/// residual blocks see.
#[derive(Module, Debug)]
pub(crate) struct TimestepEmbedding {
    /// The first layer, SiLU behind it.
    linear_1: Linear,
    /// For a guidance-scale embedding that is added to the input (LCM, arXiv:2310.04378).
    pub(super) cond_proj: Option<Linear>,
    /// The second layer.
    linear_2: Linear,
}

impl TimestepEmbedding {
    /// Layers of `inputs` to `width` features whose weights are still to be loaded; `cond` is the
    /// width of the guidance-scale embedding.
    pub(crate) fn new(inputs: usize, width: usize, cond: Option<usize>, device: &Device) -> Self {
        Self {
            linear_1: Linear::new(inputs, width, true, device),
            cond_proj: cond.map(|cond| Linear::new(cond, inputs, false, device)),
            linear_2: Linear::new(width, width, true, device),
        }
    }

    /// `[n, inputs]` to `[n, width]`.
    pub(crate) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let hidden = silu(self.linear_1.forward(x, Epilogue::NONE));
        self.linear_2.forward(hidden, Epilogue::NONE)
    }
}

pack_fields!(TimestepEmbedding: linear_1, linear_2, cond_proj);
