//! Layers by which one ControlNet knows several kinds of pictures.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use sd_kernels::Activation;

use super::UnionConfig;
use crate::layers::{Epilogue, LayerNorm, Linear, pack_fields, parameter};

/// A layer of OpenAI's CLIP, by torch's names: `x + attention(norm(x))`, then `x + mlp(norm(x))`.
///
/// What attends are not a sample's tokens, as the paper has it, but those of one place in all samples
/// of the batch: the published code hands `torch.nn.MultiheadAttention` its axes in the other order, and
/// so the networks were trained. As all samples have the same pictures, a token sees itself alone.
#[derive(Module, Debug)]
pub(super) struct ResidualAttentionBlock {
    attn: MultiheadAttention,
    ln_1: LayerNorm,
    mlp: Mlp,
    ln_2: LayerNorm,
}

/// `torch.nn.MultiheadAttention`, with queries, keys and values in one matrix, of which the values
/// are read.
#[derive(Module, Debug)]
struct MultiheadAttention {
    /// `[3·width, width]`.
    in_proj_weight: Param<Tensor<2>>,
    in_proj_bias: Param<Tensor<1>>,
    out_proj: Linear,
}

#[derive(Module, Debug)]
struct Mlp {
    c_fc: Linear,
    c_proj: Linear,
}

impl ResidualAttentionBlock {
    pub(super) fn new(config: UnionConfig, device: &Device) -> Self {
        let width = config.width;
        Self {
            attn: MultiheadAttention {
                in_proj_weight: parameter([3 * width, width], device),
                in_proj_bias: parameter([3 * width], device),
                out_proj: Linear::new(width, width, true, device),
            },
            ln_1: LayerNorm::new(width, 1e-5, device),
            mlp: Mlp {
                c_fc: Linear::new(width, 4 * width, true, device),
                c_proj: Linear::new(4 * width, width, true, device),
            },
            ln_2: LayerNorm::new(width, 1e-5, device),
        }
    }

    /// `[n, width]` to the same, each row by itself.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = x.clone() + self.attn.forward(self.ln_1.forward(x));
        let quick = Epilogue::activation(Activation::QuickGelu);
        let hidden = self.mlp.c_fc.forward(self.ln_2.forward(x.clone()), quick);
        self.mlp.c_proj.forward(hidden, Epilogue::residual(x))
    }
}

impl MultiheadAttention {
    /// A token that sees itself gets its own value.
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let width = x.dims()[1];
        // A matrix may stay half where all else is computed in f32.
        let weight = self.in_proj_weight.val().cast(x.dtype());
        let weight = weight.narrow(0, 2 * width, width);
        let bias = self.in_proj_bias.val().cast(x.dtype());
        let bias = bias.narrow(0, 2 * width, width);
        let values = x.matmul(weight.transpose()) + bias.unsqueeze::<2>();
        self.out_proj.forward(values, Epilogue::NONE)
    }
}

pack_fields!(ResidualAttentionBlock: attn, mlp);
pack_fields!(MultiheadAttention: out_proj);
pack_fields!(Mlp: c_fc, c_proj);
