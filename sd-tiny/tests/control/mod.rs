//! ControlNets and T2I-Adapters beside micro models, against diffusers' own pipelines, and at full size
//! by their tensors' names and shapes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sd_fixtures::Fixture;
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::models::controlnet::{ControlNet, ControlNetConfig, ControlNetFiles};
use sd_pipeline::models::ldm::Layout;
use sd_pipeline::models::t2i_adapter::{T2IAdapterConfig, T2IAdapterFiles};
use sd_pipeline::models::unet::{ControlNetwork, Steering, UNetResiduals};
use sd_pipeline::models::{ConfigFile, Files, Kind, LoadOptions, inspect};
use sd_pipeline::{
    Cancel, Conditioning, Control, ControlPicture, DenoiserSpec, Device, Error, GrayImage, Inpaint,
    Lora, OpenOptions, PictureStart, Pipeline, Record, RecordError, Request, Residency, RgbImage,
    Start, TextEmbedding, device,
};
use sd_tiny::micro::{Family, Layout as MicroLayout, Micro};
use serde_json::{Map, Value, json};

/// Largest difference of what a network adds, and of the latents of a run.
const RESIDUALS: f64 = 1e-4;
const LATENTS: f64 = 5e-4;

fn path(name: &str) -> PathBuf {
    sd_fixtures::path(&format!("control/{name}"))
}

fn options() -> OpenOptions {
    OpenOptions::new(&device("flex").unwrap())
}

fn micro(family: Family) -> Pipeline {
    let files = Micro::new(family, MicroLayout::Diffusers, 0).unwrap();
    Pipeline::from_files(&files.files(), &options()).unwrap()
}

/// `family` with the networks of these names.
fn with(pipeline: &Pipeline, names: &[&str]) -> Pipeline {
    let open = |name: &&str| Control::open(path(name), &options()).unwrap();
    let controls: Vec<Control> = names.iter().map(open).collect();
    pipeline.with_controls(&controls).unwrap()
}

fn picture(fixture: &Fixture, name: &str) -> RgbImage {
    let key = format!("{name}.picture");
    let shape = fixture.shape(&key);
    let bytes = fixture.values(&key).into_iter().map(|v| v as u8).collect();
    RgbImage::from_raw(shape[1] as u32, shape[0] as u32, bytes).unwrap()
}

fn mask(fixture: &Fixture) -> GrayImage {
    let bytes = fixture.values("mask").into_iter().map(|v| v as u8);
    GrayImage::from_raw(72, 64, bytes.collect()).unwrap()
}

/// The request of the cases, with pictures that steer.
fn request(pipeline: &Pipeline, controls: Vec<ControlPicture>) -> Request {
    Request {
        negative_prompt: Some("noise, fog".into()),
        guidance_scale: 3.0,
        steps: 4,
        width: Some(72),
        height: Some(64),
        seed: 3,
        controls,
        ..Request::for_pipeline(pipeline, "Ünïcode & a photo of nothing")
    }
}

fn latents(pipeline: &Pipeline, request: &Request) -> Tensor<4> {
    let mut run = pipeline.start(request).unwrap();
    for step in &mut run {
        step.unwrap();
    }
    run.latents().clone()
}

#[track_caller]
fn check(fixture: &Fixture, case: &str, pipeline: &Pipeline, request: &Request) {
    fixture.assert_tensor(case, latents(pipeline, request), LATENTS);
}

fn network(name: &str) -> Arc<ControlNet> {
    let options = LoadOptions::new(&Device::flex());
    let files = ControlNetFiles::open(&Files::directory(path(name)), &options).unwrap();
    Arc::new(files.load().unwrap())
}

