use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, Device, FloatDType, Tensor, TensorData};
use sd_core::{
    Conditioning, Denoiser, DenoiserSpec, Error, NoiseSchedule, PredictionType, Resident,
    WeightBytes,
};

use super::config::{TextTimeConfig, UNetConfig};
use super::{UNet2DConditionModel, UNetContext, UNetEmbeddings, timestep_embedding};
use crate::layers::Padding;
use crate::{ConfigFile, Files, LoadOptions, Result, Weights};

/// A U-Net's files, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct UNetFiles {
    weights: Weights,
    config: UNetConfig,
    spec: DenoiserSpec,
    options: LoadOptions,
    identity: Arc<()>,
}

impl UNetFiles {
    /// Opens `config.json` and `diffusion_pytorch_model.safetensors` of the folder `folder` of
    /// `files`.
    ///
    /// `schedule` and `prediction` say how the network was trained; in diffusers' layout that is
    /// in the scheduler's file.
    ///
    /// # Errors
    /// As [`UNetConfig::new`] and [`Files::weights`]; [`Error::Tensors`](crate::Error::Tensors)
    /// when the tensors are not the network's.
    pub fn open(
        files: &Files,
        folder: &str,
        schedule: Arc<NoiseSchedule>,
        prediction: PredictionType,
        options: &LoadOptions,
    ) -> Result<Self> {
        let files = files.folder(folder);
        let config = UNetConfig::new(&ConfigFile::read(&files, "config.json")?)?;
        let weights = files.weights("diffusion_pytorch_model", None)?;
        weights.check(&UNet2DConditionModel::new(&config, &options.device))?;
        let spec = DenoiserSpec {
            schedule,
            prediction,
            latent_channels: config.out_channels,
            sample_size: config.sample_size,
            context_width: config.cross_attention_dim,
            device: options.device.clone(),
            dtype: options.dtype,
        };
        Ok(Self {
            weights,
            config,
            spec,
            options: options.clone(),
            identity: Arc::new(()),
        })
    }

    /// What the network will work on.
    pub fn spec(&self) -> &DenoiserSpec {
        &self.spec
    }

    /// Reads the weights. What one network so made [prepared](Denoiser::prepare) serves all
    /// others.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when they cannot be read,
    /// [`Error::Packing`](crate::Error::Packing) when there is not memory enough.
    pub fn load(&self) -> Result<UNet> {
        let (model, bytes) =
            UNet2DConditionModel::load(&self.config, &self.weights, &self.options)?;
        Ok(UNet {
            model,
            config: self.config.clone(),
            spec: self.spec.clone(),
            bytes,
            identity: self.identity.clone(),
        })
    }
}

/// A [`UNet2DConditionModel`] with its weights: the [`Denoiser`] of every Stable Diffusion 1, 2
/// and XL model.
///
/// Besides the prompt's tokens, [`Conditioning`] holds what the model's configuration asks for:
///
/// - with `addition_embed_type = "text_time"` (SDXL) `pooled` `[n, width]` and, in `extra`
///   `[n, k]`, the sizes and crops (6 for SDXL: original height and width, crop top and left,
///   target height and width);
/// - with `time_cond_proj_dim` (LCM), optionally, the embedded guidance scale in `extra`, behind
///   the sizes and crops where there are any.
///
/// `extra` may be, and with sizes above 2048 must be, in f32 whatever the model's precision.
///
/// An inpainting model takes all its input channels in `x` (latent, mask, masked latent) and
/// returns the latent's.
#[derive(Debug, Clone)]
pub struct UNet {
    model: UNet2DConditionModel,
    config: UNetConfig,
    spec: DenoiserSpec,
    bytes: WeightBytes,
    /// Tells what this network prepared from what another did.
    identity: Arc<()>,
}

struct Prepared {
    by: Arc<()>,
    batch: usize,
    context: UNetContext,
    /// Each timestep that was asked for, by its bits, as the blocks see it.
    times: Mutex<HashMap<u64, Tensor<2>>>,
}

