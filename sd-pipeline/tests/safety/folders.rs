//! A model folder's safety checker: on where it ships one, strict, and where memory is short there
//! only when it is needed.

use std::collections::BTreeMap;

use safetensors::SafeTensors;
use sd_pipeline::burn::tensor::FloatDType;
use sd_pipeline::image::Rgb;
use sd_pipeline::models::{Files, LoadOptions};
use sd_pipeline::{
    ConceptChecker, OnFlagged, OpenOptions, Pipeline, Request, Residency, Result, RgbImage,
    SafetyChecker, WeightStorage, device,
};
use serde_json::{Map, Value, json};

/// The embedded model with the fixtures' safety checker, or what the index says instead.
fn files(entry: Value) -> BTreeMap<String, Vec<u8>> {
    let mut files = crate::tiny_files();
    files.extend(crate::fixture_files(&sd_fixtures::path("safety_checker")));
    let mut index: Map<String, Value> = serde_json::from_slice(&files["model_index.json"]).unwrap();
    index.insert("safety_checker".into(), entry);
    index.insert(
        "feature_extractor".into(),
        json!(["transformers", "CLIPImageProcessor"]),
    );
    files.insert(
        "model_index.json".into(),
        Value::from(index).to_string().into_bytes(),
    );
    files
}

fn shipped() -> BTreeMap<String, Vec<u8>> {
    files(json!(["stable_diffusion", "StableDiffusionSafetyChecker"]))
}

fn options() -> OpenOptions {
    OpenOptions::new(&device("flex").unwrap())
}

fn open(files: BTreeMap<String, Vec<u8>>) -> Result<Pipeline> {
    Pipeline::from_files(&Files::memory(files), &options())
}

fn request() -> Request {
    Request {
        steps: 1,
        width: Some(64),
        height: Some(64),
        ..sd_tiny::request("a red cube")
    }
}

#[test]
fn a_folder_that_ships_a_checker_is_checked_by_it() {
    let files = shipped();
    let pipeline = open(files.clone()).unwrap();
    assert!(pipeline.memory().safety_checker.packed > 0);
    assert_eq!(pipeline.on_flagged, OnFlagged::Black);
    let found = &pipeline.generate(&request()).unwrap()[0];

    let plain = &open(files_without()).unwrap().generate(&request()).unwrap()[0];
    let load = LoadOptions::new(&device("flex").unwrap());
    let files = Files::memory(files);
    let checker = ConceptChecker::open(&files, "safety_checker", "feature_extractor", &load);
    let verdict = checker.unwrap().check(&plain.image).unwrap();
    assert_eq!(found.verdict.as_ref(), Some(&verdict));
}

#[test]
fn a_checker_computes_in_f32_whatever_the_networks_do() {
    let rough = OpenOptions {
        dtype: FloatDType::BF16,
        weight_storage: WeightStorage::Q4,
        ..options()
    };
    let picture = RgbImage::from_fn(64, 48, |x, y| Rgb([4 * x as u8, 5 * y as u8, 90]));
    let verdict = |options: &OpenOptions| {
        let pipeline = Pipeline::from_files(&Files::memory(shipped()), options).unwrap();
        let checker = pipeline.safety_checker.unwrap().get().unwrap();
        checker.check(&picture).unwrap()
    };
    assert_eq!(verdict(&rough), verdict(&options()));
}

fn files_without() -> BTreeMap<String, Vec<u8>> {
    files(json!([null, null]))
}

#[test]
fn a_folder_that_names_none_or_has_none_is_not_checked() {
    assert!(open(files_without()).unwrap().safety_checker.is_none());
    let mut gone = shipped();
    gone.retain(|name, _| !name.starts_with("safety_checker/"));
    let pipeline = open(gone).unwrap();
    assert!(pipeline.safety_checker.is_none());
    assert!(pipeline.generate(&request()).unwrap()[0].verdict.is_none());
}

#[test]
fn files_of_a_checker_that_are_not_right_are_errors_that_name_them() {
    let without = |name: &str| {
        let mut files = shipped();
        files.remove(name).unwrap();
        open(files).unwrap_err().to_string()
    };
    let error = without("safety_checker/config.json");
    assert!(error.contains("safety_checker/config.json"), "{error}");
    let error = without("safety_checker/model.safetensors");
    assert!(
        error.contains("safety_checker") && error.contains("no weights"),
        "{error}"
    );
    let error = without("feature_extractor/preprocessor_config.json");
    assert!(
        error.contains("feature_extractor/preprocessor_config.json"),
        "{error}"
    );

    let error = open(files(json!(["somewhere", "NobodysChecker"])))
        .unwrap_err()
        .to_string();
    let expected = "safety_checker is NobodysChecker, supported is StableDiffusionSafetyChecker";
    assert!(error.contains(expected), "{error}");

    let mut larger = shipped();
    let name = "feature_extractor/preprocessor_config.json";
    larger.insert(name.into(), b"{}".to_vec());
    let error = open(larger).unwrap_err().to_string();
    assert!(
        error.contains("crop_size is 224x224; expected 24x24"),
        "{error}"
    );

    let mut short = shipped();
    let bytes = short["safety_checker/model.safetensors"].clone();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let kept = tensors.iter().filter(|(name, _)| *name != "concept_embeds");
    let bytes = safetensors::serialize(kept, None).unwrap();
    short.insert("safety_checker/model.safetensors".into(), bytes);
    let error = open(short).unwrap_err().to_string();
    assert!(error.contains("1 missing: concept_embeds"), "{error}");
}

#[test]
fn a_checker_that_is_turned_off_is_not_read() {
    let mut broken = shipped();
    broken.remove("safety_checker/model.safetensors").unwrap();
    let off = OpenOptions {
        safety: None,
        ..options()
    };
    let pipeline = Pipeline::from_files(&Files::memory(broken.clone()), &off).unwrap();
    assert!(pipeline.safety_checker.is_none());

    let mut own = options();
    own.components.safety_checker = Some(NeverSeen.into());
    own.safety = Some(OnFlagged::Blur);
    let pipeline = Pipeline::from_files(&Files::memory(broken), &own).unwrap();
    assert_eq!(pipeline.on_flagged, OnFlagged::Blur);
    assert!(pipeline.generate(&request()).unwrap()[0].verdict.is_some());
}

struct NeverSeen;

impl SafetyChecker for NeverSeen {
    fn check(&self, _: &sd_pipeline::RgbImage) -> Result<sd_pipeline::Verdict> {
        Ok(sd_pipeline::Verdict::default())
    }
}

#[test]
fn a_checker_is_in_memory_when_it_is_needed() {
    let files = Files::memory(shipped());
    for (residency, at_first, afterwards) in [
        (Residency::Always, true, true),
        (Residency::OnDemand, false, true),
        (Residency::PerPhase, false, false),
    ] {
        let options = OpenOptions {
            residency,
            ..options()
        };
        let pipeline = Pipeline::from_files(&files, &options).unwrap();
        let is_there = || pipeline.memory().safety_checker.total() > 0;
        assert_eq!(is_there(), at_first, "{residency:?}");
        // A preview needs none.
        let mut run = pipeline.start(&request()).unwrap();
        run.images().unwrap();
        assert_eq!(is_there(), at_first, "{residency:?}");
        run.next().unwrap().unwrap();
        assert!(run.images().unwrap()[0].verdict.is_some());
        assert_eq!(is_there(), afterwards, "{residency:?}");
        pipeline.release();
        assert!(residency == Residency::Always || !is_there());
    }
}
