//! Whole U-Nets with random weights against diffusers' `UNet2DConditionModel`.

use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use sd_core::{
    Cancel, Conditioning, Denoiser, Network, NoiseSchedule, Parameterization, SizeConditioning,
    TextEmbedding,
};
use sd_fixtures::Fixture;
use sd_models::Files;
use sd_models::unet::{ClassLabel, UNet, UNetEmbeddings, timestep_embedding};

fn open(name: &str) -> Arc<UNet> {
    let files = Files::directory(sd_fixtures::path(""));
    let unet = UNet::open(
        &files,
        name,
        Arc::new(NoiseSchedule::stable_diffusion()),
        Parameterization::Epsilon,
        &Device::flex(),
        FloatDType::F32,
    );
    Arc::new(unet.expect("the model opens"))
}

fn tensor<const D: usize>(fixture: &Fixture, i: usize, name: &str) -> Option<Tensor<D>> {
    let key = format!("{i}.{name}");
    let there = fixture.keys().contains(&key);
    there.then(|| fixture.tensor(&key, &Device::flex()))
}

/// The rows of a matrix, none where there is no such.
fn rows(fixture: &Fixture, i: usize, name: &str) -> Vec<Vec<f32>> {
    let Some(matrix) = tensor::<2>(fixture, i, name) else {
        return Vec::new();
    };
    let width = matrix.dims()[1];
    let values = matrix.try_into_vec_as::<f32>().expect("floats");
    values.chunks(width).map(<[f32]>::to_vec).collect()
}

fn class_labels(fixture: &Fixture, i: usize) -> Vec<usize> {
    let labels = tensor::<1>(fixture, i, "class_labels");
    let labels = labels.map(|labels| labels.try_into_vec_as::<f32>().expect("floats"));
    let labels = labels.into_iter().flatten();
    labels.map(|label| label as usize).collect()
}

/// The fixture's case `i` without the embedding of a guidance scale: one branch for each sample,
/// for each may have sizes of its own.
fn branches(unet: &UNet, fixture: &Fixture, i: usize) -> Vec<Conditioning> {
    let mut text = TextEmbedding::new(tensor(fixture, i, "context").expect("a prompt"));
    text.pooled = tensor(fixture, i, "pooled");
    let sizes = rows(fixture, i, "time_ids");
    let labels = class_labels(fixture, i);
    let inputs = tensor::<4>(fixture, i, "x").expect("a latent");
    let (latent, beside) = (unet.spec().latent_channels, unet.spec().concat_channels);
    let branch = |k: usize| {
        let mut branch = Conditioning::new(text.row(k));
        branch.size = sizes.get(k).map(|sizes| {
            let at = |j: usize| sizes.get(j).map_or(0, |size| *size as usize);
            SizeConditioning {
                original: [at(0), at(1)],
                crop: [at(2), at(3)],
                target: [at(4), at(5)],
                aesthetic_score: (sizes.len() == 5).then(|| f64::from(sizes[4])),
            }
        });
        if let Some(label) = labels.get(k) {
            branch.extensions.insert(ClassLabel(*label));
        }
        let concat = inputs.clone().narrow(0, k, 1);
        branch.concat = (beside > 0).then(|| concat.narrow(1, latent, beside));
        branch
    };
    (0..text.len()).map(branch).collect()
}

fn predict(network: &dyn Network, x: &Tensor<4>, t: f64, of: &[usize]) -> Vec<Tensor<4>> {
    network.predict(x, t, of, &Cancel::new()).expect("predicts")
}

/// The output of the bare network, which takes the guidance scale's embedding and not the scale.
fn bare(unet: &UNet, fixture: &Fixture, i: usize, t: f64) -> Tensor<4> {
    let (config, device) = (unet.config(), Device::flex());
    let time = config.time;
    let sines = |t: f64, channels| {
        let sines = timestep_embedding(t, channels, time.flip_sin_to_cos, time.freq_shift);
        Tensor::<1>::from_floats(&sines[..], &device).unsqueeze::<2>()
    };
    let added = config.text_time.map(|text_time| {
        let pooled: Tensor<2> = tensor(fixture, i, "pooled").expect("pooled");
        let sizes: Tensor<2> = tensor(fixture, i, "time_ids").expect("sizes");
        let n = sizes.dims()[0];
        let sizes = sizes.try_to_vec_as::<f32>().unwrap();
        let sizes = sizes
            .iter()
            .map(|size| sines(f64::from(*size), text_time.time_channels));
        let sizes = Tensor::cat(sizes.collect(), 0).reshape([n as i32, -1]);
        Tensor::cat(vec![pooled, sizes], 1)
    });
    let guidance = tensor(fixture, i, "guidance");
    let prompt = tensor(fixture, i, "context").expect("a prompt");
    let labels: Vec<i64> = class_labels(fixture, i).iter().map(|l| *l as i64).collect();
    let labels = (!labels.is_empty()).then(|| {
        let labels = TensorData::new(labels.clone(), [labels.len()]);
        Tensor::<1, Int>::from_data(labels, &device)
    });
    let embeddings = UNetEmbeddings {
        added,
        guidance,
        class_labels: labels,
    };
    let context = unet.model().prepare(&prompt, embeddings);
    let time = unet.model().embed_time(sines(t, time.channels), &context);
    let x = tensor(fixture, i, "x").expect("a latent");
    let out = unet
        .model()
        .forward(x, &time, &context, None, &Cancel::new());
    out.expect("predicts")
}

