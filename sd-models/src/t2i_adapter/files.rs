use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use sd_core::{Cancel, Conditioning, DenoiserSpec, Error, WeightBytes};

use super::{AdapterType, T2IAdapterConfig, T2IAdapterModel, single_file};
use crate::unet::{ControlNetwork, ControlSpec, PreparedAdapter, Steering, UNetResiduals, modules};
use crate::{ConfigFile, Files, LoadOptions, Result, Weights};

/// A T2I-Adapter's files, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct T2IAdapterFiles {
    weights: Weights,
    config: T2IAdapterConfig,
    spec: ControlSpec,
    options: LoadOptions,
}

impl T2IAdapterFiles {
    /// Opens `config.json` and `diffusion_pytorch_model.safetensors` of a folder.
    ///
    /// # Errors
    /// As [`T2IAdapterConfig::new`] and [`Files::weights`];
    /// [`Error::Tensors`](crate::Error::Tensors) when the tensors are not the network's.
    pub fn open(files: &Files, options: &LoadOptions) -> Result<Self> {
        let file = ConfigFile::read(files, "config.json")?.on_unknown(options.unknown_settings);
        let weights = files.weights("diffusion_pytorch_model", options.variant.as_deref())?;
        Self::of(&file, weights, options)
    }

    /// Opens a single file, in its own code's names or diffusers'. Its configuration follows from the
    /// tensors' shapes.
    ///
    /// # Errors
    /// As [`open_source`](crate::open_source); [`Error::Contents`](crate::Error::Contents) where it
    /// holds no T2I-Adapter; as [`open`](Self::open).
    pub fn open_file(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let (file, weights) = single_file::open(path.as_ref())?;
        Self::of(&file, weights, options)
    }

    fn of(file: &ConfigFile, weights: Weights, options: &LoadOptions) -> Result<Self> {
        let config = T2IAdapterConfig::new(file)?;
        weights.check(&T2IAdapterModel::new(&config, &options.device))?;
        let stages = config.stages();
        let spec = ControlSpec {
            kind: "t2i_adapter",
            modules: modules(&weights),
            channels: config.in_channels,
            is_bgr: false,
            factor: config.downscale_factor,
            kinds: 0,
            context_width: None,
            embeds_size: Some(config.kind == AdapterType::FullXl),
            latent_channels: None,
            block_channels: stages.iter().map(|([_, outputs], _)| *outputs).collect(),
            is_global: false,
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
        let model = T2IAdapterModel::new(&self.config, &self.options.device);
        self.weights.packed_bytes(model, &self.options)
    }

    /// The bytes that its features take, which a run holds, beside a latent of that height and width.
    pub fn work_bytes(&self, latent: [usize; 2]) -> u64 {
        // Of latents an eighth of the picture's size, as all that have adapters are.
        let picture = latent.map(|side| 8 * side);
        let mut size = picture.map(|side| side.div_ceil(self.config.downscale_factor));
        let numbers = self
            .config
            .stages()
            .into_iter()
            .map(|([_, outputs], halves)| {
                if halves {
                    size = size.map(|side| side.div_ceil(2));
                }
                outputs * size[0] * size[1]
            });
        (numbers.sum::<usize>() * DType::from(self.options.dtype).size()) as u64
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when they cannot be read,
    /// [`Error::Packing`](crate::Error::Packing) when there is not memory enough.
    pub fn load(&self) -> Result<T2IAdapter> {
        let model = T2IAdapterModel::new(&self.config, &self.options.device);
        let (model, bytes) = self.weights.load_packed(model, &self.options)?;
        Ok(T2IAdapter {
            model,
            spec: self.spec.clone(),
            bytes,
        })
    }
}

/// [`T2IAdapterModel`] with its weights.
#[derive(Debug)]
pub struct T2IAdapter {
    model: T2IAdapterModel,
    spec: ControlSpec,
    bytes: WeightBytes,
}

impl T2IAdapter {
    /// Memory that its weights take.
    pub fn weights(&self) -> WeightBytes {
        self.bytes
    }
}

impl ControlNetwork for T2IAdapter {
    fn spec(&self) -> &ControlSpec {
        &self.spec
    }

    fn prepare(
        self: Arc<Self>,
        steering: &Steering,
        _: &[&Conditioning],
        unet: &DenoiserSpec,
    ) -> sd_core::Result<Box<dyn PreparedAdapter>> {
        if !steering.scale.is_finite() {
            let expected = "expected a finite number";
            return Err(Error::invalid("control scale", steering.scale, expected));
        }
        if let Some(kind) = steering.kind {
            let expected = "expected none: a T2I-Adapter knows one kind of pictures alone";
            return Err(Error::invalid("control kind", kind, expected));
        }
        let features = self.model.forward(steering.fitted(&self.spec)?);
        let placed = |x: Tensor<4>| sd_core::placed(x * steering.scale, &unet.device, unet.dtype);
        Ok(Box::new(Features(
            features
                .into_iter()
                .map(placed)
                .collect::<sd_core::Result<_>>()?,
        )))
    }
}

/// What the picture was found to be: the network itself is needed no more.
struct Features(Vec<Tensor<4>>);

impl PreparedAdapter for Features {
    fn residuals(
        &self,
        x: &Tensor<4>,
        _: f64,
        branches: &[usize],
        _: &Cancel,
    ) -> sd_core::Result<Vec<UNetResiduals>> {
        let of_all = |feature: &Tensor<4>| {
            let [_, c, h, w] = feature.dims();
            feature.clone().expand([x.dims()[0], c, h, w])
        };
        let residuals = UNetResiduals {
            blocks: self.0.iter().map(of_all).collect(),
            ..UNetResiduals::default()
        };
        Ok(vec![residuals; branches.len()])
    }
}
