//! SDXL and its refiner equal diffusers': embeddings, sizes, negative prompts, hand-over.

use std::path::Path;

use burn::tensor::Tensor;
use sd_fixtures::Fixture;
use sd_pipeline::core::Error as CoreError;
use sd_pipeline::models::{
    ClipPairFiles, ClipReading, ClipTextFiles, Files, LoadOptions, Products,
};
use sd_pipeline::{
    ComponentFolders, Error, FloatDType, OpenOptions, PictureStart, Pipeline, Prompt, Request,
    Residency, RgbImage, SizeConditioning, Start, TextEncoder, device,
};
use serde_json::{Value, json};

fn open(name: &str) -> Pipeline {
    let options = OpenOptions::new(&device("flex").unwrap());
    Pipeline::open(sd_fixtures::path("xl").join(name), &options).unwrap()
}

fn prompt(case: &Value, text: &str, second: &str) -> Option<Prompt> {
    let prompt = Prompt::new(case[text].as_str()?);
    Some(match case[second].as_str() {
        Some(second) => prompt.with_second(second),
        None => prompt,
    })
}

fn number(case: &Value, key: &str) -> usize {
    case[key].as_u64().unwrap() as usize
}

/// Cases whose names begin with `beginning`.
fn cases(fixture: &Fixture, beginning: &str) -> Vec<(String, Value)> {
    let settings = fixture.settings();
    let cases = settings.as_object().unwrap().clone().into_iter();
    cases
        .filter(|(name, _)| name.starts_with(beginning))
        .collect()
}

fn request(case: &Value) -> Request {
    Request {
        negative_prompt: prompt(case, "negative", "negative_second"),
        guidance_scale: case["guidance"].as_f64().unwrap(),
        steps: number(case, "steps"),
        seed: number(case, "seed") as u64,
        width: Some(number(case, "width")),
        height: Some(number(case, "height")),
        ..Request::new(prompt(case, "prompt", "second").unwrap())
    }
}

fn pair(value: &Value) -> [usize; 2] {
    serde_json::from_value(value.clone()).unwrap()
}

fn sizes(case: &Value) -> Option<SizeConditioning> {
    case.get("original_size")?;
    Some(SizeConditioning {
        original: pair(&case["original_size"]),
        crop: pair(&case["crops_coords_top_left"]),
        target: pair(&case["target_size"]),
        aesthetic_score: None,
    })
}

fn finish(pipeline: &Pipeline, request: &Request) -> sd_pipeline::Run {
    let mut run = pipeline.start(request).unwrap();
    for step in &mut run {
        step.unwrap();
    }
    run
}

#[test]
fn both_encoders_embed_as_in_diffusers() {
    let fixture = Fixture::open("xl");
    let cases = cases(&fixture, "text.");
    assert_eq!(cases.len(), 4);
    for (name, case) in cases {
        let pipeline = open(match name.as_str() {
            "text.refiner" => "refiner",
            _ => "base",
        });
        let encoder = pipeline.text_encoder.get().unwrap();
        let prompt = prompt(&case, "prompt", "second").unwrap();
        let found = encoder.encode(&[prompt]).unwrap();
        let cut = &found.truncated[0];
        assert_eq!(cut.is_some(), name == "text.long", "{cut:?}");
        fixture.assert_tensor(&format!("{name}.tokens"), found.tokens, 1e-5);
        fixture.assert_tensor(&format!("{name}.pooled"), found.pooled.unwrap(), 1e-5);
    }
}

#[test]
fn both_encoders_skip_layers_as_in_diffusers() {
    let fixture = Fixture::open("xl");
    let files = Files::directory(sd_fixtures::path("xl/base"));
    let open = |encoder: &str, tokenizer: &str| {
        let options = LoadOptions::new(&device("flex").unwrap());
        let files = ClipTextFiles::open(&files, encoder, tokenizer, &options).unwrap();
        files.with_reading(ClipReading::PENULTIMATE).unwrap()
    };
    let pair = || {
        let first = open("text_encoder", "tokenizer");
        let second = open("text_encoder_2", "tokenizer_2");
        ClipPairFiles::new(first, second).unwrap().load().unwrap()
    };
    let prompt = [Prompt::new("a red cube on top of a blue sphere")];
    let found = pair().with_clip_skip(1).unwrap().encode(&prompt).unwrap();
    fixture.assert_tensor("skipped.tokens", found.tokens, 1e-5);
    fixture.assert_tensor("skipped.pooled", found.pooled.unwrap(), 1e-5);
    // The first has three layers, of which one is not read as it is.
    assert!(pair().with_clip_skip(2).is_err());
    let shallow = open("text_encoder", "tokenizer");
    let skipped = ClipReading {
        skipped: 3,
        normalized: true,
    };
    let error = shallow.with_reading(skipped).unwrap_err().to_string();
    assert!(error.contains("num_hidden_layers is 3"), "{error}");
}

