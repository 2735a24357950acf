//! Records beside what A1111's parser reads, and pictures drawn again from their own.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_fixtures::Fixture;
use sd_pipeline::models::{Files, Int8};
use sd_pipeline::schedulers::Euler;
use sd_pipeline::{
    Area, Combination, Composed, Contrast, DenoiserPair, Error, FreeU, GrayImage, Inpaint,
    MaskRule, OpenOptions, PerpendicularNegative, Perturbation, Perturbed, Picture, PictureStart,
    Pipeline, Projected, Prompt, Record, RecordError, Region, Request, Resize, RgbImage,
    SampleMode, ScaleCurve, Start, StepCache, Thresholded, Tiles, Unguided, WeightStorage,
    ZeroStar, device, image,
};
use serde_json::Value;

pub(crate) fn tiny() -> Pipeline {
    let options = OpenOptions::new(&device("flex").unwrap());
    Pipeline::from_files(&sd_tiny::files(), &options).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// What the record has under A1111's name of it.
fn field(record: &Record, key: &str) -> Option<String> {
    let number = |value: Option<usize>| value.map(|value| value.to_string());
    match key {
        "Prompt" => Some(record.prompt.clone()),
        "Negative prompt" => Some(record.negative_prompt.clone().unwrap_or_default()),
        "Steps" => number(record.steps),
        "CFG scale" => record.guidance_scale.map(|scale| scale.to_string()),
        "Seed" => record.seed.map(|seed| seed.to_string()),
        "Size-1" => number(record.width),
        "Size-2" => number(record.height),
        "Model hash" => record.model_hash.clone(),
        "Model" => record.model.clone(),
        "Denoising strength" => record.strength.map(|share| share.to_string()),
        "Version" => record.software.clone(),
        key => {
            let part = |end| {
                let value = record.further.get(key.strip_suffix(end)?)?;
                let (first, second) = value.split_once('x')?;
                Some(if end == "-1" { first } else { second }.to_owned())
            };
            let whole = record.further.get(key).cloned();
            whole.or_else(|| part("-1")).or_else(|| part("-2"))
        }
    }
}

#[test]
fn texts_of_a1111() {
    let settings = Fixture::open("records").settings();
    let mut read = 0;
    for (k, parsed) in settings["parsed"].as_array().unwrap().iter().enumerate() {
        let source = text(&settings["texts"][k]);
        let parsed = parsed.as_object().unwrap();
        let Ok(record) = Record::from_parameters(source) else {
            // A1111 takes such a text for a prompt, as it takes any.
            let keys: Vec<_> = parsed.keys().collect();
            assert_eq!(keys, ["Clip skip", "Negative prompt", "Prompt"], "{source}");
            continue;
        };
        read += 1;
        for (key, value) in parsed {
            let found = field(&record, key);
            match (key.as_str(), text(value)) {
                // Its own default.
                ("Clip skip", "1") if !source.contains("Clip skip") => {}
                ("Sampler" | "Schedule type", name) => {
                    let scheduler = record.scheduler.as_ref().unwrap();
                    assert!(
                        name == "Automatic" || scheduler.contains(name),
                        "{scheduler}"
                    );
                }
                // No numbers.
                ("Steps", "x") | ("Seed", "-1") | ("CFG scale", "nan") => assert_eq!(found, None),
                (_, "") if key != "Negative prompt" && key != "Prompt" => assert_eq!(found, None),
                (_, value) => assert_eq!(found.as_deref(), Some(value), "{key} of {source}"),
            }
        }
    }
    assert_eq!(read, 16);
    let scheduler = |k: usize| {
        let text = text(&settings["texts"][k]);
        Record::from_parameters(text).unwrap().scheduler.unwrap()
    };
    assert_eq!(scheduler(0), "a1111:Euler a");
    assert_eq!(scheduler(7), "a1111:DPM++ 2M Karras");
    assert_eq!(scheduler(8), "a1111:DPM++ 2M Karras");
}

#[test]
fn files_of_others() {
    let fixture = Fixture::open("records");
    let source = format!("{}, VAE: été", text(&fixture.settings()["texts"][0]));
    let expected = Record::from_parameters(&source).unwrap();
    for key in fixture.keys() {
        let file: Vec<u8> = fixture
            .values(&key)
            .into_iter()
            .map(|byte| byte as u8)
            .collect();
        let record = Record::from_bytes(&file).unwrap_or_else(|e| panic!("{key}: {e}"));
        let (prompt, scheduler, seed) = match key.split_once(' ').unwrap() {
            ("comfy", _) => ("a NaN \"cat\"", "comfyui:dpmpp_2m karras", 8_566_257),
            ("invoke", _) => ("a cat", "euler_a", 12),
            _ => {
                assert_eq!(record, expected, "{key}");
                continue;
            }
        };
        assert_eq!(record.prompt, prompt);
        assert_eq!(record.negative_prompt.as_deref(), Some("dog"));
        assert_eq!(record.scheduler.as_deref(), Some(scheduler));
        assert_eq!(record.seed, Some(seed));
        assert_eq!((record.width, record.height), (Some(512), Some(640)));
        assert!(record.steps.is_some() && record.guidance_scale.is_some());
        assert!(record.model.is_some());
        // Cut anywhere it is refused, or was whole before.
        for end in 0..file.len() {
            let _ = Record::from_bytes(&file[..end]);
        }
    }
}

fn request() -> Request {
    Request {
        negative_prompt: Some("blurry, \"quoted\": 漢字".into()),
        guidance_scale: 1.1 + 2.2,
        steps: 3,
        width: Some(64),
        height: Some(72),
        seed: u64::MAX - 1,
        count: 2,
        ..Request::new("a red cube\non a \u{0}<blue> sphere, \u{1F600}\nNegative prompt: none")
    }
}

#[test]
fn pictures_are_drawn_again() {
    let folder = tempfile::tempdir().unwrap();
    for scheduler in [None, Some("DPM++ 2M Karras"), Some("a1111:Euler a")] {
        let mut pipeline = tiny();
        pipeline.name = Some("a, \"model\": <&>".into());
        if let Some(name) = scheduler {
            pipeline.set_scheduler(name).unwrap();
        }
        let pictures = pipeline.generate(&request()).unwrap();
        for (picture, ending) in pictures.iter().cycle().zip(["png", "webp", "jpg", "jpeg"]) {
            let file = folder.path().join("picture").with_extension(ending);
            picture.write(&file).unwrap();
            let found = image::open(&file).unwrap().into_rgb8();
            assert!(
                ending.starts_with('j') || found == picture.image,
                "{ending}"
            );
            assert_eq!(found.dimensions(), picture.dimensions());

            let record = Record::read(&file).unwrap();
            assert_eq!(record, picture.record);
            assert_eq!(record.seed, Some(picture.seed));
            // Of a pipeline that knows nothing of this one.
            let mut other = tiny();
            other
                .set_scheduler(record.scheduler.as_ref().unwrap())
                .unwrap();
            let again = other.generate(&record.request().unwrap()).unwrap();
            let same = again[record.index].image == picture.image;
            assert!(same, "{scheduler:?} {ending}");
        }
    }
}

/// Writes the files of a folder and of those in it.
fn write(files: &Files, folder: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    for name in files.names() {
        match files.has(&name) {
            true => std::fs::write(folder.join(&name), files.read(&name).unwrap()).unwrap(),
            false => write(&files.folder(&name), &folder.join(&name)),
        }
    }
}

#[test]
fn weights_that_were_rounded() {
    for (storage, expected) in [
        (WeightStorage::AsStored, None),
        (WeightStorage::Q8, Some(WeightStorage::Q8)),
        (WeightStorage::Q4, Some(WeightStorage::Q4)),
    ] {
        let options = OpenOptions {
            weight_storage: storage,
            ..OpenOptions::new(&device("flex").unwrap())
        };
        let pipeline = Pipeline::from_files(&sd_tiny::files(), &options).unwrap();
        let request = Request {
            steps: 1,
            ..request()
        };
        let picture = &pipeline.generate(&request).unwrap()[0];
        assert_eq!(picture.record.weight_storage(), expected);
        assert!(!picture.record.int8);
    }
}

#[test]
fn linear_layers_in_int8() {
    let options = OpenOptions {
        int8: true,
        ..OpenOptions::new(&device("flex").unwrap())
    };
    let pipeline = Pipeline::from_files(&sd_tiny::files(), &options).unwrap();
    let request = Request {
        steps: 1,
        ..request()
    };
    let picture = &pipeline.generate(&request).unwrap()[0];
    let has_int8 = Int8::best().is_some();
    assert_eq!(picture.record.int8, has_int8);
    let written = serde_json::to_value(&picture.record).unwrap();
    assert_eq!(written.get("int8").is_some(), has_int8);
    let read: Record = serde_json::from_value(written).unwrap();
    assert_eq!(read, picture.record);
}

#[test]
fn a_folders_name_and_weights() {
    let folder = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let options = OpenOptions::new(&device("flex").unwrap());
        let pipeline = Pipeline::open(folder.path().join(name), &options).unwrap();
        let request = Request {
            count: 1,
            ..request()
        };
        pipeline.generate(&request).unwrap().remove(0).record
    };
    write(&sd_tiny::files(), &folder.path().join("tiny"));
    let (record, again) = (open("tiny"), open("tiny"));
    let hash = record.model_hash.as_ref().unwrap();
    assert_eq!((hash.len(), record.model.as_deref()), (10, Some("tiny")));
    assert_eq!(record, again);
    // Of a hub's cache, and after a last weight has changed.
    let snapshot = "models--some--model/snapshots/1234";
    let path = folder.path().join(snapshot);
    write(&sd_tiny::files(), &path);
    let same = open(snapshot);
    assert_eq!(same.model.as_deref(), Some("some/model"));
    assert_eq!(same.model_hash.as_ref(), Some(hash));
    let weights = path.join("vae/diffusion_pytorch_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&weights, bytes).unwrap();
    assert_ne!(open(snapshot).model_hash.as_ref(), Some(hash));
}

#[test]
fn texts_of_any_length_and_letters() {
    let folder = tempfile::tempdir().unwrap();
    let written = |prompt: &str, ending: &str| {
        let file = folder.path().join("picture").with_extension(ending);
        let mut picture = Picture::new(RgbImage::new(8, 8), 1);
        picture.record.prompt = prompt.into();
        picture.write(&file).unwrap();
        assert_eq!(image::open(&file).unwrap().into_rgb8().dimensions(), (8, 8));
        let record = Record::read(&file);
        record.map(|record| assert!(record == picture.record, "{ending}"))
    };
    // Latin-1 that could be UTF-8, and half a pair of UTF-16 units' neighbours.
    for prompt in [
        "",
        "Ã©",
        "\u{FFFF}\u{10000}",
        "\u{FEFF}\0\r\n\\\"",
        "<&>\u{1}",
    ] {
        for ending in ["png", "jpg", "webp"] {
            written(prompt, ending).unwrap();
        }
    }
    let long = "word ".repeat(10_000);
    for ending in ["png", "jpg", "webp"] {
        written(&long, ending).unwrap();
    }
    // What a JPEG's segment does not hold is left out: better no record than no picture.
    let longer = long.repeat(2);
    written(&longer, "png").unwrap();
    written(&longer, "webp").unwrap();
    assert!(matches!(written(&longer, "jpg"), Err(Error::Record { .. })));
}

#[test]
fn what_records_do_not_hold() {
    let mut pipeline = tiny();
    let unrecorded = |request: &Request, pipeline: &Pipeline| {
        let mut run = pipeline.start(request).unwrap();
        run.next().unwrap().unwrap();
        let early = run.images().unwrap().remove(0).record.unrecorded;
        assert_eq!(early.last().unwrap(), "steps that were not taken");
        for step in run.by_ref() {
            step.unwrap();
        }
        let record = run.images().unwrap().remove(0).record;
        match record.request() {
            Err(RecordError::Unrecorded(names)) => names,
            other => panic!("{other:?}"),
        }
    };
    let own = Request {
        guidance: Some(Arc::new(Unguided)),
        regions: vec![Region::new(
            "a",
            Area::Mask(GrayImage::from_pixel(2, 2, [255].into())),
        )],
        ..request()
    };
    assert_eq!(unrecorded(&own, &pipeline), ["regions", "guidance"]);
    // A second network is in no record.
    let pair = Composed {
        contrasts: vec![Contrast::second_network(2.0)],
        interval: 0.0..0.0,
        ..Composed::classifier_free(2.0)
    };
    let denoiser = pipeline.denoiser.get().unwrap();
    let mut two = pipeline.clone();
    two.denoiser = DenoiserPair::new(denoiser.clone(), denoiser)
        .unwrap()
        .into();
    let pair = Request {
        guidance: Some(Arc::new(pair)),
        ..request()
    };
    assert_eq!(unrecorded(&pair, &two), ["guidance"]);
    pipeline.scheduler = Arc::new(Euler::default());
    assert_eq!(unrecorded(&request(), &pipeline), ["scheduler"]);

    let mut record = Record::default();
    record.seed = Some(1);
    record.steps = Some(2);
    let lacking = record.request().unwrap_err();
    assert_eq!(lacking, RecordError::Lacks("guidance scale"));
}

/// What a person can ask for by name is in the record, and draws the same picture.
#[test]
fn guided_pictures() {
    let pipeline = tiny();
    let folder = tempfile::tempdir().unwrap();
    let perturbed = |perturbation, scale| {
        let layers = vec!["mid_block".into(), "up_blocks.1".into()];
        Contrast::perturbed(
            Perturbed {
                layers,
                perturbation,
            },
            scale,
        )
    };
    let composed = |combination: Arc<dyn Combination>| Composed {
        combination: Some(combination),
        ..Composed::classifier_free(3.3)
    };
    let apg = Projected {
        eta: 0.2,
        momentum: -0.5,
        rescale: 4.0,
        from_prompt: true,
    };
    let guidances = [
        Composed {
            contrasts: vec![perturbed(Perturbation::IdentityAttention, 2.0)],
            rescale: 0.7,
            interval: 0.2..0.9,
            ..composed(Arc::new(apg))
        },
        Composed {
            scale: ScaleCurve::Cosine(1.5, 4.0),
            contrasts: vec![
                perturbed(Perturbation::Skipped, 1.5),
                Contrast {
                    interval: 0.0..0.6,
                    ..perturbed(
                        Perturbation::BlurredQueries {
                            sigma: f64::INFINITY,
                        },
                        2.0,
                    )
                },
            ],
            ..Composed::prompt_alone()
        },
        composed(Arc::new(ZeroStar { zero_steps: 1 })),
        composed(Arc::new(Thresholded {
            mimic: 2.0,
            percentile: 0.9,
        })),
        composed(Arc::new(PerpendicularNegative { weight: 0.8 })),
        Composed::classifier_free(2.5),
    ];
    let guided = guidances.map(|guidance| Request {
        guidance: Some(Arc::new(guidance)),
        ..request()
    });
    let mut freed = Request {
        prompt: Prompt::a1111("a (red:1.3) cube AND a [blue:green:0.5] sphere:0.5")
            .with_clip_skip(1),
        negative_prompt: Some(Prompt::a1111("(yellow)")),
        ..request()
    };
    freed
        .extensions
        .insert(FreeU::second_version([1.2, 1.4], [0.9, 0.2]));
    freed.extensions.insert(StepCache::Deep {
        interval: 2,
        depth: 0,
    });
    let regional = Request {
        regions: vec![Region {
            weight: 0.8,
            ..Region::new(
                Prompt::compel("a star++"),
                Area::rectangle(0.1, 0.0, 0.6, 1.0),
            )
        }],
        tiles: Some(Tiles {
            window: [6, 6],
            stride: [3, 3],
            circular: true,
        }),
        ..request()
    };
    for (k, request) in guided.into_iter().chain([freed, regional]).enumerate() {
        let pictures = pipeline.generate(&request).unwrap();
        let path = folder.path().join("guided.png");
        pictures[0].write(&path).unwrap();
        let record = Record::read(&path).unwrap();
        let again = pipeline.generate(&record.request().unwrap()).unwrap();
        assert!(again == pictures, "{k}");
        let plain = Request {
            guidance: None,
            extensions: Default::default(),
            regions: Vec::new(),
            tiles: None,
            prompt: request.prompt.text.clone().into(),
            ..request
        };
        assert!(
            pipeline.generate(&plain).unwrap() != pictures,
            "{k} changes nothing"
        );
    }
}

/// A picture of which a part was drawn anew needs the picture and the mask again.
#[test]
fn pictures_of_which_a_part_was_drawn_anew() {
    let pipeline = tiny();
    let original = RgbImage::from_fn(70, 75, |x, y| [3 * x as u8, 3 * y as u8, 90].into());
    let mask = GrayImage::from_fn(70, 75, |x, _| [if x < 30 { 0 } else { 255 }].into());
    let inpaint = Inpaint {
        rule: MaskRule::Model,
        grow: 3,
        blur: 1.5,
        masked_only: Some(5),
        keep_unmasked: true,
        feather: 4,
        ..Inpaint::new(mask.clone())
    };
    let edited = Request {
        start: Start::Picture(PictureStart {
            inpaint: Some(inpaint),
            ..PictureStart::new(original.clone(), 0.7)
        }),
        steps: 5,
        ..request()
    };
    let pictures = pipeline.generate(&edited).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edited.png");
    pictures[0].write(&path).unwrap();
    let record = Record::read(&path).unwrap();
    assert_eq!(record.request().unwrap_err(), RecordError::NeedsOriginal);
    let alone = record.request_from(original.clone());
    assert_eq!(alone.unwrap_err(), RecordError::NeedsMask);
    let mut other = mask.clone();
    other.put_pixel(3, 3, [1].into());
    let error = record.request_masked(original.clone(), other).unwrap_err();
    assert!(matches!(error, RecordError::OtherMask { .. }), "{error}");
    let again = record
        .request_masked(original.clone(), mask.clone())
        .unwrap();
    assert_eq!(pipeline.generate(&again).unwrap(), pictures);

    let whole = Request {
        start: Start::Picture(PictureStart::new(original.clone(), 0.7)),
        ..edited
    };
    let record = pipeline.generate(&whole).unwrap().remove(0).record;
    let error = record.request_masked(original, mask).unwrap_err();
    assert_eq!(error, RecordError::NoMask);
}

/// A picture made from another needs that again, and no other.
#[test]
fn pictures_made_from_others() {
    let pipeline = tiny();
    let original = RgbImage::from_fn(70, 75, |x, y| [3 * x as u8, 3 * y as u8, 90].into());
    let start = PictureStart {
        resize: Resize::Crop,
        sample_mode: SampleMode::Mean,
        ..PictureStart::new(original.clone(), 0.6)
    };
    let edited = Request {
        start: Start::Picture(start),
        width: None,
        height: None,
        steps: 5,
        ..request()
    };
    let pictures = pipeline.generate(&edited).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edited.png");
    pictures[0].write(&path).unwrap();
    let record = Record::read(&path).unwrap();
    assert_eq!((record.width, record.height), (Some(64), Some(72)));
    assert_eq!(record.strength, Some(0.6));
    assert!(record.parameters().contains("Denoising strength: 0.6"));
    assert_eq!(record.request().unwrap_err(), RecordError::NeedsOriginal);
    let mut other = original.clone();
    other.put_pixel(9, 9, [0, 0, 1].into());
    let error = record.request_from(other).unwrap_err();
    assert!(
        matches!(error, RecordError::OtherOriginal { .. }),
        "{error}"
    );
    let again = record.request_from(original.clone()).unwrap();
    assert_eq!(pipeline.generate(&again).unwrap(), pictures);

    let text = "a cat\nSteps: 4, Sampler: Euler a, CFG scale: 7, Seed: 5, Denoising strength: ";
    let foreign = |strength: &str| Record::from_parameters(&format!("{text}{strength}")).unwrap();
    let record = foreign("0.4");
    assert_eq!(record.request().unwrap_err(), RecordError::NeedsOriginal);
    assert!(record.request_from(original.clone()).is_ok());
    let error = foreign("1.0").request_from(original).unwrap_err();
    assert_eq!(error, RecordError::NoOriginal);
}

/// A chunk of a PNG file that claims to have `length` bytes.
fn chunk(kind: &[u8; 4], length: u32, data: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], kind, data, &[0; 4]].concat()
}

