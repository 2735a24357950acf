use std::path::Path;
use std::sync::Arc;

use burn::tensor::DType;
use sd_core::{Conditioning, DenoiserSpec, Error, WeightBytes};

use super::prepared::PreparedControlNet;
use super::{ControlNetConfig, ControlNetModel, control_lora, single_file};
use crate::unet::{ControlNetwork, ControlSpec, PreparedAdapter, Steering, UNetFiles, modules};
use crate::{ConfigFile, Files, LoadOptions, Result, Weights};

/// A ControlNet's files, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct ControlNetFiles {
    weights: Weights,
    config: ControlNetConfig,
    spec: ControlSpec,
    options: LoadOptions,
}

impl ControlNetFiles {
    /// Opens `config.json` and `diffusion_pytorch_model.safetensors` of a folder.
    ///
    /// # Errors
    /// As [`ControlNetConfig::new`] and [`Files::weights`];
    /// [`Error::Tensors`](crate::Error::Tensors) when the tensors are not the network's.
    pub fn open(files: &Files, options: &LoadOptions) -> Result<Self> {
        let file = ConfigFile::read(files, "config.json")?.on_unknown(options.unknown_settings);
        let weights = files.weights("diffusion_pytorch_model", options.variant.as_deref())?;
        Self::of(ControlNetConfig::new(&file)?, weights, options)
    }

    /// Opens a Control-LoRA: changes of low rank to the weights of `unet`, the network that it steers,
    /// with an embedding of the picture. They are merged while they are read; LoRAs that are merged into
    /// `unet` are in it.
    ///
    /// # Errors
    /// As [`open_source`](crate::open_source); [`Error::Contents`](crate::Error::Contents) where it is
    /// none; [`Error::Adapter`](crate::Error::Adapter) when a change is of no layer of `unet`, or of
    /// another shape; [`Error::Tensors`](crate::Error::Tensors) when other tensors are not the network's.
    pub fn open_control_lora(
        path: impl AsRef<Path>,
        unet: &UNetFiles,
        options: &LoadOptions,
    ) -> Result<Self> {
        let (config, weights) = control_lora::open(path.as_ref(), unet, options)?;
        let mut files = Self::of(config, weights, options)?;
        files.spec.kind = "control_lora";
        Ok(files)
    }

    /// Opens a single file, in the original code's names, with the prefix `control_model.` or
    /// without it, or in diffusers'. Its configuration follows from the tensors' shapes; what these do not
    /// tell, such as the number of heads, is as in the U-Net in whose folder `unet` is, and without one as
    /// in the published models.
    ///
    /// # Errors
    /// As [`open_source`](crate::open_source); [`Error::Contents`](crate::Error::Contents) where it
    /// holds no ControlNet; as [`open`](Self::open).
    pub fn open_file(
        path: impl AsRef<Path>,
        unet: Option<&Files>,
        options: &LoadOptions,
    ) -> Result<Self> {
        let (file, weights) = single_file::open(path.as_ref(), unet)?;
        Self::of(ControlNetConfig::new(&file)?, weights, options)
    }

    fn of(config: ControlNetConfig, weights: Weights, options: &LoadOptions) -> Result<Self> {
        weights.check(&ControlNetModel::new(&config, &options.device))?;
        let spec = ControlSpec {
            kind: "controlnet",
            modules: modules(&weights),
            channels: config.conditioning_channels,
            is_bgr: config.is_bgr,
            factor: config.factor(),
            kinds: config.union.map_or(0, |union| union.kinds),
            context_width: Some(config.unet.cross_attention_dim),
            embeds_size: Some(config.unet.text_time.is_some()),
            latent_channels: Some(config.unet.in_channels),
            block_channels: config
                .unet
                .blocks
                .iter()
                .map(|block| block.channels)
                .collect(),
            is_global: config.global_pool_conditions,
            device: options.device.clone(),
            dtype: options.dtype,
        };
        Ok(Self {
            weights,
            config,
            spec,
            options: options.clone(),
        })
    }

    /// Facts of the network.
    pub fn spec(&self) -> &ControlSpec {
        &self.spec
    }

    /// The bytes that the weights take once they are loaded, told from the files' headers.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for tensors that are no network's.
    pub fn weight_bytes(&self) -> Result<WeightBytes> {
        let model = ControlNetModel::new(&self.config, &self.options.device);
        self.weights.packed_bytes(model, &self.options)
    }

    /// The bytes that what it adds takes until the U-Net has read it, for `samples` latents of that
    /// height and width.
    pub fn work_bytes(&self, samples: usize, latent: [usize; 2]) -> u64 {
        let numbers = self.config.unet.kept_numbers(latent);
        (samples * numbers * DType::from(self.options.dtype).size()) as u64
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when they cannot be read,
    /// [`Error::Packing`](crate::Error::Packing) when there is not memory enough.
    pub fn load(&self) -> Result<ControlNet> {
        let model = ControlNetModel::new(&self.config, &self.options.device);
        let (model, bytes) = self.weights.load_packed(model, &self.options)?;
        Ok(ControlNet {
            model,
            config: self.config.clone(),
            spec: self.spec.clone(),
            bytes,
        })
    }
}

/// [`ControlNetModel`] with its weights.
#[derive(Debug)]
pub struct ControlNet {
    pub(super) model: ControlNetModel,
    pub(super) config: ControlNetConfig,
    pub(super) spec: ControlSpec,
    bytes: WeightBytes,
}

impl ControlNet {
    /// Memory that its weights take.
    pub fn weights(&self) -> WeightBytes {
        self.bytes
    }

    /// A check that it computes where and as the U-Net does.
    pub(super) fn check(&self, unet: &DenoiserSpec) -> sd_core::Result<()> {
        if unet.device != self.spec.device || unet.dtype != self.spec.dtype {
            let what = "a ControlNet on another device, or in another precision, than the U-Net";
            return Err(Error::Unsupported(what.into()));
        }
        Ok(())
    }
}

impl ControlNetwork for ControlNet {
    fn spec(&self) -> &ControlSpec {
        &self.spec
    }

    fn prepare(
        self: Arc<Self>,
        steering: &Steering,
        branches: &[&Conditioning],
        unet: &DenoiserSpec,
    ) -> sd_core::Result<Box<dyn PreparedAdapter>> {
        let prepared = PreparedControlNet::new(self, steering, branches, unet)?;
        Ok(Box::new(prepared))
    }
}
