//! Models and adapters: where they come from and how they are held.

use super::*;

#[test]
fn a_refiner_goes_on_and_parts_come_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let (base, refiner) = (model("xl/base"), model("xl/refiner"));
    let few = ["a cube", "--model", &base, "--steps", "4"];
    let draw = |more: &[&str]| latents(path, &[&few[..], more].concat());
    let plain = draw(&[]);
    let refined = draw(&["--refiner", &refiner]);
    assert_ne!(refined, plain);
    assert_eq!(draw(&["--refiner", &refiner, "--handover", "0.8"]), refined);
    assert_ne!(draw(&["--refiner", &refiner, "--handover", "0.5"]), refined);
    assert_ne!(draw(&["--second", "oil on canvas"]), plain);
    let negative = draw(&["--negative", "a ring"]);
    let both = draw(&["--negative", "a ring", "--negative-second", "grey"]);
    assert!(negative != plain && both != negative);
    let vae = model("xl/base/vae");
    let elsewhere = ["--vae", &vae, "--unet", &base, "--text-encoder", &base];
    assert_eq!(draw(&elsewhere), plain);

    let message = refused(path, &["--model", &refiner]);
    assert!(
        message.contains("picture") && message.contains("base"),
        "{message}"
    );
    let message = refused(path, &["--model", &base, "--handover", "0.5"]);
    assert!(message.contains("--refiner"), "{message}");
    let message = refused(path, &["--model", &base, "--vae", "nowhere"]);
    assert!(message.contains("nowhere"), "{message}");
}

#[test]
fn a_single_file_draws_what_its_folder_draws() {
    use sd_tiny::micro::{Family, Layout, Micro};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    for (name, layout) in [("folder", Layout::Diffusers), ("file", Layout::Ldm)] {
        let micro = Micro::new(Family::Sd2, layout, 0).unwrap();
        micro.write_to(path.join(name)).unwrap();
    }
    let few = ["a cube", "--steps", "2", "--width", "64", "--height", "64"];
    let draw = |more: &[&str]| latents(path, &[&few[..], more].concat());
    let whole = draw(&["--model", "folder"]);
    let single = ["--model", "file/model.safetensors", "--config", "folder"];
    assert_eq!(draw(&single), whole);
    let epsilon = ["--prediction", "epsilon"];
    let other = draw(&[&single[..], &epsilon].concat());
    assert_ne!(other, whole);
    assert_eq!(
        draw(&[&["--model", "folder"], &epsilon[..]].concat()),
        other
    );
    let parts = ["--vae", "--unet", "--text-encoder"].map(|part| [part, "file/model.safetensors"]);
    let parts = ["--model", "folder", "--config", "folder"]
        .iter()
        .chain(parts.as_flattened());
    assert_eq!(draw(&parts.copied().collect::<Vec<_>>()), whole);

    let message = refused(path, &["--model", "file/model.safetensors"]);
    assert!(message.contains("a word of the caller"), "{message}");
    let message = refused(
        path,
        &["--model", "file/model.safetensors", "--family", "sd9"],
    );
    assert!(
        message.contains("sd9") && message.contains("sdxl_refiner"),
        "{message}"
    );
    let message = refused(path, &["--model", "folder", "--family", "sd2"]);
    assert!(message.contains("family"), "{message}");
}

#[test]
fn the_least_memory_draws_the_same_picture() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = ["fastest", "smallest"].map(|memory| {
        let output = run(
            folder.path(),
            &["--steps", "2", "--width", "72", "--memory", memory],
        );
        assert!(output.status.success());
        fs::read(folder.path().join("out.png")).unwrap()
    });
    assert_eq!(pictures[0], pictures[1]);
}