/// What `network` adds to each of `branches` of these texts.
fn added(
    fixture: &Fixture,
    network: Arc<ControlNet>,
    guess: bool,
    texts: &[Tensor<3>],
    branches: &[usize],
) -> Vec<UNetResiduals> {
    let image = picture(fixture, "first");
    let values: Vec<f32> = image
        .as_raw()
        .iter()
        .map(|v| f32::from(*v) / 255.0)
        .collect();
    let is_bgr = network.spec().is_bgr;
    let data = sd_pipeline::burn::tensor::TensorData::new(values, [1, 64, 72, 3]);
    let hint = Tensor::<4>::from_data(data, &Device::flex()).permute([0, 3, 1, 2]);
    let hint = if is_bgr { hint.flip([1]) } else { hint };
    let mut steering = Steering::new(hint);
    steering.scale = 0.7;
    steering.guess = guess;
    let conditioning = |text: &Tensor<3>| Conditioning::new(TextEmbedding::new(text.clone()));
    let conditioning: Vec<Conditioning> = texts.iter().map(conditioning).collect();
    let all: Vec<&Conditioning> = conditioning.iter().collect();
    let spec = DenoiserSpec::new(&Device::flex());
    let prepared = network.prepare(&steering, &all, &spec).unwrap();
    let x = fixture.tensor::<4>("residuals.x", &Device::flex());
    prepared
        .residuals(&x, 321.0, branches, &Cancel::new())
        .unwrap()
}

#[test]
fn a_controlnet_adds_what_diffusers_does() {
    let fixture = Fixture::open("control");
    let text = fixture.tensor::<3>("residuals.text", &Device::flex());
    let cases = [
        ("plain", "sd1_edges", false),
        ("guess", "sd1_edges", true),
        ("bgr", "sd1_depth", false),
        ("global", "sd1_shuffle", false),
    ];
    for (case, name, guess) in cases {
        let all = added(
            &fixture,
            network(name),
            guess,
            std::slice::from_ref(&text),
            &[0],
        );
        assert_eq!(all[0].skips.len(), 12, "{case}");
        let mid = all[0].mid.as_ref().unwrap();
        let skips = all[0].skips.iter().enumerate();
        let all = skips.map(|(k, skip)| (k.to_string(), skip));
        for (name, found) in all.chain([("mid".into(), mid)]) {
            let key = format!("residuals.{case}.{name}");
            // diffusers leaves one number for each channel where all places have the same.
            let shape = fixture.shape(&key);
            let first = found.clone().narrow(2, 0, shape[2]).narrow(3, 0, shape[3]);
            let spread = first.clone().expand(found.dims()) - found.clone();
            let is_global = spread.abs().max().into_scalar::<f32>() == 0.0;
            assert!(first.dims() == found.dims() || is_global, "{key}");
            fixture.assert_tensor(&key, first, RESIDUALS);
        }
    }
}

/// Branches of one text are one to it, and others are as they would be alone, whatever their lengths.
#[test]
fn branches_share_what_is_computed() {
    let fixture = Fixture::open("control");
    let text = fixture.tensor::<3>("residuals.text", &Device::flex());
    let (longer, other) = (
        Tensor::cat(vec![text.clone(), text.clone()], 1),
        text.clone() * 0.5,
    );
    let texts = [text.clone(), longer, text, other];
    let edges = network("sd1_edges");
    let values = |residuals: &UNetResiduals| {
        let last = residuals.mid.clone().unwrap();
        last.try_into_vec_as::<f32>().unwrap()
    };
    let together = added(&fixture, edges.clone(), false, &texts, &[3, 0, 1, 2]);
    assert_eq!(values(&together[1]), values(&together[3]));
    for (found, branch) in together.iter().zip([3, 0, 1, 2]) {
        let alone = &added(&fixture, edges.clone(), false, &texts, &[branch])[0];
        let pairs = values(found).into_iter().zip(values(alone));
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5, "branch {branch}: {worst}");
    }
    assert!(values(&together[0]) != values(&together[1]));
}

