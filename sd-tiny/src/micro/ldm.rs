//! Checkpoints of the original code (CompVis/latent-diffusion, Stability-AI/stablediffusion,
//! Stability-AI/generative-models).

use std::collections::BTreeMap;

use safetensors::Dtype;
use sd_pipeline::models::ClipTextConfig;
use sd_pipeline::models::ldm::{self, Layout, Numbering, Storage};
use sd_pipeline::models::unet::UNetConfig;
use sd_pipeline::models::vae::VaeConfig;

use super::config::{CHANNELS, RATIO, SIDE, Settings, TEXT};
use super::values::{self, Tensor};

type Tensors = BTreeMap<String, Tensor>;

/// What the original code has of a family: its text encoders, and what its configuration says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Original {
    texts: &'static [Text],
    numbering: Numbering,
    config: Option<Config>,
}

/// A text encoder: its folder in diffusers' layout, its prefix, and its tensors from those under
/// diffusers' names, its shape and the seed.
type Text = (
    &'static str,
    &'static str,
    fn(Tensors, ClipTextConfig, u64) -> Tensors,
);

/// What a configuration of the original code says.
#[derive(Debug, Clone, Copy)]
struct Config {
    encoder: &'static str,
    heads: &'static str,
    linear: bool,
    parameterization: &'static str,
}

/// As `v1-inference.yaml`.
pub(super) const V1: Original = Original {
    texts: &[("text_encoder", ldm::TEXT, clip)],
    numbering: Numbering::Contiguous,
    config: Some(Config {
        encoder: "FrozenCLIPEmbedder",
        heads: "num_heads: 2",
        linear: false,
        parameterization: "eps",
    }),
};

/// As `v2-inference-v.yaml`.
pub(super) const V2: Original = Original {
    texts: &[("text_encoder", ldm::TEXT, open_clip)],
    config: Some(Config {
        encoder: "FrozenOpenCLIPEmbedder",
        heads: "num_head_channels: 4",
        linear: true,
        parameterization: "v",
    }),
    ..V1
};

/// Others that are as Stable Diffusion 1, and come without a configuration.
pub(super) const LIKE_V1: Original = Original { config: None, ..V1 };

/// The same of Stable Diffusion 2.
pub(super) const LIKE_V2: Original = Original { config: None, ..V2 };

/// Smaller ones, by diffusers' export script.
pub(super) const EXPORTED: Original = Original {
    numbering: Numbering::ThreePerResolution,
    ..LIKE_V1
};

/// SD-Turbo, of the newer code.
pub(super) const TURBO: Original = Original {
    texts: &[("text_encoder", "conditioner.embedders.0", open_clip)],
    ..LIKE_V1
};

pub(super) const XL: Original = Original {
    texts: &[
        ("text_encoder", "conditioner.embedders.0", clip),
        ("text_encoder_2", "conditioner.embedders.1", whole_open_clip),
    ],
    ..LIKE_V1
};

pub(super) const REFINER: Original = Original {
    texts: &[("text_encoder_2", "conditioner.embedders.0", whole_open_clip)],
    ..LIKE_V1
};

impl Original {
    /// The files of a model of these components, whose tensors have diffusers' names.
    pub(super) fn files(
        &self,
        settings: &Settings,
        mut components: BTreeMap<&str, Tensors>,
        seed: u64,
    ) -> BTreeMap<String, Vec<u8>> {
        let mut part = |name| components.remove(name).unwrap_or_default();
        let unet = Layout::unet(&settings.read("unet", UNetConfig::new), self.numbering);
        let vae = Layout::vae(&settings.read("vae", VaeConfig::new));
        let mut parts = vec![
            in_file(part("unet"), &unet.under(ldm::UNET)),
            in_file(part("vae"), &vae.under(ldm::VAE)),
        ];
        for (name, prefix, text) in self.texts {
            let config = settings.read(name, ClipTextConfig::from_file);
            let tensors = text(part(name), config, seed).into_iter();
            let tensors = tensors.map(|(name, tensor)| (format!("{prefix}.{name}"), tensor));
            parts.push(tensors.collect());
        }
        let tensors = parts.into_iter().flatten().collect();
        let model = ("model.safetensors".into(), values::safetensors(&tensors));
        let yaml = self.config.as_ref();
        let yaml = yaml.map(|c| ("model.yaml".into(), c.yaml(settings).into_bytes()));
        [model].into_iter().chain(yaml).collect()
    }
}