#[test]
fn a_text_that_both_encoders_cut_is_reported_once() {
    let encoder = open("base").text_encoder.get().unwrap();
    let long = "many words ".repeat(12);
    let short = encoder.encode(&[Prompt::new(&*long)]).unwrap();
    let both = Prompt::new(&*long).with_second(format!("{long}and more"));
    let both = encoder.encode(&[both]).unwrap();
    let [once, twice] = [short, both].map(|found| found.truncated[0].clone().unwrap());
    assert_eq!(twice, format!("{once} {once} and more"));
}

#[test]
fn pictures_are_those_of_diffusers() {
    let fixture = Fixture::open("xl");
    let base = open("base");
    let no_zeros = with_index("base", |index| {
        index["force_zeros_for_empty_prompt"] = false.into();
    });
    let cases = cases(&fixture, "base.");
    assert_eq!(cases.len(), 9);
    for (name, case) in cases {
        if name == "base.pictures" {
            let run = finish(&base, &request(&case));
            let found = run.images().unwrap()[0].as_raw().clone();
            let expected = fixture.values(&name);
            let off = found.iter().zip(&expected);
            let off = off.filter(|(f, e)| (f64::from(**f) - **e).abs() > 1.0);
            assert_eq!((off.count(), found.len()), (0, expected.len()));
            continue;
        }
        let pipeline = match name.as_str() {
            "base.no_zeros" => &no_zeros,
            _ => &base,
        };
        let request = Request {
            size: sizes(&case),
            negative_size: case.get("negative_sizes").and_then(sizes),
            ..request(&case)
        };
        let run = finish(pipeline, &request);
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 1e-3);
    }
}