#[test]
fn runs_beside_a_controlnet_are_diffusers() {
    let fixture = Fixture::open("control");
    let plain = micro(Family::Sd1);
    let [first, second] =
        ["first", "second"].map(|name| ControlPicture::new(picture(&fixture, name)));
    let edges = with(&plain, &["sd1_edges"]);
    let one = |picture: &ControlPicture| request(&edges, vec![picture.clone()]);
    check(&fixture, "sd1.one", &edges, &one(&first));
    check(
        &fixture,
        "sd1.scaled",
        &edges,
        &one(&second.clone().scale(0.6)),
    );
    let unguided = Request {
        guidance_scale: 1.0,
        ..one(&first)
    };
    check(&fixture, "sd1.unguided", &edges, &unguided);
    let range = Request {
        steps: 7,
        ..one(&first.clone().between(0.2..0.7))
    };
    check(&fixture, "sd1.range", &edges, &range);
    let guess = Request {
        guess_mode: true,
        ..one(&first)
    };
    check(&fixture, "sd1.guess", &edges, &guess);
    let batch = Request {
        count: 2,
        ..one(&first)
    };
    check(&fixture, "sd1.batch", &edges, &batch);
    // One after the other each branch is computed by itself.
    let in_turn = Request {
        evaluation: sd_pipeline::BranchEvaluation::InTurn,
        ..batch
    };
    check(&fixture, "sd1.batch", &edges, &in_turn);
    let shuffle = with(&plain, &["sd1_shuffle"]);
    check(&fixture, "sd1.shuffle", &shuffle, &one(&first));
    let both = with(&plain, &["sd1_edges", "sd1_depth"]);
    let multi = Request {
        steps: 5,
        ..request(
            &both,
            vec![
                first.clone().between(0.0..0.6),
                second.clone().scale(0.5).between(0.4..1.0),
            ],
        )
    };
    check(&fixture, "sd1.multi", &both, &multi);
    let guess = Request {
        guess_mode: true,
        ..request(&both, vec![first.clone(), second])
    };
    check(&fixture, "sd1.multi_guess", &both, &guess);

    let xl = micro(Family::Sdxl);
    let edges = with(&xl, &["sdxl_edges"]);
    let scaled = request(&edges, vec![first.clone().scale(0.8)]);
    check(&fixture, "sdxl.one", &edges, &scaled);
    let guess = Request {
        guess_mode: true,
        ..request(&edges, vec![first.clone()])
    };
    check(&fixture, "sdxl.guess", &edges, &guess);
    let union = with(&xl, &["sdxl_union"]);
    let lines = ControlPicture {
        kind: Some(3),
        ..first.scale(0.9).between(0.0..0.8)
    };
    let lines = Request {
        steps: 5,
        ..request(&union, vec![lines])
    };
    check(&fixture, "sdxl.union", &union, &lines);
}

#[test]
fn pictures_drawn_anew_are_steered_as_in_diffusers() {
    let fixture = Fixture::open("control");
    let [first, second] = ["first", "second"].map(|name| picture(&fixture, name));
    let plain = micro(Family::Sd1);
    let edges = with(&plain, &["sd1_edges"]);
    let image = Request {
        steps: 6,
        width: None,
        height: None,
        start: Start::Picture(PictureStart::new(first.clone(), 0.7)),
        // What diffusers has there.
        ..request(&edges, vec![ControlPicture::new(second).scale(0.8)])
    };
    check(&fixture, "sd1.image", &edges, &image);
    for (family, name, strength) in [
        (Family::Sd1, "sd1", 0.8),
        (Family::Sd1Inpaint, "sd1inpaint", 1.0),
    ] {
        let edges = with(&micro(family), &["sd1_edges"]);
        let hidden = ControlPicture {
            mask: Some(mask(&fixture)),
            ..ControlPicture::new(first.clone())
        };
        let start = PictureStart {
            inpaint: Some(Inpaint::new(mask(&fixture))),
            ..PictureStart::new(first.clone(), strength)
        };
        let inpaint = Request {
            steps: 5,
            start: Start::Picture(start),
            ..request(&edges, vec![hidden])
        };
        check(&fixture, &format!("{name}.inpaint"), &edges, &inpaint);
    }
}

