//! Runs this library's schedulers as `fixtures/gen/schedulers_common.py` runs diffusers'.
#![allow(dead_code, reason = "each test uses a part of it")]

mod model;

use std::sync::Arc;

use burn::tensor::{Device, Tensor, TensorData};
use sd_core::{
    Model, NetworkOutput, NoiseSchedule, Parameterization, Plan, RecordedNoise, Result, Scheduler,
};
use sd_fixtures::Fixture;
use sd_schedulers::{SchedulerConfig, SchedulerName};
use serde_json::Value;

pub(crate) use model::FormulaModel;

/// The parts that all runs share.
pub(crate) struct Shared {
    pub(crate) device: Device,
    pub(crate) clean: Tensor<4>,
    pub(crate) bias: Tensor<4>,
    pub(crate) start: Tensor<4>,
    pub(crate) draws: Vec<TensorData>,
}

impl Shared {
    pub(crate) fn open() -> Self {
        let fixture = Fixture::open("schedulers_shared");
        let device = Device::flex();
        let all = fixture.f32("noise");
        let shape: [usize; 5] = fixture.shape("noise").try_into().unwrap();
        let [_, n, c, h, w] = shape;
        let draw = |values: &[f32]| TensorData::new(values.to_vec(), [n, c, h, w]);
        let draws: Vec<_> = all.chunks(n * c * h * w).map(draw).collect();
        Self {
            clean: fixture.tensor("clean", &device),
            bias: fixture.tensor("bias", &device),
            start: Tensor::from_data(draws[0].clone(), &device),
            draws,
            device,
        }
    }

    /// The noise of the steps.
    pub(crate) fn noise(&self) -> RecordedNoise {
        RecordedNoise::new(self.draws[1..].to_vec())
    }

    /// The formula in place of the network.
    pub(crate) fn network(&self, x: Tensor<4>, t: f64) -> Tensor<4> {
        let u = x * 0.8f32 + self.bias.clone();
        u.clone() / (u.abs() + 1.0) * ((0.4 + t / 2000.0) as f32)
    }

    /// The same with a second half of channels for the variance, as `schedulers_lists.py` has it:
    /// within ±1, or above 0.
    pub(crate) fn learned(&self, positive: bool, x: Tensor<4>, t: f64) -> Tensor<4> {
        let variance = self.network(x.clone() * 0.5f32, t);
        let variance = match positive {
            true => (variance + 1.0) * 0.03125f32,
            false => variance,
        };
        Tensor::cat(vec![self.network(x, t), variance], 1)
    }

    /// The latent that a run begins with at stage `first`.
    pub(crate) fn initial(&self, plan: &Plan, first: usize) -> Tensor<4> {
        if first == 0 {
            return self.start.clone() * plan.init_noise_sigma;
        }
        let level = plan.stages[first].from;
        self.clean.clone() * level.alpha + self.start.clone() * level.sigma
    }
}

/// A run: the timesteps the network was asked at, and after each stage the number of model calls
/// so far with the latent.
pub(crate) struct Run {
    pub(crate) calls: Vec<f64>,
    pub(crate) latents: Vec<(usize, Tensor<4>)>,
}

/// Runs `scheduler` along `plan` from stage `first`.
pub(crate) fn run(
    shared: &Shared,
    scheduler: &dyn Scheduler,
    plan: &Plan,
    first: usize,
    parameterization: Parameterization,
) -> Result<Run> {
    run_with(shared, scheduler, plan, first, parameterization, &|x, t| {
        shared.network(x, t)
    })
}

