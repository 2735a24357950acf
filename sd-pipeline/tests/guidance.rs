//! Guidance of every kind, FreeU and caches draw what diffusers draws, or what the papers' formulas
//! do where it has none; what they remember is the run's own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Tensor;
use sd_fixtures::Fixture;
use sd_pipeline::core::{Error as CoreError, Linear};
use sd_pipeline::{
    Area, BranchEvaluation, Combination, Composed, Conditioning, Contrast, Denoiser, DenoiserPair,
    DenoiserSpec, Device, Error, FloatDType, FreeU, GrayImage, Guidance, Network, OpenOptions,
    PerpendicularNegative, Perturbation, Perturbed, Pipeline, Projected, Region, Request, Run,
    ScaleCurve, StepCache, Thresholded, TiledDenoiser, Tiles, ZeroStar, device,
};
use serde_json::Value;

fn flex() -> Device {
    device("flex").unwrap()
}

fn tiny() -> Pipeline {
    Pipeline::from_files(&sd_tiny::files(), &OpenOptions::new(&flex())).unwrap()
}

fn xl() -> Pipeline {
    let folder = sd_fixtures::path("xl").join("base");
    Pipeline::open(folder, &OpenOptions::new(&flex())).unwrap()
}

fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} in {value}"))
}

fn numbers(value: &Value) -> [f64; 2] {
    serde_json::from_value(value.clone()).unwrap()
}

fn plain(case: &Value) -> Request {
    let size = |key: &str| Some(number(case, key) as usize);
    Request {
        negative_prompt: case["negative"].as_str().map(Into::into),
        guidance_scale: number(case, "guidance"),
        steps: number(case, "steps") as usize,
        seed: number(case, "seed") as u64,
        width: size("width"),
        height: size("height"),
        ..Request::new(case["prompt"].as_str().unwrap())
    }
}

/// The guidance that a case of the fixture says.
fn composed(name: &str, settings: &Value) -> Composed {
    let case = &settings["case"];
    let scale = number(settings, "guidance");
    let mut guidance = match scale > 1.0 {
        true => Composed::classifier_free(scale),
        false => Composed::prompt_alone(),
    };
    if let Some(rescale) = case["rescale"].as_f64() {
        guidance.rescale = rescale;
    }
    let range = (!case["interval"].is_null()).then(|| {
        let [start, end] = numbers(&case["interval"]);
        start..end
    });
    let perturbed = |perturbation| {
        let layers = serde_json::from_value(case["layers"].clone()).unwrap();
        let perturbed = Perturbed {
            layers,
            perturbation,
        };
        Contrast {
            adaptive: case["adaptive"].as_f64().unwrap_or(0.0),
            interval: range.clone().unwrap_or(0.0..1.0),
            ..Contrast::perturbed(perturbed, number(case, "scale"))
        }
    };
    let kind = name.trim_start_matches("xl.");
    let kind = kind.split('_').next().unwrap();
    match kind {
        "pag" => guidance.contrasts = vec![perturbed(Perturbation::IdentityAttention)],
        "slg" => guidance.contrasts = vec![perturbed(Perturbation::Skipped)],
        "seg" => {
            let sigma = number(case, "sigma");
            guidance.contrasts = vec![perturbed(Perturbation::BlurredQueries { sigma })];
        }
        "auto" => guidance.contrasts = vec![Contrast::second_network(number(case, "scale"))],
        _ => guidance.interval = range.unwrap_or(0.0..1.0),
    }
    let combination: Arc<dyn Combination> = match kind {
        "apg" => Arc::new(Projected {
            eta: number(case, "eta"),
            momentum: number(case, "momentum"),
            rescale: number(case, "r"),
            from_prompt: case["from_prompt"].as_bool().unwrap(),
        }),
        "zero" => Arc::new(ZeroStar {
            zero_steps: number(case, "zero_steps") as usize,
        }),
        "threshold" => Arc::new(Thresholded {
            mimic: number(case, "mimic"),
            percentile: number(case, "percentile"),
        }),
        "perp" => Arc::new(PerpendicularNegative {
            weight: number(case, "weight"),
        }),
        _ => Arc::new(Linear),
    };
    guidance.combination = guidance.combination.map(|_| combination);
    if kind == "scale" {
        let (from, to) = (number(case, "from"), number(case, "to"));
        guidance.scale = match case["curve"].as_str() {
            Some("linear") => ScaleCurve::Linear(from, to),
            _ => ScaleCurve::Cosine(from, to),
        };
    }
    guidance
}

