//! Whole autoencoders with random weights against diffusers' `AutoencoderKL`.

use burn::tensor::{Device, FloatDType, Tensor};
use sd_core::{Autoencoder, RecordedNoise};
use sd_fixtures::Fixture;
use sd_models::Files;
use sd_models::vae::{Posterior, Vae};

fn open(folder: &str, dtype: FloatDType) -> Vae {
    let files = Files::directory(sd_fixtures::path(""));
    Vae::open(&files, folder, &Device::flex(), dtype).expect("the model opens")
}

#[track_caller]
fn check(folder: &str, fixture: &str) {
    let (vae, fixture) = (open(folder, FloatDType::F32), Fixture::open(fixture));
    let cases = fixture.settings()["cases"].as_u64().expect("cases");
    assert!(cases > 0);
    let tensor = |key: &str| fixture.tensor(key, &Device::flex());
    for i in 0..cases {
        let key = |name: &str| format!("{i}.{name}");
        let mean = vae.encode(tensor(&key("image")), None).expect("encodes");
        fixture.assert_tensor(&key("mean"), mean, 1e-5);
        let mut noise = RecordedNoise::new([fixture.data(&key("noise"))]);
        let sample = vae.encode(tensor(&key("image")), Some(&mut noise));
        fixture.assert_tensor(&key("sample"), sample.expect("encodes"), 1e-5);
        let image = vae.decode(tensor(&key("latent"))).expect("decodes");
        fixture.assert_tensor(&key("out"), image, 1e-5);
    }
}

#[test]
fn four_resolutions() {
    check("vae_four", "vae_four");
}

#[test]
fn two_resolutions_and_every_setting_off_default() {
    check("vae_two", "vae_two");
}

#[test]
fn older_attention_names_and_fewer_settings() {
    check("vae_four_old_names", "vae_four");
}

#[test]
fn half_precision_only_where_it_does_not_overflow() {
    let dtype = |folder| open(folder, FloatDType::F16).spec().dtype;
    assert_eq!(dtype("vae_four"), FloatDType::F32);
    assert_eq!(dtype("vae_two"), FloatDType::F16);
}

#[test]
fn the_log_variance_is_clamped() {
    let moments = [[[[1.0f32, 2.0, 3.0]], [[-31.0, 21.0, 0.5]]]];
    let posterior = Posterior::new(Tensor::from_data(moments, &Device::flex()));
    let log_variance = posterior.log_variance.clone().try_into_vec_as::<f32>();
    assert_eq!(log_variance.expect("floats"), [-30.0, 20.0, 0.5]);
    let noise = Tensor::from_data([[[[1.0f32, 1e-4, -2.0]]]], &Device::flex());
    let sample = posterior.sample(noise).try_into_vec_as::<f32>();
    let expected = [
        1.0 + (-15f64).exp(),
        2.0 + 10f64.exp() * 1e-4,
        3.0 - 2.0 * 0.25f64.exp(),
    ];
    for (found, expected) in sample.expect("floats").into_iter().zip(expected) {
        assert!((f64::from(found) - expected).abs() < 1e-6);
    }
}
