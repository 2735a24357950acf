//! The networks with random weights, against transformers and diffusers.

use std::sync::Arc;

use burn::tensor::{DType, Tensor};
use sd_fixtures::Fixture;
use sd_pipeline::core::{Cancel, RecordedNoise};
use sd_pipeline::models::unet::{UNet, UNetEmbeddings, timestep_embedding};
use sd_pipeline::models::vae::{TinyVae, Vae};
use sd_pipeline::models::{ClipTextConfig, ClipTextModel, Files};
use sd_pipeline::{Autoencoder, FloatDType, NoiseSchedule, Parameterization, burn};

use crate::report::{Log, difference};
use crate::{Place, tolerance};

pub(crate) fn text_encoder(place: &Place, log: &mut Log) {
    let tolerance = tolerance::of(place.dtype).text;
    for case in ["quick_gelu", "gelu", "projection"] {
        let fixture = Fixture::open(&format!("clip_{case}"));
        let files = Files::directory(sd_fixtures::path("clip")).folder(case);
        let config = ClipTextConfig::read(&files).expect("the configuration");
        let model = ClipTextModel::new(config, &place.device);
        let weights = files.weights("model", None).expect("the weights");
        let model = weights
            .load_into(model, place.dtype)
            .expect("the weights fit");
        let mut worst = 0f64;
        for batch in 0..2 {
            let key = |name: &str| format!("{batch}.{name}");
            let length = fixture.shape(&key("ids"))[1];
            let ids = fixture.f32(&key("ids"));
            let ids: Vec<u32> = ids.iter().map(|&id| id as u32).collect();
            let ids: Vec<Vec<u32>> = ids.chunks(length).map(<[u32]>::to_vec).collect();
            let out = model.forward(&ids).expect("the model runs");
            worst = worst.max(difference(&fixture, &key("last"), out.last_hidden_state));
            worst = worst.max(difference(&fixture, &key("pooled"), out.pooled));
        }
        log.at_most(format!("text {case}"), worst, tolerance);
    }
}

pub(crate) fn unet(place: &Place, log: &mut Log) {
    let tolerance = tolerance::of(place.dtype).unet;
    for name in [
        "unet_sd1",
        "unet_sd2",
        "unet_sdxl",
        "unet_inpaint",
        "unet_asymmetric",
    ] {
        let fixture = Fixture::open(name);
        let files = Files::directory(sd_fixtures::path(""));
        let schedule = Arc::new(NoiseSchedule::stable_diffusion());
        let kind = Parameterization::Epsilon;
        let unet = UNet::open(&files, name, schedule, kind, &place.device, place.dtype);
        let unet = unet.expect("the model opens");
        let cases = fixture.settings();
        let cases = cases.as_array().expect("cases");
        let mut worst = 0f64;
        for (i, case) in cases.iter().enumerate() {
            let t = case["t"].as_f64().expect("a timestep");
            let found = evaluated(&unet, &fixture, i, t, place);
            worst = worst.max(difference(&fixture, &format!("{i}.out"), found));
        }
        log.at_most(name, worst, tolerance);
    }
}

/// The output of the bare network for the fixture's case `i`, at timestep `t`.
fn evaluated(unet: &UNet, fixture: &Fixture, i: usize, t: f64, place: &Place) -> Tensor<4> {
    let (config, model, device) = (unet.config(), unet.model(), &place.device);
    let keys = fixture.keys();
    let optional = |name: &str| {
        let key = format!("{i}.{name}");
        let there = keys.contains(&key);
        there.then(|| fixture.tensor::<2>(&key, device).cast(place.dtype))
    };
    let time = config.time;
    let sines = |t: f64, channels| {
        let sines = timestep_embedding(t, channels, time.flip_sin_to_cos, time.freq_shift);
        Tensor::<1>::from_data(&sines[..], (device, DType::from(place.dtype))).unsqueeze::<2>()
    };
    let added = config.text_time.map(|text_time| {
        let sizes = fixture.f32(&format!("{i}.time_ids"));
        let sizes = sizes
            .iter()
            .map(|size| sines(f64::from(*size), text_time.time_channels));
        let pooled = optional("pooled").expect("a pooled prompt");
        let sizes = Tensor::cat(sizes.collect(), 0).reshape([pooled.dims()[0] as i32, -1]);
        Tensor::cat(vec![pooled, sizes], 1)
    });
    let guidance = optional("guidance");
    let prompt: Tensor<3> = fixture.tensor(&format!("{i}.context"), device);
    let embeddings = UNetEmbeddings {
        added,
        guidance,
        class_labels: None,
    };
    let context = model.prepare(&prompt.cast(place.dtype), embeddings);
    let time = model.embed_time(sines(t, time.channels), &context);
    let x = fixture.tensor(&format!("{i}.x"), device).cast(place.dtype);
    let found = model.forward(x, &time, &context, None, &Cancel::new());
    found.expect("it predicts")
}

pub(crate) fn vae(place: &Place, log: &mut Log) {
    for name in ["vae_four", "vae_two"] {
        let fixture = Fixture::open(name);
        let files = Files::directory(sd_fixtures::path(""));
        let vae = Vae::open(&files, name, &place.device, place.dtype).expect("the model opens");
        // Where half precision overflows, the model says that it runs in f32.
        let dtype: FloatDType = vae.spec().dtype;
        let tolerance = tolerance::of(dtype).vae;
        let tensor = |key: &str| fixture.tensor(key, &place.device).cast(dtype);
        let mut worst = 0f64;
        for i in 0..fixture.settings()["cases"].as_u64().expect("cases") {
            let key = |name: &str| format!("{i}.{name}");
            let mut noise = RecordedNoise::new([fixture.data(&key("noise"))]);
            let sample = vae.encode(tensor(&key("image")), Some(&mut noise));
            let sample = sample.expect("it encodes");
            worst = worst.max(difference(&fixture, &key("sample"), sample));
            let image = vae.decode(tensor(&key("latent"))).expect("it decodes");
            worst = worst.max(difference(&fixture, &key("out"), image));
        }
        log.at_most(name, worst, tolerance);
    }
    let name = "vae_tiny";
    let fixture = Fixture::open(name);
    let files = Files::directory(sd_fixtures::path(""));
    let vae = TinyVae::open(&files, name, &place.device, place.dtype).expect("the model opens");
    let tensor = |key: &str| fixture.tensor(key, &place.device).cast(place.dtype);
    let mut worst = 0f64;
    for i in 0..fixture.settings()["cases"].as_u64().expect("cases") {
        let key = |name: &str| format!("{i}.{name}");
        let mean = vae.encode(tensor(&key("image")), None).expect("it encodes");
        worst = worst.max(difference(&fixture, &key("mean"), mean));
        let image = vae.decode(tensor(&key("latent"))).expect("it decodes");
        worst = worst.max(difference(&fixture, &key("out"), image));
    }
    log.at_most(name, worst, tolerance::of(place.dtype).vae);
}