#[test]
fn runs_beside_a_t2i_adapter_are_diffusers() {
    let fixture = Fixture::open("control");
    let [first, second, grey, wide] = ["first", "second", "grey", "wide"]
        .map(|name| ControlPicture::new(picture(&fixture, name)));
    let plain = micro(Family::Sd1);
    let full = with(&plain, &["sd1_full"]);
    let scaled = request(&full, vec![first.clone().scale(0.8)]);
    check(&fixture, "t2i.full", &full, &scaled);
    let light = with(&plain, &["sd1_light"]);
    check(
        &fixture,
        "t2i.light",
        &light,
        &request(&light, vec![second.clone()]),
    );
    let sketch = with(&plain, &["sd1_sketch"]);
    let batch = Request {
        count: 2,
        ..request(&sketch, vec![grey])
    };
    check(&fixture, "t2i.sketch", &sketch, &batch);
    let multi = with(&plain, &["sd1_full", "sd1_light"]);
    let both = request(&multi, vec![first.scale(0.5), second.scale(0.9)]);
    check(&fixture, "t2i.multi", &multi, &both);
    let xl = with(&micro(Family::Sdxl), &["sdxl_full"]);
    let wide = Request {
        width: Some(96),
        steps: 5,
        ..request(&xl, vec![wide.between(0.0..0.6)])
    };
    check(&fixture, "t2i.xl", &xl, &wide);
}

/// Changes of low rank to the model's own U-Net make the network, merged while they are read.
#[test]
fn runs_beside_a_control_lora_are_diffusers() {
    let fixture = Fixture::open("control_lora");
    let file = |name: &str| sd_fixtures::path(&format!("control_lora/{name}.safetensors"));
    let first = ControlPicture::new(picture(&fixture, "first"));
    let families = [
        ("sd1", Family::Sd1, None),
        ("sdxl", Family::Sdxl, Some("sdxl")),
    ];
    let models = families.map(|(_, family, _)| micro(family));
    for ((name, _, family), plain) in families.iter().zip(&models) {
        check(
            &fixture,
            &format!("{name}/without"),
            plain,
            &request(plain, Vec::new()),
        );
        let control = Control::open_beside(file(name), plain, &options()).unwrap();
        let report = control.report();
        assert_eq!(report.kind, "control_lora");
        let steered = plain.with_controls(&[control]).unwrap();
        for (case, scale) in [("with", 1.0), ("stronger", 1.6)] {
            let picture = first.clone().scale(scale);
            let request = request(&steered, vec![picture]);
            check(&fixture, &format!("{name}/{case}"), &steered, &request);
        }
        let found = inspect(file(name)).unwrap();
        assert_eq!(
            (found.kind, found.family.as_deref()),
            (Kind::ControlLora, *family)
        );
        // Alone it is no network.
        let error = Control::open(file(name), &options())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("open_beside") && error.contains(name),
            "{error}"
        );
    }
    let [sd1, xl] = models;
    for (name, other) in [("sdxl", &sd1), ("sd1", &xl)] {
        let error = Control::open_beside(file(name), other, &options());
        let error = error.unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("modules"), "{error}");
    }
    // A LoRA that is merged into the model is in the network, too.
    let style = Lora::open(sd_fixtures::path("adapters/sd1_style.safetensors")).unwrap();
    let styled = sd1.with_loras(&[style]).unwrap();
    let drawn = [&sd1, &styled].map(|model| {
        let control = Control::open_beside(file("sd1"), model, &options()).unwrap();
        let steered = styled.with_controls(&[control]).unwrap();
        latents(&steered, &request(&steered, vec![first.clone()])).into_data()
    });
    assert_ne!(drawn[0], drawn[1]);
}

