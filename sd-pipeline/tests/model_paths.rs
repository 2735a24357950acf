//! Paths that are named as a model: each that is none is told apart, and variants are chosen.

use std::fs;
use std::path::{Path, PathBuf};

use sd_pipeline::models::{Error as ModelError, FileKind, Files};
use sd_pipeline::{Error, NotAModel, OpenOptions, Pipeline, Request, device};
use tempfile::TempDir;

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// A copy of the tiny model as the folder `name` of a new one.
fn copy(name: &str) -> (TempDir, PathBuf) {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sd-tiny/model");
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join(name);
    copy_folder(&model, &to);
    (folder, to)
}

fn options() -> OpenOptions {
    OpenOptions::new(&device("flex").unwrap())
}

fn open(path: impl AsRef<Path>) -> Result<Pipeline, Error> {
    Pipeline::open(path, &options())
}

/// What is at the path, and the message.
#[track_caller]
fn refused(path: impl AsRef<Path>) -> (NotAModel, String) {
    let error = open(&path).unwrap_err();
    let message = error.to_string();
    let Error::NotAModel { path: named, there } = error else {
        panic!("{error:?}");
    };
    assert_eq!(named, path.as_ref());
    assert!(
        message.starts_with(&path.as_ref().display().to_string()),
        "{message}"
    );
    (there, message)
}

#[test]
fn what_is_not_there_is_told_apart() {
    for name in [
        "no-such-folder",
        "no/such/folder",
        "/no/such",
        "no/x y",
        "./no/such",
    ] {
        let (there, message) = refused(name);
        assert_eq!(there, NotAModel::Absent, "{name}");
        assert!(message.contains("no such file or folder"), "{message}");
        assert!(message.contains("model_index.json"), "{message}");
    }
    let (there, message) = refused("stable-diffusion-v1-5/stable-diffusion-v1-5");
    assert_eq!(there, NotAModel::HubName);
    assert!(message.contains("not fetched from the hub"), "{message}");
    // Where there is the first folder, the second is meant to be in it.
    let (there, _) = refused("tests/model");
    assert_eq!(there, NotAModel::Absent);
    let (there, message) = refused("https://example.org/owner/name");
    assert_eq!(there, NotAModel::Address);
    assert!(message.contains("download"), "{message}");
}

#[test]
fn a_file_is_told_by_its_kind() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        match refused(&path) {
            (NotAModel::File { kind, model: None }, message) => (kind, message),
            (other, _) => panic!("{other:?}"),
        }
    };
    // Files of weights are opened, and say themselves what is wrong with them.
    let unsound = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        match open(&path).unwrap_err() {
            Error::Model(error) => error,
            other => panic!("{other:?}"),
        }
    };
    let error = unsound("x.safetensors", b"\x02\0\0\0\0\0\0\0{}");
    let message = error.to_string();
    assert!(matches!(error, ModelError::Contents { .. }), "{error:?}");
    assert!(
        message.contains("no network that is known here; expected a model"),
        "{message}"
    );
    for bytes in [&b"PK\x03\x04"[..], &[255; 9]] {
        for name in ["x.ckpt", "x.PT"] {
            let error = unsound(name, bytes);
            assert!(matches!(error, ModelError::Checkpoint { .. }), "{error:?}");
        }
    }
    let error = unsound("x.gguf", b"GGUF\x03\0\0\0");
    assert!(matches!(error, ModelError::Gguf { .. }), "{error:?}");
    let (kind, message) = refused("x.txt", b"words");
    assert_eq!(kind, FileKind::Text("words".into()));
    assert!(message.contains("or a file of its weights"), "{message}");
    assert_eq!(refused("x.onnx", &[8, 7, 18, 7]).0, FileKind::Onnx);
    assert_eq!(refused("x.zip", b"").0, FileKind::Empty);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4265146304\n";
    let (_, message) = refused("y.safetensors", pointer.as_bytes());
    assert!(message.contains("4265146304 bytes"), "{message}");
}

