//! A denoiser and a scheduler of our own in the pipeline, next to the library's text encoder and
//! autoencoder.
//!
//! The denoiser knows no prompt and has no weights: for a finite set of pictures the perfect
//! prediction can be written down (Karras et al. 2022, arXiv:2206.00364, eq. 57). The pipeline
//! therefore draws, from noise, one of the pictures of the set: sampling at its purest, and what
//! a network that only memorised its training data would do.
//!
//! `cargo run --release --example custom_component`

use std::error::Error;
use std::sync::Arc;

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use sd_pipeline::core::{Error as CoreError, Result};
use sd_pipeline::{
    Conditioning, Denoiser, DenoiserSpec, Level, Model, Network, Noise, NoiseSchedule, Plan,
    Request, Sampler, SavedState, Scheduler, Slot, Stage, Step, device, each_branch, write_png,
};

/// The perfect denoiser of a set of `k` latents.
struct Memory {
    spec: DenoiserSpec,
    /// `[k, c·h·w]`.
    latents: Tensor<2>,
}

impl Denoiser for Memory {
    fn spec(&self) -> &DenoiserSpec {
        &self.spec
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        each_branch("a memory", branches, move |x, t, _| {
            self.noise(x.clone(), t)
        })
    }
}

impl Memory {
    fn noise(&self, x: Tensor<4>, t: f64) -> Result<Tensor<4>> {
        let Level { alpha, sigma, .. } = self.spec.schedule.level(t.round() as usize);
        let ([n, ..], shape) = (x.dims(), x.dims());
        let x: Tensor<2> = x.reshape([n as i32, -1]);
        if x.dims()[1] != self.latents.dims()[1] {
            return Err(CoreError::shape(
                "x",
                &shape,
                "the size of the remembered latents",
            ));
        }
        // p(picture | x) ∝ exp(−‖x − α·picture‖² / 2σ²); the ‖x‖² in it cancels.
        let likeness = x.clone().matmul(self.latents.clone().transpose()) * alpha;
        let norms = self.latents.clone().powi_scalar(2).sum_dim(1).transpose();
        let share = softmax(
            (likeness - norms * (alpha * alpha / 2.0)) / (sigma * sigma),
            1,
        );
        let mean = share.matmul(self.latents.clone());
        Ok(((x - mean * alpha) / sigma).reshape(shape))
    }
}

/// DDIM's step (Song et al. 2020, arXiv:2010.02502, eq. 12) on timesteps that grow
/// quadratically, finer towards the end.
#[derive(Debug)]
struct QuadraticDdim;

impl Scheduler for QuadraticDdim {
    fn plan(&self, train: &Arc<NoiseSchedule>, steps: usize) -> Result<Plan> {
        if steps == 0 || steps > train.len() {
            let expected = format!("expected 1 to {}", train.len());
            return Err(CoreError::invalid("steps", steps, expected));
        }
        let last = (train.len() - 1) as f64;
        let level = |i: usize| match ((steps - i) as f64 / steps as f64).powi(2) * last {
            0.0 => Level::variance_preserving(0.0, 1.0),
            t => train.level(t.round() as usize),
        };
        let stage = |i| Stage {
            from: level(i),
            to: level(i + 1),
        };
        let stages = (0..steps).map(stage).collect();
        Ok(Plan {
            schedule: train.clone(),
            init_noise_sigma: 1.0,
            stages,
        })
    }

    fn start(&self, plan: &Plan, first: usize) -> Result<Box<dyn Sampler>> {
        Ok(Box::new(DdimRun {
            plan: plan.clone(),
            next: first,
        }))
    }
}

struct DdimRun {
    plan: Plan,
    next: usize,
}

impl Sampler for DdimRun {
    fn step(&mut self, x: Tensor<4>, model: &mut dyn Model, _: &mut dyn Noise) -> Result<Step> {
        let Some(&Stage { from, to }) = self.plan.stages.get(self.next) else {
            return Err(CoreError::invalid("step", self.next, "the run is over"));
        };
        self.next += 1;
        let prediction = model.predict(&x, from)?;
        let stages = self.plan.stages.len();
        Ok(Step {
            x: prediction.denoised.clone() * to.alpha + prediction.noise * to.sigma,
            level: to,
            denoised: prediction.denoised,
            progress: self.next as f64 / stages as f64,
            done: self.next == stages,
        })
    }

    fn save(&self) -> SavedState {
        SavedState::at(self.next)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.next = state.index();
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let device = device("flex")?;
    let mut pipeline = sd_tiny::pipeline(&device)?;

    // The set: three discs of plain colour, as latents.
    let colours = [[0.8f32, -0.7, -0.7], [-0.7, 0.5, -0.6], [-0.6, -0.5, 0.8]];
    let side = 128;
    let disc = |colour: [f32; 3]| {
        let inside = |i: i32| ((i % side - 64).pow(2) + (i / side - 64).pow(2)) < 27 * 27;
        let pixel = |c: usize, i| if inside(i) { colour[c] } else { 0.6 };
        (0..3)
            .flat_map(move |c| (0..side * side).map(move |i| pixel(c, i)))
            .collect::<Vec<f32>>()
    };
    let pixels: Vec<f32> = colours.into_iter().flat_map(disc).collect();
    let pixels = Tensor::<1>::from_floats(&pixels[..], &device).reshape([3, 3, 128, 128]);
    let latents = pipeline.autoencoder.get()?;
    let latents = latents.encode(pixels, None)?.reshape([3, -1]);

    pipeline.denoiser = Slot::from(Memory {
        spec: pipeline.denoiser.spec().clone(),
        latents,
    });
    pipeline.scheduler = Arc::new(QuadraticDdim);

    let request = Request {
        steps: 12,
        count: 3,
        ..Request::new("whatever it remembers")
    };
    for (k, image) in pipeline.generate(&request)?.iter().enumerate() {
        let file = format!("memory-{k}.png");
        write_png(image, &file)?;
        println!("{file}");
    }
    Ok(())
}
