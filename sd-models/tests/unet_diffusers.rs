//! Whole U-Nets with random weights against diffusers' `UNet2DConditionModel`.

use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};
use sd_core::{Conditioning, Denoiser, NoiseSchedule, PredictionType};
use sd_fixtures::Fixture;
use sd_models::Files;
use sd_models::unet::UNet;

fn open(name: &str) -> UNet {
    let files = Files::directory(sd_fixtures::path(""));
    UNet::open(
        &files,
        name,
        Arc::new(NoiseSchedule::stable_diffusion()),
        PredictionType::Epsilon,
        &Device::flex(),
        FloatDType::F32,
    )
    .expect("the model opens")
}

/// What the fixture's case `i` conditions on.
fn conditioning(fixture: &Fixture, i: usize) -> Conditioning {
    let device = Device::flex();
    let keys = fixture.keys();
    let optional = |name: &str| {
        let key = format!("{i}.{name}");
        keys.contains(&key)
            .then(|| fixture.tensor::<2>(&key, &device))
    };
    let mut conditioning = Conditioning::new(fixture.tensor(&format!("{i}.context"), &device));
    conditioning.pooled = optional("pooled");
    let extra: Vec<Tensor<2>> = (optional("time_ids").into_iter())
        .chain(optional("guidance"))
        .collect();
    conditioning.extra = (!extra.is_empty()).then(|| Tensor::cat(extra, 1));
    conditioning
}

#[track_caller]
fn check(name: &str) {
    let (unet, fixture) = (open(name), Fixture::open(name));
    let cases = fixture.settings();
    let cases = cases.as_array().expect("cases");
    assert!(!cases.is_empty());
    for (i, case) in cases.iter().enumerate() {
        let t = case["t"].as_f64().expect("a timestep");
        let x = fixture.tensor(&format!("{i}.x"), &Device::flex());
        let conditioning = conditioning(&fixture, i);
        let found = unet.predict(x.clone(), t, &conditioning).expect("predicts");
        fixture.assert_tensor(&format!("{i}.out"), found.clone(), 1e-5);

        let prepared = unet.prepare(conditioning.clone()).expect("prepares");
        assert!(prepared.prepared.is_some());
        // The second time the timestep's embedding is kept too.
        for _ in 0..2 {
            let again = unet.predict(x.clone(), t, &prepared).expect("predicts");
            assert_eq!(found.to_data(), again.to_data(), "prepared, the same bits");
        }
        let other = unet.predict(x.clone(), t + 0.5, &prepared);
        let plain = unet.predict(x, t + 0.5, &conditioning);
        let [other, plain] = [other, plain].map(|x| x.expect("predicts").to_data());
        assert_eq!(other, plain, "another timestep, the same bits");
        assert_ne!(found.to_data(), plain);
    }
}

#[test]
fn stable_diffusion_1() {
    check("unet_sd1");
}

#[test]
fn stable_diffusion_2() {
    check("unet_sd2");
}

#[test]
fn stable_diffusion_xl() {
    check("unet_sdxl");
}

#[test]
fn inpainting_and_every_setting_off_default() {
    check("unet_inpaint");
}

#[test]
fn other_depths_up_than_down() {
    check("unet_asymmetric");
}

#[test]
fn activations_so_small_that_every_epsilon_shows() {
    check("unet_quiet");
}
