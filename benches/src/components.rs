//! Measurements of each kind of component.

use std::sync::Arc;

use burn::tensor::Tensor;
use sd_pipeline::core::{BoxError, Cancel, Model, Prediction};
use sd_pipeline::{
    Autoencoder, Conditioning, Denoiser, Level, Noise, NoiseSchedule, Parameterization, Picture,
    Pipeline, Request, Scheduler, SeededNoise, TextEmbedding, TextEncoder,
};

use crate::{Harness, Place};

/// Steps in which a scheduler's own cost is measured: some do something else in the first ones.
const STEPS: usize = 10;

impl Harness {
    /// Measures `encode` of a prompt and an empty one, as guidance asks for.
    pub fn text_encoder<C: TextEncoder, E: Into<BoxError>>(
        &mut self,
        place: &Place,
        model: &str,
        open: impl FnOnce() -> Result<C, E>,
    ) {
        self.measure(place, model, "text encoder, batch 2", || {
            let encoder = open().map_err(Into::<BoxError>::into)?;
            let prompts = ["", "a lighthouse in a storm, oil on canvas"].map(Into::into);
            Ok(move || -> Result<TextEmbedding, BoxError> { Ok(encoder.encode(&prompts)?) })
        });
    }

    /// Measures `predict` of two branches, one step with guidance, at the size the model was
    /// trained for and with its conditioning prepared.
    pub fn denoiser<C: Denoiser + 'static, E: Into<BoxError>>(
        &mut self,
        place: &Place,
        model: &str,
        open: impl FnOnce() -> Result<C, E>,
    ) {
        self.measure(place, model, "U-Net step, batch 2", || {
            let denoiser = open().map_err(Into::<BoxError>::into)?;
            let spec = denoiser.spec();
            let (device, dtype) = (spec.device.clone(), spec.dtype);
            let [h, w] = spec.sample_size;
            let x = normal([1, spec.latent_channels, h, w], place)?;
            let tokens = Tensor::<3>::ones([1, 77, spec.context_width], &device).cast(dtype);
            let branch = Conditioning::new(TextEmbedding::new(tokens));
            let network = Arc::new(denoiser).prepare(vec![branch; 2])?;
            Ok(move || -> Result<Vec<Tensor<4>>, BoxError> {
                Ok(network.predict(&x, 500.0, &[0, 1], &Cancel::new())?)
            })
        });
    }

    /// Measures `decode` of latents of `[height, width]` and `encode` of a picture of that size.
    pub fn autoencoder<C: Autoencoder, E: Into<BoxError>>(
        &mut self,
        place: &Place,
        model: &str,
        [h, w]: [usize; 2],
        open: impl Fn() -> Result<C, E>,
    ) {
        self.measure(place, model, "VAE decode", || {
            let autoencoder = open().map_err(Into::<BoxError>::into)?;
            let spec = autoencoder.spec();
            let latent = normal([1, spec.latent_channels, h, w], place)?.cast(spec.dtype);
            Ok(move || -> Result<Tensor<4>, BoxError> { Ok(autoencoder.decode(latent.clone())?) })
        });
        self.measure(place, model, "VAE encode", || {
            let autoencoder = open().map_err(Into::<BoxError>::into)?;
            let spec = autoencoder.spec();
            let image = normal([1, 3, h * spec.factor, w * spec.factor], place)?;
            let image = image.cast(spec.dtype).clamp(-1.0, 1.0);
            Ok(move || -> Result<Tensor<4>, BoxError> {
                Ok(autoencoder.encode(image.clone(), None)?)
            })
        });
    }

    /// Measures a scheduler's own cost: ten steps beside a network that costs nothing, on latents
    /// `[1, 4, 64, 64]` and `[1, 4, 128, 128]`. Solvers compute in f32 whatever the network's
    /// precision.
    pub fn scheduler<C: Scheduler, E: Into<BoxError>>(
        &mut self,
        place: &Place,
        name: &str,
        open: impl Fn() -> Result<C, E>,
    ) {
        for side in [64, 128] {
            let model = format!("schedulers, {STEPS} steps of 4×{side}×{side}");
            self.measure(place, &model, name, || {
                let scheduler = open().map_err(Into::<BoxError>::into)?;
                let plan = scheduler.plan(&Arc::new(NoiseSchedule::stable_diffusion()), STEPS)?;
                let start = Tensor::<4>::ones([1, 4, side, side], place.device());
                Ok(move || -> Result<Tensor<4>, BoxError> {
                    let mut model = Echo(0);
                    let mut noise = SeededNoise::new(1, 1);
                    let mut sampler = scheduler.start(&plan, 0)?;
                    let mut x = start.clone();
                    loop {
                        let step = sampler.step(x, &mut model, &mut noise)?;
                        x = step.x;
                        if step.done {
                            return Ok(x);
                        }
                    }
                })
            });
        }
    }

    /// Measures `generate`: one picture in four steps with guidance, from prompt to bytes.
    pub fn pipeline<E: Into<BoxError>>(
        &mut self,
        place: &Place,
        model: &str,
        open: impl FnOnce() -> Result<Pipeline, E>,
    ) {
        self.measure(place, model, "picture in 4 steps", || {
            let pipeline = open().map_err(Into::<BoxError>::into)?;
            let request = Request {
                steps: 4,
                guidance_scale: 5.0,
                ..Request::new(sd_tiny::PROMPT)
            };
            Ok(move || -> Result<Vec<Picture>, BoxError> { Ok(pipeline.generate(&request)?) })
        });
    }
}

/// A model whose network costs nothing: it answers with what it is asked.
struct Echo(usize);

impl Model for Echo {
    fn parameterization(&self) -> Parameterization {
        Parameterization::VPrediction
    }

    fn predict(&mut self, x: &Tensor<4>, level: Level) -> sd_pipeline::core::Result<Prediction> {
        self.0 += 1;
        let input = x.clone() * self.parameterization().coefficients(level).c_in;
        Ok(self.read(x, level, input))
    }

    fn read(&self, x: &Tensor<4>, level: Level, raw: Tensor<4>) -> Prediction {
        self.parameterization().read(x, level, raw)
    }

    fn evaluations(&self) -> usize {
        self.0
    }
}

/// Standard normal numbers in a place.
fn normal(shape: [usize; 4], place: &Place) -> Result<Tensor<4>, BoxError> {
    let [n, rest @ ..] = shape;
    let [c, h, w] = rest;
    let noise = SeededNoise::new(0, n).normal([n, c, h, w])?;
    Ok(Tensor::<4>::from_data(noise, place.device()).cast(place.dtype()))
}