/// A file in the original code's names is the folder that diffusers saves.
#[test]
fn single_files_are_their_folders() {
    let fixture = Fixture::open("control");
    let folder = tempfile::tempdir().unwrap();
    Micro::new(Family::Sd1, MicroLayout::Diffusers, 0)
        .unwrap()
        .write_to(folder.path())
        .unwrap();
    let with_config = OpenOptions {
        config: Some(folder.path().into()),
        ..options()
    };
    let plain = micro(Family::Sd1);
    let first = ControlPicture::new(picture(&fixture, "first"));
    for name in ["sd1_edges", "sd1_full", "sd1_light"] {
        let file = path(&format!("{name}_original.safetensors"));
        let file = Control::open(file, &with_config).unwrap();
        let both = [plain.with_controls(&[file]).unwrap(), with(&plain, &[name])];
        let drawn = both.map(|pipeline| {
            let request = Request {
                steps: 2,
                ..request(&pipeline, vec![first.clone()])
            };
            latents(&pipeline, &request).into_data()
        });
        assert_eq!(drawn[0], drawn[1], "{name}");
    }
    let kind = |name: &str| {
        let found = inspect(path(&format!("{name}_original.safetensors"))).unwrap();
        (found.kind, found.family)
    };
    assert_eq!(kind("sd1_edges").0, Kind::Controlnet);
    assert_eq!(kind("sd1_full"), (Kind::T2iAdapter, Some("sd1".into())));
}

#[track_caller]
fn refusal(pipeline: &Pipeline, request: &Request) -> String {
    pipeline.start(request).map(drop).unwrap_err().to_string()
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let fixture = Fixture::open("control");
    let first = ControlPicture::new(picture(&fixture, "first"));
    let (sd1, xl) = (micro(Family::Sd1), micro(Family::Sdxl));
    let open = |name: &str| Control::open(path(name), &options()).unwrap();
    for (pipeline, name, words) in [
        (&xl, "sd1_edges", "prompts"),
        (&sd1, "sdxl_edges", "prompts"),
        (&xl, "sd1_full", "sizes and crops"),
        (&sd1, "sdxl_full", "sizes and crops"),
    ] {
        let error = pipeline
            .with_controls(&[open(name)])
            .unwrap_err()
            .to_string();
        assert!(error.contains(name) && error.contains(words), "{error}");
    }
    // Each network wants a picture, and each picture a network.
    let edges = with(&sd1, &["sd1_edges"]);
    let error = refusal(&edges, &request(&edges, Vec::new()));
    assert!(
        error.contains("0 pictures") && error.contains("expected 1"),
        "{error}"
    );
    let error = refusal(&sd1, &request(&sd1, vec![first.clone()]));
    assert!(error.contains("expected none"), "{error}");
    for (picture, words) in [
        (first.clone().scale(f64::NAN), "control scale"),
        (first.clone().between(0.5..0.5), "control range"),
        (first.clone().between(0.0..1.5), "control range"),
        (first.clone().between(f64::NAN..1.0), "control range"),
        (
            ControlPicture {
                mask: Some(GrayImage::new(3, 3)),
                ..first.clone()
            },
            "control mask",
        ),
        (
            ControlPicture {
                kind: Some(1),
                ..first.clone()
            },
            "control kind",
        ),
    ] {
        let error = refusal(&edges, &request(&edges, vec![picture]));
        assert!(error.contains(words), "{words}: {error}");
    }
    let union = with(&xl, &["sdxl_union"]);
    for kind in [None, Some(6)] {
        let picture = ControlPicture {
            kind,
            ..first.clone()
        };
        let error = refusal(&union, &request(&union, vec![picture]));
        assert!(
            error.contains("control kind") && error.contains("0 to 5"),
            "{error}"
        );
    }
    // SDXL's adapters see squares of 16 by 16 pixels.
    let full = with(&xl, &["sdxl_full"]);
    let error = refusal(&full, &request(&full, vec![first.clone()]));
    assert!(error.contains("multiples of 16"), "{error}");
    let guess = Request {
        guess_mode: true,
        ..request(&sd1, Vec::new())
    };
    assert!(refusal(&sd1, &guess).contains("guess_mode"));

    // No record holds the pictures, and none is drawn again without them.
    let images = edges.generate(&request(&edges, vec![first])).unwrap();
    let record: &Record = &images[0].record;
    let expected = RecordError::Unrecorded(vec!["controls".into()]);
    assert_eq!(record.request().unwrap_err(), expected);

    // What is no such network.
    let folder = tempfile::tempdir().unwrap();
    for (name, names, words) in [
        (
            "lllite",
            vec!["lllite_unet_input_blocks_4_1.down.0.weight"],
            "ControlNet-LLLite",
        ),
        (
            "lora",
            vec!["lora_controlnet", "input_hint_block.0.weight"],
            "Control-LoRA",
        ),
        (
            "difference",
            vec!["difference", "control_model.input_hint_block.0.weight"],
            "difference",
        ),
        ("other", vec!["conv.weight"], "a ControlNet"),
    ] {
        let file = folder.path().join(format!("{name}.safetensors"));
        let tensors: Vec<_> = names
            .iter()
            .map(|n| ((*n).to_string(), vec![1, 1]))
            .collect();
        write_header(&file, &tensors);
        let error = Control::open(&file, &options()).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains(name), "{error}");
    }
    let model = folder.path().join("model");
    Micro::new(Family::Sd1, MicroLayout::Diffusers, 0)
        .unwrap()
        .write_to(&model)
        .unwrap();
    for other in [model.join("unet"), model, folder.path().join("absent")] {
        assert!(
            Control::open(&other, &options()).is_err(),
            "{}",
            other.display()
        );
    }
}

