//! `scheduler_config.json`: what diffusers makes of it, and what becomes of a bad one.

use sd_core::Parameterization;
use sd_fixtures::Fixture;
use sd_schedulers::{ConfigError, SchedulerConfig};

/// Class and options that the fixture's names stand for.
fn class_and_options(name: &str) -> (&'static str, &'static str) {
    match name {
        "DDIM" => ("DDIMScheduler", ""),
        "PNDM" => ("PNDMScheduler", ""),
        "PLMS" => ("PNDMScheduler", r#", "skip_prk_steps": true"#),
        "Euler" => ("EulerDiscreteScheduler", ""),
        "Euler Karras" => ("EulerDiscreteScheduler", r#", "use_karras_sigmas": true"#),
        "Euler a" => ("EulerAncestralDiscreteScheduler", ""),
        "DPM++ 2M" => ("DPMSolverMultistepScheduler", ""),
        "DPM++ 2M Karras" => (
            "DPMSolverMultistepScheduler",
            r#", "use_karras_sigmas": true"#,
        ),
        "DPM++ 2M SDE Exponential" => (
            "DPMSolverMultistepScheduler",
            r#", "algorithm_type": "sde-dpmsolver++", "use_exponential_sigmas": true,
                "use_karras_sigmas": false"#,
        ),
        other => panic!("{other} is not in the fixture"),
    }
}

#[test]
fn a_class_beside_a_file_means_what_from_config_means() {
    let fixture = Fixture::open("schedulers_from_config");
    let settings = fixture.settings();
    let cases = settings.as_array().unwrap();
    assert_eq!(cases.len(), 50);
    for (i, case) in cases.iter().enumerate() {
        let (file, name) = (
            case["file"].as_str().unwrap(),
            case["name"].as_str().unwrap(),
        );
        let mut config = SchedulerConfig::from_json(file).unwrap();
        let scheduler = match name {
            "" => config.scheduler().unwrap(),
            name => {
                let (class, options) = class_and_options(name);
                let file = format!("{}{options}}}", file.strip_suffix('}').unwrap());
                config = SchedulerConfig::from_json(&file).unwrap();
                config.named(&class.parse().unwrap()).unwrap()
            }
        };
        let train = config.noise_schedule().unwrap();
        let plan = scheduler.plan(&train, 9).unwrap();
        let timesteps = fixture.values(&format!("{i}.timesteps"));
        // PNDM's warm-up asks at several timesteps in one stage.
        let prk = format!("{scheduler:?}").contains("skip_prk_steps: false");
        if !prk {
            assert_eq!(plan.stages.len(), timesteps.len(), "{case}");
        }
        for (stage, t) in plan
            .stages
            .iter()
            .zip(timesteps)
            .take(if prk { 1 } else { 99 })
        {
            assert!(
                (stage.from.t - t).abs() < 1e-3,
                "{case}: {} {t}",
                stage.from.t
            );
        }
        let sigmas = format!("{i}.sigmas");
        if fixture.keys().contains(&sigmas) {
            let expected = fixture.values(&sigmas);
            let last = plan.stages.last().unwrap().to;
            let levels = plan.stages.iter().map(|stage| stage.from).chain([last]);
            for (level, expected) in levels.zip(expected) {
                let found = level.sigma / level.alpha;
                assert!(
                    (found - expected).abs() <= 1e-6 * expected,
                    "{case}: {found} {expected}"
                );
            }
        }
        let last_alpha = case["final"].as_f64().unwrap();
        let end = plan.stages.last().unwrap().to;
        if last_alpha <= 1.0 && end.t < 0.0 {
            let found = end.alpha.powi(2);
            assert!((found - last_alpha).abs() < 1e-7, "{case}: {found}");
        }
        if name == "DDIM" {
            assert_eq!(case["clip"], false);
            assert!(
                format!("{scheduler:?}").contains("thresholding: Off"),
                "{scheduler:?}"
            );
        }
    }
}

#[test]
fn a_file_without_the_two_keys_counts_as_corrected() {
    let file = r#"{"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear"}"#;
    let corrected = SchedulerConfig::from_json(file).unwrap();
    let text = format!("{:?}", corrected.scheduler().unwrap());
    assert!(
        text.contains("steps_offset: 1") && text.contains("thresholding: Off"),
        "{text}"
    );
    let verbatim = SchedulerConfig::from_json_verbatim(file).unwrap();
    let text = format!("{:?}", verbatim.scheduler().unwrap());
    assert!(
        text.contains("steps_offset: 0") && text.contains("thresholding: Range(1.0)"),
        "{text}"
    );
}

#[test]
fn the_models_own_facts_are_read() {
    let config = SchedulerConfig::from_json(
        r#"{"_class_name": "EulerDiscreteScheduler", "beta_start": 0.00085, "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": true, "lambda_min_clipped": -Infinity, "some\"key": NaN,
            "a note": "NaN, -Infinity"}"#,
    )
    .unwrap();
    assert_eq!(config.class_name(), "EulerDiscreteScheduler");
    assert_eq!(
        config.parameterization().unwrap(),
        Parameterization::VPrediction
    );
    let schedule = config.noise_schedule().unwrap();
    assert_eq!(
        (schedule.len(), schedule.alphas_cumprod().unwrap()[999]),
        (1000, 0.0)
    );
}

fn message(json: &str) -> String {
    fn all(json: &str) -> Result<(), ConfigError> {
        let config = SchedulerConfig::from_json(json)?;
        config.scheduler()?;
        config.parameterization()?;
        config.noise_schedule()?;
        Ok(())
    }
    all(json).unwrap_err().to_string()
}

#[test]
fn hostile_files_give_errors_that_name_the_key() {
    let with = |entry: &str| {
        message(&format!(
            r#"{{"_class_name": "DPMSolverMultistepScheduler", {entry}}}"#
        ))
    };
    for (entry, key) in [
        (
            r#""num_train_timesteps": 1099511627776"#,
            "num_train_timesteps",
        ),
        (r#""num_train_timesteps": -1"#, "num_train_timesteps"),
        (r#""num_train_timesteps": 0"#, "num_train_timesteps"),
        (r#""num_train_timesteps": 10.5"#, "num_train_timesteps"),
        (r#""num_train_timesteps": NaN"#, "num_train_timesteps"),
        (r#""num_train_timesteps": "many""#, "num_train_timesteps"),
        (r#""beta_start": NaN"#, "beta_start"),
        (r#""beta_start": true"#, "beta_start"),
        (r#""beta_start": -0.5"#, "beta"),
        (r#""beta_end": Infinity"#, "beta"),
        (r#""beta_schedule": "quadratic""#, "beta_schedule"),
        (
            r#""beta_schedule": "scaled_linear", "beta_start": -1"#,
            "beta",
        ),
        (r#""trained_betas": "betas.npy""#, "trained_betas"),
        (r#""trained_betas": [0.1, null]"#, "trained_betas"),
        (r#""trained_betas": [0.1, 0.2]"#, "trained_betas"),
        (r#""prediction_type": "flow_prediction""#, "prediction_type"),
        (r#""timestep_spacing": "log""#, "timestep_spacing"),
        (r#""solver_order": -2"#, "solver_order"),
        (r#""algorithm_type": "magic""#, "algorithm_type"),
        (r#""use_karras_sigmas": 1"#, "use_karras_sigmas"),
        (
            r#""use_karras_sigmas": true, "use_beta_sigmas": true"#,
            "use_beta_sigmas",
        ),
        (r#""final_sigmas_type": {}"#, "final_sigmas_type"),
        (r#""use_flow_sigmas": true"#, "use_flow_sigmas"),
        (r#""thresholding": "yes""#, "thresholding"),
        (r#""sigmas": "golden""#, "sigmas"),
        (r#""sigmas": [[1]]"#, "sigmas"),
    ] {
        let message = with(entry);
        assert!(message.contains(key), "{entry}: {message}");
        assert!(message.len() < 400, "{message}");
    }
}

#[test]
fn what_is_no_configuration_at_all_is_an_error() {
    let deep = format!("{{\"a\": {}", "[".repeat(200_000));
    for json in [
        "",
        "{",
        "[]",
        "3",
        "null",
        "\u{0}",
        "{\"_class_name\": \"DDIM",
        deep.as_str(),
    ] {
        assert!(
            message(json).contains("is not a JSON object"),
            "{}",
            message(json)
        );
    }
    assert!(message("{}").contains("'_class_name' is absent"));
    assert!(message(r#"{"_class_name": 7}"#).contains("'_class_name' is 7"));
    let unknown = message(r#"{"_class_name": "FlowMatchLCMScheduler"}"#);
    assert!(
        unknown.contains("FlowMatchLCM") && unknown.contains("PNDMScheduler"),
        "{unknown}"
    );
    let long = format!(r#"{{"_class_name": "{}"}}"#, "x".repeat(1_000_000));
    assert!(message(&long).len() < 3000);
}
