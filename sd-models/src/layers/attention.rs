use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::{GroupNorm, Linear, attention};

/// Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762): every query token gathers the
/// values of the tokens whose keys are like it.
///
/// In self-attention the picture's tokens look at each other, in cross-attention at the prompt's.
#[derive(Module, Debug)]
pub struct Attention {
    /// Before everything, where the layer normalises its input itself (in the VAE).
    pub group_norm: Option<GroupNorm>,
    /// Queries, from the tokens that look.
    pub to_q: Linear,
    /// Keys, from the tokens that are looked at.
    pub to_k: Linear,
    /// Values, from the tokens that are looked at.
    pub to_v: Linear,
    /// The output projection. A list of one, as in checkpoints, where a dropout follows it.
    pub to_out: Vec<Linear>,
    #[module(skip)]
    heads: usize,
}

/// What an [`Attention`] layer made of the tokens that are looked at. For a prompt it is the same
/// in every step of a run.
#[derive(Debug, Clone)]
pub struct KeyValue {
    /// `[n, heads, tokens, head width]`.
    pub key: Tensor<4>,
    /// `[n, heads, tokens, head width]`.
    pub value: Tensor<4>,
}

/// How an [`Attention`] layer is built.
#[derive(Debug, Clone, Copy)]
pub struct AttentionConfig {
    /// Width of the tokens that look, a multiple of `heads`.
    pub width: usize,
    /// Width of the tokens that are looked at.
    pub context_width: usize,
    /// Number of heads.
    pub heads: usize,
    /// Whether queries, keys and values have a bias; the output projection always has one.
    pub bias: bool,
    /// Groups and ε of a group normalisation before everything.
    pub norm: Option<(usize, f64)>,
}

impl Attention {
    /// A layer whose weights are still to be loaded.
    pub fn new(config: AttentionConfig, device: &Device) -> Self {
        let AttentionConfig { width, bias, .. } = config;
        let norm = |(groups, epsilon)| GroupNorm::new(groups, width, epsilon, device);
        Self {
            group_norm: config.norm.map(norm),
            to_q: Linear::new(width, width, bias, device),
            to_k: Linear::new(config.context_width, width, bias, device),
            to_v: Linear::new(config.context_width, width, bias, device),
            to_out: vec![Linear::new(width, width, true, device)],
            heads: config.heads,
        }
    }

    /// Keys and values of the tokens `[n, tokens, context width]` to look at.
    pub fn key_value(&self, context: Tensor<3>) -> KeyValue {
        KeyValue {
            key: self.split_heads(self.to_k.forward(context.clone())),
            value: self.split_heads(self.to_v.forward(context)),
        }
    }

    /// Self-attention, `[n, tokens, width]` to the same shape.
    pub fn forward_self(&self, x: Tensor<3>) -> Tensor<3> {
        let key_value = self.key_value(x.clone());
        self.forward(x, &key_value)
    }

    /// `[n, tokens, width]` to the same shape, looking at `context`.
    pub fn forward(&self, x: Tensor<3>, context: &KeyValue) -> Tensor<3> {
        let query = self.split_heads(self.to_q.forward(x));
        let x = attention(query, context.key.clone(), context.value.clone(), false);
        let [n, heads, tokens, width] = x.dims();
        let x = x.swap_dims(1, 2).reshape([n, tokens, heads * width]);
        self.to_out.iter().fold(x, |x, layer| layer.forward(x))
    }

    /// Self-attention of a picture's pixels, added to the picture: `[n, width, h, w]` to the same
    /// shape, normalised first where the layer does that.
    pub fn forward_picture(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        let normed = match &self.group_norm {
            Some(norm) => norm.forward(x.clone()),
            None => x.clone(),
        };
        x + to_picture(self.forward_self(to_tokens(normed)), h, w)
    }

    /// `[n, tokens, heads · width]` to `[n, heads, tokens, width]`.
    fn split_heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [n, tokens, width] = x.dims();
        x.reshape([n, tokens, self.heads, width / self.heads])
            .swap_dims(1, 2)
    }
}

/// A picture `[n, c, h, w]` as one token per pixel, `[n, h·w, c]`.
pub(super) fn to_tokens(x: Tensor<4>) -> Tensor<3> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c, h * w]).swap_dims(1, 2)
}

/// Tokens `[n, h·w, c]` as the picture `[n, c, h, w]` they came from.
pub(super) fn to_picture(x: Tensor<3>, h: usize, w: usize) -> Tensor<4> {
    let [n, _, c] = x.dims();
    x.swap_dims(1, 2).reshape([n, c, h, w])
}
