//! Components that come and go: the same pictures, less memory, the same errors.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use sd_pipeline::{
    Error, OpenOptions, Pipeline, Request, Residency, WeightBytes, WeightStorage, device, models,
};

const ALL: [Residency; 3] = [Residency::Always, Residency::OnDemand, Residency::PerPhase];
const NOTHING: WeightBytes = WeightBytes {
    plain: 0,
    packed: 0,
};

fn options(memory: WeightStorage, residency: Residency) -> OpenOptions {
    OpenOptions {
        weight_storage: memory,
        residency,
        ..OpenOptions::new(&device("flex").unwrap())
    }
}

fn open(memory: WeightStorage, residency: Residency) -> Pipeline {
    Pipeline::from_files(&sd_tiny::files(), &options(memory, residency)).unwrap()
}

fn request() -> Request {
    Request {
        steps: 2,
        seed: 3,
        width: Some(72),
        height: Some(40),
        ..Request::new("a green cube")
    }
}

#[test]
fn every_setting_draws_the_same_picture() {
    let expected = open(WeightStorage::F32, Residency::Always);
    let expected = expected.generate(&request()).unwrap();
    for memory in [WeightStorage::F32, WeightStorage::AsStored] {
        for residency in ALL {
            let pipeline = open(memory, residency);
            for _ in 0..2 {
                let found = pipeline.generate(&request()).unwrap();
                assert_eq!(found, expected, "{memory:?} {residency:?}");
            }
            pipeline.release();
            assert_eq!(pipeline.generate(&request()).unwrap(), expected);
        }
    }
}

#[test]
fn components_are_there_when_they_should_be() {
    let always = open(WeightStorage::F32, Residency::Always).memory();
    assert!(always.text_encoder.total() > 0 && always.autoencoder.total() > 0);
    let halves = open(WeightStorage::AsStored, Residency::Always).memory();
    assert!(halves.denoiser.packed * 2 <= always.denoiser.packed * 21 / 20);

    let pipeline = open(WeightStorage::F32, Residency::PerPhase);
    assert_eq!(pipeline.memory().total(), 0);
    assert!(pipeline.load_time().is_zero());
    let mut run = pipeline.start(&request()).unwrap();
    let denoising = pipeline.memory();
    assert_eq!(denoising.denoiser, always.denoiser);
    assert_eq!(
        (denoising.text_encoder, denoising.autoencoder),
        (NOTHING, NOTHING)
    );
    run.next().unwrap().unwrap();
    let early = run.images().unwrap();
    assert_eq!(
        pipeline.memory().total(),
        0,
        "decoding lets go of the denoiser"
    );
    run.next().unwrap().unwrap();
    assert_eq!(pipeline.memory().total(), 0, "so does the last step");
    assert_ne!(run.images().unwrap(), early);
    assert!(!pipeline.load_time().is_zero());
    let expected = open(WeightStorage::F32, Residency::Always).generate(&request());
    assert_eq!(run.images().unwrap(), expected.unwrap());

    let pipeline = open(WeightStorage::F32, Residency::OnDemand);
    assert_eq!(pipeline.memory().total(), 0);
    let mut run = pipeline.start(&request()).unwrap();
    assert_eq!(pipeline.memory().text_encoder, always.text_encoder);
    pipeline.release();
    assert_eq!(pipeline.memory().text_encoder, NOTHING);
    assert_eq!(
        pipeline.memory().denoiser,
        always.denoiser,
        "the run holds it"
    );
    run.by_ref().for_each(|step| {
        step.unwrap();
    });
    assert_eq!(pipeline.memory().denoiser, NOTHING);
    run.images().unwrap();
    assert_eq!(pipeline.memory().autoencoder, always.autoencoder);
}