#[test]
fn a_part_of_a_model_is_told_with_the_model_that_it_is_of() {
    let (_folder, model) = copy("m");
    let model_of = |path: &Path| match refused(path) {
        (NotAModel::File { model, .. }, message) => (model, message),
        (NotAModel::Component { model, .. }, message) => (model, message),
        (other, _) => panic!("{other:?}"),
    };
    for (name, _) in sd_tiny::FILES {
        let (of, message) = model_of(&model.join(name));
        assert_eq!(of.as_ref(), Some(&model), "{name}");
        assert!(message.contains("give th"), "{message}");
    }
    let (there, _) = refused(model.join("unet/"));
    let class = "UNet2DConditionModel".to_string();
    let of = Some(model.clone());
    assert_eq!(there, NotAModel::Component { class, model: of });

    // The same alone.
    let alone = tempfile::tempdir().unwrap();
    copy_folder(&model.join("text_encoder"), alone.path());
    let (there, message) = refused(alone.path());
    let class = "CLIPTextModel".to_string();
    assert_eq!(there, NotAModel::Component { class, model: None });
    assert!(
        message.contains("(CLIPTextModel) and not a whole model; expected"),
        "{message}"
    );
}

#[test]
fn a_folder_that_lacks_something_is_told_by_what_it_has() {
    let (folder, model) = copy("m");
    let (there, message) = refused(folder.path());
    assert_eq!(there, NotAModel::Models(vec![model.clone()]));
    assert!(message.contains(&model.display().to_string()), "{message}");

    fs::remove_file(model.join("model_index.json")).unwrap();
    let (there, message) = refused(&model);
    let components = ["scheduler", "text_encoder", "tokenizer", "unet", "vae"];
    let components: Vec<String> = components.iter().map(ToString::to_string).collect();
    assert_eq!(there, NotAModel::NoIndex { components });
    assert!(message.contains("without model_index.json"), "{message}");

    let bare = tempfile::tempdir().unwrap();
    fs::create_dir(bare.path().join("unet")).unwrap();
    fs::write(bare.path().join("config.json"), "{}").unwrap();
    let components = vec!["unet".to_string()];
    assert_eq!(refused(bare.path()).0, NotAModel::NoIndex { components });

    let empty = tempfile::tempdir().unwrap();
    assert_eq!(refused(empty.path()).0, NotAModel::Empty);
    fs::write(empty.path().join("README.md"), "words").unwrap();
    assert_eq!(refused(empty.path()).0, NotAModel::Other);
    fs::write(empty.path().join("v1-5.safetensors"), "").unwrap();
    let (there, message) = refused(empty.path());
    assert_eq!(
        there,
        NotAModel::SingleFiles(vec!["v1-5.safetensors".into()])
    );
    assert!(
        message.contains("a folder with v1-5.safetensors; give that file"),
        "{message}"
    );

    // Files in memory are told as those of a folder.
    let unet = sd_tiny::files().folder("unet");
    let config = unet.read("config.json").unwrap().to_vec();
    let files = Files::memory([("unet/config.json", config)]);
    let error = Pipeline::from_files(&files, &options()).unwrap_err();
    let Error::NotAModel { there, .. } = error else {
        panic!("{error:?}");
    };
    let components = vec!["unet".into()];
    assert_eq!(there, NotAModel::NoIndex { components });
}

/// A hub's cache of the tiny model: the repository's folder with one snapshot.
fn cache() -> (TempDir, PathBuf) {
    let (folder, _) = copy("hub/models--org--name/snapshots/0123abc");
    let repository = folder.path().join("hub/models--org--name");
    fs::create_dir_all(repository.join("blobs")).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    (folder, repository)
}

