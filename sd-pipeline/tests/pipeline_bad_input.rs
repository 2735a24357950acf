//! Whatever is wrong with a request or a folder is a typed error that names it.

use std::fs;
use std::path::Path;

use burn::tensor::{DType, Tensor};
use sd_pipeline::core::Error as CoreError;
use sd_pipeline::{
    Error, NotAModel, OpenOptions, Pipeline, Prompt, Request, Start, TextEmbedding, TextEncoder,
    device, read_latents, write_latents, write_png,
};
use tempfile::TempDir;

fn tiny() -> Pipeline {
    sd_tiny::pipeline(&device("flex").unwrap()).unwrap()
}

/// The message of the error that `change` to a good request causes.
fn refused(change: impl FnOnce(&mut Request)) -> String {
    let mut request = Request {
        steps: 2,
        ..Request::new("a red cube")
    };
    change(&mut request);
    match tiny().start(&request).unwrap_err() {
        Error::Component(e @ (CoreError::InvalidArgument { .. } | CoreError::Shape { .. })) => {
            e.to_string()
        }
        other => panic!("another kind of error: {other:?}"),
    }
}

#[test]
fn requests_out_of_range_are_refused_before_any_work() {
    let multiple = "expected a multiple of 8 from 8 to 16384";
    assert_eq!(
        refused(|r| r.width = Some(100)),
        format!("width is 100; {multiple}")
    );
    assert_eq!(
        refused(|r| r.width = Some(0)),
        format!("width is 0; {multiple}")
    );
    let huge = refused(|r| r.height = Some(8_000_000_000));
    assert_eq!(huge, format!("height is 8000000000; {multiple}"));
    assert!(refused(|r| r.steps = 0).contains("steps is 0"));
    assert!(refused(|r| r.steps = 1001).contains("steps is 1001"));
    assert!(refused(|r| r.steps = usize::MAX).contains("steps is"));
    assert!(refused(|r| r.count = 0).contains("count is 0"));
    assert!(refused(|r| r.count = usize::MAX).contains("at most 16384 at once"));
    assert!(refused(|r| r.guidance_scale = f64::NAN).contains("guidance_scale is NaN"));
    assert!(refused(|r| r.guidance_scale = f64::INFINITY).contains("guidance_scale is inf"));
    let latents = Tensor::zeros([1, 4, 8, 8], &device("flex").unwrap());
    assert!(refused(|r| r.start = Start::Initial(latents)).contains("expected [1, 4, 16, 16]"));
}

#[test]
fn an_unknown_scheduler_is_refused_with_the_names_there_are() {
    let mut pipeline = tiny();
    let message = pipeline.set_scheduler("Eulr").unwrap_err().to_string();
    assert!(
        message.contains("Eulr") && message.contains("Euler"),
        "{message}"
    );
    let options = OpenOptions {
        scheduler: Some("no such".into()),
        ..OpenOptions::new(&device("flex").unwrap())
    };
    let error = Pipeline::from_files(&sd_tiny::files(), &options).unwrap_err();
    assert!(matches!(error, Error::Scheduler(_)), "{error:?}");
    assert!(error.to_string().contains("DDIM"), "{error}");
}

#[test]
fn a_text_encoder_of_another_model_is_refused() {
    struct Narrow;
    impl TextEncoder for Narrow {
        fn encode(&self, prompts: &[Prompt]) -> sd_pipeline::core::Result<TextEmbedding> {
            let tokens = Tensor::zeros([prompts.len(), 77, 5], &device("flex").unwrap());
            Ok(TextEmbedding::new(tokens))
        }
    }
    let mut pipeline = tiny();
    pipeline.text_encoder = Narrow.into();
    let error = pipeline.start(&Request::new("a red cube")).unwrap_err();
    let expected = "the text embedding has shape [2, 77, 5], expected [2, tokens, 96]";
    assert!(error.to_string().starts_with(expected), "{error}");
}

