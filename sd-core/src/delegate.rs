//! A reference, a box or an `Arc` of a component is that component.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::{
    Autoencoder, AutoencoderSpec, Conditioning, Denoiser, DenoiserSpec, Noise, NoiseSchedule, Plan,
    Resident, Result, Sampler, Scheduler, TextEmbedding, TextEncoder,
};

macro_rules! delegate {
    ($($pointer:ty),*) => {$(
        impl<T: TextEncoder + ?Sized> TextEncoder for $pointer {
            fn encode(&self, prompts: &[&str]) -> Result<TextEmbedding> {
                (**self).encode(prompts)
            }

            fn resident(&self) -> Option<&dyn Resident> {
                (**self).resident()
            }
        }

        impl<T: Denoiser + ?Sized> Denoiser for $pointer {
            fn spec(&self) -> &DenoiserSpec {
                (**self).spec()
            }

            fn prepare(&self, conditioning: Conditioning) -> Result<Conditioning> {
                (**self).prepare(conditioning)
            }

            fn predict(&self, x: Tensor<4>, t: f64, c: &Conditioning) -> Result<Tensor<4>> {
                (**self).predict(x, t, c)
            }

            fn resident(&self) -> Option<&dyn Resident> {
                (**self).resident()
            }
        }

        impl<T: Autoencoder + ?Sized> Autoencoder for $pointer {
            fn spec(&self) -> &AutoencoderSpec {
                (**self).spec()
            }

            fn encode(&self, image: Tensor<4>, noise: Option<&mut dyn Noise>) -> Result<Tensor<4>> {
                (**self).encode(image, noise)
            }

            fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>> {
                (**self).decode(latent)
            }

            fn resident(&self) -> Option<&dyn Resident> {
                (**self).resident()
            }
        }

        impl<T: Scheduler + ?Sized> Scheduler for $pointer {
            fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
                (**self).plan(train, steps)
            }

            fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
                (**self).start(plan, first)
            }
        }
    )*};
}

delegate!(&T, Box<T>, Arc<T>);
