use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType, Tensor};
use sd_core::{
    Conditioning, Denoiser, DenoiserSpec, Error, Network, NoiseSchedule, Parameterization,
    WeightBytes,
};
use sd_kernels::OutputReplay;

use super::config::UNetConfig;
use super::prepared::PreparedUNet;
use super::{UNet2DConditionModel, UNetWork};
use crate::layers::{Padding, has_kernels};
use crate::ldm::{Layout, Numbering};
use crate::lora::{LoraFile, LoraStrength, Matches, Names, Target};
use crate::{ConfigFile, Files, LayerChanges, LoadOptions, Result, Weights};

/// A U-Net's files, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct UNetFiles {
    weights: Weights,
    config: UNetConfig,
    spec: DenoiserSpec,
    options: LoadOptions,
}

impl UNetFiles {
    /// Opens `config.json` and `diffusion_pytorch_model.safetensors` of the folder `folder` of
    /// `files`.
    ///
    /// `schedule` and `parameterization` say how the network was trained; in diffusers' layout that is
    /// in the scheduler's file.
    ///
    /// # Errors
    /// As [`UNetConfig::new`] and [`Files::weights`]; [`Error::Tensors`](crate::Error::Tensors)
    /// when the tensors are not the network's.
    pub fn open(
        files: &Files,
        folder: &str,
        schedule: Arc<NoiseSchedule>,
        parameterization: Parameterization,
        options: &LoadOptions,
    ) -> Result<Self> {
        let file = ConfigFile::read(&files.folder(folder), "config.json")?;
        Self::open_configured(files, folder, file, schedule, parameterization, options)
    }

