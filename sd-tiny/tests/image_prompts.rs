//! Image prompts on micro models, against diffusers' own pipelines with the same IP-Adapters.
#![cfg(feature = "micro")]

use sd_fixtures::Fixture;
use sd_pipeline::models::unet::DecoupledAttention;
use sd_pipeline::models::{Error as ModelError, LoadOptions};
use sd_pipeline::{
    BranchEvaluation, Error, Estimate, Extensions, ImagePrompt, IpAdapter, IpAdapterFiles,
    LayerScale, OpenOptions, PictureStart, Pipeline, Record, RecordError, Request, Residency,
    RgbImage, Start, StepCache, TiledDenoiser, Tiles, device, read_mask,
};
use sd_tiny::micro::{Family, Layout, Micro};

/// Largest difference of the latents, whose values go up to a few dozens.
const LATENTS: f64 = 1e-4;
const TOKENS: f64 = 3e-6;
const FAMILIES: [(&str, Family, &[&str]); 2] = [
    ("sd1", Family::Sd1, &["plain", "plus", "full"]),
    ("sdxl", Family::Sdxl, &["plain", "plus"]),
];

fn options() -> LoadOptions {
    LoadOptions::new(&device("flex").unwrap())
}

fn open(family: Family) -> Pipeline {
    let files = Micro::new(family, Layout::Diffusers, 0).unwrap().files();
    Pipeline::from_files(&files, &OpenOptions::new(&device("flex").unwrap())).unwrap()
}

fn folder(name: &str) -> std::path::PathBuf {
    sd_fixtures::path(&format!("image_prompts/{name}"))
}

fn adapter(name: &str) -> IpAdapter {
    IpAdapter::open(folder(name), &options()).unwrap()
}

fn with(family: Family, adapters: &[String]) -> Pipeline {
    let add =
        |pipeline: Pipeline, name: &String| pipeline.with_image_prompt(adapter(name)).unwrap();
    adapters.iter().fold(open(family), add)
}

fn picture(seed: u64, width: usize, height: usize) -> RgbImage {
    let bytes = sd_fixtures::picture(seed, width, height);
    RgbImage::from_raw(width as u32, height as u32, bytes).unwrap()
}

fn pictures(fixture: &Fixture) -> Vec<RgbImage> {
    let settings = fixture.settings();
    let rows = settings["pictures"].as_array().unwrap().iter();
    let made = rows.map(|row| {
        let [seed, width, height] = [0, 1, 2].map(|k| row[k].as_u64().unwrap());
        picture(seed, width as usize, height as usize)
    });
    made.collect()
}

fn request(pipeline: &Pipeline, image_prompts: Vec<ImagePrompt>) -> Request {
    Request {
        guidance_scale: 1.5,
        steps: 3,
        width: Some(72),
        height: Some(64),
        seed: 3,
        image_prompts,
        ..Request::for_pipeline(pipeline, "a photo of nothing")
    }
}

fn latents(pipeline: &Pipeline, request: &Request) -> sd_pipeline::burn::tensor::Tensor<4> {
    let mut run = pipeline.start(request).unwrap();
    for step in &mut run {
        step.unwrap();
    }
    run.latents().clone()
}

fn check(fixture: &Fixture, case: &str, pipeline: &Pipeline, request: &Request) {
    fixture.assert_tensor(case, latents(pipeline, request), LATENTS);
}

#[test]
fn runs_with_each_kind_of_adapter_are_diffusers() {
    let fixture = Fixture::open("image_prompts");
    let pictures = pictures(&fixture);
    for (family, model, kinds) in FAMILIES {
        let plain = open(model);
        check(
            &fixture,
            &format!("{family}/none"),
            &plain,
            &request(&plain, vec![]),
        );
        for kind in kinds {
            let case = format!("{family}/{kind}");
            let pipeline = plain
                .with_image_prompt(adapter(&format!("{family}_{kind}")))
                .unwrap();
            let prompt = |picture: usize| ImagePrompt::new(pictures[picture].clone());
            check(
                &fixture,
                &case,
                &pipeline,
                &request(&pipeline, vec![prompt(0)]),
            );
            let weaker = request(&pipeline, vec![prompt(1).scale(0.6)]);
            check(&fixture, &format!("{case}/weaker"), &pipeline, &weaker);
            // An adapter of which nothing is asked changes nothing.
            check(
                &fixture,
                &format!("{family}/none"),
                &pipeline,
                &request(&pipeline, vec![]),
            );
        }
    }
}

