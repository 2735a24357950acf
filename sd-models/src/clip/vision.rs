use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use sd_core::{Error, Result, WeightBytes};

use super::ClipVisionConfig;
use super::layer::ClipStack;
use crate::layers::{
    Conv2d, Embedding, Epilogue, LayerNorm, Linear, Padding, pack_fields, parameter, to_tokens,
};
use crate::{LoadOptions, Weights};

/// CLIP's tower of pictures: pixels to one vector per patch and one per picture.
///
/// The fields are named as in checkpoints, misspelling included, so that their tensors load by
/// name.
#[derive(Module, Debug)]
pub struct ClipVisionModel {
    embeddings: VisionEmbeddings,
    pre_layrnorm: LayerNorm,
    encoder: ClipStack,
    post_layernorm: LayerNorm,
    #[module(skip)]
    config: ClipVisionConfig,
}

/// The patches' projection, the class token and the table of positions.
#[derive(Module, Debug)]
struct VisionEmbeddings {
    /// `[width]`: the token that comes to stand for the picture.
    class_embedding: Param<Tensor<1>>,
    patch_embedding: Conv2d,
    position_embedding: Embedding,
}

/// The output of a tower of pictures for `n` of them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClipVisionOutput {
    /// The normalised tokens and behind them each layer's output, `[n, 1 + patches, width]`: one
    /// more than the model has layers. The class token is the first.
    pub hidden_states: Vec<Tensor<3>>,
    /// The last layer's class token after the final layer norm, projected if the model has a
    /// projection: `[n, width]` or `[n, projection width]`.
    pub pooled: Tensor<2>,
}

impl ClipVisionModel {
    /// A model whose weights are still to be loaded; it takes no memory until then.
    pub fn new(config: ClipVisionConfig, device: &Device) -> Self {
        let width = config.hidden_size;
        let norm = || LayerNorm::new(width, config.layer_norm_eps, device);
        let patch = config.patch_size;
        let patches = Conv2d::new([3, width], patch, patch, Padding::Even(0), device);
        Self {
            embeddings: VisionEmbeddings {
                class_embedding: parameter([width], device),
                patch_embedding: patches.without_bias(),
                position_embedding: Embedding::new(config.patches() + 1, width, device),
            },
            pre_layrnorm: norm(),
            encoder: ClipStack::new(config.num_hidden_layers, config.layer(), device),
            post_layernorm: norm(),
            config,
        }
    }

    /// The shape of the model.
    pub fn config(&self) -> &ClipVisionConfig {
        &self.config
    }

    /// Runs the model on pixels `[n, 3, image_size, image_size]`, normalised by the mean and
    /// deviation it was trained with, on the model's device.
    ///
    /// # Errors
    /// [`Error::Shape`] when they have another shape.
    pub fn forward(&self, pixels: Tensor<4>) -> Result<ClipVisionOutput> {
        let [n, _, height, width] = pixels.dims();
        let side = self.config.image_size;
        if n == 0 || pixels.dims()[1..] != [3, side, side] {
            let expected = format!("[n, 3, {side}, {side}], n at least 1");
            return Err(Error::shape("pixels", &[n, 3, height, width], expected));
        }
        let tokens = self.pre_layrnorm.forward(self.embeddings.forward(pixels));
        let hidden_states = self
            .encoder
            .forward(tokens.clone(), self.config.num_hidden_layers);
        let last = hidden_states.last().cloned().unwrap_or(tokens);
        let class = last.narrow(1, 0, 1).squeeze_dim::<2>(1);
        Ok(ClipVisionOutput {
            hidden_states,
            pooled: self.post_layernorm.forward(class),
        })
    }
}

impl VisionEmbeddings {
    fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        let class = self.class_embedding.val();
        let (n, width) = (pixels.dims()[0], class.dims()[0]);
        let pixels = pixels.cast(class.dtype());
        let patches = self.patch_embedding.forward(pixels, Epilogue::NONE);
        let class = class.reshape([1, 1, width]).repeat_dim(0, n);
        let tokens = Tensor::cat(vec![class, to_tokens(patches)], 1);
        tokens + self.position_embedding.weight.val().unsqueeze::<3>()
    }
}

pack_fields!(ClipVisionModel: embeddings, encoder);
pack_fields!(VisionEmbeddings: patch_embedding);

/// CLIP's tower of pictures with the projection into the space that it shares with text: an image
/// encoder's folder.
#[derive(Module, Debug)]
pub struct ClipVisionModelWithProjection {
    vision_model: ClipVisionModel,
    visual_projection: Linear,
}

impl ClipVisionModelWithProjection {
    /// A model whose weights are still to be loaded; it takes no memory until then.
    pub fn new(config: ClipVisionConfig, device: &Device) -> Self {
        let [width, out] = [config.hidden_size, config.projection_dim];
        Self {
            visual_projection: Linear::new(width, out, false, device),
            vision_model: ClipVisionModel::new(config, device),
        }
    }

    /// A model with the weights of a file, packed for the kernels where there are kernels; also
    /// gives the memory the weights take.
    ///
    /// # Errors
    /// As [`Weights::load_into`].
    pub fn load(
        config: ClipVisionConfig,
        weights: &Weights,
        options: &LoadOptions,
    ) -> crate::Result<(Self, WeightBytes)> {
        weights.load_packed(Self::new(config, &options.device), options)
    }

    /// The shape of the model.
    pub fn config(&self) -> &ClipVisionConfig {
        self.vision_model.config()
    }

    /// As [`ClipVisionModel::forward`], the pooled vector projected.
    ///
    /// # Errors
    /// [`Error::Shape`] when the pixels have another shape.
    pub fn forward(&self, pixels: Tensor<4>) -> Result<ClipVisionOutput> {
        let output = self.vision_model.forward(pixels)?;
        let pooled = self
            .visual_projection
            .forward(output.pooled, Epilogue::NONE);
        Ok(ClipVisionOutput { pooled, ..output })
    }
}

pack_fields!(ClipVisionModelWithProjection: vision_model, visual_projection);