fn request(name: &str, settings: &Value) -> Request {
    let case = &settings["case"];
    let mut request = plain(settings);
    match name.trim_start_matches("xl.").split('_').next().unwrap() {
        "freeu" => {
            let (b, s) = (numbers(&case["b"]), numbers(&case["s"]));
            request.extensions.insert(match case["version"].as_u64() {
                Some(1) => FreeU::new(b, s),
                _ => FreeU::second_version(b, s),
            });
        }
        "deep" => request.extensions.insert(StepCache::Deep {
            interval: number(case, "interval") as usize,
            depth: number(case, "depth") as usize,
        }),
        "first" => request.extensions.insert(StepCache::FirstBlock {
            threshold: number(case, "threshold"),
        }),
        "tiles" => {}
        _ => request.guidance = Some(Arc::new(composed(name, settings))),
    }
    request
}

/// A network that says half of what another says.
struct Half(Arc<dyn Denoiser>);

struct HalfNetwork(Box<dyn Network>);

impl Denoiser for Half {
    fn spec(&self) -> &DenoiserSpec {
        self.0.spec()
    }

    fn prepare(
        self: Arc<Self>,
        branches: Vec<Conditioning>,
    ) -> sd_pipeline::core::Result<Box<dyn Network>> {
        Ok(Box::new(HalfNetwork(self.0.clone().prepare(branches)?)))
    }
}

impl Network for HalfNetwork {
    fn predict(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &sd_pipeline::Cancel,
    ) -> sd_pipeline::core::Result<Vec<Tensor<4>>> {
        let outputs = self.0.predict(x, t, branches, cancel)?;
        Ok(outputs.into_iter().map(|output| output * 0.5).collect())
    }
}

fn finished(run: &mut Run) -> Tensor<4> {
    for step in &mut *run {
        step.unwrap();
    }
    run.latents().clone()
}

fn drawn(pipeline: &Pipeline, request: &Request) -> Tensor<4> {
    finished(&mut pipeline.start(request).unwrap())
}

fn values(x: &Tensor<4>) -> Vec<f32> {
    x.clone().try_into_vec_as().unwrap()
}

/// Root mean square of the difference.
fn rms(a: &Tensor<4>, b: &Tensor<4>) -> f64 {
    let (a, b) = (values(a), values(b));
    let squares = a.iter().zip(&b).map(|(a, b)| f64::from(a - b).powi(2));
    (squares.sum::<f64>() / a.len() as f64).sqrt()
}

fn pair(pipeline: &mut Pipeline) {
    let first = pipeline.denoiser.get().unwrap();
    let second = Arc::new(Half(first.clone()));
    pipeline.denoiser = DenoiserPair::new(first, second).unwrap().into();
}

/// The embedded model, seen through windows.
fn tiled(case: &Value) -> Pipeline {
    let mut pipeline = tiny();
    let inner = pipeline.denoiser.get().unwrap();
    let tiles = Tiles {
        window: [number(case, "window") as usize; 2],
        stride: [number(case, "stride") as usize; 2],
        circular: case["circular"].as_bool().unwrap(),
    };
    pipeline.denoiser = TiledDenoiser::new(inner, tiles).unwrap().into();
    pipeline
}

