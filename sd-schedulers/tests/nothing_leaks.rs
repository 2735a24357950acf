//! No run leaves a trace in another: repeated, parallel and resumed runs are equal bit for bit.

mod support;

use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    NetworkOutput, Noise, NoiseSchedule, Parameterization, RecordedNoise, Sampler, SavedState,
    Scheduler,
};
use sd_schedulers::{SchedulerName, names, variants};
use support::{FormulaModel, Shared};

/// Every solver under every name, in its default settings and with Karras' σ, and every variant.
fn schedulers() -> Vec<(String, Arc<dyn Scheduler>)> {
    let mut all = Vec::new();
    for name in names() {
        for schedule in ["", " Karras"] {
            let parsed: SchedulerName = format!("{name}{schedule}").parse().unwrap();
            all.push((parsed.to_string(), parsed.scheduler().unwrap()));
        }
    }
    for name in variants() {
        let parsed: SchedulerName = name.parse().unwrap();
        all.push((name, parsed.scheduler().unwrap()));
    }
    assert!(all.len() >= 150);
    all
}

fn train() -> Arc<NoiseSchedule> {
    Arc::new(NoiseSchedule::stable_diffusion())
}

const STEPS: usize = 7;

/// The latents after each step of a run from `first`; `resumed` puts the run on disk and back
/// between any two steps.
fn run(shared: &Shared, scheduler: &dyn Scheduler, first: usize, resumed: bool) -> Vec<Vec<f32>> {
    let plan = scheduler.plan(&train(), STEPS).unwrap();
    let network = |x, t| {
        let guided: Tensor<4> = shared.network(x, t);
        let uncond = Some(guided.clone() * 0.8);
        NetworkOutput { guided, uncond }
    };
    let mut model = FormulaModel::new(Parameterization::VPrediction, network);
    let mut noise = shared.noise();
    let mut x = shared.initial(&plan, first);
    let mut sampler = scheduler.start(&plan, first).unwrap();
    let (mut latents, mut drawn) = (Vec::new(), 0);
    loop {
        let step = sampler.step(x, &mut model, &mut noise).unwrap();
        assert_eq!(step.denoised.dims(), step.x.dims());
        latents.push(values(&step.x));
        x = step.x;
        if step.done {
            return latents;
        }
        if resumed {
            sampler = again(scheduler, &plan, &sampler.save());
            drawn += noise.draws() as usize;
            noise = RecordedNoise::new(shared.draws[1 + drawn..].to_vec());
        }
    }
}

fn again(scheduler: &dyn Scheduler, plan: &sd_core::Plan, state: &SavedState) -> Box<dyn Sampler> {
    let mut sampler = scheduler.start(plan, 0).unwrap();
    sampler.restore(state).unwrap();
    sampler
}

fn values(x: &Tensor<4>) -> Vec<f32> {
    let values = x.clone().try_into_vec_as::<f32>().unwrap();
    assert!(values.iter().all(|v| v.is_finite()));
    values
}

#[test]
fn a_b_a_gives_the_first_result_again() {
    let shared = Shared::open();
    let all = schedulers();
    let first: Vec<_> = all.iter().map(|(_, s)| run(&shared, s, 0, false)).collect();
    // Every other scheduler's run lies between these two of each.
    for ((name, scheduler), expected) in all.iter().zip(first) {
        assert_eq!(run(&shared, scheduler, 0, false), expected, "{name}");
    }
}

#[test]
fn two_threads_give_what_each_gives_alone() {
    let shared = Shared::open();
    for (name, scheduler) in schedulers() {
        let expected = [
            run(&shared, &scheduler, 0, false),
            run(&shared, &scheduler, 2, false),
        ];
        let found = std::thread::scope(|scope| {
            let a = scope.spawn(|| run(&shared, &scheduler, 0, false));
            let b = scope.spawn(|| run(&shared, &scheduler, 2, false));
            [a.join().unwrap(), b.join().unwrap()]
        });
        assert!(found == expected, "{name}");
    }
}

#[test]
fn a_run_saved_and_resumed_after_every_step_is_the_same() {
    let shared = Shared::open();
    for (name, scheduler) in schedulers() {
        for first in [0, 2] {
            let whole = run(&shared, &scheduler, first, false);
            let resumed = run(&shared, &scheduler, first, true);
            assert!(whole == resumed, "{name} from {first}");
        }
    }
}

#[test]
fn a_saved_run_of_another_solver_or_plan_is_refused() {
    let all = schedulers();
    for (name, scheduler) in &all {
        let plan = scheduler.plan(&train(), STEPS).unwrap();
        let state = scheduler.start(&plan, 0).unwrap().save();
        let longer = scheduler.plan(&train(), STEPS + 3).unwrap();
        let mut other = scheduler.start(&longer, 0).unwrap();
        assert!(
            other.restore(&state).is_err(),
            "{name}: another number of steps"
        );
        let mut other = scheduler.start(&plan, 0).unwrap();
        assert!(
            other.restore(&SavedState::at(1)).is_err(),
            "{name}: an empty state"
        );
        let mut beyond = state.clone();
        for (name, number) in &mut beyond.numbers {
            if name == "index" {
                *number = 1000.0;
            }
        }
        assert_eq!(beyond.index(), 1000);
        assert!(other.restore(&beyond).is_err(), "{name}: beyond the end");
    }
    let plan = |i: usize| all[i].1.plan(&train(), STEPS).unwrap();
    let ddim = all[0].1.start(&plan(0), 0).unwrap().save();
    let euler = all.iter().position(|(name, _)| name == "Euler").unwrap();
    let mut euler = all[euler].1.start(&plan(euler), 0).unwrap();
    assert!(
        euler
            .restore(&ddim)
            .unwrap_err()
            .to_string()
            .contains("Euler")
    );
}

#[test]
fn a_finished_run_and_a_stage_too_far_are_errors() {
    let shared = Shared::open();
    for (name, scheduler) in schedulers() {
        let plan = scheduler.plan(&train(), STEPS).unwrap();
        let count = plan.stages.len();
        assert!(scheduler.start(&plan, count).is_err(), "{name}");
        let network = |x, t| {
            let guided: Tensor<4> = shared.network(x, t);
            NetworkOutput {
                uncond: Some(guided.clone()),
                guided,
            }
        };
        let mut model = FormulaModel::new(Parameterization::VPrediction, network);
        let mut noise = shared.noise();
        let mut sampler = scheduler.start(&plan, count - 1).unwrap();
        let x = shared.initial(&plan, count - 1);
        let mut step = sampler.step(x, &mut model, &mut noise).unwrap();
        // Only DPM adaptive chooses its own number of steps.
        for _ in 0..50 {
            if !step.done {
                assert!(
                    ["DPM adaptive", "dpm_adaptive"]
                        .iter()
                        .any(|n| name.ends_with(n)),
                    "{name}"
                );
                step = sampler.step(step.x, &mut model, &mut noise).unwrap();
            }
        }
        assert!(step.done && step.progress == 1.0, "{name}");
        assert!(
            sampler.step(step.x, &mut model, &mut noise).is_err(),
            "{name}"
        );
    }
}

#[test]
fn steps_out_of_range_are_errors() {
    for (name, scheduler) in schedulers() {
        for steps in [0, 1001, usize::MAX] {
            let error = scheduler.plan(&train(), steps).unwrap_err();
            assert!(
                error.to_string().starts_with("steps is"),
                "{name} {steps}: {error}"
            );
        }
    }
}
