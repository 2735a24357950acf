use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Activation, ClipTextConfig};
use crate::layers::{Epilogue, LayerNorm, Linear, multi_head_attention, pack_fields};

/// One block of the text encoder: attention among the tokens so far, then each by itself.
#[derive(Module, Debug)]
pub(super) struct ClipLayer {
    self_attn: CausalAttention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

impl ClipLayer {
    pub(super) fn new(config: &ClipTextConfig, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.hidden_size, config.layer_norm_eps, device);
        Self {
            self_attn: CausalAttention::new(config, device),
            layer_norm1: norm(),
            mlp: Mlp::new(config, device),
            layer_norm2: norm(),
        }
    }

    /// `[n, tokens, width]` to the same shape.
    pub(super) fn forward(&self, mut x: Tensor<3>) -> Tensor<3> {
        let normed = self.layer_norm1.forward(&mut x);
        x = (self.self_attn).forward(normed, Epilogue::residual(x));
        let normed = self.layer_norm2.forward(&mut x);
        self.mlp.forward(normed, Epilogue::residual(x))
    }
}

pack_fields!(ClipLayer: self_attn, mlp);

/// Multi-head self-attention in which a token sees itself and those before it.
#[derive(Module, Debug)]
struct CausalAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
}

impl CausalAttention {
    fn new(config: &ClipTextConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.hidden_size, config.hidden_size, true, device);
        Self {
            q_proj: linear(),
            k_proj: linear(),
            v_proj: linear(),
            out_proj: linear(),
            heads: config.num_attention_heads,
        }
    }

    fn forward(&self, mut x: Tensor<3>, epilogue: Epilogue<3>) -> Tensor<3> {
        let query = self.q_proj.forward(&mut x, Epilogue::NONE);
        let key = self.k_proj.forward(&mut x, Epilogue::NONE);
        let value = self.v_proj.forward(x, Epilogue::NONE);
        let x = multi_head_attention(query, key, value, self.heads, true);
        self.out_proj.forward(x, epilogue)
    }
}

pack_fields!(CausalAttention: q_proj, k_proj, v_proj, out_proj);

/// The feed-forward network.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    fn new(config: &ClipTextConfig, device: &Device) -> Self {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        Self {
            fc1: Linear::new(width, inner, true, device),
            fc2: Linear::new(inner, width, true, device),
            activation: config.hidden_act,
        }
    }

    fn forward(&self, x: Tensor<3>, epilogue: Epilogue<3>) -> Tensor<3> {
        let activation = match self.activation {
            Activation::Gelu => sd_kernels::Activation::Gelu,
            Activation::QuickGelu => sd_kernels::Activation::QuickGelu,
        };
        let hidden = self.fc1.forward(x, Epilogue::activation(activation));
        self.fc2.forward(hidden, epilogue)
    }
}

pack_fields!(Mlp: fc1, fc2);
