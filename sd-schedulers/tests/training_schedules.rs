//! The training schedules are diffusers' to the last bit.

use sd_core::{BetaSchedule, NoiseSchedule};
use sd_fixtures::Fixture;

#[test]
fn tables_equal_diffusers() {
    let fixture = Fixture::open("schedulers_betas");
    let settings = fixture.settings();
    let cases = settings.as_object().unwrap();
    assert_eq!(cases.len(), 14);
    for (name, config) in cases {
        let number = |key: &str| config[key].as_f64().unwrap();
        let (start, end) = (number("beta_start"), number("beta_end"));
        let betas = match config["beta_schedule"].as_str().unwrap() {
            _ if config["trained_betas"].is_array() => BetaSchedule::Trained(
                serde_json::from_value(config["trained_betas"].clone()).unwrap(),
            ),
            "linear" => BetaSchedule::Linear { start, end },
            "scaled_linear" => BetaSchedule::ScaledLinear { start, end },
            "squaredcos_cap_v2" => BetaSchedule::SquaredCosCapV2,
            "sigmoid" => BetaSchedule::Sigmoid { start, end },
            other => panic!("{other}"),
        };
        let mut found =
            NoiseSchedule::betas(&betas, number("num_train_timesteps") as usize).unwrap();
        if config["rescale_betas_zero_snr"] == true {
            found = found.with_zero_terminal_snr();
            assert_eq!(found.alphas_cumprod().unwrap().last(), Some(&0.0));
        }
        for (key, values) in [
            ("betas", found.training_betas().unwrap()),
            ("alphas_cumprod", found.alphas_cumprod().unwrap()),
        ] {
            let expected = fixture.f32(&format!("{name}.{key}"));
            assert_eq!(expected.len(), values.len());
            for (i, (&found, &expected)) in values.iter().zip(&expected).enumerate() {
                let allowed = allowed(name, key, expected, found_root(&fixture, name, i));
                assert!(
                    (found - expected).abs() <= allowed,
                    "{name}.{key}[{i}]: {found:e}, torch has {expected:e}, allowed {allowed:e}"
                );
            }
        }
    }
}

/// `√ᾱ` of timestep `i`.
fn found_root(fixture: &Fixture, name: &str, i: usize) -> f32 {
    fixture.f32(&format!("{name}.alphas_cumprod"))[i].sqrt()
}

/// Nothing, except where torch's sigmoid and square root come in: these are not correctly rounded
/// and differ between machines by one unit in the last place.
fn allowed(name: &str, key: &str, expected: f32, root: f32) -> f32 {
    let unit = f32::EPSILON;
    match (name.split('.').next(), key) {
        (Some("sigmoid"), _) => 2.0 * unit * expected,
        // One unit of the largest √ᾱ, as it was before the last one was subtracted from it, and
        // what the roundings of all 1 − β so far add up to …
        (Some("zero_snr" | "zero_snr_cos"), "alphas_cumprod") => 4.0 * root * unit + unit * unit,
        // … and its share in the quotient of two neighbours.
        (Some("zero_snr" | "zero_snr_cos"), _) => unit + 4.0 * unit / root.max(unit),
        _ => 0.0,
    }
}