impl Prepared {
    /// The timestep `t`, embedded when it is first asked for: solvers that evaluate the network
    /// twice in a step ask again.
    fn time(&self, t: f64, embed: impl FnOnce() -> Tensor<2>) -> Tensor<2> {
        // More than any run has steps; a program that asks for ever other ones must not fill memory.
        const MOST: usize = 4096;
        let lock = || self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(time) = lock().get(&t.to_bits()) {
            return time.clone();
        }
        // Not under the lock: the network computes in a pool whose threads may be asked for `t` too.
        let time = embed();
        let mut times = lock();
        if times.len() < MOST {
            times.insert(t.to_bits(), time.clone());
        }
        time
    }
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
        prediction: PredictionType,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self> {
        let options = LoadOptions::new(device).in_precision(dtype);
        UNetFiles::open(files, folder, schedule, prediction, &options)?.load()
    }

    /// What the network's `config.json` says.
    pub fn config(&self) -> &UNetConfig {
        &self.config
    }

    /// The bare network.
    pub fn model(&self) -> &UNet2DConditionModel {
        &self.model
    }

    fn check_latent(&self, x: &Tensor<4>, batch: usize) -> sd_core::Result<()> {
        let [n, c, h, w] = x.dims();
        // Rounding down, a side of less would end at nothing.
        let least = match self.config.downsample_padding {
            Padding::BottomRight => 1 << (self.config.blocks.len() - 1),
            Padding::Even(_) => 1,
        };
        if n == 0 || n != batch || c != self.config.in_channels || h.min(w) < least {
            let c = self.config.in_channels;
            let expected = format!("[{batch}, {c}, h, w] with h and w at least {least}");
            return Err(Error::shape("latent", &x.dims(), expected));
        }
        self.check_dtype("latent dtype", x.dtype())
    }

    fn check_dtype(&self, what: &'static str, found: DType) -> sd_core::Result<()> {
        let expected = DType::from(self.spec.dtype);
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (format!("{found:?}"), format!("expected {expected:?}"));
        Err(Error::invalid(what, found, expected))
    }

    /// The network's context for `conditioning`, from scratch.
    fn context(&self, conditioning: &Conditioning) -> sd_core::Result<UNetContext> {
        let prompt = &conditioning.context;
        let ([n, tokens, width], expected) = (prompt.dims(), self.config.cross_attention_dim);
        if n == 0 || tokens == 0 || width != expected {
            let expected = format!("[n, tokens, {expected}]");
            return Err(Error::shape("context", &prompt.dims(), expected));
        }
        self.check_dtype("context dtype", prompt.dtype())?;
        let embeddings = self.embeddings(conditioning)?;
        Ok(self.model.prepare(prompt, embeddings))
    }

    /// The input of SDXL's added embedding, and the embedded guidance scale.
    fn embeddings(&self, conditioning: &Conditioning) -> sd_core::Result<UNetEmbeddings> {
        let n = conditioning.len();
        let sizes = match self.config.text_time {
            Some(config) => number_of_sizes(config, conditioning)?,
            None => 0,
        };
        let guidance = self.config.time.cond_proj_dim.unwrap_or(0);
        let columns = match &conditioning.extra {
            Some(extra) if extra.dims() == [n, sizes] => sizes,
            Some(extra) if guidance > 0 && extra.dims() == [n, sizes + guidance] => {
                sizes + guidance
            }
            None if sizes == 0 => 0,
            // SDXL's numbers given to a model that knows none would silently do nothing.
            other => {
                let found = other.as_ref().map_or(vec![], |extra| extra.dims().to_vec());
                let expected = format!("[{n}, {sizes}] or [{n}, {}]", sizes + guidance);
                return Err(Error::shape("extra", &found, expected));
            }
        };
        let extra = conditioning.extra.as_ref();
        let guidance = (extra.filter(|_| columns > sizes)).map(|extra| {
            extra
                .clone()
                .narrow(1, sizes, guidance)
                .cast(self.spec.dtype)
        });
        let added = match (self.config.text_time, &conditioning.pooled, extra) {
            (Some(config), Some(pooled), Some(extra)) => {
                let sizes = self.embed_sizes(config, extra.clone().narrow(1, 0, sizes))?;
                let pooled = pooled.clone().cast(self.spec.dtype);
                Some(Tensor::cat(vec![pooled, sizes], 1))
            }
            _ => None,
        };
        Ok(UNetEmbeddings { added, guidance })
    }

