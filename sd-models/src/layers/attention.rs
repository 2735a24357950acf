use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sd_core::Perturbation;

use super::dispatch::{join_products, multi_head_attention, self_attention};
use super::{
    AttentionProducts, Beside, Epilogue, GroupNorm, Input, Linear, Pack, SideMap, Stream, Unpacked,
    join, mix,
};

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
    pub to_out: [Linear; 1],
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    products: AttentionProducts,
    /// Queries, keys and values in one product, where a device wants it: the three layers' weights
    /// are then parts of this one's.
    #[module(skip)]
    joined: Option<Linear>,
}

/// Keys and values that an [`Attention`] layer made of the tokens that are looked at. For a prompt
/// they are the same in every step of a run.
#[derive(Debug, Clone)]
pub struct KeyValue {
    /// `[n, tokens, width]`, the heads side by side.
    pub key: Tensor<3>,
    /// `[n, tokens, width]`, the heads side by side.
    pub value: Tensor<3>,
}

/// Sizes of an [`Attention`] layer.
#[derive(Debug, Clone, Copy)]
pub struct AttentionConfig {
    /// Width of the tokens that look, a multiple of `heads`.
    pub width: usize,
    /// Width of the tokens that are looked at.
    pub context_width: usize,
    /// Number of heads.
    pub heads: usize,
    /// A bias of queries, keys and values; the output projection always has one.
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
            to_out: [Linear::new(width, width, true, device)],
            heads: config.heads,
            products: AttentionProducts::default(),
            joined: None,
        }
    }

    /// Keys and values of the tokens `[n, tokens, context width]` to look at.
    pub(crate) fn key_value<'a>(&self, context: impl Into<Input<'a, 3>>) -> KeyValue {
        let mut context = context.into();
        KeyValue {
            key: self.to_k.forward(context.lend(), Epilogue::NONE),
            value: self.to_v.forward(context, Epilogue::NONE),
        }
    }

    /// The tokens `[n, tokens, width]` gather from `context`, or from each other where there is
    /// none, through the output projection.
    pub fn forward(
        &self,
        x: Tensor<3>,
        context: Option<&KeyValue>,
        epilogue: Epilogue<3>,
    ) -> Tensor<3> {
        self.to_out[0].forward(self.attend(x, context), epilogue)
    }

    /// The tokens `[n, tokens, width]` gather from `context`, or from each other where there is
    /// none.
    pub(crate) fn attend(&self, mut x: Tensor<3>, context: Option<&KeyValue>) -> Tensor<3> {
        let key_value = match context {
            Some(context) => context.clone(),
            None => match self.by_one_product(&x) {
                Some(x) => return x,
                None => self.key_value(&mut x),
            },
        };
        let query = self.to_q.forward(x, Epilogue::NONE);
        self.gather(query, key_value)
    }

    /// What the tokens gather from each other, by one product of queries, keys and values, where
    /// there is one.
    fn by_one_product(&self, x: &Tensor<3>) -> Option<Tensor<3>> {
        let bare = [&self.to_q, &self.to_k, &self.to_v].map(Linear::is_bare);
        match &self.joined {
            Some(joined) if bare == [true; 3] => self_attention(joined, x, self.heads),
            _ => None,
        }
    }

    /// [`attend`](Self::attend) of tokens that also look at others `beside` the context, at each by
    /// itself and with the same queries.
    pub(crate) fn attend_beside(
        &self,
        x: Tensor<3>,
        context: &KeyValue,
        beside: &[Beside],
    ) -> Tensor<3> {
        let mut query = self.to_q.forward(x, Epilogue::NONE);
        let products = self.products.0;
        let mut attend = |at: &KeyValue| {
            let (key, value) = (at.key.clone(), at.value.clone());
            multi_head_attention(&mut query, key, value, self.heads, false, products)
        };
        let first = attend(context);
        beside.iter().fold(first, |sum, beside| {
            beside.added(sum, attend(&beside.key_value))
        })
    }

    /// [`attend`](Self::attend) of tokens that see themselves alone: each gathers its own value.
    pub(crate) fn attend_identity(&self, x: Tensor<3>) -> Tensor<3> {
        self.to_v.forward(x, Epilogue::NONE)
    }

    /// [`attend`](Self::attend) of the tokens of a picture of `[height, width]` tokens, their
    /// queries blurred by a Gaussian of deviation `sigma`.
    pub(crate) fn attend_blurred(
        &self,
        mut x: Tensor<3>,
        size: [usize; 2],
        sigma: f64,
    ) -> Tensor<3> {
        let blur = |side| match sigma < Perturbation::INFINITE {
            true => SideMap::gaussian(side, sigma),
            false => SideMap::mean(side),
        };
        let [rows, columns] = size.map(blur);
        let key_value = self.key_value(&mut x);
        let query = mix(self.to_q.forward(x, Epilogue::NONE), &rows, &columns);
        self.gather(query, key_value)
    }

    /// What was gathered, through the output projection and added to `residual`.
    pub(crate) fn out(&self, gathered: Tensor<3>, residual: Tensor<3>) -> Stream {
        self.to_out[0].stream(gathered, Some(residual))
    }

    fn gather(&self, query: Tensor<3>, from: KeyValue) -> Tensor<3> {
        let (KeyValue { key, value }, heads) = (from, self.heads);
        multi_head_attention(query, key, value, heads, false, self.products.0)
    }
}

impl Pack for Attention {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        let inward = [
            (&mut self.to_q, "to_q"),
            (&mut self.to_k, "to_k"),
            (&mut self.to_v, "to_v"),
        ];
        for (layer, field) in inward {
            layer.layers(&join(name, field), layers);
        }
        self.to_out.layers(&join(name, "to_out"), layers);
        self.products.layers(&join(name, "products"), layers);
    }

    fn loaded(&mut self) {
        self.joined = join_products([&mut self.to_q, &mut self.to_k, &mut self.to_v]);
    }
}

/// A picture `[n, c, h, w]` as one token per pixel, `[n, h·w, c]`.
pub(crate) fn to_tokens(x: Tensor<4>) -> Tensor<3> {
    let [n, c, h, w] = x.dims();
    x.permute([0, 2, 3, 1]).reshape([n, h * w, c])
}

/// Tokens `[n, h·w, c]` as the picture `[n, c, h, w]` they came from.
pub(crate) fn to_picture(x: Tensor<3>, h: usize, w: usize) -> Tensor<4> {
    let [n, _, c] = x.dims();
    x.reshape([n, h, w, c]).permute([0, 3, 1, 2])
}