/// A LoRA of the first convolution of the embedded model.
fn write_lora(path: &Path) {
    let files = sd_tiny::files();
    let weights = files.folder("unet");
    let weights = weights.weights("diffusion_pytorch_model", None).unwrap();
    let mut shapes = weights.shapes();
    let (_, shape) = shapes.find(|(name, _)| *name == "conv_in.weight").unwrap();
    let bytes = |count: usize| -> Vec<u8> {
        let values = (0..count).map(|k| ((k * 37 % 101) as f32 - 50.0) / 200.0);
        values.flat_map(f32::to_le_bytes).collect()
    };
    let [outputs, inputs] = [shape[0], shape[1]];
    let tensors = [
        ("lora_A", vec![2, inputs, 3, 3]),
        ("lora_B", vec![outputs, 2, 1, 1]),
    ];
    let tensors = tensors.map(|(name, shape)| {
        let bytes = bytes(shape.iter().product());
        (format!("unet.conv_in.{name}.weight"), shape, bytes)
    });
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let dtype = safetensors::Dtype::F32;
        let view = safetensors::tensor::TensorView::new(dtype, shape.clone(), bytes);
        (name, view.unwrap())
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

#[test]
fn a_lora_at_run_time_draws_as_a_merged_one() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_lora(&folder.join("style.safetensors"));
    let drawn = |more: &[&str]| latents(folder, &[&["--steps", "2"], more].concat());
    let [with, at_run_time] = ["--lora", "--lora-at-run-time"];
    let plain = drawn(&[]);
    let merged = drawn(&[with, "style.safetensors:0.8"]);
    let beside = drawn(&[with, "style.safetensors:0.8", at_run_time]);
    assert!(difference(&merged, &beside) < 1e-4);
    assert!(difference(&merged, &plain) > 1e-2);
    // That convolution is in the first block.
    for spec in ["style.safetensors:0.8:IN00=0", "style.safetensors:IN=0"] {
        assert!(drawn(&[with, spec]) == plain, "{spec}");
    }
    // Only in the second step: neither the one nor the other.
    let late = [with, "style.safetensors:0.8:0=0,0.5=1", at_run_time];
    let half = drawn(&late);
    assert!(difference(&half, &plain) > 1e-3 && difference(&half, &merged) > 1e-3);
    let same = fs::read(folder.join("out.png")).unwrap();
    // The record says with what it was drawn.
    let again = ["--redraw", "out.png", "--output", "again.png"];
    let message = refused(folder, &again);
    let names = "style:0.8:0=0,0.5=1 at run time";
    assert!(message.contains(names), "{message}");
    let output = run(folder, &[&again[..], &late].concat());
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{message}");
    assert!(fs::read(folder.join("again.png")).unwrap() == same);
    for (spec, reason) in [
        ("style.safetensors:1:0.5=0", "at run time need not be"),
        ("style.safetensors:1:IN77=0", "no block IN77"),
        ("style.safetensors:1:OUT11=0", "no block OUT11"),
        ("style.safetensors:1:2=0", "expected 0 to below 1"),
        ("style.safetensors:x", "expected a number"),
    ] {
        let message = refused(folder, &[with, spec]);
        assert!(message.contains(reason), "{spec}: {message}");
    }
}

#[test]
fn a_folder_with_a_variant_and_a_setting_of_tomorrow_opens_where_asked() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sd-tiny/model");
    copy(&source, &model);
    let weights = model.join("unet/diffusion_pytorch_model.safetensors");
    fs::rename(&weights, weights.with_extension("non_ema.safetensors")).unwrap();
    let config = model.join("unet/config.json");
    let settings = fs::read_to_string(&config).unwrap();
    let settings = settings.replacen('{', "{\"a_setting_of_tomorrow\": 3,", 1);
    fs::write(&config, settings).unwrap();

    let path = folder.path();
    let said = refused(path, &["--model", "model"]);
    assert!(said.contains("a_setting_of_tomorrow"), "{said}");
    let warn = ["--model", "model", "--unknown-settings", "warn"];
    let said = refused(path, &warn);
    assert!(said.contains("non_ema"), "{said}");
    let said = refused(path, &[&warn[..], &["--variant", "fp8"]].concat());
    assert!(said.contains("fp8") && said.contains("non_ema"), "{said}");
    let said = drawn(path, &[&warn[..], &["--variant", "non_ema"]].concat());
    assert!(said.contains("a_setting_of_tomorrow"), "{said}");
    let given = ["--guidance", "7.5", "--output", "embedded.png"];
    drawn(path, &given);
    // Their records differ: the model's name is one of its folder.
    let pictures = ["out.png", "embedded.png"].map(|name| image::open(path.join(name)).unwrap());
    assert!(pictures[0] == pictures[1], "another picture");
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Files of the folder `from` by their paths in it.
#[cfg(feature = "hub-http")]
fn contents(from: &Path, inside: &str, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        match path.is_dir() {
            true => contents(&path, &format!("{inside}{name}/"), files),
            false => files.push((format!("{inside}{name}"), fs::read(&path).unwrap())),
        }
    }
}