#[test]
fn tokens_of_pictures_are_diffusers() {
    let fixture = Fixture::open("image_prompts");
    let pictures = pictures(&fixture);
    for (family, _, kinds) in FAMILIES {
        for kind in kinds {
            let adapter = adapter(&format!("{family}_{kind}"));
            let tokens = adapter.tokens(&pictures[..2]).unwrap();
            fixture.assert_tensor(&format!("{family}/{kind}/tokens"), tokens, TOKENS);
            let absent = adapter.absent_tokens().unwrap().repeat_dim(0, 2);
            fixture.assert_tensor(&format!("{family}/{kind}/negative_tokens"), absent, TOKENS);
        }
    }
}

#[test]
fn several_pictures_adapters_masks_layers_and_steps_are_diffusers() {
    let fixture = Fixture::open("image_prompts");
    let pictures = pictures(&fixture);
    let prompt = |picture: usize| ImagePrompt::new(pictures[picture].clone());
    for (family, model, _) in FAMILIES {
        let case = |name: &str| format!("{family}/{name}");
        let both = with(
            model,
            &[format!("{family}_plain"), format!("{family}_plus")],
        );
        let of = |prompts: Vec<ImagePrompt>| request(&both, prompts);
        let check = |name: &str, request: Request| check(&fixture, &case(name), &both, &request);
        check(
            "unguided",
            Request {
                guidance_scale: 1.0,
                ..of(vec![prompt(0)])
            },
        );
        check(
            "count",
            Request {
                count: 2,
                ..of(vec![prompt(0)])
            },
        );
        let two = ImagePrompt {
            pictures: pictures[..2].to_vec(),
            ..prompt(0)
        };
        check("two_pictures", of(vec![two.clone()]));
        let negative = vec![pictures[2].clone()];
        check(
            "negative",
            of(vec![ImagePrompt {
                negative,
                ..prompt(0)
            }]),
        );
        let steps = ImagePrompt {
            interval: 0.25..0.75,
            ..prompt(0)
        };
        check(
            "steps",
            Request {
                steps: 4,
                ..of(vec![steps])
            },
        );
        let masked = |number: usize, scale: f64| ImagePrompt {
            mask: Some(read_mask(folder(&format!("mask_{number}.png"))).unwrap()),
            ..prompt(number).scale(scale)
        };
        check("masks", of(vec![masked(0, 0.7), masked(1, 0.9)]));
        let blocks: &[(&str, f64)] = match model {
            Family::Sd1 => &[
                ("down_blocks.0.attentions.0", 0.7),
                ("mid_block", 0.3),
                ("up_blocks.1.attentions.1", 1.0),
                ("up_blocks.1.attentions.2", 0.5),
            ],
            _ => &[
                ("down_blocks.2.attentions.1", 0.8),
                ("up_blocks.0.attentions.1", 1.0),
            ],
        };
        let blocks = LayerScale::only(blocks.iter().copied());
        check("blocks", of(vec![prompt(0).scale(blocks)]));
        let second = ImagePrompt {
            adapter: 1,
            pictures: pictures[1..].to_vec(),
            ..prompt(0).scale(0.9)
        };
        check("two_adapters", of(vec![prompt(0).scale(0.6), second]));
    }
    let plus = with(Family::Sd1, &["sd1_plus".into()]);
    let start = PictureStart::new(picture(9, 72, 64), 0.7);
    let request = Request {
        start: Start::Picture(start),
        ..request(&plus, vec![prompt(0)])
    };
    check(&fixture, "sd1/image_to_image", &plus, &request);
}

/// Largest difference of two tensors' values.
fn difference(
    a: &sd_pipeline::burn::tensor::Tensor<4>,
    b: &sd_pipeline::burn::tensor::Tensor<4>,
) -> f32 {
    (a.clone() - b.clone()).abs().max().into_scalar::<f32>()
}

