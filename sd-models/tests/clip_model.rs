//! The text encoder's numbers are transformers'.

use burn::tensor::{Device, FloatDType, Tensor};
use sd_fixtures::Fixture;
use sd_models::{ClipTextConfig, ClipTextModel, Files};

/// The references are transformers' in f64; the difference is rounding alone, 2e-6 when measured.
const TOLERANCE: f64 = 5e-6;

fn open(case: &str, dtype: FloatDType) -> ClipTextModel {
    let files = Files::directory(sd_fixtures::path("clip")).folder(case);
    let config = ClipTextConfig::read(&files).unwrap();
    let model = ClipTextModel::new(config, &Device::flex());
    let weights = files.weights("model", None).unwrap();
    weights.load_into(model, dtype).unwrap()
}

fn ids(fixture: &Fixture, key: &str) -> Vec<Vec<u32>> {
    let length = fixture.shape(key)[1];
    let ids: Vec<u32> = fixture.f32(key).iter().map(|&id| id as u32).collect();
    ids.chunks(length).map(<[u32]>::to_vec).collect()
}

fn compare(case: &str, layers: usize) {
    let fixture = Fixture::open(&format!("clip_{case}"));
    let model = open(case, FloatDType::F32);
    for batch in 0..2 {
        let ids = ids(&fixture, &format!("{batch}.ids"));
        let out = model.forward(&ids).unwrap();
        assert_eq!(out.hidden_states.len(), layers + 1);
        for (k, hidden) in out.hidden_states.into_iter().enumerate() {
            fixture.assert_tensor(&format!("{batch}.hidden.{k}"), hidden, TOLERANCE);
        }
        fixture.assert_tensor(&format!("{batch}.last"), out.last_hidden_state, TOLERANCE);
        fixture.assert_tensor(&format!("{batch}.pooled"), out.pooled, TOLERANCE);
    }
}

#[test]
fn quick_gelu_as_in_stable_diffusion_1() {
    compare("quick_gelu", 2);
}

#[test]
fn exact_gelu_as_in_stable_diffusion_2_pooled_at_the_largest_token() {
    compare("gelu", 3);
}

#[test]
fn with_projection_as_in_sdxl() {
    compare("projection", 4);
}

#[test]
fn computes_in_the_precision_asked_for() {
    let fixture = Fixture::open("clip_quick_gelu");
    let ids = ids(&fixture, "0.ids");
    for (dtype, tolerance) in [(FloatDType::F16, 0.01), (FloatDType::BF16, 0.08)] {
        let out = open("quick_gelu", dtype).forward(&ids).unwrap();
        assert_eq!(out.last_hidden_state.dtype(), dtype.into());
        let last: Tensor<3> = out.last_hidden_state.cast(FloatDType::F32);
        fixture.assert_tensor("0.last", last, tolerance);
    }
}

#[test]
fn a_prompt_that_does_not_fit_the_model_is_an_error() {
    let model = open("projection", FloatDType::F32);
    let cases: [(&[Vec<u32>], &str); 5] = [
        (&[], "prompts"),
        (&[vec![]], "1 to 19 tokens"),
        (&[vec![1; 20]], "1 to 19 tokens"),
        (&[vec![1; 4], vec![1; 5]], "as many for each prompt"),
        (&[vec![1, 120]], "the vocabulary has 120 tokens"),
    ];
    for (ids, message) in cases {
        let error = model.forward(ids).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}