/// A copy of the tiny model's folder to spoil.
fn copy() -> TempDir {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sd-tiny/model");
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(model).unwrap().map(Result::unwrap) {
        let to = folder.path().join(entry.file_name());
        if entry.path().is_file() {
            fs::copy(entry.path(), to).unwrap();
            continue;
        }
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(entry.path()).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    folder
}

fn open(folder: &Path) -> Result<Pipeline, Error> {
    Pipeline::open(folder, &OpenOptions::new(&device("flex").unwrap()))
}

/// The message of the error after `spoil` changed the file `name`.
fn spoilt(name: &str, spoil: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) -> String {
    let folder = copy();
    let file = folder.path().join(name);
    match spoil(fs::read(&file).unwrap()) {
        Some(bytes) => fs::write(&file, bytes).unwrap(),
        None => fs::remove_file(&file).unwrap(),
    }
    let error = open(folder.path()).unwrap_err();
    assert!(
        matches!(error, Error::Model(_) | Error::Scheduler(_)),
        "{error:?}"
    );
    error.to_string()
}

#[test]
fn a_good_folder_opens_and_equals_the_embedded_model() {
    let folder = copy();
    let request = Request {
        steps: 2,
        ..Request::new("a white star")
    };
    let image = |pipeline: Pipeline| pipeline.generate(&request).unwrap().remove(0).image;
    assert_eq!(image(open(folder.path()).unwrap()), image(tiny()));
}

#[test]
fn a_missing_folder_or_file_is_named() {
    let error = open(Path::new("no/such/folder")).unwrap_err();
    let there = NotAModel::Absent;
    assert!(
        matches!(&error, Error::NotAModel { there: found, .. } if *found == there),
        "{error:?}"
    );
    assert!(error.to_string().contains("model_index.json"), "{error}");
    for name in [
        "unet/config.json",
        "scheduler/scheduler_config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ] {
        let message = spoilt(name, |_| None);
        let folder = name.split('/').next().unwrap();
        assert!(message.contains(folder), "{name}: {message}");
    }
}

#[test]
fn damaged_weights_are_refused() {
    let name = "unet/diffusion_pytorch_model.safetensors";
    for spoil in [
        |mut bytes: Vec<u8>| {
            bytes.truncate(bytes.len() / 2);
            Some(bytes)
        },
        |_| Some(Vec::new()),
        |mut bytes: Vec<u8>| {
            bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
            Some(bytes)
        },
    ] {
        let message = spoilt(name, spoil);
        assert!(
            message.contains("diffusion_pytorch_model.safetensors"),
            "{message}"
        );
    }
}

#[test]
fn hostile_configurations_are_refused() {
    for (field, was) in [("in_channels", "4"), ("cross_attention_dim", "96")] {
        for value in ["-1", "0", "1099511627776", "\"four\"", "NaN"] {
            let message = spoilt("unet/config.json", |bytes| {
                let text = String::from_utf8(bytes).unwrap();
                let from = format!("\"{field}\": {was}");
                assert!(text.contains(&from));
                Some(text.replace(&from, &format!("\"{field}\": {value}")).into())
            });
            assert!(
                message.contains("config.json"),
                "{field} = {value}: {message}"
            );
        }
    }
    for name in [
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "model_index.json",
        "scheduler/scheduler_config.json",
    ] {
        spoilt(name, |_| Some("[".repeat(200_000).into()));
        spoilt(name, |bytes| Some(bytes[..bytes.len() / 2].to_vec()));
        spoilt(name, |_| Some(Vec::new()));
    }
}

#[test]
fn another_kind_of_pipeline_is_refused_by_name() {
    let message = spoilt("model_index.json", |bytes| {
        let text = String::from_utf8(bytes).unwrap();
        Some(
            text.replace("StableDiffusionPipeline", "FluxPipeline")
                .into(),
        )
    });
    assert!(message.contains("FluxPipeline"), "{message}");
}

#[test]
fn pictures_and_latents_are_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let image = sd_pipeline::RgbImage::new(8, 8);
    let absent = folder.path().join("absent/out.png");
    let error = write_png(&image, &absent).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
    assert!(error.to_string().contains("absent"), "{error}");

    let cpu = device("flex").unwrap();
    let latents = Tensor::<4>::full([2, 4, 3, 5], 0.25, (&cpu, DType::F32));
    let file = folder.path().join("latents.safetensors");
    write_latents(&latents, &file).unwrap();
    let read = read_latents(&file, &cpu).unwrap();
    assert_eq!(read.into_data(), latents.into_data());
    assert_eq!(
        fs::read_dir(folder.path()).unwrap().count(),
        1,
        "a temporary file is left"
    );

    for bytes in [
        &b""[..],
        b"not a safetensors file",
        &fs::read(&file).unwrap()[..90],
    ] {
        fs::write(&file, bytes).unwrap();
        let error = read_latents(&file, &cpu).unwrap_err();
        assert!(matches!(error, Error::Latents { .. }), "{error:?}");
    }
    let missing = read_latents(folder.path().join("none"), &cpu).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing:?}");
}
