//! Text encoders as older versions of transformers saved them.

use std::collections::HashMap;
use std::fs;

use burn::tensor::{Device, FloatDType};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use sd_models::{ClipTextConfig, ClipTextModel, Error, Files};

/// Loads the committed model after `rename` has been through its tensors' names, with an unused
/// tensor added if one is given; returns the last hidden state.
fn run(
    case: &str,
    rename: impl Fn(&str) -> String,
    extra: Option<(&str, Dtype)>,
) -> Result<Vec<f32>, Error> {
    let source = sd_fixtures::path("clip").join(case);
    let bytes = fs::read(source.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut renamed: Vec<(String, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, view)| (rename(name), view))
        .collect();
    let zeros = [0; 77 * 8];
    if let Some((name, dtype)) = extra {
        let data = &zeros[..77 * dtype.bitsize() / 8];
        let view = TensorView::new(dtype, vec![1, 77], data).unwrap();
        renamed.push((name.into(), view));
    }
    let folder = tempfile::tempdir().unwrap();
    let old = safetensors::serialize(renamed, None::<HashMap<String, String>>).unwrap();
    fs::write(folder.path().join("model.safetensors"), old).unwrap();

    let config = ClipTextConfig::read(&Files::directory(source)).unwrap();
    let model = ClipTextModel::new(config, &Device::flex());
    let weights = Files::directory(folder.path()).weights("model", None)?;
    let model = weights.load_into(model, FloatDType::F32)?;
    let output = model.forward(&[vec![117, 3, 5, 118]]).unwrap();
    let last = output.last_hidden_state;
    Ok(last.try_into_vec_as::<f32>().unwrap())
}

#[test]
fn names_with_and_without_the_prefix_and_position_ids_load_the_same() {
    let today = run("quick_gelu", str::to_string, None).unwrap();
    let prefixed = |name: &str| format!("text_model.{name}");
    assert_eq!(run("quick_gelu", prefixed, None).unwrap(), today);
    // Stable Diffusion 1's file has it as int64; conversions to half precision made it float.
    for dtype in [Dtype::I64, Dtype::F16] {
        let ids = Some(("text_model.embeddings.position_ids", dtype));
        assert_eq!(run("quick_gelu", prefixed, ids).unwrap(), today);
    }
    let ids = Some(("embeddings.position_ids", Dtype::I64));
    assert_eq!(run("quick_gelu", str::to_string, ids).unwrap(), today);
}

#[test]
fn a_model_with_a_projection_loads_under_both_names() {
    let today = run("projection", str::to_string, None).unwrap();
    let bare = |name: &str| name.trim_start_matches("text_model.").to_string();
    assert_eq!(run("projection", bare, None).unwrap(), today);
}

#[test]
fn other_tensors_are_not_ignored() {
    let extra = Some(("embeddings.segment_ids", Dtype::F32));
    let error = run("quick_gelu", str::to_string, extra).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("1 unused: embeddings.segment_ids"),
        "{error}"
    );
    let misspelt = |name: &str| name.replace("final_layer_norm", "final_norm");
    let error = run("quick_gelu", misspelt, None).unwrap_err().to_string();
    assert!(
        error.contains("2 missing: final_layer_norm.bias, final_layer_norm.weight"),
        "{error}"
    );
}