#[test]
fn a_hubs_cache_opens_at_the_snapshot_of_its_main() {
    let (folder, repository) = cache();
    let request = Request {
        steps: 1,
        ..Request::new("a red cube")
    };
    let expected = sd_tiny::pipeline(&options().device).unwrap();
    let expected = expected.generate(&request).unwrap().remove(0);
    let equal = |path: &Path| {
        let found = open(path).unwrap().generate(&request).unwrap().remove(0);
        assert_eq!(found.image, expected.image, "{}", path.display());
        // A repository has a name of its own.
        assert_ne!(found.record.model, expected.record.model);
    };
    // The only one, whatever main is.
    equal(&repository);
    equal(&repository.join("snapshots"));

    // Another beside it: only main can tell.
    let other = repository.join("snapshots/4567def");
    fs::create_dir(&other).unwrap();
    let (there, message) = refused(&repository);
    let one = repository.join("snapshots/0123abc");
    assert_eq!(
        there,
        NotAModel::Snapshots(vec![one.clone(), other.clone()])
    );
    assert!(message.contains(&one.display().to_string()), "{message}");
    fs::write(repository.join("refs/main"), "0123abc\n").unwrap();
    equal(&repository);
    for hostile in ["4567def", "..", "../snapshots/0123abc", "/", ""] {
        fs::write(repository.join("refs/main"), hostile).unwrap();
        let error = open(&repository).unwrap_err();
        assert!(
            matches!(error, Error::NotAModel { .. }),
            "{hostile}: {error:?}"
        );
    }

    // The cache itself, and a repository of which nothing was fetched.
    let (there, _) = refused(folder.path().join("hub"));
    assert_eq!(there, NotAModel::Models(vec![repository.clone()]));
    fs::remove_dir_all(repository.join("snapshots")).unwrap();
    fs::create_dir(repository.join("snapshots")).unwrap();
    let (there, message) = refused(&repository);
    assert_eq!(there, NotAModel::Snapshots(Vec::new()));
    assert!(message.contains("without a snapshot"), "{message}");
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_broken_ones_named() {
    let (_folder, repository) = cache();
    let snapshot = repository.join("snapshots/0123abc");
    // As a hub's cache has it: the snapshot's file is a link into `blobs`.
    let (name, blob) = ("unet/config.json", repository.join("blobs/9f8e"));
    fs::rename(snapshot.join(name), &blob).unwrap();
    let link = |target: &str, path: &Path| std::os::unix::fs::symlink(target, path).unwrap();
    link("../../../blobs/9f8e", &snapshot.join(name));
    open(&repository).unwrap();
    fs::remove_file(&blob).unwrap();
    let error = open(&repository).unwrap_err();
    let broken = matches!(error, Error::Model(ModelError::BrokenLink { .. }));
    assert!(broken, "{error:?}");
    assert!(error.to_string().contains("blobs/9f8e"), "{error}");

    let index = snapshot.join("model_index.json");
    fs::remove_file(&index).unwrap();
    link("../../blobs/none", &index);
    let error = open(&snapshot).unwrap_err();
    assert!(error.to_string().contains("blobs/none"), "{error}");

    let nowhere = repository.join("model");
    link("elsewhere", &nowhere);
    let target = "elsewhere".into();
    assert_eq!(refused(&nowhere).0, NotAModel::BrokenLink { target });
}

#[test]
fn a_pointer_or_a_page_is_told_wherever_it_is() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1234567\n";
    for name in [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    ] {
        let (_folder, model) = copy("m");
        for (content, words) in [
            (pointer, "which has 1234567 bytes"),
            ("<!doctype html><title>Sign in</title>", "a web page"),
        ] {
            fs::write(model.join(name), content).unwrap();
            let error = open(&model).unwrap_err();
            let kind = matches!(error, Error::Model(ModelError::Kind { .. }));
            assert!(kind, "{name}: {error:?}");
            let message = error.to_string();
            let file = model.join(name).display().to_string();
            assert!(
                message.starts_with(&file) && message.contains(words),
                "{message}"
            );
        }
    }
}

#[test]
fn a_variant_is_taken_from_each_component_that_has_it() {
    let (_folder, model) = copy("m");
    let unet = model.join("unet");
    let plain = unet.join("diffusion_pytorch_model.safetensors");
    let variant = |name: &str| unet.join(format!("diffusion_pytorch_model.{name}.safetensors"));
    fs::rename(&plain, variant("bf16")).unwrap();
    fs::copy(variant("bf16"), variant("non_ema")).unwrap();
    let error = open(&model).unwrap_err();
    let none = matches!(error, Error::Model(ModelError::NoWeights { .. }));
    assert!(none, "{error:?}");
    assert!(
        error
            .to_string()
            .contains("can be asked for: bf16, non_ema"),
        "{error}"
    );

    let asked = |name: &str| {
        let options = OpenOptions {
            variant: Some(name.into()),
            ..options()
        };
        Pipeline::open(&model, &options)
    };
    for name in ["bf16", "non_ema"] {
        asked(name).unwrap();
    }
    // The variant it is that opens, and not the file beside it.
    fs::write(&plain, "not weights").unwrap();
    asked("bf16").unwrap();
    open(&model).unwrap_err();

    let error = asked("fp16").unwrap_err();
    let message = error.to_string();
    let Error::NoVariant { others, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(others, ["bf16 (unet)", "non_ema (unet)"]);
    assert!(
        message.contains("\"fp16\"; expected bf16 (unet)"),
        "{message}"
    );
}