/// What is loaded on demand is counted before, and let go when no run needs it.
#[test]
fn weights_are_counted_and_come_and_go() {
    let fixture = Fixture::open("control");
    let sd1 = micro(Family::Sd1);
    let options = OpenOptions {
        residency: Residency::PerPhase,
        ..options()
    };
    let edges = Control::open(path("sd1_edges"), &options).unwrap();
    let steered = sd1.with_controls(&[edges]).unwrap();
    let order = request(
        &steered,
        vec![ControlPicture::new(picture(&fixture, "first"))],
    );
    let [plain, more] = [(&sd1, Vec::new()), (&steered, order.controls.clone())]
        .map(|(pipeline, controls)| pipeline.estimate(&request(pipeline, controls)).unwrap());
    let weights = more.weights.controls.total();
    assert_eq!(plain.weights.controls.total(), 0);
    assert!(weights > 100_000, "{weights}");
    assert_eq!(more.weights.total(), plain.weights.total() + weights);
    assert_eq!(steered.memory().controls.total(), 0);
    let mut run = steered.start(&order).unwrap();
    assert_eq!(steered.memory().controls.total(), weights);
    for step in &mut run {
        step.unwrap();
    }
    assert_eq!(steered.memory().controls.total(), 0);
    let mut limited = steered;
    limited.memory_limit = Some(1);
    assert!(matches!(
        limited.start(&order),
        Err(Error::MemoryLimit { .. })
    ));
}

/// A safetensors file of f16 tensors, all of whose values are a hole.
fn write_header(path: &Path, tensors: &[(String, Vec<usize>)]) {
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors {
        let start = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "F16", "shape": shape, "data_offsets": [start, end] });
        header.insert(name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end as u64).unwrap();
}