#[test]
fn schedules_and_parts_are_drawn_as_by_a1111() {
    let fixture = Fixture::open("prompts");
    let settings = fixture.settings();
    let base = open("base");
    let runs = settings["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 3);
    for (k, case) in runs.iter().enumerate() {
        let text = |key: &str| Prompt::a1111(case[key].as_str().unwrap());
        let request = Request {
            negative_prompt: Some(text("negative")),
            guidance_scale: case["guidance"].as_f64().unwrap(),
            steps: number(case, "steps"),
            seed: number(case, "seed") as u64,
            width: Some(64),
            height: Some(48),
            ..Request::new(text("prompt"))
        };
        let mut run = base.start(&request).unwrap();
        // Saved in its middle it goes on with the text that holds there.
        for step in run.by_ref().take(3) {
            step.unwrap();
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run");
        run.save(&file).unwrap();
        let mut run = base.resume(&request, &file).unwrap();
        for step in &mut run {
            step.unwrap();
        }
        fixture.assert_tensor(&format!("run.{k}"), run.latents().clone(), 1e-3);
    }
}

/// The model `name` with another index.
fn with_index(name: &str, change: impl Fn(&mut Value)) -> Pipeline {
    let options = OpenOptions::new(&device("flex").unwrap());
    let folder = copied(name);
    let file = folder.path().join("model_index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    change(&mut index);
    std::fs::write(&file, index.to_string()).unwrap();
    Pipeline::open(folder.path(), &options).unwrap()
}

/// The model `name` in a folder of its own.
fn copied(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let model = sd_fixtures::path("xl").join(name);
    for part in std::fs::read_dir(&model).unwrap() {
        let part = part.unwrap().path();
        let to = folder.path().join(part.file_name().unwrap());
        if part.is_file() {
            std::fs::copy(&part, &to).unwrap();
            continue;
        }
        std::fs::create_dir(&to).unwrap();
        for file in std::fs::read_dir(&part).unwrap() {
            let file = file.unwrap().path();
            std::fs::copy(&file, to.join(file.file_name().unwrap())).unwrap();
        }
    }
    folder
}

fn picture(fixture: &Fixture) -> RgbImage {
    let bytes = fixture.values("picture").iter().map(|v| *v as u8).collect();
    RgbImage::from_raw(64, 48, bytes).unwrap()
}

#[test]
fn a_refiner_draws_on_a_picture_what_diffusers_does() {
    let fixture = Fixture::open("xl");
    let refiner = open("refiner");
    let cases = cases(&fixture, "refiner.");
    assert_eq!(cases.len(), 3);
    for (name, case) in cases {
        let score = |key: &str| case[key].as_f64();
        let of = |crop, aesthetic_score| SizeConditioning {
            crop,
            aesthetic_score,
            ..SizeConditioning::of([48, 64])
        };
        let crop = case.get("crops_coords_top_left").map(pair);
        let good = score("aesthetic_score");
        let bad = score("negative_aesthetic_score");
        let request = Request {
            start: Start::Picture(PictureStart::new(
                picture(&fixture),
                case["strength"].as_f64().unwrap(),
            )),
            negative_prompt: prompt(&case, "negative", "none"),
            steps: number(&case, "steps"),
            seed: number(&case, "seed") as u64,
            size: (crop.is_some() || good.is_some()).then(|| of(crop.unwrap_or([0, 0]), good)),
            negative_size: bad.map(|bad| of([0, 0], Some(bad))),
            ..Request::for_pipeline(&refiner, case["prompt"].as_str().unwrap())
        };
        let run = finish(&refiner, &request);
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 1e-3);
    }
}

#[test]
fn a_base_hands_over_as_in_diffusers() {
    let fixture = Fixture::open("xl");
    let (mut base, mut refiner) = (open("base"), open("refiner"));
    let cases = cases(&fixture, "handed.");
    assert_eq!(cases.len(), 12);
    for (name, case) in cases {
        let scheduler = case["scheduler"].as_str().unwrap();
        base.set_scheduler(scheduler).unwrap();
        refiner.set_scheduler(scheduler).unwrap();
        let request = Request {
            steps: number(&case, "steps"),
            seed: number(&case, "seed") as u64,
            width: Some(64),
            height: Some(48),
            end: case["at"].as_f64(),
            ..Request::for_pipeline(&base, prompt(&case, "prompt", "second").unwrap())
        };
        let run = finish(&base, &request);
        let between = format!("{name}.between");
        fixture.assert_tensor(&between, run.latents().clone(), 1e-3);
        let refining = request.refining(run.hand_over().unwrap());
        let run = finish(&refiner, &refining);
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 1e-3);
        let pictures = base.generate_refined(&refiner, &request, request.end.unwrap());
        let [picture] = &pictures.unwrap()[..] else {
            panic!("one picture")
        };
        assert_eq!(*picture, run.images().unwrap()[0]);
    }
}

#[test]
fn two_pictures_are_handed_over_each_with_its_noise() {
    let fixture = Fixture::open("xl");
    let (mut base, mut refiner) = (open("base"), open("refiner"));
    let (_, case) = cases(&fixture, "two").remove(0);
    for pipeline in [&mut base, &mut refiner] {
        pipeline
            .set_scheduler(case["scheduler"].as_str().unwrap())
            .unwrap();
    }
    let request = Request {
        steps: number(&case, "steps"),
        seed: number(&case, "seed") as u64,
        count: 2,
        width: Some(64),
        height: Some(48),
        end: case["at"].as_f64(),
        ..Request::for_pipeline(&base, case["prompt"].as_str().unwrap())
    };
    let run = finish(&base, &request);
    let refining = request.refining(run.hand_over().unwrap());
    let mut run = refiner.start(&refining).unwrap();
    run.next().unwrap().unwrap();
    // Stopped and gone on with, it is the same.
    let file = tempfile::NamedTempFile::new().unwrap();
    run.save(file.path()).unwrap();
    let mut again = refiner.resume(&refining, file.path()).unwrap();
    for run in [&mut run, &mut again] {
        for step in &mut *run {
            step.unwrap();
        }
        fixture.assert_tensor("two.latents", run.latents().clone(), 1e-3);
    }
    let seeds: Vec<_> = run.images().unwrap().iter().map(|i| i.seed).collect();
    assert_eq!(seeds, [4, 5]);
}

/// SDXL with Karras et al.'s preconditioning, as Playground 2.5 has it.
#[test]
fn a_preconditioned_model_is_drawn_as_by_diffusers() {
    let fixture = Fixture::open("xl");
    let (_, case) = cases(&fixture, "edm").remove(0);
    let model = copied("base");
    let file = model.path().join("scheduler/scheduler_config.json");
    std::fs::write(&file, case["config"].to_string()).unwrap();
    let file = model.path().join("model_index.json");
    let index = std::fs::read_to_string(&file).unwrap();
    let index = index.replace("EulerDiscreteScheduler", "EDMDPMSolverMultistepScheduler");
    std::fs::write(&file, index).unwrap();
    let options = OpenOptions::new(&device("flex").unwrap());
    let pipeline = Pipeline::open(model.path(), &options).unwrap();
    let run = finish(&pipeline, &request(&case));
    fixture.assert_tensor("edm.latents", run.latents().clone(), 1e-3);
}

#[test]
fn a_handover_fits_solvers_of_the_other_scale() {
    // DDIM's step is Euler's in another scale: all four draw the same.
    let (mut base, mut refiner) = (open("base"), open("refiner"));
    let mut draw = |first: &str, second: &str| {
        base.set_scheduler(first).unwrap();
        refiner.set_scheduler(second).unwrap();
        let request = Request {
            steps: 10,
            end: Some(0.8),
            ..Request::for_pipeline(&base, "a red cube")
        };
        let run = finish(&base, &request);
        let run = finish(&refiner, &request.refining(run.hand_over().unwrap()));
        run.latents().clone()
    };
    let same = draw("Euler", "Euler");
    for (first, second) in [("DDIM", "Euler"), ("Euler", "DDIM"), ("DDIM", "DDIM")] {
        let off = (draw(first, second) - same.clone()).abs().max();
        let off: f32 = off.into_scalar();
        assert!(off < 1e-3, "{first}, {second}: {off}");
    }
}

/// The message of a request that is refused.
#[track_caller]
fn refused(pipeline: &Pipeline, request: &Request) -> String {
    match pipeline.start(request) {
        Err(Error::Component(error @ CoreError::InvalidArgument { .. })) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_handed_over_is_refused_in_words() {
    let (mut base, refiner) = (open("base"), open("refiner"));
    let alone = refused(&refiner, &Request::new("a cube"));
    assert!(
        alone.contains("a picture") && alone.contains("base"),
        "{alone}"
    );
    let ending = |end| Request {
        steps: 4,
        end: Some(end),
        ..Request::new("a cube")
    };
    for end in [0.0, 1.0, -0.5, f64::NAN, 1e-9] {
        let message = refused(&base, &ending(end));
        assert!(message.contains("end is"), "{message}");
    }
    let run = finish(&base, &ending(0.5));
    let mut forged = run.hand_over().unwrap();
    forged.draws = u64::MAX;
    let message = refused(&refiner, &ending(0.5).refining(forged));
    assert!(message.contains("draws"), "{message}");
    let mut late = run.hand_over().unwrap();
    late.at = 0.9999;
    let message = refused(&refiner, &ending(0.5).refining(late));
    assert!(message.contains("handover is 0.9999"), "{message}");
    let run = base.start(&ending(0.5)).unwrap();
    assert!(run.hand_over().is_err(), "it is not at its end");
    let run = finish(
        &base,
        &Request {
            end: None,
            ..ending(0.5)
        },
    );
    assert!(run.hand_over().is_err(), "nothing is left to do");
    base.set_scheduler("DPM adaptive").unwrap();
    let message = refused(&base, &ending(0.5));
    assert!(message.contains("chooses its own steps"), "{message}");
}

#[test]
fn components_come_from_other_folders() {
    let fixture = Fixture::open("xl");
    let (_, case) = cases(&fixture, "base.absent").remove(0);
    let latents = |folders: ComponentFolders, model: &Path| {
        let options = OpenOptions {
            folders,
            ..OpenOptions::new(&device("flex").unwrap())
        };
        let pipeline = Pipeline::open(model, &options)?;
        Ok::<_, Error>(finish(&pipeline, &request(&case)).latents().clone())
    };
    let base = sd_fixtures::path("xl/base");
    // A base without what comes from elsewhere: it is not read.
    let stripped = |folder: &str| {
        let model = copied("base");
        std::fs::remove_dir_all(model.path().join(folder)).unwrap();
        model
    };
    let model = stripped("unet");
    for unet in [base.clone(), base.join("unet")] {
        let mut folders = ComponentFolders::default();
        folders.denoiser = Some(unet);
        let found = latents(folders, model.path()).unwrap();
        fixture.assert_tensor("base.absent.latents", found, 1e-3);
    }
    for part in ["text_encoder", "text_encoder_2"] {
        let model = stripped(part);
        for encoder in [base.clone(), base.join(part)] {
            let mut folders = ComponentFolders::default();
            folders.text_encoder = Some(encoder);
            let found = latents(folders, model.path()).unwrap();
            fixture.assert_tensor("base.absent.latents", found, 1e-3);
        }
    }
    // Of the refiner's U-Net the widths are others, and it has no first encoder.
    let mut folders = ComponentFolders::default();
    folders.denoiser = Some(sd_fixtures::path("xl/refiner/unet"));
    let options = OpenOptions {
        folders,
        ..OpenOptions::new(&device("flex").unwrap())
    };
    let error = Pipeline::open(&base, &options).unwrap();
    assert!(error.start(&request(&case)).is_err());
    let mut folders = ComponentFolders::default();
    folders.autoencoder = Some(base.join("nowhere"));
    let error = latents(folders, &base).unwrap_err();
    assert!(matches!(error, Error::NotAModel { .. }), "{error:?}");
    let mut folders = ComponentFolders::default();
    folders.autoencoder = Some(base.join("scheduler"));
    let error = latents(folders, &base).unwrap_err().to_string();
    assert!(error.contains("vae"), "{error}");
    // An encoder of neither class.
    let model = copied("base");
    let file = model.path().join("text_encoder/config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("CLIPTextModel", "CLIPModel")).unwrap();
    let mut folders = ComponentFolders::default();
    folders.text_encoder = Some(model.path().join("text_encoder"));
    let error = latents(folders, &base).unwrap_err().to_string();
    assert!(
        error.contains("architectures") && error.contains("CLIPTextModel,"),
        "{error}"
    );
}

#[test]
fn encoders_that_cannot_stand_side_by_side_are_refused() {
    let options = OpenOptions::new(&device("flex").unwrap());
    let model = copied("base");
    let file = model.path().join("tokenizer_2/tokenizer_config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("77", "60")).unwrap();
    let error = Pipeline::open(model.path(), &options)
        .unwrap_err()
        .to_string();
    for part in ["tokenizer_2", "model_max_length is 60", "77"] {
        assert!(error.contains(part), "{error}");
    }
    let encoders = json!({"text_encoder": [null, null], "text_encoder_2": null});
    let model = copied("base");
    let file = model.path().join("model_index.json");
    let mut index: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for (key, value) in encoders.as_object().unwrap() {
        index[key] = value.clone();
    }
    std::fs::write(&file, index.to_string()).unwrap();
    let error = Pipeline::open(model.path(), &options).unwrap_err();
    assert!(error.to_string().contains("text_encoder"), "{error}");
}

#[test]
fn an_autoencoder_without_a_scaling_factor_has_the_models() {
    let decoded = |model: &Path, folder: Option<&Path>| {
        let mut folders = ComponentFolders::default();
        folders.autoencoder = folder.map(Into::into);
        let options = OpenOptions {
            folders,
            ..OpenOptions::new(&device("flex").unwrap())
        };
        let pipeline = Pipeline::open(model, &options).unwrap();
        let latent = Tensor::<4>::ones([1, 4, 2, 2], &pipeline.autoencoder.spec().device);
        let pixels = pipeline.autoencoder.get().unwrap().decode(latent).unwrap();
        pixels.to_data()
    };
    let base = sd_fixtures::path("xl/base");
    let own = decoded(&base, None);
    let other = copied("base");
    let file = other.path().join("vae/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let mut write = |factor: Value| {
        config["scaling_factor"] = factor;
        std::fs::write(&file, config.to_string()).unwrap();
    };
    write(json!(0.18215));
    let default = decoded(&base, Some(other.path()));
    assert_ne!(default, own);
    write(Value::Null);
    assert_eq!(decoded(&base, Some(&other.path().join("vae"))), own);
    assert_eq!(decoded(&base, Some(other.path())), own);
    // A network of another kind in the model's own place says nothing of this one's factor.
    let model = copied("base");
    let index = model.path().join("model_index.json");
    let text = std::fs::read_to_string(&index).unwrap();
    let text = text.replace("\"AutoencoderKL\"", "\"AsymmetricAutoencoderKL\"");
    std::fs::write(&index, text).unwrap();
    assert_eq!(
        decoded(model.path(), Some(&other.path().join("vae"))),
        default
    );
}

#[test]
fn half_precision_leaves_an_autoencoder_that_overflows_in_f32() {
    for (dtype, forced, expected) in [
        (FloatDType::F16, true, FloatDType::F32),
        (FloatDType::BF16, true, FloatDType::F32),
        (FloatDType::F16, false, FloatDType::F16),
        (FloatDType::F32, true, FloatDType::F32),
    ] {
        let model = copied("base");
        let file = model.path().join("vae/config.json");
        let text = std::fs::read_to_string(&file).unwrap();
        let text = text.replace(
            "\"force_upcast\": true",
            &format!("\"force_upcast\": {forced}"),
        );
        std::fs::write(&file, text).unwrap();
        let options = OpenOptions {
            dtype,
            residency: Residency::OnDemand,
            ..OpenOptions::new(&device("flex").unwrap())
        };
        let pipeline = Pipeline::open(model.path(), &options).unwrap();
        // In bf16 the kernels of flex round products alone, where the processor has such.
        let spec = pipeline.denoiser.spec();
        let (held, products) = match dtype {
            FloatDType::BF16 => (FloatDType::F32, Products::bf16().map(|_| dtype)),
            _ => (dtype, None),
        };
        assert_eq!((spec.dtype, spec.products), (held, products));
        assert_eq!(pipeline.autoencoder.spec().dtype, expected);
    }
}

#[test]
fn a_model_for_few_steps_is_told_by_its_name_or_its_timesteps() {
    let model = copied("base");
    let warned = |path: &Path, steps, guidance_scale| {
        let options = OpenOptions::new(&device("flex").unwrap());
        let pipeline = Pipeline::open(path, &options).unwrap();
        let request = Request {
            steps,
            guidance_scale,
            ..Request::for_pipeline(&pipeline, "a cube")
        };
        let run = pipeline.start(&request).unwrap();
        run.warnings().join(" ")
    };
    assert_eq!(warned(model.path(), 50, 5.0), "");
    let parent = tempfile::tempdir().unwrap();
    let named = parent.path().join("SDXL-Turbo");
    std::fs::rename(model.path(), &named).unwrap();
    let words = warned(&named, 50, 5.0);
    assert!(
        words.contains("turbo") && words.contains("1 to 4"),
        "{words}"
    );
    assert!(warned(&named, 4, 5.0).contains("guidance scale 0"));
    assert_eq!(warned(&named, 4, 0.0), "");
    // A hub cache's folder has a hash for its name.
    let snapshot = parent.path().join("models--a--lightning/snapshots/0123");
    std::fs::create_dir_all(snapshot.parent().unwrap()).unwrap();
    std::fs::rename(&named, &snapshot).unwrap();
    assert!(warned(&snapshot, 50, 0.0).contains("lightning"));
    let plain = parent.path().join("plain");
    std::fs::rename(&snapshot, &plain).unwrap();
    let file = plain.join("scheduler/scheduler_config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("\"leading\"", "\"trailing\"")).unwrap();
    assert!(warned(&plain, 50, 0.0).contains("trailing"));
    let zero = text.replace(
        "\"leading\"",
        "\"trailing\", \"rescale_betas_zero_snr\": true, \"prediction_type\": \"v_prediction\"",
    );
    std::fs::write(
        &file,
        zero.replacen("\"prediction_type\": \"epsilon\",", "", 1),
    )
    .unwrap();
    assert_eq!(warned(&plain, 50, 5.0), "");
}