fn run_with(
    shared: &Shared,
    scheduler: &dyn Scheduler,
    plan: &Plan,
    first: usize,
    parameterization: Parameterization,
    formula: &dyn Fn(Tensor<4>, f64) -> Tensor<4>,
) -> Result<Run> {
    let mut sampler = scheduler.start(plan, first)?;
    let mut calls = Vec::new();
    let mut latents = Vec::new();
    let mut noise = shared.noise();
    let mut x = shared.initial(plan, first);
    let network = |x, t| {
        calls.push(t);
        let guided = formula(x, t);
        // What CFG++ asks for; no other solver looks at it.
        let uncond = Some(guided.clone() * 0.8f32);
        NetworkOutput { guided, uncond }
    };
    let mut model = FormulaModel::new(parameterization, network);
    loop {
        let step = sampler.step(x, &mut model, &mut noise)?;
        x = step.x;
        latents.push((model.evaluations(), x.clone()));
        if step.done {
            assert_eq!(step.progress, 1.0);
            break;
        }
        assert!(step.progress < 1.0);
    }
    Ok(Run { calls, latents })
}

/// Compares every case of a fixture; returns how many there were.
pub(crate) fn compare(group: &str, tolerance: f64) -> usize {
    compare_those(group, tolerance, |_| true)
}

/// Compares the `wanted` cases of a fixture; returns how many there were.
pub(crate) fn compare_those(group: &str, tolerance: f64, wanted: impl Fn(&Value) -> bool) -> usize {
    let fixture = Fixture::open(&format!("schedulers_{group}"));
    let shared = Shared::open();
    let settings = fixture.settings();
    let cases = settings.as_array().unwrap();
    let (mut count, mut worst) = (0, 0.0f64);
    for (i, case) in cases.iter().enumerate().filter(|(_, case)| wanted(case)) {
        count += 1;
        worst = worst.max(compare_case(&fixture, &shared, i, case, tolerance));
    }
    println!("{group}: {count} cases, max |diff| {worst:.2e}");
    count
}

/// A case's configuration with the σ that were given beside it: a schedule of their own, or, where
/// others are spread between them, its ends.
fn with_given_sigmas(case: &Value, train: &NoiseSchedule) -> Value {
    let mut config = case["config"].clone();
    let Some(given) = case["given_sigmas"].as_array() else {
        return config;
    };
    let flags = ["karras", "exponential", "beta"].map(|name| format!("use_{name}_sigmas"));
    if flags.iter().any(|flag| config[flag] == true) {
        let shifted = |sigma: Option<&Value>| train.shifted(sigma.unwrap().as_f64().unwrap());
        config["sigma_max"] = shifted(given.first()).into();
        config["sigma_min"] = shifted(given.last()).into();
    } else {
        config["sigmas"] = serde_json::json!({ "sigmas": given });
    }
    config
}