#[test]
fn branches_in_turn_caches_and_what_adds_nothing() {
    let fixture = Fixture::open("image_prompts");
    let pictures = pictures(&fixture);
    let pipeline = with(Family::Sd1, &["sd1_plus".into()]);
    let prompt = || ImagePrompt::new(pictures[0].clone());
    let own = request(&pipeline, vec![prompt()]);
    let drawn = latents(&pipeline, &own);
    let none = latents(&pipeline, &request(&pipeline, vec![]));
    assert!(difference(&drawn, &none) > 0.1);
    let in_turn = Request {
        evaluation: BranchEvaluation::InTurn,
        ..own.clone()
    };
    assert!(difference(&drawn, &latents(&pipeline, &in_turn)) < 1e-4);
    let cached = |interval: usize, prompts: Vec<ImagePrompt>| {
        let mut extensions = Extensions::new();
        extensions.insert(StepCache::Deep { interval, depth: 0 });
        latents(
            &pipeline,
            &Request {
                steps: 4,
                extensions,
                ..request(&pipeline, prompts)
            },
        )
    };
    let whole = latents(
        &pipeline,
        &Request {
            steps: 4,
            ..own.clone()
        },
    );
    assert!(difference(&whole, &cached(1, vec![prompt()])) < 1e-4);
    // Where the image prompt begins to count nothing is used that was computed without it: the
    // steps 2 and 3 are then both whole, as the first two are not.
    let half = |interval: usize| {
        cached(
            interval,
            vec![ImagePrompt {
                interval: 0.5..1.0,
                ..prompt()
            }],
        )
    };
    assert!(difference(&half(1), &half(2)) > 1e-4);
    let late = ImagePrompt {
        interval: 0.75..1.0,
        ..prompt()
    };
    // Its step, the last, is whole at any interval; the steps before it are none of three or four.
    let [three, four] = [3, 4].map(|interval| cached(interval, vec![late.clone()]));
    assert!(difference(&three, &four) < 1e-4);
    assert!(difference(&cached(3, vec![]), &cached(4, vec![])) > 1e-4);
    // At scale 0, and in an interval that holds no step.
    for nothing in [
        prompt().scale(0.0),
        ImagePrompt {
            interval: 0.3..0.4,
            ..prompt()
        },
    ] {
        let same = latents(&pipeline, &request(&pipeline, vec![nothing]));
        assert!(difference(&same, &none) < 1e-4);
    }
    // A negative prompt's pictures that are no divisor of the others in number.
    let uneven = ImagePrompt {
        pictures: pictures.clone(),
        negative: pictures[..2].to_vec(),
        ..prompt()
    };
    let uneven = request(&pipeline, vec![uneven]);
    let in_turn = Request {
        evaluation: BranchEvaluation::InTurn,
        ..uneven.clone()
    };
    let [a, b] = [&uneven, &in_turn].map(|request| latents(&pipeline, request));
    assert!(difference(&a, &b) < 1e-4);
}

fn fails(pipeline: &Pipeline, prompt: ImagePrompt, words: &[&str]) {
    let error = pipeline
        .start(&request(pipeline, vec![prompt]))
        .unwrap_err();
    let error = error.to_string();
    for word in words {
        assert!(error.contains(word), "{error}");
    }
}

#[test]
fn image_prompts_that_cannot_be_are_errors() {
    let plain = open(Family::Sd1);
    let prompt = || ImagePrompt::new(picture(1, 30, 40));
    fails(&plain, prompt(), &["adapter", "with_image_prompt"]);
    let pipeline = plain.with_image_prompt(adapter("sd1_plain")).unwrap();
    fails(
        &pipeline,
        ImagePrompt {
            adapter: 1,
            ..prompt()
        },
        &["adapter is 1", "less than 1"],
    );
    fails(
        &pipeline,
        ImagePrompt {
            pictures: vec![],
            ..prompt()
        },
        &["pictures", "at least one"],
    );
    fails(
        &pipeline,
        ImagePrompt::new(RgbImage::new(0, 3)),
        &["picture"],
    );
    fails(&pipeline, prompt().scale(f64::NAN), &["scale", "finite"]);
    let paths = LayerScale::only([("up_blocks.7", 1.0)]);
    fails(
        &pipeline,
        prompt().scale(paths),
        &["up_blocks.7", "mid_block.attentions.0"],
    );
    for interval in [0.5..0.5, 0.5..1.5, f64::NAN..1.0] {
        fails(
            &pipeline,
            ImagePrompt {
                interval,
                ..prompt()
            },
            &["interval"],
        );
    }
    let black = image::GrayImage::new(9, 9);
    fails(
        &pipeline,
        ImagePrompt {
            mask: Some(black),
            ..prompt()
        },
        &["mask", "white"],
    );
    // Assigned where it does not belong, it is found before anything is read.
    let mut wrong = plain.clone();
    wrong.image_adapters = vec![adapter("sdxl_plain").into()];
    fails(&wrong, prompt(), &["sdxl_plain", "tokens"]);
}

