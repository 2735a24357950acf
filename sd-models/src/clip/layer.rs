use burn::module::Module;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor};

use super::Activation;
use crate::layers::{
    AttentionProducts, Epilogue, LayerNorm, Linear, multi_head_attention, pack_fields,
};

/// Shape of a tower's layers, which those of text and of pictures share.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerConfig {
    pub(super) width: usize,
    /// Inner width of the feed-forward network.
    pub(super) inner: usize,
    pub(super) heads: usize,
    pub(super) activation: Activation,
    /// Added to the variance in layer norms.
    pub(super) epsilon: f64,
    /// `true` of text, where a token sees itself and those before it.
    pub(super) is_causal: bool,
}

/// The layers of a tower.
#[derive(Module, Debug)]
pub(super) struct ClipStack {
    layers: Vec<ClipLayer>,
}

impl ClipStack {
    pub(super) fn new(count: usize, config: LayerConfig, device: &Device) -> Self {
        Self {
            layers: (0..count).map(|_| ClipLayer::new(config, device)).collect(),
        }
    }

    /// The tokens `[n, tokens, width]` and behind them the outputs of the first `layers` layers.
    pub(super) fn forward(&self, x: Tensor<3>, layers: usize) -> Vec<Tensor<3>> {
        self.forward_seeing(x, layers, None)
    }

    /// As [`forward`](Self::forward) with `hiding` added to what each token sees of each,
    /// `[n, 1, tokens, tokens]`, in place of what a causal tower has.
    pub(super) fn forward_seeing(
        &self,
        mut x: Tensor<3>,
        layers: usize,
        hiding: Option<&Tensor<4>>,
    ) -> Vec<Tensor<3>> {
        let mut hidden_states = vec![x.clone()];
        for layer in self.layers.iter().take(layers) {
            x = layer.forward(x, hiding);
            hidden_states.push(x.clone());
        }
        hidden_states
    }
}

pack_fields!(ClipStack: layers);

/// One block of a tower: attention among the tokens, then each by itself.
#[derive(Module, Debug)]
struct ClipLayer {
    self_attn: SelfAttention,
    layer_norm1: LayerNorm,
    mlp: Mlp,
    layer_norm2: LayerNorm,
}

impl ClipLayer {
    fn new(config: LayerConfig, device: &Device) -> Self {
        let norm = || LayerNorm::new(config.width, config.epsilon, device);
        Self {
            self_attn: SelfAttention::new(config, device),
            layer_norm1: norm(),
            mlp: Mlp::new(config, device),
            layer_norm2: norm(),
        }
    }

    /// `[n, tokens, width]` to the same shape.
    fn forward(&self, mut x: Tensor<3>, hiding: Option<&Tensor<4>>) -> Tensor<3> {
        let normed = self.layer_norm1.forward(&mut x);
        x = (self.self_attn).forward(normed, hiding, Epilogue::residual(x));
        let normed = self.layer_norm2.forward(&mut x);
        self.mlp.forward(normed, Epilogue::residual(x))
    }
}

pack_fields!(ClipLayer: self_attn, mlp);

/// Multi-head self-attention.
#[derive(Module, Debug)]
struct SelfAttention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    out_proj: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    is_causal: bool,
    #[module(skip)]
    products: AttentionProducts,
}

impl SelfAttention {
    fn new(config: LayerConfig, device: &Device) -> Self {
        let linear = || Linear::new(config.width, config.width, true, device);
        Self {
            q_proj: linear(),
            k_proj: linear(),
            v_proj: linear(),
            out_proj: linear(),
            heads: config.heads,
            is_causal: config.is_causal,
            products: AttentionProducts::default(),
        }
    }

    fn forward(
        &self,
        mut x: Tensor<3>,
        hiding: Option<&Tensor<4>>,
        epilogue: Epilogue<3>,
    ) -> Tensor<3> {
        let query = self.q_proj.forward(&mut x, Epilogue::NONE);
        let key = self.k_proj.forward(&mut x, Epilogue::NONE);
        let value = self.v_proj.forward(x, Epilogue::NONE);
        let x = match hiding {
            Some(hiding) => hidden_attention(query, key, value, self.heads, hiding),
            None => {
                let (heads, products) = (self.heads, self.products.0);
                multi_head_attention(query, key, value, heads, self.is_causal, products)
            }
        };
        self.out_proj.forward(x, epilogue)
    }
}

pack_fields!(SelfAttention: q_proj, k_proj, v_proj, out_proj, products);

/// Attention in which `hiding` `[n, 1, tokens, tokens]` is added to what each token sees. It is rare
/// and its texts are short, so plain operations do.
fn hidden_attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    hiding: &Tensor<4>,
) -> Tensor<3> {
    let [n, tokens, width] = query.dims();
    let side = width / heads;
    let split = |x: Tensor<3>| x.reshape([n, tokens, heads, side]).swap_dims(1, 2);
    let scale = (side as f64).powf(-0.5);
    let seen = split(query * scale).matmul(split(key).swap_dims(2, 3));
    let seen = softmax(seen + hiding.clone(), 3);
    let x = seen.matmul(split(value)).swap_dims(1, 2);
    x.reshape([n, tokens, width])
}

/// The feed-forward network.
#[derive(Module, Debug)]
struct Mlp {
    fc1: Linear,
    fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl Mlp {
    fn new(config: LayerConfig, device: &Device) -> Self {
        let (width, inner) = (config.width, config.inner);
        Self {
            fc1: Linear::new(width, inner, true, device),
            fc2: Linear::new(inner, width, true, device),
            activation: config.activation,
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
