//! Likeness of pictures and texts is transformers' `CLIPModel`'s.

use std::collections::BTreeMap;

use sd_fixtures::Fixture;
use sd_pipeline::models::{Files, LoadOptions};
use sd_pipeline::{RgbImage, Similarity, device};

fn files() -> BTreeMap<String, Vec<u8>> {
    let mut files = crate::fixture_files(&sd_fixtures::path("clip_whole"));
    for (name, bytes) in crate::tiny_files() {
        if let Some(name) = name.strip_prefix("tokenizer/") {
            files.insert(name.into(), bytes);
        }
    }
    files
}

fn open(files: BTreeMap<String, Vec<u8>>) -> sd_pipeline::Result<Similarity> {
    Similarity::from_files(
        &Files::memory(files),
        &LoadOptions::new(&device("flex").unwrap()),
    )
}

#[test]
fn embeddings_cosines_and_logits_equal_transformers() {
    let fixture = Fixture::open("similarity");
    let settings = fixture.settings();
    let texts = settings["texts"].as_array().unwrap().iter();
    let texts: Vec<&str> = texts.map(|text| text.as_str().unwrap()).collect();
    let shapes = settings["shapes"].as_array().unwrap().iter().enumerate();
    let pictures = shapes.map(|(seed, shape)| {
        let [width, height] = [0, 1].map(|k| shape[k].as_u64().unwrap() as usize);
        crate::picture(seed as u64, width, height)
    });
    let pictures: Vec<RgbImage> = pictures.collect();
    let pictures: Vec<&RgbImage> = pictures.iter().collect();
    let clip = open(files()).unwrap();
    assert!(clip.weights().total() > 0);

    fixture.assert_tensor("pictures", clip.pictures(&pictures).unwrap(), 5e-6);
    fixture.assert_tensor("texts", clip.texts(&texts).unwrap(), 5e-6);
    let rows = clip.cosines(&pictures, &texts).unwrap();
    let cosines: Vec<f32> = rows.concat();
    fixture.assert_close("cosines", &cosines, 5e-6);
    let scale = clip.logit_scale();
    let logits: Vec<f32> = cosines.iter().map(|cosine| cosine * scale).collect();
    fixture.assert_close("logits", &logits, 5e-4);

    // More than go through at once, in another order, and one alone.
    let many: Vec<&RgbImage> = pictures.iter().rev().cycle().take(19).copied().collect();
    let found = clip.cosines(&many, &texts[1..2]).unwrap();
    assert_eq!(found.len(), 19);
    for (k, row) in found.iter().enumerate() {
        let expected = rows[(pictures.len() - 1 - k % pictures.len()) % pictures.len()][1];
        assert!(row.len() == 1 && (row[0] - expected).abs() < 2e-6, "{k}");
    }
}

#[test]
fn nothing_to_compare_is_an_error() {
    let clip = open(files()).unwrap();
    let error = clip.texts::<&str>(&[]).unwrap_err().to_string();
    assert!(error.contains("texts is 0"), "{error}");
    let error = clip.pictures(&[]).unwrap_err().to_string();
    assert!(error.contains("pictures is 0"), "{error}");
}

#[test]
fn a_folder_whose_parts_do_not_fit_is_an_error() {
    let changed = |name: &str, from: &str, to: &str| {
        let mut files = files();
        let text = String::from_utf8(files[name].clone()).unwrap();
        assert!(text.contains(from), "{name}");
        files.insert(name.into(), text.replace(from, to).into_bytes());
        open(files).unwrap_err().to_string()
    };
    let error = changed(
        "preprocessor_config.json",
        "\"height\": 30",
        "\"height\": 31",
    );
    assert!(
        error.contains("crop_size is 31x30; expected 30x30"),
        "{error}"
    );
    let error = changed("tokenizer_config.json", "77", "78");
    assert!(error.contains("max_position_embeddings"), "{error}");
    let error = changed(
        "config.json",
        "\"projection_dim\": 14",
        "\"projection_dim\": 15",
    );
    assert!(error.contains("visual_projection.weight"), "{error}");
}
