//! Mean and variance of the stochastic solvers on normally distributed data, where every step is
//! an affine map of the latent and its noise.

mod support;

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use sd_core::{NetworkOutput, Noise, NoiseSchedule, Parameterization, Result, Scheduler, TorchRng};
use sd_schedulers::SchedulerName;
use support::FormulaModel;

/// Mean and standard deviation of the data.
const MEAN: f64 = 0.4;
const C: f64 = 0.7;
const SIDE: usize = 100;

const SOLVERS: &[&str] = &[
    "Euler a",
    "DPM2 a",
    "DPM++ 2S a",
    "DPM++ 2M SDE",
    "DPM++ 2M SDE Heun",
    "DPM++ 3M SDE",
    "DPM++ SDE",
    "SA-Solver",
    "ER-SDE",
    "Res Multistep a",
    "SEEDS 2",
    "SEEDS 3",
    "Exp Heun 2 x0 SDE",
    "Euler a CFG++",
    "comfyui:sa_solver",
    "comfyui:sa_solver_pece",
    "comfyui:ddpm",
    "a1111:DPM++ 2M SDE Karras",
    "a1111:Restart",
    "DDPM",
];

/// Independent draws, or one that is 1 and all others 0.
struct TestNoise {
    rng: Option<TorchRng>,
    one: Option<u64>,
    draws: u64,
    seeds: Vec<u64>,
}

impl Noise for TestNoise {
    fn normal(&mut self, shape: [usize; 4]) -> Result<TensorData> {
        let count = shape.iter().product();
        let value = if self.one == Some(self.draws) {
            1.0
        } else {
            0.0
        };
        self.draws += 1;
        let values = match &mut self.rng {
            Some(rng) => rng.randn(count),
            None => vec![value; count],
        };
        Ok(TensorData::new(values, shape))
    }

    fn draws(&self) -> u64 {
        self.draws
    }

    fn seeds(&self) -> Vec<u64> {
        self.seeds.clone()
    }
}

fn scheduler(name: &str) -> Arc<dyn Scheduler> {
    if name == "DDPM" {
        return Arc::new(sd_schedulers::Ddpm {
            thresholding: sd_schedulers::Thresholding::Off,
            spacing: sd_schedulers::Spacing::Trailing,
            ..Default::default()
        });
    }
    name.parse::<SchedulerName>().unwrap().scheduler().unwrap()
}

/// A run from `start` times unit noise, on data with this mean: the values it ends with.
fn run(name: &str, steps: usize, mean: f64, start: Vec<f32>, noise: &mut TestNoise) -> Vec<f64> {
    let train = Arc::new(NoiseSchedule::stable_diffusion());
    let logs: Vec<f64> = train.sigmas().iter().map(|s| s.ln()).collect();
    let scheduler = scheduler(name);
    let plan = scheduler.plan(&train, steps).unwrap();
    let network = |x: Tensor<4>, t: f64| {
        let low = (t as usize).min(logs.len() - 2);
        let sigma = (logs[low] + (t - low as f64) * (logs[low + 1] - logs[low])).exp();
        let gain = C * C / (C * C + sigma * sigma);
        let guided = x * (sigma.hypot(1.0) * gain) + (1.0 - gain) * mean;
        NetworkOutput::unguided(guided)
    };
    let mut model = FormulaModel::new(Parameterization::Sample, network);
    let side = (start.len() as f64).sqrt() as usize;
    let data = TensorData::new(start, [1, 1, side, side]);
    let mut x = Tensor::<4>::from_data(data, &Device::flex()) * plan.init_noise_sigma;
    let mut sampler = scheduler.start(&plan, 0).unwrap();
    loop {
        let step = sampler.step(x, &mut model, noise).unwrap();
        x = step.x;
        if step.done {
            let values = x.try_into_vec_as::<f32>().unwrap();
            return values.into_iter().map(f64::from).collect();
        }
    }
}

fn quiet(one: Option<u64>) -> TestNoise {
    TestNoise {
        rng: None,
        one,
        draws: 0,
        seeds: Vec::new(),
    }
}

fn loud(seeds: Vec<u64>) -> TestNoise {
    TestNoise {
        rng: Some(TorchRng::new(7)),
        one: None,
        draws: 0,
        seeds,
    }
}

fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, variance)
}

