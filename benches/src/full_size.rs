//! A model of Stable Diffusion 1.5's size with random weights: speed does not depend on their
//! values, and a real model's may not lie here.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;
use half::f16;
use safetensors::tensor::{Dtype, View};
use sd_pipeline::core::BoxError;
use sd_pipeline::models::unet::{UNet2DConditionModel, UNetConfig};
use sd_pipeline::models::vae::{AutoencoderKL, VaeConfig};
use sd_pipeline::models::{ClipTextConfig, ClipTextModel, ConfigFile, Files, parameter_shapes};

use crate::harness::target_folder;

/// Set to anything, it asks for the full size.
const FULL: &str = "SD_BENCH_FULL";
/// A model folder in diffusers layout to measure instead.
const MODEL: &str = "SD_BENCH_MODEL";

/// The folder of the full-size model, if one was asked for: that of `SD_BENCH_MODEL`, or, with
/// `SD_BENCH_FULL` set, one of Stable Diffusion 1.5's size in cargo's target folder, which is
/// written on first use (2.1 GB).
///
/// # Errors
/// When it cannot be written.
pub fn full_size_folder(device: &Device) -> Result<Option<PathBuf>, BoxError> {
    if let Some(folder) = std::env::var_os(MODEL) {
        return Ok(Some(folder.into()));
    }
    if std::env::var_os(FULL).is_none() {
        return Ok(None);
    }
    let folder = target_folder()?.join("bench-sd15");
    if !folder.join("model_index.json").is_file() {
        println!("writing random weights to {}", folder.display());
        write_stable_diffusion(&folder, device)?;
    }
    Ok(Some(folder))
}

/// Writes a model folder of Stable Diffusion 1.5's size with random weights in f16. The vocabulary
/// is the embedded tiny model's. Nothing is computed on `device`; it only has to be one.
///
/// # Errors
/// When it cannot be written.
pub fn write_stable_diffusion(folder: &Path, device: &Device) -> Result<(), BoxError> {
    let put = |name: &str, content: &[u8]| -> std::io::Result<()> {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(path, content)
    };
    put("unet/config.json", UNET.as_bytes())?;
    put("vae/config.json", VAE.as_bytes())?;
    put("text_encoder/config.json", TEXT.as_bytes())?;
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let file = sd_tiny::files().folder("tokenizer").read(name)?;
        put(&format!("tokenizer/{name}"), &file)?;
    }
    let name = "scheduler_config.json";
    let file = sd_tiny::files().folder("scheduler").read(name)?;
    put(&format!("scheduler/{name}"), &file)?;

    // Networks of which only the names and shapes are looked at; no weight is ever made.
    let files = Files::directory(folder);
    let config = |name: &str| ConfigFile::read(&files.folder(name), "config.json");
    let unet = UNet2DConditionModel::new(&UNetConfig::new(&config("unet")?)?, device);
    let vae = AutoencoderKL::new(&VaeConfig::new(&config("vae")?)?, device);
    let text = ClipTextModel::new(ClipTextConfig::read(&files.folder("text_encoder"))?, device);
    let weights = "diffusion_pytorch_model.safetensors";
    write_weights(&unet, &folder.join("unet").join(weights))?;
    write_weights(&vae, &folder.join("vae").join(weights))?;
    write_weights(&text, &folder.join("text_encoder/model.safetensors"))?;
    // Last: a folder that has it is whole.
    put("model_index.json", INDEX.as_bytes())?;
    Ok(())
}

fn write_weights(network: &impl Module, path: &Path) -> Result<(), BoxError> {
    let parameters = parameter_shapes(network).into_iter();
    let parameters = parameters.map(|(name, shape)| {
        let random = Random::new(&name, shape);
        (name, random)
    });
    safetensors::serialize_to_file(parameters, None, path)?;
    Ok(())
}

/// A parameter's values, made when they are written.
struct Random {
    shape: Vec<usize>,
    /// Values are in ±bound around the middle.
    bound: f32,
    middle: f32,
}

impl Random {
    /// As torch initialises: uniform, of a variance that keeps activations in bounds. The vectors
    /// are biases, and the gains of normalisations.
    fn new(name: &str, shape: Vec<usize>) -> Self {
        let inputs: usize = shape[1..].iter().product();
        let is_gain = shape.len() == 1 && name.ends_with("weight");
        Self {
            bound: (3.0 / inputs.max(shape[0]).max(1) as f32).sqrt(),
            middle: if is_gain { 1.0 } else { 0.0 },
            shape,
        }
    }
}

impl View for Random {
    fn dtype(&self) -> Dtype {
        Dtype::F16
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // A linear congruential generator with Knuth's multiplier; nothing rests on its quality.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64 ^ self.data_len() as u64;
        let value = |_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let unit = (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0;
            f16::from_f32(self.middle + self.bound * unit).to_le_bytes()
        };
        let count = self.data_len() / 2;
        (0..count).flat_map(value).collect::<Vec<u8>>().into()
    }

    fn data_len(&self) -> usize {
        2 * self.shape.iter().product::<usize>()
    }
}

const INDEX: &str = r#"{"_class_name": "StableDiffusionPipeline"}"#;

const UNET: &str = r#"{
  "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "out_channels": 4,
  "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280], "cross_attention_dim": 768,
  "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
  "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
  "layers_per_block": 2, "norm_num_groups": 32, "norm_eps": 1e-05, "act_fn": "silu"
}"#;

const VAE: &str = r#"{
  "_class_name": "AutoencoderKL", "sample_size": 512, "in_channels": 3, "out_channels": 3,
  "latent_channels": 4, "block_out_channels": [128, 256, 512, 512], "layers_per_block": 2,
  "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
  "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
  "norm_num_groups": 32, "act_fn": "silu", "scaling_factor": 0.18215
}"#;

const TEXT: &str = r#"{
  "model_type": "clip_text_model", "vocab_size": 49408, "max_position_embeddings": 77,
  "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
  "hidden_act": "quick_gelu", "layer_norm_eps": 1e-05, "eos_token_id": 49407, "bos_token_id": 49406
}"#;