#[test]
fn adapters_of_other_models_are_errors_that_name_both() {
    for (model, name, own, other) in [
        (
            Family::Sd1,
            "sdxl_plain",
            "the family sdxl, 70",
            "the family sd1 and has 16",
        ),
        (
            Family::Sdxl,
            "sd1_plus",
            "the family sd1, 16",
            "the family sdxl and has 70",
        ),
        (Family::Ssd1b, "sdxl_plus", "the family sdxl, 70", "unknown"),
        (Family::TinySd, "sd1_full", "the family sd1, 16", "unknown"),
    ] {
        let pipeline = open(model);
        let error = pipeline.with_image_prompt(adapter(name)).unwrap_err();
        assert!(matches!(error, Error::Model(ModelError::Adapter { .. })));
        let error = error.to_string();
        assert!(error.contains(own) && error.contains(other), "{error}");
        let report = pipeline.match_image_adapter(adapter(name).files());
        assert!(
            !report.is_complete() && report.misshapen.len() == 1,
            "{report}"
        );
    }
    let files = IpAdapterFiles::open(folder("sd1_full"), &options()).unwrap();
    let report = open(Family::Sd1).match_image_adapter(&files);
    assert!(report.is_complete() && report.matched == 17, "{report}");
}

#[test]
fn a_record_says_that_there_was_an_image_prompt() {
    let pipeline = with(Family::Sd1, &["sd1_plain".into()]);
    let drawn = |prompts| {
        pipeline
            .generate(&request(&pipeline, prompts))
            .unwrap()
            .remove(0)
    };
    let record = |picture: sd_pipeline::Picture| picture.record;
    let of: Record = record(drawn(vec![ImagePrompt::new(picture(1, 30, 40))]));
    assert_eq!(
        of.request().unwrap_err(),
        RecordError::Unrecorded(vec!["image_prompts".into()])
    );
    assert!(record(drawn(vec![])).request().is_ok());
}

#[test]
fn an_estimate_counts_adapter_and_encoder() {
    let slot = |residency| IpAdapter::slot(folder("sd1_plus"), &options(), residency).unwrap();
    let plain = open(Family::Sd1);
    let estimate = |residency| -> Estimate {
        let pipeline = plain.with_image_prompt(slot(residency)).unwrap();
        let request = request(&pipeline, vec![ImagePrompt::new(picture(1, 30, 40))]);
        let estimate = pipeline.estimate(&request).unwrap();
        pipeline.generate(&request).unwrap();
        let held = pipeline.memory().image_adapters;
        match residency {
            Residency::PerPhase => assert_eq!(held.total(), 0),
            _ => assert_eq!(held, estimate.weights.image_adapters),
        }
        estimate
    };
    let (always, per_phase) = (estimate(Residency::Always), estimate(Residency::PerPhase));
    let bytes = always.weights.image_adapters.total();
    assert!(bytes > 50_000, "{bytes}");
    assert_eq!(per_phase.weights.image_adapters.total(), bytes);
    assert!(always.peaks.encode.is_some() && per_phase.peaks.encode.is_some());
    assert!(per_phase.unknown.is_empty());
}

/// A window of the picture does not know where in a mask it lies.
#[test]
fn masks_do_not_go_with_windows() {
    let mut pipeline = with(Family::Sd1, &["sd1_plain".into()]);
    let tiles = Tiles {
        window: [8, 8],
        stride: [4, 4],
        circular: false,
    };
    let denoiser = pipeline.denoiser.get().unwrap();
    pipeline.denoiser = TiledDenoiser::new(denoiser, tiles).unwrap().into();
    let prompt = || ImagePrompt::new(picture(1, 30, 40));
    assert!(pipeline.start(&request(&pipeline, vec![prompt()])).is_ok());
    let mask = Some(read_mask(folder("mask_0.png")).unwrap());
    fails(
        &pipeline,
        ImagePrompt { mask, ..prompt() },
        &["windows", "beside the prompt"],
    );
}

/// The network is told what its layers look at; who tells it wrongly is told so.
#[test]
fn tokens_that_do_not_fit_the_layers_are_errors() {
    let plain = open(Family::Sd1);
    let mut extensions = Extensions::new();
    extensions.insert(DecoupledAttention(vec![
        sd_pipeline::models::unet::DecoupledTokens {
            layers: Vec::new(),
            scale: LayerScale::default(),
            mask: None,
        },
    ]));
    let request = Request {
        extensions,
        ..request(&plain, vec![])
    };
    let error = plain.start(&request).unwrap_err().to_string();
    assert!(
        error.contains("keys and values") && error.contains("16"),
        "{error}"
    );
}