fn compare_case(fixture: &Fixture, shared: &Shared, i: usize, case: &Value, tolerance: f64) -> f64 {
    let (scheduler, parameterization, train) = match case["name"].as_str() {
        // A program's variant, on Stable Diffusion's schedule.
        Some(name) => {
            let name: SchedulerName = name.parse().unwrap();
            let train = Arc::new(NoiseSchedule::stable_diffusion());
            (name.scheduler().unwrap(), Parameterization::Epsilon, train)
        }
        None => {
            let read = |config: &Value| SchedulerConfig::from_json_verbatim(&config.to_string());
            let config = read(&case["config"]).unwrap();
            let parameterization = config.parameterization().unwrap();
            let mut train = config.noise_schedule().unwrap();
            if let Some(mu) = case["mu"].as_f64() {
                let linear = case["config"]["time_shift_type"] == "linear";
                let shift = if linear { mu } else { mu.exp() };
                train = Arc::new(train.with_shift(shift).unwrap());
            }
            let config = read(&with_given_sigmas(case, &train)).unwrap();
            (config.scheduler().unwrap(), parameterization, train)
        }
    };
    let (steps, first) = (count(&case["steps"]), count(&case["first"]));
    let plan = scheduler.plan(&train, steps).unwrap();
    let context = format!("case {i}: {case}");

    let init = case["init"].as_f64().unwrap();
    close(
        plan.init_noise_sigma,
        init,
        1e-6 * init,
        "init_noise_sigma",
        &context,
    );
    let sigmas = format!("{i}.sigmas");
    if fixture.keys().contains(&sigmas) {
        let last = plan.stages.last().unwrap().to;
        let levels = plan.stages.iter().map(|stage| stage.from).chain([last]);
        let found: Vec<f64> = match train.shift() {
            Some(_) => levels.map(|l| l.sigma).collect(),
            None => levels.map(|l| l.sigma / l.alpha).collect(),
        };
        let expected = fixture.values(&sigmas);
        assert_eq!(found.len(), expected.len(), "{context}: sigmas");
        // EDM's seventh powers are taken in f32 there.
        let relative = if context.contains("EDM") { 3e-6 } else { 1e-6 };
        for (found, expected) in found.into_iter().zip(expected) {
            close(found, expected, relative * expected, "sigma", &context);
        }
    }

    let first = match case["strength"].as_f64() {
        Some(strength) => plan.first_stage(steps, strength).unwrap(),
        None => first,
    };
    let variance = case["config"]["variance_type"].as_str().unwrap_or_default();
    let formula = |x, t| match variance {
        "learned" => shared.learned(true, x, t),
        "learned_range" => shared.learned(false, x, t),
        _ => shared.network(x, t),
    };
    let run = run_with(
        shared,
        &*scheduler,
        &plan,
        first,
        parameterization,
        &formula,
    )
    .unwrap();
    let expected = fixture.values(&format!("{i}.calls"));
    assert_eq!(run.calls.len(), expected.len(), "{context}: model calls");
    for (&found, expected) in run.calls.iter().zip(expected) {
        // diffusers finds the timestep of a σ in f32, and that of an ancestral step's middle from
        // the difference of two squares. DPM adaptive's steps follow from an error in f32.
        let rough = [
            "KDPM2Ancestral",
            "DpmAdaptive",
            "DPM adaptive",
            "dpm_adaptive",
        ]
        .iter()
        .any(|name| context.contains(name));
        close(
            found,
            expected,
            1e-6 * expected.abs() + if rough { 2e-2 } else { 2e-5 },
            "timestep",
            &context,
        );
    }

    // Half a unit in the last place of an initial latent of σ = 4096 (zero terminal SNR) is 2e-4,
    // and Euler's step carries it on to the end.
    let tolerance = tolerance.max(init * f64::from(f32::EPSILON) / 2.0);
    let at = case["at"].as_array().unwrap();
    let x = fixture.values(&format!("{i}.x"));
    let size = x.len() / at.len();
    let mut worst = 0.0f64;
    for (calls, expected) in at.iter().zip(x.chunks(size)) {
        let calls = count(calls);
        let latent = run.latents.iter().find(|(n, _)| *n == calls);
        let latent = &latent
            .unwrap_or_else(|| panic!("{context}: no stage ends at {calls}"))
            .1;
        let found = latent.clone().try_into_vec_as::<f32>().unwrap();
        // Latents in k-diffusion's scale are as large as σ.
        let scale = expected.iter().fold(1.0f64, |m, e| m.max(e.abs() / 4.0));
        for (&found, &expected) in found.iter().zip(expected) {
            let difference = (f64::from(found) - expected).abs() / scale;
            assert!(
                difference <= tolerance,
                "{context}\nafter {calls} calls: {found}, expected {expected} (to make the fixture \
                 anew: python fixtures/gen/{})",
                fixture.metadata("generator")
            );
            worst = worst.max(difference);
        }
    }
    worst
}

fn count(value: &Value) -> usize {
    value.as_u64().unwrap() as usize
}

fn close(found: f64, expected: f64, tolerance: f64, what: &str, context: &str) {
    let difference = (found - expected).abs();
    assert!(
        difference <= tolerance,
        "{context}\n{what}: {found}, expected {expected}, off by {difference:.2e} > {tolerance:.2e}"
    );
}
