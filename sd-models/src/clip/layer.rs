use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{Activation, ClipTextConfig};
use crate::layers::{LayerNorm, Linear, multi_head_attention, pack_fields};

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
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let (normed, x) = self.layer_norm1.forward_keeping(x);
        let x = self.self_attn.forward_onto(normed, x);
        let (normed, x) = self.layer_norm2.forward_keeping(x);
        self.mlp.forward_onto(normed, x)
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

    fn forward_onto(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let (query, x) = self.q_proj.forward_keeping(x);
        let (key, x) = self.k_proj.forward_keeping(x);
        let value = self.v_proj.forward(x);
        let x = multi_head_attention(query, key, value, self.heads, true);
        self.out_proj.forward_onto(x, residual)
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

    fn forward_onto(&self, x: Tensor<3>, residual: Tensor<3>) -> Tensor<3> {
        let quick = self.activation == Activation::QuickGelu;
        self.fc2
            .forward_onto(self.fc1.forward_gelu(x, quick), residual)
    }
}

pack_fields!(Mlp: fc1, fc2);
