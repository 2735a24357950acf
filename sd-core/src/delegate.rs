//! A reference, a box or an `Arc` of a component is that component.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::{
    AbsentPrompt, Autoencoder, AutoencoderSpec, Conditioning, Denoiser, DenoiserSpec, Extensions,
    Network, Noise, NoiseSchedule, Plan, Prompt, Result, Sampler, Scheduler, TextEmbedding,
    TextEncoder,
};

macro_rules! delegate {
    ($($pointer:ty),*) => {$(
        impl<T: TextEncoder + ?Sized> TextEncoder for $pointer {
            fn encode(&self, prompts: &[Prompt]) -> Result<TextEmbedding> {
                (**self).encode(prompts)
            }

            fn absent(&self) -> AbsentPrompt {
                (**self).absent()
            }

            fn told(&self, told: &mut Extensions) -> Result<Option<Box<dyn TextEncoder>>> {
                (**self).told(told)
            }
        }

        impl<T: Autoencoder + ?Sized> Autoencoder for $pointer {
            fn spec(&self) -> &AutoencoderSpec {
                (**self).spec()
            }

            fn encode(&self, image: Tensor<4>, noise: Option<&mut dyn Noise>) -> Result<Tensor<4>> {
                (**self).encode(image, noise)
            }

            fn encode_unscaled(&self, image: Tensor<4>) -> Result<Tensor<4>> {
                (**self).encode_unscaled(image)
            }

            fn decode(&self, latent: Tensor<4>) -> Result<Tensor<4>> {
                (**self).decode(latent)
            }
        }

        impl<T: Scheduler + ?Sized> Scheduler for $pointer {
            fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
                (**self).plan(train, steps)
            }

            fn plan_from_picture(
                &self,
                train: &Arc<NoiseSchedule>,
                steps: usize,
                strength: f64,
            ) -> Result<(Plan, usize)> {
                (**self).plan_from_picture(train, steps, strength)
            }

            fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
                (**self).start(plan, first)
            }

            fn second_timestep(&self, plan: &Plan, stage: usize) -> Option<f64> {
                (**self).second_timestep(plan, stage)
            }

            fn steps_each_image(&self) -> bool {
                (**self).steps_each_image()
            }
        }
    )*};
}

delegate!(&T, Box<T>, Arc<T>);

/// Of a denoiser only an `Arc`: a prepared network holds it.
impl<T: Denoiser + ?Sized> Denoiser for Arc<T> {
    fn spec(&self) -> &DenoiserSpec {
        (**self).spec()
    }

    fn schedule(&self, latent: [usize; 2]) -> Result<Arc<NoiseSchedule>> {
        (**self).schedule(latent)
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        (*self).clone().prepare(branches)
    }
}