    /// Sines and cosines of each of `[n, k]` numbers, `[n, k · time channels]`.
    fn embed_sizes(&self, config: TextTimeConfig, sizes: Tensor<2>) -> sd_core::Result<Tensor<2>> {
        let n = sizes.dims()[0];
        let sizes = sizes.try_into_vec_as::<f32>();
        let sizes = sizes.map_err(|e| Error::backend("reading sizes and crops", e))?;
        let embed = |size: &f32| self.sinusoids(f64::from(*size), config.time_channels);
        let values: Vec<f32> = sizes.iter().flat_map(embed).collect();
        let width = values.len() / n;
        Ok(self.upload(values, [n, width]))
    }

    fn sinusoids(&self, t: f64, channels: usize) -> Vec<f32> {
        let time = &self.config.time;
        timestep_embedding(t, channels, time.flip_sin_to_cos, time.freq_shift)
    }

    /// The timestep as the network's blocks see it.
    fn time(&self, t: f64, context: &UNetContext) -> Tensor<2> {
        let channels = self.config.time.channels;
        let timestep = self.upload(self.sinusoids(t, channels), [1, channels]);
        self.model.embed_time(timestep, context)
    }

    fn upload(&self, values: Vec<f32>, shape: [usize; 2]) -> Tensor<2> {
        let (device, dtype) = (&self.spec.device, DType::from(self.spec.dtype));
        Tensor::from_data(TensorData::new(values, shape), (device, dtype))
    }
}

/// How many sizes and crops there must be, from the width they and the pooled prompt make.
fn number_of_sizes(config: TextTimeConfig, conditioning: &Conditioning) -> sd_core::Result<usize> {
    let (n, whole) = (conditioning.len(), config.input_width);
    let found = conditioning.pooled.as_ref().map(Tensor::dims);
    let sizes = found.filter(|[m, _]| *m == n).and_then(|[_, width]| {
        let rest = whole.checked_sub(width)?;
        rest.is_multiple_of(config.time_channels)
            .then_some(rest / config.time_channels)
    });
    sizes.filter(|sizes| *sizes > 0).ok_or_else(|| {
        let found = found.map_or(vec![], |dims| dims.to_vec());
        let each = config.time_channels;
        let expected = format!("[{n}, {whole} less {each} for each size and crop]");
        Error::shape("pooled", &found, expected)
    })
}

impl Denoiser for UNet {
    fn spec(&self) -> &DenoiserSpec {
        &self.spec
    }

    fn prepare(&self, mut conditioning: Conditioning) -> sd_core::Result<Conditioning> {
        let prepared = Prepared {
            by: self.identity.clone(),
            batch: conditioning.len(),
            context: self.context(&conditioning)?,
            times: Mutex::default(),
        };
        conditioning.prepared = Some(Arc::new(prepared));
        Ok(conditioning)
    }

    fn predict(
        &self,
        x: Tensor<4>,
        t: f64,
        conditioning: &Conditioning,
    ) -> sd_core::Result<Tensor<4>> {
        let batch = conditioning.len();
        self.check_latent(&x, batch)?;
        if !t.is_finite() {
            return Err(Error::invalid("timestep", t, "expected a finite number"));
        }
        let prepared = conditioning.prepared.as_ref();
        let prepared = prepared.and_then(|any| any.downcast_ref::<Prepared>());
        match prepared.filter(|p| Arc::ptr_eq(&p.by, &self.identity) && p.batch == batch) {
            Some(prepared) => {
                let time = prepared.time(t, || self.time(t, &prepared.context));
                Ok(self.model.forward(x, &time, &prepared.context))
            }
            None => {
                let context = self.context(conditioning)?;
                Ok(self.model.forward(x, &self.time(t, &context), &context))
            }
        }
    }

    fn resident(&self) -> Option<&dyn Resident> {
        Some(self)
    }
}

impl Resident for UNet {
    fn weights(&self) -> WeightBytes {
        self.bytes
    }
}
