use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sd_core::{Error, Result};
use sd_kernels::Activation;

use super::config::{IpAdapterConfig, PLAIN_TOKENS, ProjectionConfig};
use super::resampler::Resampler;
use crate::ClipVisionOutput;
use crate::layers::{Dropout, Epilogue, LayerNorm, Linear, Pack, Unpacked, join};

/// The network that makes tokens of what an image encoder sees.
#[derive(Module, Debug)]
pub(super) enum ImageProjection {
    Linear(LinearProjection),
    Mlp(MlpProjection),
    Resampler(Resampler),
}

impl ImageProjection {
    pub(super) fn new(config: &IpAdapterConfig, device: &Device) -> Self {
        let (image, width) = (config.image_width, config.context_width);
        match config.projection {
            ProjectionConfig::Linear => Self::Linear(LinearProjection {
                proj: Linear::new(image, PLAIN_TOKENS * width, true, device),
                norm: LayerNorm::new(width, 1e-5, device),
            }),
            ProjectionConfig::Mlp => Self::Mlp(MlpProjection {
                proj: (
                    Linear::new(image, image, true, device),
                    Dropout,
                    Linear::new(image, width, true, device),
                    LayerNorm::new(width, 1e-5, device),
                ),
            }),
            ProjectionConfig::Resampler { .. } => Self::Resampler(Resampler::new(config, device)),
        }
    }

    /// Tokens `[n, tokens, width]` of each of `n` pictures.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for an output without the states of two layers.
    pub(super) fn forward(&self, seen: ClipVisionOutput) -> Result<Tensor<3>> {
        let last_but_one = |mut seen: ClipVisionOutput| {
            let count = seen.hidden_states.len();
            seen.hidden_states.pop();
            let expected = "expected the tower's, one more than its layers";
            let state = seen.hidden_states.pop();
            state.ok_or_else(|| Error::invalid("hidden states", count, expected))
        };
        Ok(match self {
            Self::Linear(projection) => projection.forward(seen.pooled),
            Self::Mlp(projection) => projection.forward(last_but_one(seen)?),
            Self::Resampler(resampler) => resampler.forward(last_but_one(seen)?),
        })
    }
}

impl Pack for ImageProjection {
    fn layers<'a>(&'a mut self, name: &str, layers: &mut Vec<Unpacked<'a>>) {
        match self {
            Self::Linear(projection) => projection.proj.layers(&join(name, "proj"), layers),
            Self::Mlp(projection) => {
                let (first, Dropout, last, _) = &mut projection.proj;
                first.layers(&join(name, "proj.0"), layers);
                last.layers(&join(name, "proj.2"), layers);
            }
            Self::Resampler(resampler) => resampler.layers(name, layers),
        }
    }
}

/// All tokens at once of the vector that stands for a picture.
#[derive(Module, Debug)]
pub(super) struct LinearProjection {
    proj: Linear,
    norm: LayerNorm,
}

impl LinearProjection {
    /// Tokens `[n, 4, width]` of the vectors `[n, image width]`.
    pub(super) fn forward(&self, pooled: Tensor<2>) -> Tensor<3> {
        let n = pooled.dims()[0];
        let tokens = self.proj.forward(pooled, Epilogue::NONE);
        let width = tokens.dims()[1] / PLAIN_TOKENS;
        self.norm.forward(tokens.reshape([n, PLAIN_TOKENS, width]))
    }
}

/// A token of each of a picture's.
#[derive(Module, Debug)]
pub(super) struct MlpProjection {
    /// In, an activation without weights, out and a normalisation, as checkpoints number them.
    proj: (Linear, Dropout, Linear, LayerNorm),
}

impl MlpProjection {
    fn forward(&self, tokens: Tensor<3>) -> Tensor<3> {
        let (first, Dropout, last, norm) = &self.proj;
        let hidden = first.forward(tokens, Epilogue::activation(Activation::Gelu));
        norm.forward(last.forward(hidden, Epilogue::NONE))
    }
}
