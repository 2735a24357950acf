//! Pictures are prepared as by transformers' `CLIPImageProcessor`, byte for byte before they are
//! normalised.

use sd_fixtures::Fixture;
use sd_pipeline::models::{ConfigFile, Files, UnknownSettings};
use sd_pipeline::{ImageProcessor, Result, RgbImage, device};
use serde_json::{Value, json};

fn processor(settings: &Value) -> Result<ImageProcessor> {
    let settings = settings.as_object().unwrap().clone();
    ImageProcessor::from_file(&ConfigFile::new("preprocessor_config.json", settings))
}

#[test]
fn pictures_of_odd_shapes_equal_transformers() {
    let device = device("flex").unwrap();
    let fixture = Fixture::open("vision_processor");
    let settings = fixture.settings();
    let mut pictures = 0;
    for (name, case) in settings.as_object().unwrap() {
        let processor = processor(&case["settings"]).unwrap();
        for (k, shape) in case["shapes"].as_array().unwrap().iter().enumerate() {
            let [width, height] = [&shape[0], &shape[1]].map(|side| side.as_u64().unwrap());
            let picture = crate::picture(k as u64, width as usize, height as usize);
            let found = processor.pixels(&picture, &device).unwrap();
            fixture.assert_tensor(&format!("{name}.{k}"), found.squeeze_dim::<3>(0), 1e-6);
            pictures += 1;
        }
    }
    assert_eq!((settings.as_object().unwrap().len(), pictures), (9, 51));
}

#[test]
fn what_is_absent_is_as_in_transformers() {
    let found = processor(&json!({})).unwrap();
    let expected = processor(&json!({
        "do_resize": true, "size": {"shortest_edge": 224}, "resample": 3,
        "do_center_crop": true, "crop_size": {"height": 224, "width": 224},
        "do_rescale": true, "rescale_factor": 0.00392156862745098, "do_normalize": true,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "do_convert_rgb": true, "image_processor_type": "CLIPFeatureExtractor",
        "feature_extractor_type": "CLIPFeatureExtractor", "processor_class": "CLIPProcessor",
    }));
    assert_eq!(found, expected.unwrap());
    assert_eq!(found.output_size(), Some([224, 224]));
}

#[test]
fn the_file_of_a_whole_processor_will_do() {
    let part = r#"{"image_processor": {"crop_size": 9}, "processor_class": "CLIPProcessor"}"#;
    let files = Files::memory([("processor_config.json", part.as_bytes())]);
    let found = ImageProcessor::read(&files, UnknownSettings::Refuse).unwrap();
    assert_eq!(found.output_size(), Some([9, 9]));
    let none = Files::memory([("x", &b""[..])]);
    let error = ImageProcessor::read(&none, UnknownSettings::Refuse).unwrap_err();
    assert!(
        error.to_string().contains("preprocessor_config.json"),
        "{error}"
    );
}

#[test]
fn settings_out_of_range_or_unknown_are_errors_that_name_them() {
    for (field, value) in [
        ("size", json!(0)),
        ("size", json!({"longest_edge": 224})),
        ("size", json!({"height": 224, "width": 1 << 20})),
        ("crop_size", json!({"shortest_edge": 224})),
        ("crop_size", json!(-1)),
        ("resample", json!(6)),
        ("resample", json!(5)),
        ("rescale_factor", json!(0)),
        ("image_mean", json!([0.5, 0.5])),
        ("image_std", json!([0.5, 0.0, 0.5])),
        ("do_resize", json!("yes")),
        ("do_pad", json!(true)),
        ("image_processor_type", json!("SiglipImageProcessor")),
        ("a_setting_of_tomorrow", json!(1)),
    ] {
        let error = processor(&json!({field: value})).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
}

#[test]
fn a_picture_that_cannot_be_prepared_is_an_error() {
    let device = device("flex").unwrap();
    let processor = processor(&json!({})).unwrap();
    let none = processor.pixels(&RgbImage::new(0, 5), &device);
    assert!(none.unwrap_err().to_string().contains("0x"));
    // 224 rows of five million columns.
    let line = processor.pixels(&RgbImage::new(30_000, 1), &device);
    assert!(line.unwrap_err().to_string().contains("pixels"));
}