/// Files of full size open, by either naming, and all of their tensors are read.
#[test]
fn published_networks_map_completely() {
    let folder = tempfile::tempdir().unwrap();
    let load = LoadOptions::new(&Device::flex());
    let lists = [
        ("controlnet-sd15", 340),
        ("controlnet-sd21", 340),
        ("controlnet-sdxl", 844),
        ("controlnet-sdxl-small", 0),
        ("controlnet-sdxl-union", 0),
        ("controlnet-sdxl-promax", 0),
        ("t2i-adapter-sd15", 0),
        ("t2i-adapter-sd15-sketch", 0),
        ("t2i-adapter-sd15-light", 0),
        ("t2i-adapter-sdxl", 0),
    ];
    for (list, count) in lists {
        let (config, tensors) = sd_fixtures::renamed(&format!("control/{list}"));
        assert!(
            count == 0 || tensors.len() == count,
            "{list}: {}",
            tensors.len()
        );
        let class = config["_class_name"].as_str().unwrap().to_string();
        let is_adapter = class == "T2IAdapter";
        let file = ConfigFile::new("config.json", config.clone());
        let layout = match is_adapter {
            true => Layout::t2i_adapter(&T2IAdapterConfig::new(&file).unwrap()),
            false => Layout::controlnet(&ControlNetConfig::new(&file).unwrap()),
        };
        // A union is published in diffusers' names alone.
        for (theirs, ours, _) in tensors.iter().filter(|_| class != "ControlNetUnionModel") {
            assert_eq!(layout.in_file(ours).unwrap().name, *theirs, "{list}");
            let back: Vec<String> = layout
                .in_diffusers(theirs)
                .into_iter()
                .map(|(n, _)| n)
                .collect();
            assert_eq!(back, std::slice::from_ref(ours), "{list}: {theirs}");
        }
        let path = folder.path().join(format!("{list}.safetensors"));
        // As a folder, and as files in both spellings, with a prefix and without.
        let spelt = |prefix: &str, original: bool| {
            let names = tensors.iter().map(|(theirs, ours, shape)| {
                let name = if original { theirs } else { ours };
                (format!("{prefix}{name}"), shape.clone())
            });
            names
                .collect::<BTreeMap<_, _>>()
                .into_iter()
                .collect::<Vec<_>>()
        };
        let mut spellings = vec![spelt("", true), spelt("", false)];
        if !is_adapter {
            spellings.push(spelt("control_model.", true));
        }
        for names in spellings {
            write_header(&path, &names);
            let bytes = match is_adapter {
                true => T2IAdapterFiles::open_file(&path, &load)
                    .unwrap()
                    .weight_bytes(),
                false => ControlNetFiles::open_file(&path, None, &load)
                    .unwrap()
                    .weight_bytes(),
            };
            let values: usize = tensors
                .iter()
                .map(|(.., s)| s.iter().product::<usize>())
                .sum();
            let bytes = bytes.unwrap().total();
            // In f32, panels filled up.
            assert!(bytes >= 4 * values as u64, "{list}: {bytes} for {values}");
            assert!(
                bytes < 4 * values as u64 * 11 / 10,
                "{list}: {bytes} for {values}"
            );
        }
        let (saved, names) = (folder.path().join(list), spelt("", false));
        std::fs::create_dir(&saved).unwrap();
        write_header(&saved.join("diffusion_pytorch_model.safetensors"), &names);
        std::fs::write(saved.join("config.json"), Value::Object(config).to_string()).unwrap();
        Control::open(&saved, &options()).unwrap();
        // One tensor more is of no use, one less is missed.
        let mut wrong = names.clone();
        wrong[3].0.push_str(".more");
        write_header(&path, &wrong);
        Control::open(&path, &options()).unwrap_err();
        write_header(&saved.join("diffusion_pytorch_model.safetensors"), &wrong);
        let error = Control::open(&saved, &options()).unwrap_err().to_string();
        for name in [&names[3].0, &wrong[3].0] {
            assert!(error.contains(&**name), "{list}: {name} in {error}");
        }
    }
}
