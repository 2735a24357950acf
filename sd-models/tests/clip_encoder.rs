//! Prompts through tokenizer and model together, against diffusers.

use burn::tensor::{Device, FloatDType, Tensor};
use sd_core::{Prompt, TextEncoder};
use sd_fixtures::Fixture;
use sd_models::{ClipTextConfig, ClipTextEncoder, ClipTextModel, ClipTokenizer, Error, Files};

fn open() -> ClipTextEncoder {
    let files = Files::directory(sd_fixtures::path("../../sd-tiny/model"));
    let device = Device::flex();
    ClipTextEncoder::open(
        &files,
        "text_encoder",
        "tokenizer",
        &device,
        FloatDType::F32,
    )
    .unwrap()
}

fn prompts(fixture: &Fixture) -> Vec<Prompt> {
    let texts = fixture.settings()["prompts"].clone();
    let texts: Vec<String> = serde_json::from_value(texts).unwrap();
    texts.into_iter().map(Prompt::from).collect()
}

#[test]
fn prompts_are_embedded_as_by_diffusers() {
    let fixture = Fixture::open("clip_encoder");
    let prompts = prompts(&fixture);
    let encoder = open();
    let embedding = encoder.encode(&prompts).unwrap();
    fixture.assert_tensor("last", embedding.tokens, 1e-5);
    assert!(embedding.pooled.is_none());
    let encoder = encoder.with_clip_skip(1).unwrap();
    let embedding = encoder.encode(&prompts[..1]).unwrap();
    fixture.assert_tensor("skip", embedding.tokens, 1e-5);
}

#[test]
fn only_what_was_cut_is_reported() {
    let fixture = Fixture::open("clip_encoder");
    let prompts = prompts(&fixture);
    let cut = open().encode(&prompts).unwrap().truncated;
    assert_eq!(cut[..3], [None, None, None]);
    let kept = prompts[3]
        .text
        .trim()
        .strip_suffix(cut[3].as_deref().unwrap());
    assert!(
        kept.is_some_and(|kept| kept.starts_with("a green cone a green")),
        "{cut:?}"
    );
}

#[test]
fn a_prompt_alone_is_embedded_as_in_company() {
    let encoder = open();
    let alone = encoder.encode(&["a red cube".into()]).unwrap().tokens;
    let batch = encoder
        .encode(&["a blue sphere".into(), "a red cube".into()])
        .unwrap()
        .tokens;
    let values = |x: Tensor<3>| x.try_into_vec_as::<f32>().unwrap();
    let (alone, batch) = (values(alone), values(batch.narrow(0, 1, 1)));
    let difference = alone.iter().zip(&batch).map(|(a, b)| (a - b).abs());
    assert!(difference.fold(0.0, f32::max) <= 1e-5);
}

#[test]
fn no_prompt_and_too_many_skipped_layers_are_errors() {
    assert!(open().encode(&[]).is_err());
    let error = open().with_clip_skip(3).unwrap_err().to_string();
    assert_eq!(error, "clip_skip is 3; expected at most 2");
}

#[test]
fn a_model_with_a_projection_gives_pooled_embeddings() {
    let folder = tempfile::tempdir().unwrap();
    let vocab = r#"{"a": 0, "a</w>": 1, "<|startoftext|>": 117, "<|endoftext|>": 118}"#;
    let settings = r#"{"model_max_length": 19}"#;
    let files = [
        ("vocab.json", vocab),
        ("merges.txt", ""),
        ("tokenizer_config.json", settings),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let tokenizer = ClipTokenizer::open(&Files::directory(folder.path())).unwrap();
    let files = Files::directory(sd_fixtures::path("clip/projection"));
    let model = ClipTextModel::new(ClipTextConfig::read(&files).unwrap(), &Device::flex());
    let weights = files.weights("model", None).unwrap();
    let model = weights.load_into(model, FloatDType::F32).unwrap();
    let direct = model
        .forward(&[tokenizer.encode("a a").unwrap().ids])
        .unwrap();
    let embedding = ClipTextEncoder::new(tokenizer, model)
        .encode(&["a a".into()])
        .unwrap();
    let pooled = embedding.pooled.unwrap();
    assert_eq!(
        (embedding.tokens.dims(), pooled.dims()),
        ([1, 19, 20], [1, 14])
    );
    let values = |x: Tensor<2>| x.try_into_vec_as::<f32>().unwrap();
    assert_eq!(values(pooled), values(direct.pooled));
}

#[test]
fn a_tokenizer_longer_than_the_model_is_an_error() {
    let tiny = sd_fixtures::path("../../sd-tiny/model");
    let folder = tempfile::tempdir().unwrap();
    for (sub, names) in [
        ("text_encoder", &["config.json", "model.safetensors"][..]),
        ("tokenizer", &["tokenizer.json"]),
    ] {
        std::fs::create_dir(folder.path().join(sub)).unwrap();
        for name in names {
            let to = folder.path().join(sub).join(name);
            std::fs::copy(tiny.join(sub).join(name), to).unwrap();
        }
    }
    let settings = folder.path().join("tokenizer/tokenizer_config.json");
    std::fs::write(settings, "{\"model_max_length\": 78}").unwrap();
    let (files, device) = (Files::directory(folder.path()), Device::flex());
    let opened = ClipTextEncoder::open(
        &files,
        "text_encoder",
        "tokenizer",
        &device,
        FloatDType::F32,
    );
    let error = opened.unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error:?}");
    // As an error of the trait it keeps its message.
    let message = error.to_string();
    assert!(
        message.contains("max_position_embeddings is 77; expected at least"),
        "{message}"
    );
    assert_eq!(sd_core::Error::from(error).to_string(), message);
}

#[test]
fn a_second_encoders_text_is_refused() {
    let prompt = Prompt::new("a red cube").with_second("in oil");
    let error = open().encode(&[prompt]).unwrap_err().to_string();
    assert_eq!(
        error,
        "a single CLIP text encoder does not read a second encoder's text"
    );
}