#[test]
fn hostile_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.png");
    let refused = |file: &[u8], expected: RecordError| {
        std::fs::write(&path, file).unwrap();
        let clock = Instant::now();
        match Record::read(&path) {
            Err(Error::Record { reason, .. }) => assert_eq!(reason, expected),
            other => panic!("{other:?}"),
        }
        assert!(clock.elapsed() < Duration::from_secs(10));
    };
    let png = b"\x89PNG\r\n\x1A\n".to_vec();
    refused(b"", RecordError::NotAPicture);
    refused(b"GIF89a", RecordError::NotAPicture);
    refused(&png, RecordError::Absent);
    for claim in [u32::MAX, 1 << 20, 5] {
        refused(
            &[&png[..], &chunk(b"tEXt", claim, b"parameters\0Steps: 1")].concat(),
            RecordError::Absent,
        );
    }
    // A hundred megabytes, and as many chunks as fit into some.
    let huge = vec![b'a'; 100 << 20];
    refused(
        &[&png[..], &chunk(b"tEXt", 100 << 20, &huge)].concat(),
        RecordError::Absent,
    );
    let many = chunk(b"tEXt", 0, b"").repeat(1 << 20);
    refused(&[&png[..], &many].concat(), RecordError::Absent);
    refused(
        &[&[0xFF, 0xD8][..], &[0xFF; 1 << 20]].concat(),
        RecordError::Absent,
    );
    refused(
        b"RIFF\xFF\xFF\xFF\xFFWEBPEXIF\xFF\xFF\xFF\xFFII*\0",
        RecordError::Absent,
    );
    refused(
        b"\xFF\xD8\xFF\xE1\0\x12Exif\0\0II*\0\xFF\xFF\xFF\xFF",
        RecordError::Absent,
    );
    // Settings without end are read as far as any program would write them.
    let settings = "key: \"\\\", a1: b, ".repeat(50_000);
    assert!(Record::from_parameters(&settings).unwrap().further.len() <= 256);
    assert!(Record::from_parameters(&"\"key: ".repeat(100_000)).is_err());
}
