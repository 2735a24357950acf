//! Weighted and long prompts against A1111, ComfyUI and compel: `fixtures/gen/prompts_embed.py`.

use burn::tensor::{Device, Int, Tensor, TensorData};
use sd_core::{Emphasis, Prompt, Syntax, TextEncoder};
use sd_fixtures::Fixture;
use sd_models::{ClipPairFiles, ClipReading, ClipTextFiles, Files, LoadOptions};
use serde_json::Value;

/// An encoder of SDXL's narrow fixture, read as another model reads its own.
fn open(model: &str) -> Box<dyn TextEncoder> {
    let files = Files::directory(sd_fixtures::path("xl/base"));
    let options = LoadOptions::new(&Device::flex());
    let one = |encoder: &str, tokenizer: &str, reading| {
        let files = ClipTextFiles::open(&files, encoder, tokenizer, &options).unwrap();
        files.with_reading(reading).unwrap()
    };
    let first = |reading| one("text_encoder", "tokenizer", reading);
    let second = |reading| one("text_encoder_2", "tokenizer_2", reading);
    match model {
        "sd1" => Box::new(first(ClipReading::LAST).load().unwrap()),
        "sd2" => Box::new(second(ClipReading::LAST).load().unwrap()),
        _ => {
            let reading = ClipReading::PENULTIMATE;
            let pair = ClipPairFiles::new(first(reading), second(reading));
            Box::new(pair.unwrap().load().unwrap())
        }
    }
}

fn syntax(case: &Value) -> Syntax {
    match (case["program"].as_str().unwrap(), case["emphasis"].as_str()) {
        ("a1111", Some("original")) => Syntax::A1111(Emphasis::Original),
        ("a1111", Some("no_norm")) => Syntax::A1111(Emphasis::NoNorm),
        ("a1111", _) => Syntax::A1111(Emphasis::Ignore),
        ("comfyui", _) => Syntax::ComfyUi,
        _ => Syntax::Compel,
    }
}

/// Every fifth token, as many as the fixture has.
fn thinned(tokens: Tensor<3>) -> Tensor<3> {
    let all: Vec<i32> = (0..tokens.dims()[1] as i32).step_by(5).collect();
    let count = all.len();
    let indices = TensorData::new(all, [count]);
    let indices = Tensor::<1, Int>::from_data(indices, &tokens.device());
    tokens.select(1, indices)
}

#[test]
fn prompts_are_embedded_as_by_the_programs_of_their_syntax() {
    let fixture = Fixture::open("prompts");
    let settings = fixture.settings();
    let cases = settings["cases"].as_array().unwrap();
    assert!(cases.len() > 90, "{}", cases.len());
    let mut longest = 0;
    for model in ["sd1", "sd2", "xl"] {
        let encoder = open(model);
        for case in cases.iter().filter(|case| case["model"] == model) {
            let key = case["key"].as_str().unwrap();
            let skip = case["clip_skip"].as_u64().unwrap() as usize;
            let texts = case["texts"].as_array().unwrap().iter();
            let prompts = texts.map(|text| {
                let prompt = Prompt::new(text.as_str().unwrap());
                prompt.in_syntax(syntax(case)).with_clip_skip(skip)
            });
            let prompts: Vec<Prompt> = prompts.collect();
            let found = encoder.encode(&prompts).unwrap();
            let tokens = found.tokens.dims()[1];
            assert_eq!(tokens as u64, case["tokens"].as_u64().unwrap(), "{key}");
            longest = longest.max(tokens);
            // Restored means divide by what may be small, and weights make vectors long.
            let largest = fixture
                .values(key)
                .into_iter()
                .map(f64::abs)
                .fold(1.0, f64::max);
            fixture.assert_tensor(key, thinned(found.tokens), 1e-5 * largest);
            if model == "xl" {
                fixture.assert_tensor(&format!("{key}.pooled"), found.pooled.unwrap(), 1e-5);
            }
            assert!(found.truncated.iter().all(Option::is_none), "{key}");
        }
    }
    assert!(longest >= 5 * 77, "{longest}");
}

#[test]
fn what_is_not_in_its_syntax_is_an_error_with_its_place() {
    let encoder = open("sd1");
    let message = |prompt: Prompt| encoder.encode(&[prompt]).unwrap_err().to_string();
    let error = message(Prompt::a1111("a (b:1.1.1)"));
    let expected = "at character 5 of the prompt, \"1.1.1)\": expected a weight, a number";
    assert_eq!(error, expected);
    assert!(message(Prompt::compel("a.swap(b)")).contains("no .swap()"));
    assert!(message(Prompt::comfyui("(a:inf)")).contains("finite"));
    assert!(message(Prompt::a1111("a, ".repeat(20_000))).contains("at most 256"));
    assert!(message(Prompt::new("a").with_clip_skip(3)).contains("clip_skip is 3"));
}

#[test]
fn prompts_of_several_syntaxes_come_back_equally_long() {
    let encoder = open("xl");
    let long = Prompt::compel("many words ".repeat(12));
    let both = encoder.encode(&["a".into(), long.clone()]).unwrap();
    assert_eq!(both.tokens.dims()[..2], [2, 154]);
    let alone = encoder.encode(&[long]).unwrap();
    let values = |x: Tensor<3>| x.try_into_vec_as::<f32>().unwrap();
    let pairs = values(both.row(1).tokens)
        .into_iter()
        .zip(values(alone.tokens));
    assert!(pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) <= 1e-5);
    // Each encoder's text is as long as it is.
    let second = Prompt::comfyui("a").with_second("many words ".repeat(12));
    assert_eq!(encoder.encode(&[second]).unwrap().tokens.dims()[1], 154);
}