#[cfg(feature = "hub-http")]
#[test]
fn a_hubs_model_draws_the_folders_picture_of_what_it_reads_alone() {
    use server::{Fault, Server};

    let folder = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sd-tiny/model");
    copy(&source, &folder.path().join("model"));
    let mut files = Vec::new();
    contents(&source, "", &mut files);
    let read: BTreeSet<String> = files.iter().map(|(name, _)| name.clone()).collect();
    for others in [
        "README.md",
        "v1-5-pruned.ckpt",
        "unet/diffusion_pytorch_model.bin",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "vae_decoder/model.onnx",
    ] {
        files.push((others.into(), vec![0; 2000]));
    }
    let files: Vec<_> = files
        .iter()
        .map(|(n, bytes)| (n.as_str(), bytes.as_slice()))
        .collect();
    // No hash, so that what is compared here is the pictures: `sd-hub` has the tests of the others.
    let etag = |bytes: &[u8]| {
        let add = |hash: u64, b: &u8| (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01B3);
        format!("fnv-{:016x}", bytes.iter().fold(0xCBF2_9CE4_8422_2325, add))
    };
    let server = Server::start(&files, 1000, etag);
    let run = |endpoint: &str, arguments: &[&str]| {
        let mut command = program(folder.path(), &[&["--steps", "2"], arguments].concat());
        for name in [
            "HF_HUB_CACHE",
            "HF_TOKEN",
            "HF_HUB_OFFLINE",
            "TRANSFORMERS_OFFLINE",
        ] {
            command.env_remove(name);
        }
        command.env("HF_HOME", folder.path().join("hf"));
        let output = command.env("HF_ENDPOINT", endpoint).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!said.contains("panicked"), "{said}");
        (output.status.success(), said)
    };
    let hub = |arguments: &[&str]| run(&server.address, arguments);
    let image = |name: &str| image::open(folder.path().join(name)).unwrap();

    server.store().fault("GET", 1, Fault::Cut(1_000_000));
    let (drawn, said) = hub(&["--model", "hf:owner/model", "--output", "hub.png"]);
    assert!(drawn, "{said}");
    let log = server.log();
    let asked = log
        .iter()
        .filter_map(|line| line.strip_prefix("HEAD /owner/model/resolve/"));
    let asked = asked.map(|rest| rest.split_once('/').unwrap().1.to_string());
    let asked: BTreeSet<String> = asked.collect();
    assert!(asked.is_subset(&read), "{asked:?}");
    assert!(
        asked.contains("unet/diffusion_pytorch_model.safetensors"),
        "{asked:?}"
    );
    let (drawn, said) = hub(&["--model", "model", "--output", "folder.png"]);
    assert!(drawn, "{said}");
    assert!(image("hub.png") == image("folder.png"), "another picture");

    server.log();
    let nobody = "http://127.0.0.1:9";
    let offline = [
        "--model",
        "hf:owner/model",
        "--offline",
        "--output",
        "offline.png",
    ];
    let (drawn, said) = run(nobody, &offline);
    assert!(drawn && server.log().is_empty(), "{said}");
    assert!(
        image("offline.png") == image("folder.png"),
        "another picture"
    );

    for (model, words) in [
        ("hf:owner/other", "not there"),
        ("hf:owner/model@v2", "not there"),
        ("hf:owner", "OWNER/NAME"),
        ("hf:owner/model/unet", "one component alone"),
        (
            "hf:owner/model/nothing.safetensors",
            "no file nothing.safetensors",
        ),
    ] {
        let (drawn, said) = hub(&["--model", model]);
        assert!(!drawn && said.contains(words), "{model}: {said}");
    }
    let (drawn, said) = hub(&["--model", "hf:owner/model", "--variant", "fp8"]);
    assert!(!drawn && said.contains("fp8"), "{said}");
    if cfg!(not(feature = "hub")) {
        let (drawn, said) = run("https://huggingface.co", &["--model", "hf:owner/model"]);
        assert!(!drawn && said.contains("feature hub"), "{said}");
    }
}
