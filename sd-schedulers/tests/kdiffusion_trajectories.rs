//! Solvers that only k-diffusion and ComfyUI have, against references written from the papers.

mod support;

use std::sync::Arc;

use sd_core::{NoiseSchedule, Scheduler};
use sd_fixtures::Fixture;
use sd_schedulers::{Euler, Levels, SchedulerName, SigmaSchedule};
use support::compare;

#[test]
fn whole_runs_equal_the_references() {
    assert_eq!(compare("kdiffusion", 2e-5), 110);
}

#[test]
fn each_programs_variants_equal_the_references() {
    assert_eq!(compare("dialects", 2e-5), 573);
}

#[test]
fn sigma_schedules_equal_their_definitions() {
    let fixture = Fixture::open("schedulers_sigmas");
    let train = Arc::new(NoiseSchedule::stable_diffusion());
    let mut compared = 0;
    for key in fixture.keys() {
        let (name, steps) = key.split_once('.').unwrap();
        let name: SchedulerName = format!("Euler {}", name.replace("sdxl", "xl"))
            .parse()
            .unwrap();
        let plan = name
            .scheduler()
            .unwrap()
            .plan(&train, steps.parse().unwrap())
            .unwrap();
        let expected = fixture.values(&key);
        assert_eq!(plan.stages.len(), expected.len(), "{key}");
        for (stage, expected) in plan.stages.iter().zip(expected) {
            let found = stage.from.sigma;
            assert!(
                (found - expected).abs() <= 1e-9 * expected,
                "{key}: {found} {expected}"
            );
        }
        assert_eq!(plan.stages.last().unwrap().to.sigma, 0.0);
        compared += 1;
    }
    assert_eq!(compared, 54);
}

#[test]
fn a_list_of_ones_own_is_followed() {
    let train = Arc::new(NoiseSchedule::stable_diffusion());
    let plan = |sigmas: SigmaSchedule, steps| {
        let levels = Levels {
            sigmas,
            ..Levels::default()
        };
        let euler = Euler {
            levels,
            ..Euler::default()
        };
        let plan = euler.plan(&train, steps)?;
        Ok::<_, sd_core::Error>(plan.stages.iter().map(|s| s.from).collect::<Vec<_>>())
    };
    let found = plan(SigmaSchedule::Sigmas(vec![9.0, 3.0, 0.5, 0.0]), 3).unwrap();
    assert_eq!(
        found.iter().map(|l| l.sigma).collect::<Vec<_>>(),
        [9.0, 3.0, 0.5]
    );
    let found = plan(SigmaSchedule::Timesteps(vec![999.0, 500.0, 20.0]), 3).unwrap();
    assert!(
        found
            .iter()
            .zip([999.0, 500.0, 20.0])
            .all(|(l, t)| (l.t - t).abs() < 1e-4)
    );
    for (bad, steps) in [
        (vec![9.0, 3.0], 3),
        (vec![3.0, 9.0], 2),
        (vec![f64::NAN, 1.0], 2),
        (vec![1.0, -1.0], 2),
        (vec![2.0, 0.0, 0.0], 3),
        (vec![0.0], 1),
        (vec![], 1),
    ] {
        assert!(
            plan(SigmaSchedule::Sigmas(bad.clone()), steps).is_err(),
            "{bad:?}"
        );
    }
}