#[test]
fn samples_have_the_moments_of_the_solvers_own_recursion() {
    let n = SIDE * SIDE;
    for name in SOLVERS {
        for steps in [5, 20] {
            // The affine map, one gain at a time.
            let mut noise = quiet(None);
            let mean = run(name, steps, MEAN, vec![0.0], &mut noise)[0];
            let draws = noise.draws;
            let least = match name.split(':').nth(1) {
                // It adds noise once, with 20 steps and more.
                Some("Restart") => steps / 20,
                // ComfyUI's SA-Solver draws where its τ is not 0.
                Some("sa_solver" | "sa_solver_pece") => steps / 2,
                _ => steps - 1,
            };
            assert!(draws as usize >= least, "{name}: {draws} draws");
            let gain = run(name, steps, 0.0, vec![1.0], &mut quiet(None))[0];
            let gains =
                (0..draws).map(|k| run(name, steps, 0.0, vec![0.0], &mut quiet(Some(k)))[0]);
            let variance = gain * gain + gains.map(|g| g * g).sum::<f64>();

            let start = TorchRng::new(3).randn(n);
            let samples = run(name, steps, MEAN, start, &mut loud(Vec::new()));
            let (found_mean, found_variance) = moments(&samples);
            let error = (variance / n as f64).sqrt();
            assert!(
                (found_mean - mean).abs() <= 3.0 * error,
                "{name} {steps}: {found_mean} {mean}"
            );
            let error = variance * (2.0 / n as f64).sqrt();
            assert!(
                (found_variance - variance).abs() <= 3.0 * error,
                "{name} {steps}: variance {found_variance}, expected {variance}"
            );
        }
    }
}

#[test]
fn many_steps_give_the_datas_moments() {
    for name in SOLVERS {
        // With seeds, so that Brownian paths are followed.
        let start = TorchRng::new(5).randn(SIDE * SIDE);
        let samples = run(name, 250, MEAN, start, &mut loud(vec![11]));
        let (mean, variance) = moments(&samples);
        println!(
            "{name}: mean {mean:.4}, variance {variance:.4} of {:.4}",
            C * C
        );
        assert!((mean - MEAN).abs() < 0.03, "{name}: mean {mean}");
        assert!(
            (variance / (C * C) - 1.0).abs() < 0.06,
            "{name}: variance {variance}"
        );
    }
}

#[test]
fn runs_of_different_lengths_follow_one_brownian_path() {
    // Their last latents would differ by as much as two seeds' otherwise.
    let start = TorchRng::new(5).randn(SIDE * SIDE);
    let end = |steps, seed| {
        run(
            "DPM++ SDE Karras",
            steps,
            0.0,
            start.clone(),
            &mut loud(vec![seed]),
        )
    };
    let distance = |a: &[f64], b: &[f64]| {
        let squares = a.iter().zip(b).map(|(a, b)| (a - b).powi(2));
        (squares.sum::<f64>() / a.len() as f64).sqrt()
    };
    let (short, long, other) = (end(40, 1), end(80, 1), end(80, 2));
    assert!(distance(&short, &long) < 0.35 * distance(&other, &long));
}

/// A run of LCM from 1, with a model that knows the ODE's end exactly.
fn consistent(steps: usize, start: f32, noise: &mut TestNoise) -> f64 {
    let train = Arc::new(NoiseSchedule::stable_diffusion());
    let sigmas = train.sigmas();
    let lcm = sd_schedulers::Lcm::default();
    let plan = lcm.plan(&train, steps).unwrap();
    let network = |x: Tensor<4>, t: f64| {
        let sigma = sigmas[t as usize];
        // x̂ √(1 + σ²) is the latent with α = 1, and the ODE takes it to C/√(C² + σ²) times that.
        let guided = x * (sigma.hypot(1.0) * C / C.hypot(sigma));
        NetworkOutput::unguided(guided)
    };
    let mut model = FormulaModel::new(Parameterization::Sample, network);
    let data = TensorData::new(vec![start], [1, 1, 1, 1]);
    let mut x = Tensor::<4>::from_data(data, &Device::flex());
    let mut sampler = lcm.start(&plan, 0).unwrap();
    loop {
        let step = sampler.step(x, &mut model, noise).unwrap();
        x = step.x;
        if step.done {
            return f64::from(x.try_into_vec_as::<f32>().unwrap()[0]);
        }
    }
}

#[test]
fn lcm_is_exact_with_a_consistent_model() {
    let last = *NoiseSchedule::stable_diffusion().sigmas().last().unwrap();
    let exact = last.hypot(1.0) * C / C.hypot(last);
    let found = consistent(1, 1.0, &mut quiet(None));
    assert!((found / exact - 1.0).abs() < 1e-6, "{found} {exact}");
    for steps in [1, 2, 4, 8] {
        // The initial latent has variance 1, which is a little less than C²α² + σ².
        let level = 1.0 / last.hypot(1.0);
        let start = consistent(steps, 1.0, &mut quiet(None)).powi(2)
            * (C * C * level * level + (last * level).powi(2));
        let draws =
            (0..steps as u64 - 1).map(|k| consistent(steps, 0.0, &mut quiet(Some(k))).powi(2));
        let variance = start + draws.sum::<f64>();
        assert!(
            (variance / (C * C) - 1.0).abs() < 1e-5,
            "{steps} steps: variance {variance}"
        );
    }
}