    /// As [`open`](Self::open) with the configuration `file` in place of `config.json`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_configured(
        files: &Files,
        folder: &str,
        file: ConfigFile,
        schedule: Arc<NoiseSchedule>,
        parameterization: Parameterization,
        options: &LoadOptions,
    ) -> Result<Self> {
        let files = files.folder(folder);
        let config = UNetConfig::new(&file.on_unknown(options.unknown_settings))?;
        let weights = files.weights("diffusion_pytorch_model", options.variant.as_deref())?;
        weights.check(&UNet2DConditionModel::new(&config, &options.device))?;
        let mut spec = DenoiserSpec::new(&options.device);
        spec.schedule = schedule;
        spec.parameterization = parameterization;
        // A network that also learned its variance has more outputs, one that sees more than the
        // latent more inputs.
        spec.latent_channels = config.in_channels.min(config.out_channels);
        spec.concat_channels = config.in_channels - spec.latent_channels;
        spec.sample_size = config.sample_size;
        spec.context_width = config.cross_attention_dim;
        spec.cross_attention = (config.cross_attention().iter())
            .map(|layer| layer.width)
            .collect();
        spec.embeds_size = config.text_time.is_some();
        spec.embeds_guidance = config.time.cond_proj_dim.is_some();
        spec.dtype = options.dtype;
        let has_kernels = has_kernels(&options.device, options.dtype.into());
        spec.products = (has_kernels && !options.products.is_f32()).then_some(FloatDType::BF16);
        spec.int8 = has_kernels && options.products.int8().is_some();
        spec.rounding = options.weight_storage.rounding().filter(|_| has_kernels);
        Ok(Self {
            weights,
            config,
            spec,
            options: options.clone(),
        })
    }

    /// The same as a network that embeds an aesthetic score (SDXL's refiner), or does not: its
    /// `config.json` does not say, diffusers' pipeline does.
    #[must_use]
    pub fn with_aesthetic_score(mut self, embeds: bool) -> Self {
        self.spec.embeds_aesthetic_score = embeds;
        self
    }

    /// The same with the changes of `lora` in its weights, `strength` times each, merged while they
    /// are read. `matches` gets what was found.
    ///
    /// # Errors
    /// [`Error::Adapter`](crate::Error::Adapter) when two of its modules change the same;
    /// [`Error::Unsupported`](crate::Error::Unsupported) when weights are no floating-point numbers.
    pub fn with_lora(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Self> {
        let mut changed = self.clone();
        lora.merge_into(
            &mut changed.weights,
            Target::Denoiser,
            &self.names(),
            self.options.weight_storage,
            strength,
            matches,
        )?;
        Ok(changed)
    }

    /// The changes of `lora` as what acts beside the layers of a network of these files, `strength`
    /// times each, without weights being read: [`UNet`] reads it as
    /// [`BesideLayers`](crate::BesideLayers). `matches` gets
    /// what was found.
    ///
    /// LoRA is two thin products beside each layer that it changes; other differences (LoHa, LoKr,
    /// whole ones) are made whole, and take as much memory and time as the layer's own weight.
    ///
    /// # Errors
    /// [`Error::Adapter`](crate::Error::Adapter) when two of its modules change the same, and for
    /// changes that are no sum (DoRA, OFT, BOFT) or of normalisations: they can be merged; those of
    /// reading `lora`.
    pub fn lora_beside(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<LayerChanges> {
        let model = UNet2DConditionModel::new(&self.config, &self.options.device);
        lora.beside(
            (&self.weights, model),
            Target::Denoiser,
            &self.names(),
            &self.options,
            strength,
            matches,
        )
    }

    fn names(&self) -> Names {
        let layout = Layout::unet(&self.config, Numbering::Contiguous);
        Names::of_unet(self.weights.shapes().map(|(name, _)| name), &layout)
    }

    /// The configuration, checked.
    pub(crate) fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The tensors, with what was merged into them.
    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Facts of the network.
    pub fn spec(&self) -> &DenoiserSpec {
        &self.spec
    }

    /// The bytes that the weights take once they are loaded, told from the files' headers.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for tensors that are no network's.
    pub fn weight_bytes(&self) -> Result<WeightBytes> {
        let model = UNet2DConditionModel::new(&self.config, &self.options.device);
        self.weights.packed_bytes(model, &self.options)
    }

    /// The bytes that evaluating it takes besides the weights. It is replayed, behind what `outputs`
    /// saw before, and nothing is computed. On a device without this workspace's kernels it is the
    /// less exact, as backends differ in what they copy.
    pub fn work_bytes(&self, work: UNetWork, outputs: &mut OutputReplay) -> u64 {
        let dtype = DType::from(self.options.dtype);
        let kernels = has_kernels(&self.options.device, dtype);
        let mut own = OutputReplay::new(false);
        let outputs = if kernels { outputs } else { &mut own };
        let held = self.config.replay(work, outputs, kernels);
        ((outputs.take_peak() + held) * dtype.size()) as u64
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when they cannot be read,
    /// [`Error::Packing`](crate::Error::Packing) when there is not memory enough.
    pub fn load(&self) -> Result<UNet> {
        let (model, bytes) =
            UNet2DConditionModel::load(&self.config, &self.weights, &self.options)?;
        Ok(UNet {
            model: Arc::new(model),
            config: self.config.clone(),
            spec: self.spec.clone(),
            bytes,
        })
    }
}

/// [`UNet2DConditionModel`] with its weights: the [`Denoiser`] of every Stable Diffusion 1, 2
/// and XL model.
///
/// Besides the prompt's tokens, [`Conditioning`] holds what the model's configuration asks for:
///
/// - with `addition_embed_type = "text_time"` (SDXL) the pooled text embedding and
///   [`size`](Conditioning::size);
/// - with `time_cond_proj_dim` (LCM), optionally, [`guidance_scale`](Conditioning::guidance_scale);
/// - with `num_class_embeds` (an upscaler) a [`ClassLabel`](super::ClassLabel);
/// - with more input than output channels (inpainting) [`concat`](Conditioning::concat);
/// - [`UNetAdapters`](super::UNetAdapters), networks beside it.
///
/// And, of any model, what changes its computation: tokens beside the prompt's
/// ([`DecoupledAttention`](super::DecoupledAttention)), layers that are [`Perturbed`](sd_core::Perturbed),
/// [`FreeU`](super::FreeU), a [`StepCache`](super::StepCache), changes that act
/// [beside its layers](crate::BesideLayers).
#[derive(Debug, Clone)]
pub struct UNet {
    model: Arc<UNet2DConditionModel>,
    config: UNetConfig,
    pub(super) spec: DenoiserSpec,
    bytes: WeightBytes,
}

impl UNet {
    /// [`UNetFiles::open`] and [`UNetFiles::load`] in one, the fastest way, to compute on `device`
    /// in precision `dtype`.
    ///
    /// # Errors
    /// Those of both.
    pub fn open(
        files: &Files,
        folder: &str,
        schedule: Arc<NoiseSchedule>,
        parameterization: Parameterization,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self> {
        let options = LoadOptions::new(device).in_precision(dtype);
        UNetFiles::open(files, folder, schedule, parameterization, &options)?.load()
    }

    /// The network's `config.json`, checked.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The bare network.
    pub fn model(&self) -> &UNet2DConditionModel {
        &self.model
    }

    /// The network, for whoever holds it beside this.
    pub(super) fn shared(&self) -> Arc<UNet2DConditionModel> {
        self.model.clone()
    }

    /// Memory that its weights take.
    pub fn weights(&self) -> WeightBytes {
        self.bytes
    }

    pub(super) fn check_latent(&self, x: &Tensor<4>, samples: usize) -> sd_core::Result<()> {
        let [n, c, h, w] = x.dims();
        // Rounding down, a side of less would end at nothing.
        let least = match self.config.downsample_padding {
            Padding::BottomRight => 1 << (self.config.blocks.len() - 1),
            Padding::Even(_) => 1,
        };
        let channels = self.spec.latent_channels;
        if n == 0 || n != samples || c != channels || h.min(w) < least {
            let expected = format!("[{samples}, {channels}, h, w] with h and w at least {least}");
            return Err(Error::shape("latent", &x.dims(), expected));
        }
        self.check_dtype("latent dtype", x.dtype())
    }

    pub(super) fn check_dtype(&self, what: &'static str, found: DType) -> sd_core::Result<()> {
        let expected = DType::from(self.spec.dtype);
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (format!("{found:?}"), format!("expected {expected:?}"));
        Err(Error::invalid(what, found, expected))
    }
}

impl Denoiser for UNet {
    fn spec(&self) -> &DenoiserSpec {
        &self.spec
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> sd_core::Result<Box<dyn Network>> {
        Ok(Box::new(PreparedUNet::new(self, branches)?))
    }
}
