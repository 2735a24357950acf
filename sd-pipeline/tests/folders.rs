//! Folders as people have them: each opens, and draws what diffusers draws of it, or is refused by
//! name.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sd_fixtures::Fixture;
use sd_pipeline::core::Error as CoreError;
use sd_pipeline::models::{Error as ModelError, Files};
use sd_pipeline::schedulers::SchedulerConfig;
use sd_pipeline::{
    Error, OpenOptions, PictureStart, Pipeline, Request, Residency, Result, RgbImage, Start,
    UnknownSettings, device,
};
use serde_json::{Map, Value, json};

/// The embedded model's files by name.
fn plain() -> BTreeMap<String, Vec<u8>> {
    let files = sd_tiny::FILES.iter();
    let files = files.map(|(name, bytes)| (name.to_string(), bytes.to_vec()));
    files.collect()
}

/// The embedded model with JSON files changed as `case` says.
fn files(case: &Value) -> Files {
    let mut files = plain();
    for (name, settings) in object(&case["files"]) {
        let mut file: Map<String, Value> = serde_json::from_slice(&files[&name]).unwrap();
        file.extend(object(&settings));
        file.retain(|_, value| *value != "absent");
        files.insert(name, Value::from(file).to_string().into_bytes());
    }
    for (name, content) in object(&case["instead"]) {
        files.insert(name, content.to_string().into_bytes());
    }
    let weights = object(&case["weights"]);
    if !weights.is_empty() {
        let text = "text_encoder/model.safetensors".to_string();
        let more = with_zeros(&files[&text], &weights);
        files.insert(text, more);
    }
    Files::memory(files)
}

