//! Whatever the settings, a plan falls and a run stays finite.

mod support;

use proptest::prelude::*;
use sd_core::Parameterization;
use sd_schedulers::{SchedulerConfig, SchedulerName, names, variants};
use serde_json::json;
use support::{Shared, run};

const SCHEDULES: &[&str] = &[
    "",
    "Karras",
    "Exponential",
    "Polyexponential",
    "Beta",
    "SGM Uniform",
    "Simple",
    "Normal",
    "DDIM Uniform",
    "KL Optimal",
    "Align Your Steps",
    "Linear Quadratic",
    "Smoothstep",
    "Bong Tangent",
    "LCM Timesteps",
    "Beta Timesteps",
    "Lu Lambdas",
];

fn config(
    (spacing, offset, end): (usize, usize, usize),
    (order, kind, lower): (usize, usize, bool),
    zero_snr: bool,
) -> SchedulerConfig {
    let spacing = ["leading", "linspace", "trailing"][spacing];
    let end = ["zero", "sigma_min"][end];
    let kind = ["midpoint", "heun", "bh1", "bh2", "logrho"][kind];
    let json = json!({
        "_class_name": "EulerDiscreteScheduler",
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "timestep_spacing": spacing,
        "steps_offset": offset,
        "final_sigmas_type": end,
        "solver_order": order,
        "solver_type": kind,
        "lower_order_final": lower,
        "rescale_betas_zero_snr": zero_snr,
        "clip_sample": false,
        "prediction_type": "v_prediction",
    });
    SchedulerConfig::from_json_verbatim(&json.to_string()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_fall_and_runs_stay_finite(
        solver in 0..names().len() + variants().len(),
        schedule in 0..SCHEDULES.len(),
        levels in (0..3usize, 0..3usize, 0..2usize),
        solving in (1..4usize, 0..5usize, any::<bool>()),
        zero_snr in any::<bool>(),
        few in any::<bool>(),
        steps in 1..=1000usize,
        start in 0.0..1.0f64,
    ) {
        let steps = if few { steps % 12 + 1 } else { steps };
        let name = match names().get(solver) {
            Some(name) => format!("{name} {}", SCHEDULES[schedule]),
            None => {
                let karras = ["", " karras"][schedule % 2];
                format!("{}{karras}", variants()[solver - names().len()])
            }
        };
        let name: SchedulerName = name.parse().unwrap();
        let config = config(levels, solving, zero_snr);
        let scheduler = config.named(&name).unwrap();
        // What diffusers leaves undefined is a typed error, anything else a plan.
        let Ok(plan) = scheduler.plan(&config.noise_schedule().unwrap(), steps) else {
            return Ok(());
        };
        prop_assert!(plan.init_noise_sigma.is_finite() && plan.init_noise_sigma > 0.0);
        let ratio = |level: sd_core::Level| level.sigma / level.alpha;
        for stage in &plan.stages {
            let scale = Parameterization::VPrediction.coefficients(stage.from).c_in;
            prop_assert!(stage.from.t.is_finite() && scale.is_finite());
            prop_assert!(ratio(stage.to) <= ratio(stage.from), "{name}: {stage:?}");
        }
        for pair in plan.stages.windows(2) {
            // Restart is what goes up again.
            let restart = ratio(pair[1].from) > ratio(pair[0].to) && name.class() == "Restart";
            prop_assert!(restart || ratio(pair[1].from) <= ratio(pair[0].from), "{name}: {pair:?}");
        }
        if steps <= 12 {
            let shared = Shared::open();
            let first = (plan.stages.len() as f64 * start) as usize;
            let kind = Parameterization::VPrediction;
            let run = run(&shared, &*scheduler, &plan, first, kind).unwrap();
            for (_, latent) in run.latents {
                let values = latent.try_into_vec_as::<f32>().unwrap();
                prop_assert!(values.iter().all(|v| v.is_finite()), "{name} {steps}: {scheduler:?}");
            }
        }
    }
}
