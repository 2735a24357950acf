//! A flow-matching model whose solution is known, as a network of our own: for normally distributed
//! data the velocity of the straight line between picture and noise (Lipman et al. 2023,
//! arXiv:2210.02747) is a formula, and every solver can be measured against the exact answer.
//!
//! It needs no weights and reads nothing but the latent and the timestep:
//!
//! ```no_run
//! # use outside::flow::Gaussian;
//! # use sd_pipeline::{Pipeline, device, schedulers::Heun};
//! # fn swap(pipeline: &mut Pipeline) -> sd_pipeline::Result<()> {
//! let width = pipeline.denoiser.spec().context_width;
//! pipeline.denoiser = Gaussian::new(width, &device("flex")?).into();
//! pipeline.scheduler = std::sync::Arc::new(Heun::default());
//! # Ok(())
//! # }
//! ```

use std::sync::Arc;

use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::core::Result;
use sd_pipeline::{
    Conditioning, Denoiser, DenoiserSpec, Device, Level, Network, NoiseSchedule, Parameterization,
    each_branch,
};

/// Mean and standard deviation of every number of a clean latent.
const MEAN: f64 = 0.4;
const DEVIATION: f64 = 0.6;

/// The perfect network for normally distributed latents.
#[derive(Debug, Clone)]
pub struct Gaussian {
    spec: DenoiserSpec,
}

impl Gaussian {
    /// One that stands beside a text encoder of that `width`, which it does not listen to.
    pub fn new(width: usize, device: &Device) -> Self {
        let mut spec = DenoiserSpec::new(device);
        spec.parameterization = Parameterization::Flow;
        spec.schedule = Arc::new(NoiseSchedule::flow(1.0).unwrap_or_else(|e| unreachable!("{e}")));
        spec.context_width = width;
        Self { spec }
    }
}

impl Denoiser for Gaussian {
    fn spec(&self) -> &DenoiserSpec {
        &self.spec
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        each_branch("a Gaussian", branches, move |x, t, _| {
            let sigma = self.spec.schedule.sigma(t);
            let level = Level::linear(t, sigma);
            let noise = (x.clone() - MEAN * level.alpha) / deviation(level).powi(2);
            // Of both normal distributions in x, each accounts for its share of the variance.
            let clean = noise.clone() * (level.alpha * DEVIATION * DEVIATION) + MEAN;
            Ok(noise * sigma - clean)
        })
    }
}

/// Standard deviation of the latents at `level`.
fn deviation(level: Level) -> f64 {
    (level.alpha * DEVIATION).hypot(level.sigma)
}

/// Where the ODE carries the latent `x` of level `from` at level `to`: each number keeps its place
/// in the distribution.
pub fn solution(x: &Tensor<4>, from: Level, to: Level) -> Tensor<4> {
    let place = (x.clone() - MEAN * from.alpha) / deviation(from);
    place * deviation(to) + MEAN * to.alpha
}

#[cfg(test)]
mod tests {
    use sd_pipeline::schedulers::{
        Conventions, DpmSolverMultistep, Euler, Heun, Levels, SigmaSchedule, UniPc,
    };
    use sd_pipeline::{Pipeline, Request, Scheduler};

    use super::*;
    use crate::testing::{difference, finished, micro, request};

    fn pipeline() -> Pipeline {
        let mut pipeline = micro();
        let width = pipeline.denoiser.spec().context_width;
        pipeline.denoiser = Gaussian::new(width, &Device::flex()).into();
        pipeline
    }

    /// The largest error of a run of `steps` steps.
    fn error(pipeline: &Pipeline, steps: usize) -> f32 {
        let request = Request { steps, ..request() };
        let mut run = pipeline.start(&request).unwrap();
        let (initial, from) = (run.latents().clone(), run.level());
        let found = finished(&mut run);
        difference(&found, &solution(&initial, from, run.level()))
    }

    /// The four on `levels`, with the order that they should have.
    fn solvers(levels: Levels) -> [(&'static str, f32, Arc<dyn Scheduler>); 4] {
        let euler = Euler {
            levels: levels.clone(),
            ..Euler::default()
        };
        let heun = Heun {
            levels: levels.clone(),
            ..Heun::default()
        };
        let dpm = DpmSolverMultistep {
            levels: levels.clone(),
            ..DpmSolverMultistep::default()
        };
        let unipc = UniPc {
            levels,
            lower_order_final: false,
            ..UniPc::default()
        };
        [
            ("Euler", 1.0, Arc::new(euler)),
            ("Heun", 2.0, Arc::new(heun)),
            ("DPM++ 2M", 2.0, Arc::new(dpm)),
            ("UniPC", 3.0, Arc::new(unipc)),
        ]
    }

    /// Even σ without the ends, where the log-SNR that DPM++ and UniPC step along is infinite, and
    /// timesteps as exact as the formula.
    fn inner(steps: usize) -> Levels {
        let sigma = |i| 0.9 - 0.8 * i as f64 / steps as f64;
        Levels {
            sigmas: SigmaSchedule::Sigmas((0..=steps).map(sigma).collect()),
            conventions: Conventions {
                fractional_timesteps: true,
                ..Conventions::diffusers()
            },
            ..Levels::default()
        }
    }

    #[test]
    fn solvers_converge_to_the_exact_solution_with_their_orders() {
        let mut pipeline = pipeline();
        let [coarse, fine] = [20, 40].map(|steps| {
            solvers(inner(steps)).map(|(_, _, scheduler)| {
                pipeline.scheduler = scheduler;
                error(&pipeline, steps)
            })
        });
        for (k, (name, order, _)) in solvers(inner(40)).into_iter().enumerate() {
            let found = (coarse[k] / fine[k]).log2();
            println!("{name}: order {found:.2}, error {:.1e}", fine[k]);
            assert!(
                (order - 0.3..order + 1.0).contains(&found),
                "{name}: {found}"
            );
        }
    }

    #[test]
    fn whole_runs_carry_pure_noise_to_the_data() {
        let mut pipeline = pipeline();
        for (name, order, scheduler) in solvers(Levels::default()) {
            pipeline.scheduler = scheduler;
            let error = error(&pipeline, 40);
            println!("{name}: error {error:.1e} of a whole run");
            // The largest of 256 numbers whose deviation is 0.6.
            assert!(
                error < if order == 1.0 { 0.1 } else { 0.02 },
                "{name}: {error}"
            );
        }
    }
}
