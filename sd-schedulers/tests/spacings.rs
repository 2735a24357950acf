//! Timesteps of many step counts equal diffusers', and its plan is mended where it breaks.

use std::sync::Arc;

use sd_core::{NoiseSchedule, Scheduler};
use sd_fixtures::Fixture;
use sd_schedulers::{DpmSolverMultistep, Euler, Levels, SigmaSchedule, Spacing};

const SPACINGS: [(&str, Spacing); 3] = [
    ("leading", Spacing::Leading),
    ("linspace", Spacing::Linspace),
    ("trailing", Spacing::Trailing),
];

fn train() -> Arc<NoiseSchedule> {
    Arc::new(NoiseSchedule::stable_diffusion())
}

fn timesteps(scheduler: &dyn Scheduler, steps: usize) -> sd_core::Result<Vec<f64>> {
    let plan = scheduler.plan(&train(), steps)?;
    assert_eq!(plan.stages.len(), steps);
    Ok(plan.stages.iter().map(|stage| stage.from.t).collect())
}

#[test]
fn timesteps_equal_diffusers() {
    let fixture = Fixture::open("schedulers_plans");
    let settings = fixture.settings();
    let mut broken = 0;
    for (name, spacing) in SPACINGS {
        let levels = Levels::spaced(spacing);
        let euler = Euler {
            levels: levels.clone(),
            ..Euler::default()
        };
        let dpm = DpmSolverMultistep {
            levels,
            ..DpmSolverMultistep::default()
        };
        let both: [(&str, &dyn Scheduler); 2] = [
            ("EulerDiscreteScheduler", &euler),
            ("DPMSolverMultistepScheduler", &dpm),
        ];
        for (class, scheduler) in both {
            let key = format!("{class}.{name}");
            broken += settings["broken"][&key].as_array().unwrap().len();
            let expected = fixture.values(&key);
            let mut rest = expected.as_slice();
            for steps in settings["steps"].as_array().unwrap() {
                let steps = steps.as_u64().unwrap() as usize;
                if class.starts_with("DPM") && name != "trailing" && steps == 1000 {
                    assert!(timesteps(scheduler, steps).is_err());
                    continue;
                }
                let row;
                (row, rest) = rest.split_at(steps);
                let found = timesteps(scheduler, steps).unwrap();
                for (found, expected) in found.iter().zip(row) {
                    // Linspace's fractions are rounded to f32 there.
                    assert!(
                        (found - expected).abs() <= 3.1e-5,
                        "{key} {steps}: {found} {expected}"
                    );
                }
            }
            assert!(rest.is_empty());
        }
    }
    // 61, 103 and 121 steps, in both classes.
    assert!(broken >= 6, "{broken}");
}

#[test]
fn trailing_has_as_many_timesteps_as_steps_at_every_count() {
    let euler = Euler {
        levels: Levels::spaced(Spacing::Trailing),
        ..Euler::default()
    };
    for steps in 1..=1000 {
        let found = timesteps(&euler, steps).unwrap();
        assert_eq!(found[0], 999.0);
        assert!(found.windows(2).all(|pair| pair[0] > pair[1]), "{steps}");
        assert!(found[steps - 1] >= 0.0);
    }
}

#[test]
fn an_offset_beyond_the_last_timestep_is_an_error() {
    let levels = Levels {
        steps_offset: 1,
        ..Levels::spaced(Spacing::Leading)
    };
    let euler = Euler {
        levels,
        ..Euler::default()
    };
    assert_eq!(timesteps(&euler, 500).unwrap()[0], 999.0);
    let error = timesteps(&euler, 1000).unwrap_err().to_string();
    assert!(error.starts_with("steps_offset is 1"), "{error}");
    let levels = Levels {
        steps_offset: usize::MAX,
        ..Levels::spaced(Spacing::Leading)
    };
    assert!(
        timesteps(
            &Euler {
                levels,
                ..Euler::default()
            },
            5
        )
        .is_err()
    );
}

#[test]
fn settings_that_are_no_numbers_or_exclude_each_other_are_errors() {
    let euler = |change: fn(&mut Euler)| {
        let mut euler = Euler::default();
        change(&mut euler);
        let error = euler.plan(&train(), 5).unwrap_err();
        error.to_string()
    };
    assert!(euler(|e| e.s_churn = f64::NAN).starts_with("s_churn is NaN"));
    assert!(euler(|e| e.s_noise = f64::INFINITY).starts_with("s_noise is inf"));
    assert!(euler(|e| e.s_tmin = -1.0).starts_with("s_tmin is -1"));
    assert!(euler(|e| e.levels.sigma_max = Some(f64::NAN)).starts_with("sigma_max is NaN"));
    assert!(euler(|e| e.levels.sigma_min = Some(0.0)).starts_with("sigma_min is 0"));
    assert!(
        euler(|e| e.levels.sigmas = SigmaSchedule::Karras { rho: f64::NAN }).starts_with("rho is")
    );
    assert!(
        euler(|e| {
            e.levels = Levels::karras();
            e.levels.sigma_min = Some(50.0);
        })
        .starts_with("sigma list is")
    );
    let mut dpm = DpmSolverMultistep {
        order: 4,
        ..DpmSolverMultistep::default()
    };
    let error = dpm.plan(&train(), 5).unwrap_err().to_string();
    assert!(error.starts_with("solver_order is 4"));
    dpm.order = 2;
    dpm.lambda_min_clipped = f64::NAN;
    assert!(dpm.plan(&train(), 5).is_err());
    dpm.lambda_min_clipped = 100.0;
    assert!(dpm.plan(&train(), 5).is_err());
    dpm.lambda_min_clipped = f64::NEG_INFINITY;
    dpm.algorithm = sd_schedulers::Algorithm::Ode;
    let error = dpm.plan(&train(), 5).unwrap_err().to_string();
    assert!(error.starts_with("final_sigmas_type is zero"), "{error}");
}

#[test]
fn settings_survive_being_written_down() {
    let euler = Euler {
        levels: Levels::karras(),
        s_churn: 0.5,
        ..Euler::default()
    };
    let json = serde_json::to_string(&euler.levels).unwrap();
    assert_eq!(serde_json::from_str::<Levels>(&json).unwrap(), euler.levels);
    let partial: Euler = serde_json::from_str(r#"{"s_churn": 2.0}"#).unwrap();
    assert_eq!(
        partial,
        Euler {
            s_churn: 2.0,
            ..Euler::default()
        }
    );
}