#[track_caller]
fn check(name: &str) {
    let (unet, fixture) = (open(name), Fixture::open(name));
    let cases = fixture.settings();
    let cases = cases.as_array().expect("cases");
    assert!(!cases.is_empty());
    for (i, case) in cases.iter().enumerate() {
        let t = case["t"].as_f64().expect("a timestep");
        let key = format!("{i}.out");
        fixture.assert_tensor(&key, bare(&unet, &fixture, i, t), 1e-5);
        if tensor::<2>(&fixture, i, "guidance").is_some() {
            continue;
        }
        let branches = branches(&unet, &fixture, i);
        let all: Vec<usize> = (0..branches.len()).collect();
        let network = unet.clone().prepare(branches).expect("prepares");
        let x: Tensor<4> = tensor(&fixture, i, "x").expect("a latent");
        let x = x.narrow(1, 0, unet.spec().latent_channels);
        let row = |k: usize| x.clone().narrow(0, k, 1);
        let each = |k: &usize| predict(&*network, &row(*k), t, &[*k]).remove(0);
        let found = Tensor::cat(all.iter().map(each).collect(), 0);
        fixture.assert_tensor(&key, found.clone(), 1e-5);
        // The second time the timestep's embedding is there already.
        let again = Tensor::cat(all.iter().map(each).collect(), 0);
        assert_eq!(found.to_data(), again.to_data(), "the same bits again");

        // All branches of one latent, together and in turn.
        let together = predict(&*network, &row(0), t + 0.5, &all);
        for (k, together) in together.into_iter().enumerate() {
            let alone = predict(&*network, &row(0), t + 0.5, &[k]).remove(0);
            let data = together.to_data();
            data.assert_approx_eq::<f32>(&alone.to_data(), burn::tensor::Tolerance::absolute(1e-5));
            assert_ne!(data, found.clone().narrow(0, k, 1).to_data());
        }
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
fn a_refiner_told_of_scores() {
    check("unet_refiner");
}

#[test]
fn a_distilled_stable_diffusion_xl_that_is_told_the_guidance() {
    check("unet_lcm_xl");
}

#[test]
fn a_depth_for_each_layer_and_a_middle_of_one_residual_block() {
    check("unet_ssd_1b");
    check("unet_vega");
}

#[test]
fn no_middle_and_one_layer_at_each_resolution() {
    check("unet_koala");
    check("unet_small_sd");
    check("unet_tiny_sd");
}

#[test]
fn one_step_networks() {
    check("unet_sdxs_ds");
    check("unet_sdxs_09");
}

#[test]
fn channels_beside_the_latent() {
    check("unet_pix2pix");
}

#[test]
fn an_upscaler_told_its_noise_level() {
    check("unet_upscaler");
    let unet = open("unet_upscaler");
    let fixture = Fixture::open("unet_upscaler");
    let mut branch = branches(&unet, &fixture, 0).remove(0);
    for wrong in [None, Some(ClassLabel(10))] {
        branch.extensions.take::<ClassLabel>();
        if let Some(label) = wrong {
            branch.extensions.insert(label);
        }
        let error = unet.clone().prepare(vec![branch.clone()]).err();
        let error = error.expect("no class of this network's").to_string();
        assert!(error.contains("class label"), "{error}");
        assert!(error.contains("0 to 9"), "{error}");
    }
    // A network that embeds none says so too.
    let plain = open("unet_pix2pix");
    let fixture = Fixture::open("unet_pix2pix");
    let mut branch = branches(&plain, &fixture, 0).remove(0);
    branch.extensions.insert(ClassLabel(0));
    let error = plain.prepare(vec![branch]).err();
    let error = error.expect("it reads none");
    assert!(error.to_string().contains("a class label"), "{error}");
}

#[test]
fn activations_so_small_that_every_epsilon_shows() {
    check("unet_quiet");
}
