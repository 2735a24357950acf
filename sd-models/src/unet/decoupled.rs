//! Tokens that cross-attention looks at beside the prompt's.

use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};
use sd_core::{Error, Extension, Result, placed};
use serde::{Deserialize, Serialize};

use super::config::UNetConfig;
use super::perturbed::selects;
use super::{KeyValue, TokenMask};
use crate::layers::{Beside, BlockContext, TokenShares};

/// The [`Extension`] of a branch whose cross-attention looks at further tokens, such as an image
/// prompt's (Ye et al. 2023, arXiv:2308.06721, equation 5): each set in an attention of its own, with
/// the prompt's queries, `attn(q, k, v) + Σ scale·mask·attn(q, kᵢ, vᵢ)`.
#[derive(Debug, Clone, Default)]
pub struct DecoupledAttention(pub Vec<DecoupledTokens>);

/// Tokens that the layers of cross-attention look at by themselves.
#[derive(Debug, Clone)]
pub struct DecoupledTokens {
    /// Keys and values in each layer of [`UNetConfig::cross_attention`], in that order,
    /// `[1 or n, tokens, layer's width]`.
    pub layers: Vec<KeyValue>,
    /// Factor of what each layer adds.
    pub scale: LayerScale,
    /// The part of the picture that sees them; all of it without one.
    pub mask: Option<Arc<TokenMask>>,
}

/// A factor for each layer of a network: one for all, and others for some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerScale {
    /// The factor of layers that [`layers`](Self::layers) does not say another of.
    pub all: f64,
    /// Factors of layers by paths as checkpoints have them, `mid_block`, `up_blocks.0.attentions.1`: a
    /// path says it for all under it, and a later one over those before.
    pub layers: Vec<(String, f64)>,
}

impl LayerScale {
    /// Factors of the layers under some paths, 0 for all others. The second transformer on the way up
    /// in SDXL's coarsest block, `("up_blocks.0.attentions.1", 1.0)`, has a picture's style, that of
    /// `down_blocks.2.attentions.1` its layout (InstantStyle, Wang et al. 2024, arXiv:2404.02733).
    pub fn only<P: Into<String>>(layers: impl IntoIterator<Item = (P, f64)>) -> Self {
        let layers = layers.into_iter();
        Self {
            all: 0.0,
            layers: layers.map(|(path, scale)| (path.into(), scale)).collect(),
        }
    }

    /// The factor of the layer at `path`.
    fn of(&self, path: &str) -> f64 {
        let mut said = self.layers.iter().rev();
        let said = said.find(|(selector, _)| selects(selector, path));
        said.map_or(self.all, |(_, scale)| *scale)
    }
}

impl From<f64> for LayerScale {
    fn from(all: f64) -> Self {
        Self {
            all,
            layers: Vec::new(),
        }
    }
}

impl Default for LayerScale {
    fn default() -> Self {
        1.0.into()
    }
}

impl Extension for DecoupledAttention {
    const NAME: &'static str = "tokens beside the prompt's";

    fn is_of_places(&self) -> bool {
        self.0.iter().any(|tokens| tokens.mask.is_some())
    }

    fn to(self, device: &Device, dtype: FloatDType) -> Result<Self> {
        let moved = |tokens: DecoupledTokens| {
            let layers = tokens.layers.into_iter().map(|layer| {
                Ok(KeyValue {
                    key: placed(layer.key, device, dtype)?,
                    value: placed(layer.value, device, dtype)?,
                })
            });
            Ok(DecoupledTokens {
                layers: layers.collect::<Result<_>>()?,
                ..tokens
            })
        };
        self.0
            .into_iter()
            .map(moved)
            .collect::<Result<_>>()
            .map(Self)
    }
}

impl DecoupledAttention {
    /// The same, sound for `n` samples of a network in precision `dtype`, without what adds nothing.
    pub(super) fn checked(
        mut self,
        config: &UNetConfig,
        n: usize,
        dtype: FloatDType,
    ) -> Result<Self> {
        let layers = config.cross_attention();
        for tokens in &mut self.0 {
            let found = tokens.layers.len();
            if found != layers.len() {
                let expected = format!("expected {}, one for each", layers.len());
                let what = "keys and values beside the prompt's for layers of cross-attention";
                return Err(Error::invalid(what, found, expected));
            }
            for (layer, KeyValue { key, value }) in layers.iter().zip(&mut tokens.layers) {
                let [rows, count, width] = key.dims();
                let fits = (rows == 1 || rows == n) && count > 0 && width == layer.width;
                if !fits || value.dims() != key.dims() {
                    let expected = format!(
                        "[1 or {n}, tokens, {}] in {}, as many keys as values",
                        layer.width, layer.path
                    );
                    return Err(Error::shape(
                        "keys beside the prompt's",
                        &key.dims(),
                        expected,
                    ));
                }
                (*key, *value) = (key.clone().cast(dtype), value.clone().cast(dtype));
            }
            check_scale(&tokens.scale, &layers)?;
        }
        let adds = |tokens: &DecoupledTokens| {
            layers
                .iter()
                .any(|layer| tokens.scale.of(&layer.path) != 0.0)
        };
        self.0.retain(adds);
        Ok(self)
    }