#[test]
fn latents_equal_diffusers_and_the_papers_formulas() {
    let fixture = Fixture::open("guiders");
    let settings = fixture.settings();
    let cases = settings.as_object().unwrap();
    assert_eq!(cases.len(), 39);
    let (tiny, xl, mut two) = (tiny(), xl(), tiny());
    let mut wrong = Vec::new();
    pair(&mut two);
    for (name, case) in cases {
        let windows;
        let pipeline = match name.as_str() {
            "auto" => &two,
            name if name.starts_with("xl.") => &xl,
            name if name.starts_with("tiles") => {
                windows = tiled(&case["case"]);
                &windows
            }
            _ => &tiny,
        };
        let request = request(name, case);
        let latents = drawn(pipeline, &request);
        let expected = fixture.f32(&format!("{name}.latents"));
        let pairs = values(&latents).into_iter().zip(expected);
        let error = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // That it does something is part of it.
        let without = Request {
            guidance: None,
            extensions: Default::default(),
            ..request
        };
        let whole = if name.starts_with("tiles") {
            &tiny
        } else {
            pipeline
        };
        let change = rms(&latents, &drawn(whole, &without));
        println!("{name}: largest error {error:e}, change {change:e}");
        // diffusers' defaults: all of the difference, whose length is within the limit.
        let plain = name == "apg";
        if error.is_nan() || error > 2e-4 || (change < 1e-3) != plain {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?} (fixtures/gen/guiders.py)");
}

/// The regions of a case, and what else it asks for.
fn regional(settings: &Value, case: &Value, mask: &GrayImage) -> Request {
    let regions = case["regions"].as_array().unwrap().iter().map(|region| {
        let area = match serde_json::from_value::<[f64; 4]>(region["area"].clone()) {
            Ok([left, top, right, bottom]) => Area::rectangle(left, top, right, bottom),
            Err(_) => Area::Mask(mask.clone()),
        };
        Region {
            weight: number(region, "weight"),
            ..Region::new(region["prompt"].as_str().unwrap(), area)
        }
    });
    let mut settings = settings.clone();
    settings["prompt"] = case["prompt"].clone();
    let mut request = Request {
        regions: regions.collect(),
        ..plain(&settings)
    };
    let rescale = number(case, "rescale");
    if rescale > 0.0 {
        request.guidance = Some(Arc::new(Composed {
            rescale,
            ..Composed::classifier_free(request.guidance_scale)
        }));
    }
    request
}

/// As diffusers' U-Net under each prompt, blended: fixtures/gen/regions.py.
#[test]
fn regions_have_prompts_of_their_own() {
    let fixture = Fixture::open("regions");
    let settings = fixture.settings();
    let [height, width] = fixture.shape("mask")[..] else {
        panic!("a mask has two sides");
    };
    let mask = GrayImage::from_raw(
        width as u32,
        height as u32,
        fixture.values("mask").iter().map(|v| *v as u8).collect(),
    )
    .unwrap();
    let tiny = tiny();
    let cases = settings["cases"].as_object().unwrap();
    assert_eq!(cases.len(), 5);
    for (name, case) in cases {
        let request = regional(&settings, case, &mask);
        let latents = values(&drawn(&tiny, &request));
        fixture.assert_close(&format!("{name}.latents"), &latents, 2e-4);
        let turns = Request {
            evaluation: BranchEvaluation::InTurn,
            ..request.clone()
        };
        fixture.assert_close(
            &format!("{name}.latents"),
            &values(&drawn(&tiny, &turns)),
            2e-4,
        );
    }
}

/// In half precision the layers are Burn's operations, whatever the backend.
#[test]
fn half_precision_draws_about_the_same() {
    let fixture = Fixture::open("guiders");
    let options = OpenOptions {
        dtype: FloatDType::F16,
        ..OpenOptions::new(&flex())
    };
    let tiny = Pipeline::from_files(&sd_tiny::files(), &options).unwrap();
    let settings = fixture.settings();
    for name in [
        "pag_layers",
        "seg_up",
        "slg_up",
        "freeu",
        "freeu_second",
        "deep_3_1",
    ] {
        let latents = values(&drawn(&tiny, &request(name, &settings[name])));
        let expected = fixture.f32(&format!("{name}.latents"));
        let squares = latents
            .iter()
            .zip(&expected)
            .map(|(a, b)| f64::from(a - b).powi(2));
        let error = (squares.sum::<f64>() / latents.len() as f64).sqrt();
        println!("{name} in f16: {error:e}");
        assert!(error < 5e-3, "{name}: {error:e}");
    }
}

/// Two requests whose runs remember: one in its guidance, one in its network.
fn remembering() -> [Request; 3] {
    let apg = Projected {
        eta: 0.2,
        momentum: -0.5,
        rescale: 4.0,
        from_prompt: false,
    };
    let guidance = Composed {
        combination: Some(Arc::new(apg)),
        ..Composed::classifier_free(4.0)
    };
    let request = || Request {
        steps: 7,
        width: Some(72),
        height: Some(64),
        seed: 5,
        ..Request::new("a large green star")
    };
    let cached = |cache| {
        let mut request = request();
        request.extensions.insert(cache);
        request
    };
    [
        Request {
            guidance: Some(Arc::new(guidance)),
            ..request()
        },
        cached(StepCache::Deep {
            interval: 3,
            depth: 1,
        }),
        cached(StepCache::FirstBlock { threshold: 0.4 }),
    ]
}

#[test]
fn memory_goes_with_a_saved_run_and_nowhere_else() {
    let pipeline = tiny();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run");
    let windows = tiled(&serde_json::json!({ "window": 8, "stride": 3, "circular": true }));
    let [apg, deep, first] = remembering();
    let runs = [
        (&pipeline, apg),
        (&pipeline, deep.clone()),
        (&pipeline, first),
        (&windows, deep),
    ];
    for (pipeline, request) in runs {
        let whole = drawn(pipeline, &request);
        let mut run = pipeline.start(&request).unwrap();
        assert_eq!(run.by_ref().take(4).flatten().count(), 4);
        run.save(&file).unwrap();
        // Another run in between, and one whose steps alternate with this one's.
        assert_eq!(values(&drawn(pipeline, &request)), values(&whole));
        let mut other = pipeline
            .start(&Request {
                seed: 77,
                ..request.clone()
            })
            .unwrap();
        for step in run.by_ref() {
            step.unwrap();
            other.next().unwrap().unwrap();
        }
        assert_eq!(values(run.latents()), values(&whole));
        let mut resumed = pipeline.resume(&request, &file).unwrap();
        assert_eq!(values(&finished(&mut resumed)), values(&whole));
    }
}

#[test]
fn memory_of_another_kind_is_refused() {
    let pipeline = tiny();
    let folder = tempfile::tempdir().unwrap();
    let [apg, deep, first] = remembering();
    let file = folder.path().join("run");
    let plain = Request {
        extensions: Default::default(),
        ..deep.clone()
    };
    let composed = Request {
        guidance: Some(Arc::new(Composed::classifier_free(4.0))),
        ..plain.clone()
    };
    // A cache of another kind keeps two tensors of another width; the others keep nothing.
    for (saved, resumed) in [(&deep, &first), (&deep, &plain), (&apg, &composed)] {
        let mut run = pipeline.start(saved).unwrap();
        assert_eq!(run.by_ref().take(2).flatten().count(), 2);
        run.save(&file).unwrap();
        let error = pipeline.resume(resumed, &file).unwrap_err();
        assert!(
            matches!(error, Error::Component(CoreError::SavedState(_))),
            "{error}"
        );
    }
}

#[test]
fn branches_in_turn_draw_what_they_draw_together() {
    let pipeline = tiny();
    let layers = vec!["mid_block".to_string(), "down_blocks.1".to_string()];
    let perturbed = Perturbed {
        layers,
        perturbation: Perturbation::BlurredQueries { sigma: 1.0 },
    };
    for mut request in remembering() {
        request.guidance.get_or_insert_with(|| {
            Arc::new(Composed {
                contrasts: vec![Contrast::perturbed(perturbed.clone(), 2.0)],
                // Its branches' caches are not in step.
                interval: 0.3..0.8,
                ..Composed::classifier_free(3.0)
            })
        });
        let together = drawn(&pipeline, &request);
        let in_turn = Request {
            evaluation: BranchEvaluation::InTurn,
            ..request
        };
        let difference = rms(&together, &drawn(&pipeline, &in_turn));
        assert!(difference < 1e-5, "{difference:e}");
    }
}

/// A denoiser that counts the branches it evaluates.
struct Counting(Arc<dyn Denoiser>, Arc<AtomicUsize>);

struct CountingNetwork(Box<dyn Network>, Arc<AtomicUsize>);

impl Denoiser for Counting {
    fn spec(&self) -> &DenoiserSpec {
        self.0.spec()
    }

    fn prepare(
        self: Arc<Self>,
        branches: Vec<Conditioning>,
    ) -> sd_pipeline::core::Result<Box<dyn Network>> {
        let network = self.0.clone().prepare(branches)?;
        Ok(Box::new(CountingNetwork(network, self.1.clone())))
    }
}

impl Network for CountingNetwork {
    fn predict(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &sd_pipeline::Cancel,
    ) -> sd_pipeline::core::Result<Vec<Tensor<4>>> {
        self.1.fetch_add(branches.len(), Ordering::Relaxed);
        self.0.predict(x, t, branches, cancel)
    }
}

#[test]
fn a_step_costs_what_the_guidance_says() {
    let mut pipeline = tiny();
    let count = Arc::new(AtomicUsize::new(0));
    let inner = pipeline.denoiser.get().unwrap();
    pipeline.denoiser = Counting(inner, count.clone()).into();
    let contrast = |interval| Contrast {
        interval,
        ..Contrast::perturbed(
            Perturbed {
                layers: vec!["mid_block".into()],
                perturbation: Perturbation::IdentityAttention,
            },
            2.0,
        )
    };
    let all = Composed {
        combination: Some(Arc::new(PerpendicularNegative::default())),
        contrasts: vec![contrast(0.0..1.0), contrast(0.4..0.6)],
        interval: 0.2..0.8,
        ..Composed::classifier_free(3.0)
    };
    let alone = Composed {
        contrasts: vec![contrast(0.0..0.5)],
        ..Composed::prompt_alone()
    };
    let expected: [(Composed, Vec<usize>); 2] =
        [(all, vec![1, 4, 5, 4, 1]), (alone, vec![2, 2, 1, 1, 1])];
    for (guidance, costs) in expected {
        let said: Vec<usize> = (0..5).map(|step| guidance.evaluations(step, 5)).collect();
        assert_eq!(said, costs);
        let request = Request {
            guidance: Some(Arc::new(guidance)),
            steps: 5,
            width: Some(64),
            height: Some(64),
            ..Request::new("a blue cone")
        };
        let mut run = pipeline.start(&request).unwrap();
        for cost in costs {
            count.store(0, Ordering::Relaxed);
            run.next().unwrap().unwrap();
            assert_eq!(count.load(Ordering::Relaxed), cost);
        }
    }
}

#[test]
fn what_a_model_lacks_and_settings_out_of_range_are_refused() {
    let pipeline = tiny();
    let start = |guidance: Composed| {
        let request = Request {
            guidance: Some(Arc::new(guidance)),
            ..Request::new("a")
        };
        pipeline.start(&request).map(drop).unwrap_err()
    };
    let perturbed = |layer: &str, perturbation| Composed {
        contrasts: vec![Contrast::perturbed(
            Perturbed {
                layers: vec![layer.into()],
                perturbation,
            },
            2.0,
        )],
        ..Composed::classifier_free(3.0)
    };
    let identity = Perturbation::IdentityAttention;
    let combined = |combination: Arc<dyn Combination>| Composed {
        combination: Some(combination),
        ..Composed::classifier_free(3.0)
    };
    let cfg = || Composed::classifier_free(3.0);
    #[rustfmt::skip]
    let refused = [
        // The embedded model's first block has no transformers, and it has no fourth.
        (perturbed("down_blocks.0", identity), "'down_blocks.0'"),
        (perturbed("up_blocks.3", identity), "'up_blocks.3'"),
        (perturbed("mid_block.attentions.1", Perturbation::Skipped), "mid_block, up_blocks.1"),
        (perturbed("mid", identity), "'mid'"),
        (perturbed("", identity), "''"),
        (perturbed("mid_block", Perturbation::BlurredQueries { sigma: f64::NAN }), "sigma"),
        (perturbed("mid_block", Perturbation::BlurredQueries { sigma: 0.0 }), "sigma"),
        (Composed { rescale: f64::NAN, ..cfg() }, "guidance rescale"),
        (Composed { rescale: 1.5, ..cfg() }, "guidance rescale"),
        (Composed { interval: 0.5..0.4, ..cfg() }, "guidance interval"),
        (Composed { interval: 0.0..f64::NAN, ..cfg() }, "guidance interval"),
        (Composed::classifier_free(f64::INFINITY), "guidance scale"),
        (Composed::classifier_free(ScaleCurve::Linear(1.0, f64::NAN)), "guidance scale"),
        (combined(Arc::new(Projected { eta: f64::NAN, ..Projected::default() })), "eta"),
        (combined(Arc::new(Projected { rescale: -1.0, ..Projected::default() })), "rescale"),
        (combined(Arc::new(Thresholded { percentile: 2.0, ..Thresholded::default() })), "percentile"),
    ];
    for (guidance, words) in refused {
        let error = start(guidance);
        let argument = matches!(error, Error::Component(CoreError::InvalidArgument { .. }));
        assert!(argument && error.to_string().contains(words), "{error}");
    }

    let extended = |extend: &dyn Fn(&mut Request)| {
        let mut request = Request::new("a");
        extend(&mut request);
        pipeline.start(&request).map(drop).unwrap_err().to_string()
    };
    let deep = |interval, depth| StepCache::Deep { interval, depth };
    for (cache, words) in [
        (deep(0, 0), "interval"),
        (deep(2, 6), "depth is 6; expected less than 6"),
        (
            StepCache::FirstBlock {
                threshold: f64::NAN,
            },
            "threshold",
        ),
    ] {
        let error = extended(&|request| request.extensions.insert(cache));
        assert!(error.contains(words), "{error}");
    }
    let error = extended(&|r| r.extensions.insert(FreeU::new([f64::NAN, 1.0], [1.0; 2])));
    assert!(error.contains("FreeU's b"), "{error}");
    // One that is meant for a second network reads no such branch without one.
    let error = start(Composed {
        contrasts: vec![Contrast::second_network(2.0)],
        ..cfg()
    });
    assert!(
        matches!(error, Error::Component(CoreError::Unread { .. })),
        "{error}"
    );
}