/// The tensors of `file` and, all zero, those of `shapes`.
fn with_zeros(file: &[u8], shapes: &Map<String, Value>) -> Vec<u8> {
    let own = SafeTensors::deserialize(file).unwrap();
    let mut all: BTreeMap<String, TensorView<'_>> = own.tensors().into_iter().collect();
    let zeros = vec![0; 1 << 12];
    for (name, shape) in shapes {
        let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
        let (dtype, bytes) = match name.ends_with("position_ids") {
            true => (Dtype::I64, 8),
            false => (Dtype::F16, 2),
        };
        let size = bytes * shape.iter().product::<usize>();
        let view = TensorView::new(dtype, shape, &zeros[..size]).unwrap();
        all.insert(name.clone(), view);
    }
    safetensors::serialize(all, None).unwrap()
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

fn open(case: &Value, unknown_settings: UnknownSettings) -> Result<Pipeline> {
    let options = OpenOptions {
        unknown_settings,
        ..OpenOptions::new(&device("flex").unwrap())
    };
    Pipeline::from_files(&files(case), &options)
}

/// The message of the error that the folder of `case` is.
#[track_caller]
fn refused(case: &Value, unknown: UnknownSettings) -> String {
    match open(case, unknown).unwrap_err() {
        Error::Model(error @ (ModelError::Unsupported { .. } | ModelError::Config { .. })) => {
            error.to_string()
        }
        other => panic!("{case}: {other}"),
    }
}

/// Names and contents of the fixture's cases of a `kind`.
fn cases(fixture: &Fixture, kind: &str) -> Vec<(String, Value)> {
    let cases = object(&fixture.settings()["cases"]).into_iter();
    cases.filter(|(_, case)| case["kind"] == kind).collect()
}

fn assert_draws(fixture: &Fixture, name: &str, case: &Value, pipeline: &Pipeline) {
    let settings = &fixture.settings()["request"];
    let number = |key: &str| settings[key].as_u64().unwrap() as usize;
    let request = Request {
        guidance_scale: settings["guidance"].as_f64().unwrap(),
        steps: number("steps"),
        seed: settings["seed"].as_u64().unwrap(),
        width: Some(number("width")),
        height: Some(number("height")),
        ..Request::new(settings["prompt"].as_str().unwrap())
    };
    let mut run = pipeline.start(&request).unwrap();
    for step in &mut run {
        step.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let latents = case["latents"].as_str().unwrap();
    fixture.assert_tensor(latents, run.latents().clone(), 2e-4);
}

/// The index names the class; its own file says it too, as diffusers writes it.
#[test]
fn an_autoencoder_of_another_class_is_opened_by_it() {
    let mut files = plain();
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        let content = std::fs::read(sd_fixtures::path(&format!("vae_tiny/{name}")));
        files.insert(format!("vae/{name}"), content.unwrap());
    }
    let mut index: Map<String, Value> = serde_json::from_slice(&files["model_index.json"]).unwrap();
    index.insert("vae".into(), json!(["diffusers", "AutoencoderTiny"]));
    files.insert(
        "model_index.json".into(),
        Value::from(index).to_string().into_bytes(),
    );
    let cpu = device("flex").unwrap();
    let pipeline = Pipeline::from_files(&Files::memory(files), &OpenOptions::new(&cpu)).unwrap();
    let fixture = Fixture::open("vae_tiny");
    let latent = fixture.tensor("0.latent", &cpu);
    let image = pipeline.autoencoder.get().unwrap().decode(latent).unwrap();
    fixture.assert_tensor("0.out", image, 1e-5);
}

#[test]
fn folders_that_open_draw_what_diffusers_draws() {
    let fixture = Fixture::open("folders");
    let cases = cases(&fixture, "opens");
    assert_eq!(cases.len(), 16);
    for (name, case) in cases {
        let opened = open(&case, UnknownSettings::Refuse);
        let pipeline = opened.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_draws(&fixture, &name, &case, &pipeline);
    }
}

#[test]
fn unknown_settings_are_refused_by_name_or_let_pass() {
    let fixture = Fixture::open("folders");
    let cases = cases(&fixture, "unknown");
    assert_eq!(cases.len(), 4);
    for (name, case) in cases {
        let (file, settings) = object(&case["files"]).into_iter().next().unwrap();
        let setting = object(&settings).into_iter().next().unwrap().0;
        let message = refused(&case, UnknownSettings::Refuse);
        assert!(message.contains(&file), "{name}: {message}");
        assert!(message.contains(&setting), "{name}: {message}");
        let pipeline = open(&case, UnknownSettings::Warn).unwrap();
        assert_draws(&fixture, &name, &case, &pipeline);
    }
}

#[test]
fn settings_that_change_the_picture_are_refused_in_any_case() {
    let fixture = Fixture::open("folders");
    let mut cases = cases(&fixture, "refused");
    assert_eq!(cases.len(), 1);
    let unet = [
        ("dual_cross_attention", json!(true)),
        ("encoder_hid_dim", json!(768)),
        ("class_embed_type", json!("timestep")),
        ("num_class_embeds", json!([1000])),
        ("num_attention_heads", json!(8)),
        ("attention_type", json!("gated")),
        ("time_embedding_act_fn", json!("silu")),
        ("timestep_post_act", json!("silu")),
        ("resnet_skip_time_act", json!(true)),
        ("cross_attention_norm", json!("layer_norm")),
    ];
    let vae = [
        ("latents_mean", json!([0.0, 0.0, 0.0])),
        ("quantization_config", json!({"quant_method": "gguf"})),
    ];
    for (file, settings) in [("unet/config.json", &unet[..]), ("vae/config.json", &vae)] {
        let case = |(name, value): &(&str, Value)| {
            (name.to_string(), json!({"files": {file: {*name: value}}}))
        };
        cases.extend(settings.iter().map(case));
    }
    for (name, case) in cases {
        for unknown in [UnknownSettings::Refuse, UnknownSettings::Warn] {
            let setting = if name == "mask" {
                "use_attention_mask"
            } else {
                &name
            };
            let message = refused(&case, unknown);
            assert!(message.contains(setting), "{name}: {message}");
        }
    }
}

#[test]
fn a_size_of_diffusers_first_months_is_not_believed() {
    let fixture = Fixture::open("folders");
    let cases = cases(&fixture, "size");
    assert_eq!(cases.len(), 14);
    for (name, case) in cases {
        let pipeline = open(&case, UnknownSettings::Refuse).unwrap();
        let size = json!(pipeline.denoiser.spec().sample_size);
        assert_eq!(size, case["size"], "{name}: {}", case["files"]);
    }
    let early = json!({"files": {"unet/config.json": {"_diffusers_version": "0.6.0"}}});
    let pipeline = open(&early, UnknownSettings::Refuse).unwrap();
    let request = Request {
        guidance_scale: 1.0,
        ..Request::new("a red cube")
    };
    let run = pipeline.start(&request).unwrap();
    assert_eq!(run.latents().dims(), [1, 4, 64, 64]);
}

#[test]
fn a_class_of_the_index_that_is_not_here_is_named() {
    let cases = [
        ("text_encoder", "transformers", "T5EncoderModel"),
        ("unet", "diffusers", "UNet3DConditionModel"),
        ("vae", "diffusers", "AsymmetricAutoencoderKL"),
    ];
    for (folder, library, class) in cases {
        let case = json!({"files": {"model_index.json": {folder: [library, class]}}});
        let message = refused(&case, UnknownSettings::Warn);
        for part in ["model_index.json", folder, class, "supported is"] {
            assert!(message.contains(part), "{message}");
        }
        // Where the index names no class, it is that of the component's own file.
        for entry in [json!("absent"), json!([null, null])] {
            let case = json!({"files": {"model_index.json": {folder: entry}}});
            assert!(open(&case, UnknownSettings::Refuse).is_ok(), "{case}");
        }
        let case = json!({"files": {"model_index.json": {folder: "a word"}}});
        let message = refused(&case, UnknownSettings::Warn);
        assert!(message.contains(folder), "{message}");
    }
    let scheduler = |entry: Value| json!({"files": {"model_index.json": {"scheduler": entry}}});
    let unknown = scheduler(json!(["diffusers", "NobodysScheduler"]));
    let error = open(&unknown, UnknownSettings::Warn).unwrap_err();
    assert!(matches!(error, Error::Scheduler(_)), "{error:?}");
    assert!(error.to_string().contains("NobodysScheduler"), "{error}");
    for entry in [json!("absent"), json!([null, null])] {
        let pipeline = open(&scheduler(entry), UnknownSettings::Refuse).unwrap();
        assert!(format!("{pipeline:?}").contains("Ddim"));
    }
}

/// A pipeline's class does what it does in diffusers: its defaults, and what it corrects.
#[test]
fn each_class_of_pipelines_is_read_as_by_diffusers() {
    let fixture = Fixture::open("recipes");
    let classes = object(&fixture.settings());
    assert_eq!(classes.len(), 10);
    for (class, case) in classes {
        let xl = sd_fixtures::path("xl/base");
        let folder = tempfile::tempdir().unwrap();
        let is_xl = class.contains("XL");
        for (name, bytes) in if is_xl { on_disk(&xl) } else { plain() } {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let change = |name: &str, settings: Value| {
            let path = folder.path().join(name);
            let mut file: Map<String, Value> =
                serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            file.extend(object(&settings));
            std::fs::write(path, Value::from(file).to_string()).unwrap();
        };
        let old = json!({"sample_size": 16, "_diffusers_version": "0.6.0"});
        change("unet/config.json", old);
        for (scheduler, settings) in object(&case["schedulers"]) {
            let entry = json!(["diffusers", scheduler]);
            change(
                "model_index.json",
                json!({"_class_name": class, "scheduler": entry}),
            );
            let file = json!({"_class_name": scheduler, "beta_schedule": "scaled_linear",
                "beta_start": 0.00085, "beta_end": 0.012});
            let with = |settings: &Value| {
                let mut file = object(&file);
                file.extend(object(settings));
                Value::from(file).to_string()
            };
            let path = folder.path().join("scheduler/scheduler_config.json");
            std::fs::write(path, with(&settings["given"])).unwrap();
            let options = OpenOptions {
                residency: Residency::OnDemand,
                ..OpenOptions::new(&device("flex").unwrap())
            };
            let pipeline = Pipeline::open(folder.path(), &options).unwrap();
            let expected = SchedulerConfig::from_json_verbatim(&with(&settings["found"]));
            let expected = expected.unwrap().scheduler().unwrap();
            let found = format!("{:?}", pipeline.scheduler);
            assert_eq!(found, format!("{expected:?}"), "{class}");
            let side = case["sample_size"].as_u64().unwrap() as usize;
            assert_eq!(pipeline.denoiser.spec().sample_size, [side; 2], "{class}");
            let found = pipeline.defaults();
            let number = |key: &str, found: f64| {
                let expected = case["defaults"][key].as_f64();
                assert!(
                    expected.is_none_or(|e| e == found),
                    "{class}: {key} {found}"
                );
            };
            number("num_inference_steps", found.steps as f64);
            number("guidance_scale", found.guidance_scale);
            number("strength", found.strength);
            let request = Request::for_pipeline(&pipeline, "a cube");
            assert_eq!(request.steps, found.steps);
            assert_eq!(request.guidance_scale, found.guidance_scale);
        }
    }
}

/// Files of the folder `path` and of its sub-folders.
fn on_disk(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = |path: &Path| {
        let entries = std::fs::read_dir(path).unwrap();
        let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    let mut files = BTreeMap::new();
    for name in names(path) {
        let part = path.join(&name);
        if part.is_file() {
            files.insert(name, std::fs::read(part).unwrap());
            continue;
        }
        for file in names(&part) {
            let bytes = std::fs::read(part.join(&file)).unwrap();
            files.insert(format!("{name}/{file}"), bytes);
        }
    }
    files
}

#[test]
fn other_kinds_of_models_are_named() {
    let classes = [
        ("StableDiffusion3Pipeline", "transformer"),
        ("FluxPipeline", "Flux"),
        ("KolorsPipeline", "ChatGLM"),
        ("PixArtSigmaPipeline", "PixArt"),
        ("StableDiffusionUpscalePipeline", "upscaler"),
        ("StableDiffusionDepth2ImgPipeline", "depth"),
        ("StableDiffusionXLControlNetPipeline", "ControlNet"),
        ("NobodysPipeline", "NobodysPipeline, supported"),
    ];
    for (class, kind) in classes {
        let case = json!({"files": {"model_index.json": {"_class_name": class}}});
        let message = refused(&case, UnknownSettings::Warn);
        for part in [class, kind, "StableDiffusionXLPipeline"] {
            assert!(message.contains(part), "{message}");
        }
    }
}

/// The embedded model with `channels` inputs of its U-Net, as a folder of the class `class`.
fn with_inputs(channels: usize, class: &str) -> Files {
    let mut files = plain();
    let mut change = |name: &str, settings: Value| {
        let mut file: Map<String, Value> = serde_json::from_slice(&files[name]).unwrap();
        file.extend(object(&settings));
        files.insert(name.into(), Value::from(file).to_string().into_bytes());
    };
    change("unet/config.json", json!({"in_channels": channels}));
    change("model_index.json", json!({"_class_name": class}));
    let path = "unet/diffusion_pytorch_model.safetensors";
    let weights = SafeTensors::deserialize(&files[path]).unwrap();
    let tensors = weights.tensors().into_iter().map(|(key, view)| {
        let (mut shape, mut bytes) = (view.shape().to_vec(), view.data().to_vec());
        if key == "conv_in.weight" {
            let old = bytes.len() / shape[0];
            let rows = bytes.chunks(old).map(|row| {
                let mut row = row.to_vec();
                row.resize(old / shape[1] * channels, 0);
                row
            });
            bytes = rows.collect::<Vec<_>>().concat();
            shape[1] = channels;
        }
        (key, view.dtype(), shape, bytes)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(key, dtype, shape, bytes)| {
        let view = TensorView::new(*dtype, shape.clone(), bytes);
        (key, view.unwrap())
    });
    let file = safetensors::serialize(views, None).unwrap();
    files.insert(path.into(), file);
    Files::memory(files)
}

#[test]
fn a_model_that_changes_pictures_says_what_is_missing() {
    for (channels, class, missing) in [
        (
            8,
            "StableDiffusionInstructPix2PixPipeline",
            "the picture to change",
        ),
        (
            9,
            "StableDiffusionInpaintPipeline",
            "a mask of the area to draw",
        ),
        (9, "StableDiffusionPipeline", "a mask"),
    ] {
        let options = OpenOptions::new(&device("flex").unwrap());
        let pipeline = Pipeline::from_files(&with_inputs(channels, class), &options).unwrap();
        let error = pipeline.start(&request()).unwrap_err();
        let message = error.to_string();
        assert!(
            matches!(error, Error::Component(CoreError::InvalidArgument { .. })),
            "{message}"
        );
        let beside = format!("{} channels beside the latent", channels - 4);
        assert!(
            message.contains(&beside) && message.contains(missing),
            "{message}"
        );
    }
}

#[test]
fn an_index_says_nothing_that_is_not_read() {
    let open = |entry: Value, unknown| {
        let case = json!({"files": {"model_index.json": entry}});
        open(&case, unknown)
    };
    let others = json!({
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        "requires_safety_checker": true,
        "add_watermarker": null,
        "_ignore_files": ["x"],
    });
    assert!(open(others, UnknownSettings::Refuse).is_ok());
    let more = json!({"controlnet": ["diffusers", "ControlNetModel"]});
    let error = open(more.clone(), UnknownSettings::Refuse).unwrap_err();
    assert!(error.to_string().contains("controlnet"), "{error}");
    assert!(open(more, UnknownSettings::Warn).is_ok());
    assert!(open(json!({"is_cosxl_edit": true}), UnknownSettings::Refuse).is_ok());
    let error = open(json!({"is_cosxl_edit": "no"}), UnknownSettings::Warn);
    assert!(error.unwrap_err().to_string().contains("is_cosxl_edit"));
}

#[test]
fn a_projection_that_the_index_asks_for_must_be_there() {
    let index = json!({"text_encoder": ["transformers", "CLIPTextModelWithProjection"]});
    let case = json!({"files": {"model_index.json": index}});
    let error = open(&case, UnknownSettings::Refuse).unwrap_err();
    assert!(
        error.to_string().contains("text_projection.weight"),
        "{error}"
    );
}

#[test]
fn a_whole_clip_whose_text_half_is_no_object_is_refused() {
    for half in [json!([]), json!("text"), json!(3)] {
        let case = json!({"files": {"text_encoder/config.json": {"text_config": half}}});
        let message = refused(&case, UnknownSettings::Warn);
        assert!(message.contains("text_config"), "{message}");
    }
}

/// The embedded model with `bad` as one value of the tensor `name` in the weights of `folder`, all
/// of them in f32.
fn spoilt(folder: &str, name: &str, bad: f32) -> Files {
    let mut files = plain();
    let is_its = |file: &&String| file.starts_with(folder) && file.ends_with(".safetensors");
    let path = files.keys().find(is_its).unwrap().clone();
    let weights = SafeTensors::deserialize(&files[&path]).unwrap();
    assert!(weights.tensor(name).is_ok(), "{:?}", weights.names());
    let tensors = weights.tensors().into_iter().map(|(key, view)| {
        assert_eq!(view.dtype(), Dtype::F16);
        let halves = view.data().as_chunks::<2>().0.iter();
        let mut values: Vec<f32> = halves.map(|b| half(u16::from_le_bytes(*b))).collect();
        if key == name {
            let middle = values.len() / 2;
            values[middle] = bad;
        }
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        (key, view.shape().to_vec(), bytes)
    });
    let tensors: Vec<_> = tensors.collect();
    let views = tensors.iter().map(|(key, shape, bytes)| {
        (
            key,
            TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    let file = safetensors::serialize(views, None).unwrap();
    files.insert(path.to_string(), file);
    Files::memory(files)
}

/// The value of an f16.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f32::from(bits & 1023));
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
    }
}

fn request() -> Request {
    Request {
        steps: 3,
        width: Some(64),
        height: Some(64),
        ..Request::new("a red cube")
    }
}

/// Checks that `error` names `component` and `step`, and says nothing of half precision.
#[track_caller]
fn assert_not_finite(error: Error, component: &str, step: Option<usize>) {
    let message = error.to_string();
    match error {
        Error::Component(CoreError::NotFinite {
            component: found,
            step: at,
            ..
        }) => assert_eq!((found, at), (component, step)),
        other => panic!("{other:?}"),
    }
    assert!(message.contains(component), "{message}");
    assert!(
        !message.contains("f32") && !message.contains("half"),
        "{message}"
    );
}

#[test]
fn a_bad_weight_is_reported_where_it_first_shows() {
    let text = "embeddings.position_embedding.weight";
    let text_mlp = "encoder.layers.1.mlp.fc1.bias";
    let cases = [
        ("text_encoder", text, "the text encoder", None),
        ("text_encoder", text_mlp, "the text encoder", None),
        ("unet", "conv_out.bias", "the denoiser", Some(1)),
        ("unet", "conv_in.bias", "the denoiser", Some(1)),
        (
            "unet",
            "time_embedding.linear_1.bias",
            "the denoiser",
            Some(1),
        ),
        ("vae", "decoder.conv_out.bias", "the autoencoder", None),
        ("vae", "decoder.conv_in.bias", "the autoencoder", None),
        ("vae", "encoder.conv_out.bias", "the autoencoder", None),
    ];
    for residency in [Residency::Always, Residency::PerPhase] {
        for (folder, name, component, step) in cases {
            for bad in [f32::NAN, f32::INFINITY] {
                let options = OpenOptions {
                    residency,
                    ..OpenOptions::new(&device("flex").unwrap())
                };
                let pipeline = Pipeline::from_files(&spoilt(folder, name, bad), &options).unwrap();
                let mut request = request();
                if name.starts_with("encoder.conv") {
                    request.start = Start::Picture(PictureStart::new(RgbImage::new(64, 64), 0.8));
                }
                let error = match pipeline.start(&request) {
                    Err(error) => error,
                    Ok(mut run) => match run.find_map(Result::err) {
                        None => run.images().unwrap_err(),
                        Some(error) => {
                            assert!(run.next().is_none() && run.denoised().is_none());
                            error
                        }
                    },
                };
                assert_not_finite(error, component, step);
            }
        }
    }
}