    /// `true` when branches with the one and with the other can be evaluated together.
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        let alike = |(a, b): (&DecoupledTokens, &DecoupledTokens)| {
            let tokens = |tokens: &DecoupledTokens| {
                let layers = tokens.layers.iter();
                layers.map(|layer| layer.key.dims()[1]).collect::<Vec<_>>()
            };
            let masks = match (&a.mask, &b.mask) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            tokens(a) == tokens(b) && a.scale == b.scale && masks
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(alike)
    }
}

/// Refuses factors that are not finite, and paths that lead to no layer.
fn check_scale(scale: &LayerScale, layers: &[CrossAttention]) -> Result<()> {
    let factors = [scale.all].into_iter();
    let mut factors = factors.chain(scale.layers.iter().map(|(_, factor)| *factor));
    if let Some(factor) = factors.find(|factor| !factor.is_finite()) {
        let expected = "expected a finite number, usually 0 to 1";
        return Err(Error::invalid(
            "the scale of an image prompt",
            factor,
            expected,
        ));
    }
    let leads = |path: &str| layers.iter().any(|layer| selects(path, &layer.path));
    match scale.layers.iter().find(|(path, _)| !leads(path)) {
        None => Ok(()),
        Some((path, _)) => {
            let mut holders: Vec<&str> = layers.iter().map(CrossAttention::transformer).collect();
            holders.dedup();
            let expected = format!("expected the path of one of {}", holders.join(", "));
            Err(Error::invalid(
                "a layer of cross-attention",
                format!("'{path}'"),
                expected,
            ))
        }
    }
}

/// Puts the tokens of `branches`, which go together and have `n` samples each, into the contexts of
/// all transformer blocks, which are in the order of [`UNetConfig::cross_attention`].
pub(super) fn attach<'a>(
    blocks: impl Iterator<Item = &'a mut BlockContext>,
    branches: &[&DecoupledAttention],
    n: usize,
    config: &UNetConfig,
) {
    let Some(first) = branches.first().filter(|first| !first.0.is_empty()) else {
        return;
    };
    let shares = first.0.iter().map(|tokens| {
        let mask = tokens.mask.clone()?;
        Some(Arc::new(TokenShares::new(move |count| mask.shares(count))))
    });
    let shares: Vec<_> = shares.collect();
    for (number, (block, layer)) in blocks.zip(config.cross_attention()).enumerate() {
        for (k, (tokens, shares)) in first.0.iter().zip(&shares).enumerate() {
            let scale = tokens.scale.of(&layer.path);
            if scale == 0.0 {
                continue;
            }
            let all = |part: fn(&KeyValue) -> &Tensor<3>| {
                let rows = branches.iter().map(|branch| {
                    let tensor = part(&branch.0[k].layers[number]);
                    let [rows, ..] = tensor.dims();
                    tensor.clone().repeat_dim(0, n / rows.max(1))
                });
                Tensor::cat(rows.collect(), 0)
            };
            block.beside.push(Beside {
                key_value: KeyValue {
                    key: all(|layer| &layer.key),
                    value: all(|layer| &layer.value),
                },
                scale,
                shares: shares.clone(),
            });
        }
    }
}

/// A layer of a U-Net's cross-attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrossAttention {
    /// Path of its transformer block, as in `down_blocks.0.attentions.1.transformer_blocks.0`.
    pub path: String,
    /// Width of its keys and values.
    pub width: usize,
}

impl CrossAttention {
    /// Path of the transformer that it is in.
    fn transformer(&self) -> &str {
        let path = self.path.split_once(".transformer_blocks");
        path.map_or(&*self.path, |(transformer, _)| transformer)
    }
}

impl UNetConfig {
    /// The layers of cross-attention, one in each transformer block, in the order of diffusers'
    /// attention processors, by which image prompts number them: those on the way down, on the way up
    /// and in the middle.
    pub fn cross_attention(&self) -> Vec<CrossAttention> {
        let lists = |name: &'static str, stages: Vec<_>| {
            let stages = stages.into_iter().enumerate();
            stages.map(move |(i, stage)| (format!("{name}.{i}"), stage))
        };
        let stages = lists("down_blocks", self.down_stages())
            .chain(lists("up_blocks", self.up_stages()))
            .chain(self.mid_stage().map(|stage| ("mid_block".into(), stage)));
        let mut layers = Vec::new();
        for (list, stage) in stages {
            for (i, transformer) in stage.transformers.iter().enumerate() {
                layers.extend((0..transformer.layers).map(|k| CrossAttention {
                    path: super::perturbed::path(&list, i, k),
                    width: transformer.channels,
                }));
            }
        }
        layers
    }
}