/// Rayon lets a thread that waits for one job begin another: a load must not wait for itself.
#[test]
fn generations_that_share_a_small_pool_do_not_wait_for_each_other() {
    let expected = open(WeightStorage::F32, Residency::Always);
    let expected = &expected.generate(&request()).unwrap();
    for threads in [1, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = Arc::new(pool.unwrap());
        for residency in [Residency::OnDemand, Residency::PerPhase] {
            let pipeline = open(WeightStorage::AsStored, residency);
            pool.scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|_| {
                        assert_eq!(&pipeline.generate(&request()).unwrap(), expected);
                    });
                }
            });
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn every_phase_has_a_peak() {
    let pipeline = open(WeightStorage::F32, Residency::PerPhase);
    let mut run = pipeline.start(&request()).unwrap();
    let peaks = run.memory_peaks();
    assert!(peaks.text.is_some() && peaks.denoise.is_some() && peaks.decode.is_none());
    run.by_ref().for_each(|step| {
        step.unwrap();
    });
    run.images().unwrap();
    let peaks = run.memory_peaks();
    let all = [peaks.text, peaks.denoise, peaks.decode].map(Option::unwrap);
    let highest = high_water_mark();
    for peak in all {
        // The system's two counters of pages lag behind by a few.
        assert!(peak as f64 <= 1.02 * highest as f64, "{peak} of {highest}");
        assert!(peak as f64 > 0.3 * highest as f64, "{peak} of {highest}");
    }
}

#[cfg(target_os = "linux")]
fn high_water_mark() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kilobytes = line.unwrap().trim().trim_end_matches(" kB").parse::<u64>();
    kilobytes.unwrap() * 1024
}

/// The tiny model in a folder of its own.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy(
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../sd-tiny/model")),
        folder.path(),
    );
    folder
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
        }
    }
}

#[test]
fn broken_files_are_reported_when_a_pipeline_is_opened() {
    for residency in ALL {
        let options = options(WeightStorage::AsStored, residency);
        for part in [
            "text_encoder/model",
            "unet/diffusion_pytorch_model",
            "vae/diffusion_pytorch_model",
        ] {
            let folder = folder();
            let path = folder.path().join(format!("{part}.safetensors"));
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() - 1]).unwrap();
            let error = Pipeline::open(folder.path(), &options).unwrap_err();
            let cut = matches!(error, Error::Model(models::Error::Safetensors { .. }));
            assert!(cut, "{residency:?}: {error:?}");
            fs::remove_file(&path).unwrap();
            let error = Pipeline::open(folder.path(), &options).unwrap_err();
            let missing = matches!(error, Error::Model(models::Error::NoWeights { .. }));
            assert!(missing, "{residency:?}: {error:?}");
        }
        let folder = folder();
        let vae = folder
            .path()
            .join("vae/diffusion_pytorch_model.safetensors");
        fs::copy(
            folder
                .path()
                .join("unet/diffusion_pytorch_model.safetensors"),
            vae,
        )
        .unwrap();
        let error = Pipeline::open(folder.path(), &options).unwrap_err();
        let other = matches!(error, Error::Model(models::Error::Tensors { .. }));
        assert!(other, "{residency:?}: {error:?}");
    }
}

#[test]
fn a_file_that_breaks_later_is_the_same_error_later() {
    let folder = folder();
    let options = options(WeightStorage::AsStored, Residency::PerPhase);
    let pipeline = Pipeline::open(folder.path(), &options).unwrap();
    let mut run = pipeline.start(&request()).unwrap();
    run.by_ref().for_each(|step| {
        step.unwrap();
    });
    let path = folder
        .path()
        .join("vae/diffusion_pytorch_model.safetensors");
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    let size = file.metadata().unwrap().len();
    file.set_len(size - 1000).unwrap();
    match run.images().unwrap_err() {
        Error::Model(models::Error::Io { path: named, .. }) => assert_eq!(named, path),
        other => panic!("{other:?}"),
    }
    file.set_len(size).unwrap();
    run.images().unwrap();
}
