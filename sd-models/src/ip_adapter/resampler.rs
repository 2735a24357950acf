use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use sd_kernels::Activation;

use super::config::{HEAD, IpAdapterConfig, ProjectionConfig};
use crate::layers::{
    AttentionProducts, Dropout, Epilogue, LayerNorm, Linear, Pack, Unpacked, join,
    multi_head_attention, pack_fields, parameter,
};

/// A perceiver's resampler (Alayrac et al. 2022, arXiv:2204.14198): a few learned tokens gather what
/// an image encoder's many tokens say.
///
/// Fields are named as in checkpoints, and so the tuples' numbers are theirs.
#[derive(Module, Debug)]
pub(super) struct Resampler {
    /// `[1, tokens, width]`: the tokens before they see anything.
    latents: Param<Tensor<3>>,
    proj_in: Linear,
    layers: Vec<Layer>,
    proj_out: Linear,
    norm_out: LayerNorm,
}

/// Attention to the picture, then each token by itself: a normalisation, a layer in, an activation
/// without weights and a layer out.
type Layer = (PerceiverAttention, (LayerNorm, Linear, Dropout, Linear));

impl Resampler {
    pub(super) fn new(config: &IpAdapterConfig, device: &Device) -> Self {
        let (tokens, width, heads_width, inner, depth) = match config.projection {
            ProjectionConfig::Resampler {
                tokens,
                width,
                heads_width,
                inner,
                depth,
            } => (tokens, width, heads_width, inner, depth),
            _ => (0, 0, 0, 0, 0),
        };
        let norm = || LayerNorm::new(width, 1e-5, device);
        let linear = |inputs, outputs| Linear::new(inputs, outputs, false, device);
        let layer = |_| {
            let attention = PerceiverAttention {
                norm1: norm(),
                norm2: norm(),
                to_q: linear(width, heads_width),
                to_kv: linear(width, 2 * heads_width),
                to_out: linear(heads_width, width),
                products: AttentionProducts::default(),
            };
            let mlp = (norm(), linear(width, inner), Dropout, linear(inner, width));
            (attention, mlp)
        };
        Self {
            latents: parameter([1, tokens, width], device),
            proj_in: Linear::new(config.image_width, width, true, device),
            layers: (0..depth).map(layer).collect(),
            proj_out: Linear::new(width, config.context_width, true, device),
            norm_out: LayerNorm::new(config.context_width, 1e-5, device),
        }
    }

    /// Tokens `[n, tokens, context width]` of the encoder's `[n, all, image width]`.
    pub(super) fn forward(&self, seen: Tensor<3>) -> Tensor<3> {
        let n = seen.dims()[0];
        let seen = self.proj_in.forward(seen, Epilogue::NONE);
        let mut tokens = self.latents.val().repeat_dim(0, n);
        for (attention, (norm, first, Dropout, last)) in &self.layers {
            tokens = attention.forward(&seen, tokens);
            let hidden = norm.forward(&mut tokens);
            let hidden = first.forward(hidden, Epilogue::activation(Activation::Gelu));
            tokens = last.forward(hidden, Epilogue::residual(tokens));
        }
        self.norm_out
            .forward(self.proj_out.forward(tokens, Epilogue::NONE))
    }
}

impl Pack for Resampler {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        self.proj_in.layers(&join(name, "proj_in"), layers);
        let list = join(name, "layers");
        for (k, (attention, (_, first, Dropout, last))) in self.layers.iter_mut().enumerate() {
            attention.layers(&join(&list, format_args!("{k}.0")), layers);
            first.layers(&join(&list, format_args!("{k}.1.1")), layers);
            last.layers(&join(&list, format_args!("{k}.1.3")), layers);
        }
        self.proj_out.layers(&join(name, "proj_out"), layers);
    }
}

/// Attention of the resampler's tokens to the picture's and to each other.
#[derive(Module, Debug)]
struct PerceiverAttention {
    /// Of the picture's tokens.
    norm1: LayerNorm,
    /// Of its own tokens.
    norm2: LayerNorm,
    to_q: Linear,
    /// Keys and behind them values.
    to_kv: Linear,
    to_out: Linear,
    #[module(skip)]
    products: AttentionProducts,
}

impl PerceiverAttention {
    fn forward(&self, seen: &Tensor<3>, mut tokens: Tensor<3>) -> Tensor<3> {
        let own = self.norm2.forward(&mut tokens);
        let all = Tensor::cat(vec![self.norm1.forward(seen.clone()), own.clone()], 1);
        let query = self.to_q.forward(own, Epilogue::NONE);
        let width = query.dims()[2];
        let both = self.to_kv.forward(all, Epilogue::NONE);
        let (key, value) = (
            both.clone().narrow(2, 0, width),
            both.narrow(2, width, width),
        );
        let products = self.products.0;
        let gathered = multi_head_attention(query, key, value, width / HEAD, false, products);
        self.to_out.forward(gathered, Epilogue::residual(tokens))
    }
}

pack_fields!(PerceiverAttention: to_q, to_kv, to_out, products);