impl Config {
    /// The configuration of the original code.
    fn yaml(&self, settings: &Settings) -> String {
        let Self {
            encoder,
            heads,
            linear,
            parameterization,
        } = self;
        let scaling_factor = settings.get("vae", "scaling_factor");
        let scaling_factor = scaling_factor.unwrap_or_else(|| unreachable!("the row says it"));
        let side = 8 * SIDE;
        format!(
            "\
model:
  target: ldm.models.diffusion.ddpm.LatentDiffusion
  params:
    linear_start: 0.00085
    linear_end: 0.0120
    timesteps: 1000
    parameterization: {parameterization}
    scale_factor: {scaling_factor}
    unet_config:
      target: ldm.modules.diffusionmodules.openaimodel.UNetModel
      params:
        image_size: {SIDE}
        in_channels: 4
        out_channels: 4
        model_channels: {CHANNELS}
        attention_resolutions: [4, 2, 1]
        num_res_blocks: 2
        channel_mult: {RATIO:?}
        {heads}
        use_spatial_transformer: true
        use_linear_in_transformer: {linear}
        transformer_depth: 1
        context_dim: {TEXT}
        legacy: false
    first_stage_config:
      target: ldm.models.autoencoder.AutoencoderKL
      params:
        embed_dim: 4
        ddconfig:
          double_z: true
          z_channels: 4
          resolution: {side}
          in_channels: 3
          out_ch: 3
          ch: {CHANNELS}
          ch_mult: {RATIO:?}
          num_res_blocks: 2
          attn_resolutions: []
          dropout: 0.0
    cond_stage_config:
      target: ldm.modules.encoders.modules.{encoder}
"
        )
    }
}

/// A component's tensors as a file of this layout has them.
fn in_file(tensors: Tensors, layout: &Layout) -> Tensors {
    // Of a tensor that holds several of diffusers', one below the other.
    let mut parts: BTreeMap<String, BTreeMap<usize, Tensor>> = BTreeMap::new();
    for (name, mut tensor) in tensors {
        let place = layout.in_file(&name);
        let place = place.unwrap_or_else(|| unreachable!("{name} is no tensor of the component"));
        let part = match place.storage {
            Storage::Whole => 0,
            Storage::Pointwise => {
                tensor.shape = place.storage.file_shape(&tensor.shape);
                0
            }
            Storage::Rows { part, .. } => part,
            Storage::Transposed => {
                tensor = transposed(&tensor);
                0
            }
        };
        let parts = parts.entry(place.name).or_default();
        parts.insert(part, tensor);
    }
    let joined = parts.into_iter().filter_map(|(name, parts)| {
        let mut parts = parts.into_values();
        let mut tensor = parts.next()?;
        for below in parts {
            tensor.shape[0] += below.shape[0];
            tensor.bytes.extend(below.bytes);
        }
        Some((name, tensor))
    });
    joined.collect()
}

/// A matrix of f16 with rows and columns exchanged.
fn transposed(matrix: &Tensor) -> Tensor {
    let [rows, columns] = [matrix.shape[0], matrix.shape[1]];
    let (values, _) = matrix.bytes.as_chunks::<2>();
    let indices = (0..columns).flat_map(|c| (0..rows).map(move |r| r * columns + c));
    Tensor {
        dtype: matrix.dtype,
        shape: vec![columns, rows],
        bytes: indices.flat_map(|index| values[index]).collect(),
    }
}

/// Stable Diffusion 1 holds transformers' text encoder as it is, with a table of positions.
fn clip(mut text: Tensors, _: ClipTextConfig, _: u64) -> Tensors {
    let positions = Tensor {
        dtype: Dtype::I64,
        shape: vec![1, 77],
        bytes: (0..77_i64).flat_map(i64::to_le_bytes).collect(),
    };
    text.insert("embeddings.position_ids".into(), positions);
    in_file(text, &Layout::clip())
}

/// SDXL holds the whole of OpenCLIP's.
fn whole_open_clip(text: Tensors, config: ClipTextConfig, seed: u64) -> Tensors {
    let mut tensors = in_file(text, &Layout::open_clip(&config));
    let scale = BTreeMap::from([("logit_scale".to_string(), vec![1])]);
    for (name, mut tensor) in values::random(scale, seed, 3) {
        tensor.shape.clear();
        tensors.insert(format!("model.{name}"), tensor);
    }
    tensors
}

/// Stable Diffusion 2 holds OpenCLIP's: one layer more than is used, and the two parameters that
/// only pictures need.
fn open_clip(mut text: Tensors, mut config: ClipTextConfig, seed: u64) -> Tensors {
    let layers = config.num_hidden_layers;
    let [used, unused] = [layers - 1, layers].map(|i| format!("encoder.layers.{i}."));
    let mut more: BTreeMap<String, Vec<usize>> = text
        .iter()
        .filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(&used)?;
            Some((format!("{unused}{rest}"), tensor.shape.clone()))
        })
        .collect();
    let width = config.hidden_size;
    more.insert("logit_scale".into(), vec![1]);
    more.insert("text_projection".into(), vec![width, width]);
    let mut more = values::random(more, seed, 3);
    let pictures = ["logit_scale", "text_projection"].map(|name| (name, more.remove(name)));
    text.extend(more);
    config.num_hidden_layers += 1;
    let mut tensors = in_file(text, &Layout::open_clip(&config));
    for (name, tensor) in pictures {
        let Some(mut tensor) = tensor else { continue };
        if name == "logit_scale" {
            tensor.shape.clear();
        }
        tensors.insert(format!("model.{name}"), tensor);
    }
    tensors
}
