//! The example's command line is a contract: what it writes, prints and refuses.

#[cfg(feature = "hub-http")]
#[path = "../../sd-hub/tests/server/mod.rs"]
mod server;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

mod support;

use image::RgbImage;
use sd_tiny::micro::{Family, Layout, Micro};
use support::{example, model, names, write_guarded_model};

fn program(folder: &Path, arguments: &[&str]) -> Command {
    example("text_to_image", folder, arguments)
}

fn refused(folder: &Path, arguments: &[&str]) -> String {
    support::refused("text_to_image", folder, arguments)
}

fn run(folder: &Path, arguments: &[&str]) -> Output {
    program(folder, arguments).output().unwrap()
}

/// What it said while it drew.
fn drawn(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, &[&["--steps", "1"], arguments].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
    message
}

#[test]
fn no_arguments_draw_a_picture() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[]);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let png = fs::read(folder.path().join("out.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
}

#[test]
fn count_json_and_latents_do_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let first = [
        "a blue ring",
        "--steps",
        "2",
        "--count",
        "2",
        "--output",
        "ring.png",
        "--json",
    ];
    let out = ["--latents-out", "l.safetensors"];
    let output = run(folder.path(), &[&first[..], &out].concat());
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout).unwrap();
    let report: serde_json::Value = serde_json::from_str(lines.trim()).unwrap();
    assert_eq!(report["step_seconds"].as_array().unwrap().len(), 2);
    for key in ["load_seconds", "encode_seconds", "decode_seconds"] {
        assert!(report[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let weights = &report["denoise_weight_bytes"];
    let bytes = |part: &str, kind: &str| weights[part][kind].as_u64().unwrap();
    assert!(bytes("denoiser", "packed") > bytes("denoiser", "plain"));
    assert!(bytes("denoiser", "plain") > 0);
    for part in ["text_encoder", "autoencoder"] {
        assert_eq!(bytes(part, "packed"), 0, "{part} is not there in its turn");
    }
    if cfg!(target_os = "linux") {
        let peak = report["peak_memory_bytes"].as_u64().unwrap() as f64;
        for phase in ["text", "denoise", "decode"] {
            let bytes = report[format!("{phase}_peak_bytes")].as_u64().unwrap();
            assert!(bytes as f64 <= 1.02 * peak, "{phase}: {bytes} of {peak}");
        }
    }
    let exists = |name: &str| folder.path().join(name).exists();
    assert!(exists("ring-0.png") && exists("ring-1.png") && !exists("ring.png"));

    // Final latents are no initial noise, but have its shape: they go back in for two pictures,
    // and not for one.
    let back = [
        "--latents-in",
        "l.safetensors",
        "--steps",
        "1",
        "--output",
        "again.png",
    ];
    let again = run(folder.path(), &[&back[..], &["--count", "2"]].concat());
    assert!(again.status.success() && exists("again-1.png"));
    let one = run(folder.path(), &back);
    assert!(String::from_utf8_lossy(&one.stderr).contains("latents has shape [2, 4, 16, 16]"));
}

fn latents(folder: &Path, arguments: &[&str]) -> Vec<u8> {
    let out = ["--latents-out", "l.safetensors"];
    let output = run(folder, &[arguments, &out].concat());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
    fs::read(folder.join("l.safetensors")).unwrap()
}

#[test]
fn a_folder_alone_says_size_steps_and_guidance() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let base = model("xl/base");
    let alone = latents(path, &["a cube", "--model", &base]);
    let picture = image::open(path.join("out.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (80, 80));
    let same = ["--steps", "50", "--guidance", "5", "--width", "80"];
    let given = latents(path, &[&["a cube", "--model", &base], &same[..]].concat());
    assert_eq!(alone, given);
    for other in [["--steps", "49"], ["--guidance", "4.9"]] {
        let other = latents(path, &[&["a cube", "--model", &base], &other[..]].concat());
        assert_ne!(alone, other);
    }
}

/// The latents in a file that the program wrote.
fn numbers(file: &[u8]) -> Vec<f32> {
    let file = safetensors::SafeTensors::deserialize(file).unwrap();
    let data = file.tensor("latents").unwrap().data().to_vec();
    let numbers = data.as_chunks::<4>().0.iter();
    numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn guiders_freeu_and_caches_draw_as_their_references() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = sd_fixtures::Fixture::open("guiders");
    let cases: [(&str, &[&str]); 8] = [
        ("rescale", &["--guidance-rescale", "0.7"]),
        ("interval", &["--guidance-interval", "0.2,0.7"]),
        (
            "apg_momentum",
            &["--guider", "apg:eta=0.3,momentum=-0.75,rescale=4"],
        ),
        ("pag_adaptive", &["--guider", "pag:scale=3,adaptive=0.008"]),
        (
            "pag_layers",
            &[
                "--guider",
                "pag:scale=1.5,layers=mid_block+up_blocks.1",
                "--guidance-rescale",
                "0.5",
            ],
        ),
        (
            "scale_cosine",
            &["--guider", "schedule:from=1.5,to=6,shape=cosine"],
        ),
        ("freeu", &["--freeu", "1.3,1.4,0.9,0.2"]),
        ("deep_3_1", &["--cache", "deep:interval=3,depth=1"]),
    ];
    for (name, arguments) in cases {
        let request = "--negative|a small yellow ring|--guidance|4|--steps|6|--seed|3|--width|136|--height|104";
        let request: Vec<&str> = request
            .split('|')
            .chain(arguments.iter().copied())
            .collect();
        let found = numbers(&latents(folder.path(), &request));
        fixture.assert_close(&format!("{name}.latents"), &found, 1e-3);
    }
}

#[test]
fn what_is_no_guider_is_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (&["--guider", "magic"][..], "no guider is called 'magic'"),
        (
            &["--guider", "apg:eta=1,speed=2"],
            "'apg' has no key 'speed'",
        ),
        (&["--guider", "apg:eta=NaN"], "eta is 'NaN'"),
        (&["--guider", "apg:eta=1,eta=0"], "'eta' is there twice"),
        (&["--guider", "apg:"], "no key=value"),
        (&["--guider", "apg:eta"], "no key=value"),
        (&["--guider", "apg:formula=mine"], "diffusers or paper"),
        (
            &["--guider", "apg", "--guider", "cfg-zero"],
            "one alone can guide",
        ),
        (&["--guider", "apg", "--guidance", "1"], "nothing is guided"),
        (
            &["--guider", "pag:layers=mid_block.attentions.7"],
            "'mid_block.attentions.7'",
        ),
        (&["--guider", "pag:scale=inf"], "scale is 'inf'"),
        (&["--guider", "seg:sigma=-1"], "sigma is -1"),
        (&["--guidance-rescale", "1.5"], "from 0 to 1"),
        (&["--guidance-rescale", "NaN"], "finite"),
        (&["--guidance-interval", "0.5,0.2"], "B not less than A"),
        (&["--guidance-interval", "0.5"], "two fractions"),
        (&["--guidance-interval", "NaN,1"], "finite"),
        (&["--freeu", "1,2,3"], "four numbers"),
        (&["--freeu", "1,2,3,NaN"], "finite"),
        (&["--freeu", "1,2,3,-1"], "FreeU's s is -1"),
        (&["--cache", "shallow"], "no cache is called 'shallow'"),
        (&["--cache", "deep:interval=0"], "interval is 0"),
        (&["--cache", "deep:interval=1.5"], "a whole number"),
        (&["--cache", "deep:depth=99"], "expected less than 6"),
        (
            &["--guider", "pag", "--redraw", "out.png"],
            "cannot be used with",
        ),
    ] {
        let message = refused(folder.path(), arguments);
        assert!(message.contains(words), "{arguments:?}: {message}");
    }
}

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
fn a_picture_steers_what_is_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let micro = Micro::new(Family::Sd1, Layout::Diffusers, 0).unwrap();
    micro.write_to(path.join("model")).unwrap();
    let lines = RgbImage::from_fn(50, 40, |x, y| [(5 * x) as u8, (6 * y) as u8, 90].into());
    lines.save(path.join("lines.png")).unwrap();
    let network = |name: &str| model(&format!("control/{name}"));
    let (edges, file) = (
        network("sd1_edges"),
        network("sd1_edges_original.safetensors"),
    );
    let draw = |output: &str, controls: &[&str]| {
        let mut arguments = vec!["--model", "model", "--steps", "2", "--width", "64"];
        arguments.extend(["--height", "64", "--output", output]);
        for control in controls {
            arguments.extend(["--control", control]);
        }
        let output_of = run(path, &arguments);
        let message = String::from_utf8_lossy(&output_of.stderr).into_owned();
        assert!(output_of.status.success(), "{arguments:?}: {message}");
        image::open(path.join(output)).unwrap().to_rgb8()
    };
    let plain = draw("plain.png", &[]);
    let steered = draw("steered.png", &[&format!("{edges},lines.png")]);
    assert_ne!(plain, steered);
    assert_eq!(
        draw("file.png", &[&format!("{file},lines.png,1,0,1")]),
        steered
    );
    let adapter = format!("{},lines.png,0.5,0,0.5", network("sd1_full"));
    let both = draw("both.png", &[&format!("{edges},lines.png"), &adapter]);
    assert_ne!(both, steered);

    let message = refused(path, &["--model", "model", "--redraw", "steered.png"]);
    assert!(message.contains("does not hold: controls"), "{message}");
    let xl = format!("{},lines.png", network("sdxl_edges"));
    let own = format!("{edges},lines.png");
    for (arguments, words) in [
        (vec!["--control", &xl], "sdxl_edges (controlnet)"),
        (vec!["--control", &edges], "expected DIR,PICTURE"),
        (vec!["--control", &format!("{own},much")], "is no number"),
        (
            vec!["--control", &format!("{own},1,0.5")],
            "expected DIR,PICTURE",
        ),
        (
            vec!["--control", &format!("{own},1,0.5,0.2")],
            "control range",
        ),
        (vec!["--control", &format!("{own},nan")], "is no number"),
        (
            vec!["--control", &format!("{edges},absent.png")],
            "absent.png",
        ),
        (vec!["--control", "absent,lines.png"], "absent"),
        (vec!["--control", "lines.png,lines.png"], "lines.png"),
        (vec!["--guess-mode"], "--control"),
        (
            vec!["--control", &own, "--redraw", "plain.png"],
            "cannot be used with",
        ),
    ] {
        let arguments = [vec!["--model", "model", "--output", "no.png"], arguments].concat();
        let message = refused(path, &arguments);
        assert!(message.contains(words), "{arguments:?}: {message}");
    }
    let names = ["--model", "model", "--adapters", "--control", &own];
    let report = run(path, &names);
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("sd1_edges: controlnet"), "{report}");
}

#[test]
fn a_second_pass_enlarges_what_the_first_drew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let small = ["a cube", "--steps", "4", "--width", "64", "--height", "48"];
    let draw = |more: &[&str]| {
        let output = run(path, &[&small[..], &["--json"], more].concat());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{more:?}: {message}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let steps = report["step_seconds"].as_array().unwrap().len();
        let picture = image::open(path.join("out.png")).unwrap().into_rgb8();
        (picture, steps)
    };
    let (plain, steps) = draw(&[]);
    assert_eq!((plain.dimensions(), steps), ((64, 48), 4));
    let (latent, steps) = draw(&["--hires", "1.5"]);
    assert_eq!((latent.dimensions(), steps), ((96, 72), 6));
    let all = [
        "--hires-strength",
        "0.7",
        "--upscaler",
        "latent",
        "--hires-steps",
        "4",
    ];
    assert_eq!(draw(&[&["--hires", "1.5"], &all[..]].concat()).0, latent);
    let lanczos = [
        "--hires",
        "1.5",
        "--upscaler",
        "lanczos",
        "--hires-strength",
        "0.5",
    ];
    let (picture, steps) = draw(&lanczos);
    assert_eq!((picture.dimensions(), steps), ((96, 72), 6));
    assert_ne!(picture, latent);
    // The record has both passes.
    let again = run(path, &["--redraw", "out.png", "--output", "again.png"]);
    let message = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(again.status.success(), "{message}");
    assert!(fs::read(path.join("out.png")).unwrap() == fs::read(path.join("again.png")).unwrap());

    let refused = |arguments: &[&str]| refused(path, arguments);
    assert!(refused(&["--upscaler", "lanczos"]).contains("--hires"));
    assert!(refused(&["--hires-strength", "0.5"]).contains("--hires"));
    assert!(refused(&["--hires", "2", "--upscaler", "magic"]).contains("latent-bicubic"));
    for factor in ["0.5", "NaN", "-2"] {
        assert!(refused(&["--hires", factor]).contains("hires.factor is"));
    }
    assert!(refused(&["--hires", "1000"]).contains("16384"));
    assert!(refused(&["--hires", "2", "--hires-strength", "2"]).contains("strength is 2"));
}

#[test]
fn previews_lie_beside_the_picture() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let few = ["--steps", "5", "--preview-every", "2"];
    drawn_with(path, &few);
    let found = |wanted: &[&str]| {
        let wanted: BTreeSet<_> = wanted.iter().map(|name| path.join(name)).collect();
        assert_eq!(names(path), wanted);
        names(path)
            .into_iter()
            .for_each(|file| fs::remove_file(file).unwrap());
    };
    let open = |name: &str| image::open(path.join(name)).unwrap().into_rgb8();
    let [early, late, whole] = ["out-step-2.png", "out-step-4.png", "out.png"].map(open);
    assert_eq!(
        (early.dimensions(), late.dimensions()),
        ((128, 128), (128, 128))
    );
    // They show the picture.
    let far = |image: &image::RgbImage| {
        let pairs = image.as_raw().iter().zip(whole.as_raw());
        let sum: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        sum / whole.as_raw().len() as f64
    };
    assert!(early != late && far(&early) < 15.0 && far(&late) < 15.0);
    found(&["out-step-2.png", "out-step-4.png", "out.png"]);

    // Of every picture, in the picture's format, over both passes.
    let more = [
        "--count", "2", "--output", "a.jpg", "--width", "64", "--hires", "1.5",
    ];
    drawn_with(
        path,
        &[&["--steps", "4", "--preview-every", "3"], &more[..]].concat(),
    );
    let jpg = image::open(path.join("a-1-step-3.jpg")).unwrap();
    assert_eq!((jpg.width(), jpg.height()), (64, 128));
    found(&["a-0-step-3.jpg", "a-1-step-3.jpg", "a-0.jpg", "a-1.jpg"]);

    let refused = |arguments: &[&str]| refused(path, arguments);
    assert!(refused(&["--preview-every", "0"]).contains("--preview-every"));
    if cfg!(unix) {
        let stream = refused(&["--preview-every", "1", "--output", "/dev/null"]);
        assert!(stream.contains("/dev/null"), "{stream}");
    }
}

fn drawn_with(folder: &Path, arguments: &[&str]) {
    let output = run(folder, arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {message}");
}

#[test]
fn a_model_that_sees_the_picture_changes_it() {
    use sd_tiny::micro::{Family, Layout, Micro};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let micro = Micro::new(Family::InstructPix2Pix, Layout::Diffusers, 0).unwrap();
    micro.write_to(path.join("model")).unwrap();
    let image = image::RgbImage::from_fn(75, 50, |x, y| [x as u8 * 3, y as u8 * 5, 90].into());
    image.save(path.join("in.png")).unwrap();
    let command = ["make it snow", "--model", "model", "--image", "in.png"];
    let edit = |more: &[&str]| {
        let few = ["--steps", "2", "--latents-out", "l.safetensors"];
        let arguments = [&command[..], &few, more].concat();
        example("edit_image", path, &arguments).output().unwrap()
    };
    let latents = |more: &[&str]| {
        let output = edit(more);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{more:?}: {message}");
        fs::read(path.join("l.safetensors")).unwrap()
    };
    let plain = latents(&[]);
    let picture = image::open(path.join("out.png")).unwrap();
    assert_eq!((picture.width(), picture.height()), (72, 48));
    assert_eq!(latents(&["--image-guidance", "1.5"]), plain);
    assert_ne!(latents(&["--image-guidance", "1.2"]), plain);
    assert_ne!(latents(&["--guidance", "4"]), plain);
    for (option, value) in [("--strength", "0.5"), ("--image-guidance", "NaN")] {
        let output = edit(&[option, value]);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(
            message.contains(option) || message.contains("image_guidance_scale"),
            "{message}"
        );
    }
    // Other models take no guidance by the picture.
    let arguments = ["a cube", "--image", "in.png", "--image-guidance", "1.5"];
    let output = example("edit_image", path, &arguments).output().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("takes no picture beside"), "{message}");
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

/// The largest difference between two files of latents of one size.
fn difference(a: &[u8], b: &[u8]) -> f32 {
    let values = |file: &[u8]| -> Vec<f32> {
        let (length, rest) = file.split_first_chunk().unwrap();
        let data = &rest[u64::from_le_bytes(*length) as usize..];
        let values = data.as_chunks().0.iter();
        values.map(|bytes| f32::from_le_bytes(*bytes)).collect()
    };
    let (a, b) = (values(a), values(b));
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(&b).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, f32::max)
}

#[test]
fn prompts_are_read_in_their_syntax() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let own = |arguments: &[&str]| {
        let size = ["--width", "64", "--height", "64", "--steps", "3"];
        latents(folder, &[&size[..], arguments].concat())
    };
    let syntax = |syntax, prompt| own(&["--prompt-syntax", syntax, prompt]);
    let plain = own(&["a red cube"]);
    // Prompts are encoded in other company, which shows in last bits.
    let same = |a: &[u8], b: &[u8]| difference(a, b) < 1e-3;
    for name in ["a1111", "comfyui", "compel"] {
        assert!(same(&syntax(name, "a red cube"), &plain), "{name}");
    }
    let weighted = "a (red:1.5) cube";
    let [a1111, comfyui] = ["a1111", "comfyui"].map(|name| syntax(name, weighted));
    let others = [
        syntax("compel", "a (red)0.5 cube"),
        syntax("a1111:no norm", weighted),
        // Three steps: the second text comes with the third.
        syntax("a1111", "a [red:blue:1] cube"),
        syntax("a1111", "a red cube AND blue"),
        own(&["--clip-skip", "1", "a red cube"]),
        own(&["a blue cube"]),
    ];
    let all: Vec<&Vec<u8>> = [&plain, &a1111, &comfyui]
        .into_iter()
        .chain(&others)
        .collect();
    for (k, one) in all.iter().enumerate() {
        for other in &all[..k] {
            assert!(!same(one, other), "{k}");
        }
    }
    assert!(same(&syntax("compel", "a (red)1.5 cube"), &comfyui));
    assert!(same(&syntax("a1111:ignore", weighted), &plain));
    assert!(same(&syntax("a1111", "a [red:blue:2] cube"), &plain));

    let message = refused(folder, &["--prompt-syntax", "a1111", "a (b:1.1.1)"]);
    assert!(
        message.contains("at character 5 of the prompt"),
        "{message}"
    );
    let message = refused(folder, &["--prompt-syntax", "webui", "a"]);
    assert!(
        message.contains("expected one of plain, a1111"),
        "{message}"
    );
    assert!(refused(folder, &["--clip-skip", "9", "a"]).contains("clip_skip is 9"));
}

#[test]
fn mistakes_are_refused_in_words() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |arguments: &[&str]| refused(folder.path(), arguments);
    assert!(refused(&["--output", "no/such/out.png"]).contains("no/such does not exist"));
    assert!(refused(&["--latents-out", "no/l.safetensors"]).contains("no does not exist"));
    assert!(refused(&["--output", "."]).contains("it is a folder"));
    assert!(refused(&["--width", "100"]).contains("width is 100"));
    assert!(refused(&["--guidance", "NaN"]).contains("guidance_scale is NaN"));
    assert!(refused(&["--steps", "0"]).contains("steps is 0"));
    assert!(refused(&["--count", "0"]).contains("count is 0"));
    assert!(refused(&["--scheduler", "none"]).contains("Euler"));
    assert!(refused(&["--device", "gpu"]).contains("known are flex"));
    assert!(refused(&["--model", "nowhere"]).contains("model_index.json"));
    assert!(refused(&["--latents-in", "nothing"]).contains("nothing"));
}

#[test]
fn the_ending_says_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let picture = |name: &str| {
        drawn(folder.path(), &["--output", name]);
        let bytes = fs::read(folder.path().join(name)).unwrap();
        let format = image::guess_format(&bytes).unwrap();
        let image = image::load_from_memory(&bytes).unwrap().into_rgb8();
        (format, image)
    };
    let (format, exact) = picture("o.png");
    assert_eq!(format, image::ImageFormat::Png);
    for name in ["o.webp", "O.WebP", "o", "O.PNG"] {
        let (format, image) = picture(name);
        let webp = name.to_lowercase().ends_with("webp");
        assert_eq!(format == image::ImageFormat::WebP, webp, "{name}");
        assert_eq!(image, exact, "{name}");
    }
    for name in ["o.jpg", "o.jpeg", "o.JPG"] {
        let (format, image) = picture(name);
        assert_eq!(format, image::ImageFormat::Jpeg, "{name}");
        assert_eq!(image.dimensions(), exact.dimensions());
        let pairs = image.as_raw().iter().zip(exact.as_raw());
        let off: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
        let off = off / exact.as_raw().len() as f64;
        assert!(off < 2.0, "{name}: {off}");
    }
    // Before a model is opened.
    for name in ["o.gif", "o.safetensors", "v1.5", "o.png ", "o.png.bak"] {
        let message = refused(folder.path(), &["--model", "nowhere", "--output", name]);
        assert!(message.contains("expected .png, .jpg"), "{message}");
    }
}

#[test]
fn a_random_seed_is_printed_and_draws_again() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |seed: &str| {
        let arguments = ["--steps", "1", "--json", "--seed", seed];
        let output = run(folder.path(), &arguments);
        assert!(output.status.success());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let picture = fs::read(folder.path().join("out.png")).unwrap();
        (report["seed"].as_u64().unwrap(), said, picture)
    };
    let (first, said, picture) = draw("-1");
    assert_eq!(said, format!("seed {first}\n"));
    let (second, ..) = draw("-1");
    assert_ne!(first, second);
    assert_eq!(draw(&first.to_string()), (first, String::new(), picture));
    // No digit is lost.
    assert_eq!(draw(&u64::MAX.to_string()).0, u64::MAX);
    for seed in ["-2", "1.5", "x", "18446744073709551616", ""] {
        let message = refused(folder.path(), &["--seed", seed]);
        assert!(message.contains("-1 for a random one"), "{message}");
    }
}

#[test]
fn a_picture_is_drawn_again_from_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    let size = ["--width", "64", "--height", "72", "--scheduler", "Euler a"];
    let asked = [
        "a green cone, \"lit\"",
        "--negative",
        "",
        "--seed",
        "5",
        "--count",
        "2",
    ];
    for ending in ["png", "webp", "jpg"] {
        let [first, again] = ["first", "again"].map(|name| format!("{name}.{ending}"));
        drawn(folder, &[&asked[..], &size, &["--output", &first]].concat());
        let second = format!("first-1.{ending}");
        let output = run(folder, &["--redraw", &second, "--output", &again]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
        assert_eq!(message, "");
        assert!(read(&second) == read(&again), "{ending}");
    }
    drawn(
        folder,
        &[&size[..], &["--no-record", "--output", "plain.png"]].concat(),
    );
    let message = refused(folder, &["--redraw", "plain.png", "--output", "c.png"]);
    assert!(
        message.contains("plain.png: no record of how it was drawn"),
        "{message}"
    );
    let message = refused(folder, &["--redraw", "first-0.png", "--seed", "6"]);
    assert!(message.contains("cannot be used with '--seed"), "{message}");
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
fn what_a_log_gets_is_short_and_without_colours() {
    let folder = tempfile::tempdir().unwrap();
    let long: Vec<String> = (0..12_000).map(|k| format!("é{k}")).collect();
    let long = long.join(" ");
    let said = drawn(folder.path(), &[&long]);
    assert!(!said.contains('\x1b'), "{said}");
    let line = said.lines().next().unwrap();
    assert!(
        said.len() < 500 && line.contains("its end is cut"),
        "{said}"
    );
    let cut = line.split('"').nth(1).unwrap();
    assert!(cut.ends_with('…') && cut.chars().count() == 101, "{cut}");
    assert!(long.contains(cut.trim_end_matches('…')), "{cut}");
}

#[test]
fn a_negative_prompt_without_guidance_is_drawn_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let negative = ["--negative", "a blue ring"];
    for scale in ["1", "0", "-3"] {
        let said = drawn(
            folder.path(),
            &[&["--guidance", scale], &negative[..]].concat(),
        );
        assert!(said.contains("negative prompt has no effect"), "{said}");
    }
    let said = drawn(
        folder.path(),
        &[&["--guidance", "1.1"], &negative[..]].concat(),
    );
    assert_eq!(said, "");
    assert_eq!(drawn(folder.path(), &["--guidance", "1"]), "");
}

#[test]
fn nobody_who_listens_is_no_reason_to_panic() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(folder.path(), &["--steps", "1", "--json"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "the report is lost");
    assert!(folder.path().join("out.png").exists());
    if let Ok(full) = fs::File::options().write(true).open("/dev/full") {
        let mut command = program(folder.path(), &["--steps", "0"]);
        let status = command.stderr(full).status().unwrap();
        assert_eq!(status.code(), Some(1));
    }
}

#[test]
fn two_outputs_in_one_file_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::create_dir(path.join("sub")).unwrap();
    let absolute = path.join("a.png");
    let absolute = absolute.to_str().unwrap();
    let both = |picture: &str, latents: &str, more: &[&str]| {
        let outputs = ["--output", picture, "--latents-out", latents];
        let message = refused(path, &[&outputs, more].concat());
        assert!(message.contains("are both"), "{message}");
    };
    for latents in ["a.png", "./a.png", "sub/../a.png", absolute] {
        both("a.png", latents, &[]);
    }
    both("ring.png", "ring-1.png", &["--count", "2"]);
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("a.png", path.join("link.png")).unwrap();
        std::os::unix::fs::symlink(path, path.join("folder")).unwrap();
        both("link.png", "a.png", &[]);
        both("a.png", "folder/link.png", &[]);
        fs::write(path.join("a.png"), "").unwrap();
        fs::hard_link(path.join("a.png"), path.join("hard.png")).unwrap();
        both("a.png", "hard.png", &[]);
    }
    let output = ["--output", "ring.png", "--latents-out", "ring-2.png"];
    drawn(path, &[&output[..], &["--count", "2"]].concat());
}

#[cfg(unix)]
mod places {
    use std::io::Read;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};

    use super::*;

    fn is_png(file: &Path) -> bool {
        fs::read(file).unwrap().starts_with(b"\x89PNG")
    }

    fn made(command: &str, arguments: &[&str], folder: &Path) -> bool {
        let mut command = Command::new(command);
        let made = command.args(arguments).current_dir(folder);
        made.status().is_ok_and(|status| status.success())
    }

    #[test]
    fn a_pipe_and_a_device_are_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert!(made("mkfifo", &["pipe", "pipe.jpg", "pipe.fifo"], path));
        for (name, start) in [
            ("pipe", &b"\x89PNG"[..]),
            ("pipe.jpg", b"\xff\xd8"),
            ("pipe.fifo", b"\x89PNG"),
        ] {
            let pipe = path.join(name);
            let reader = {
                let pipe = pipe.clone();
                std::thread::spawn(move || fs::read(pipe).unwrap())
            };
            drawn(path, &["--output", name]);
            assert!(reader.join().unwrap().starts_with(start), "{name}");
            assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        }
        // The latents, too; one pipe for both is a muddle.
        let reader = {
            let pipe = path.join("pipe");
            std::thread::spawn(move || fs::read(pipe).unwrap())
        };
        drawn(path, &["--latents-out", "pipe"]);
        assert!(reader.join().unwrap().len() > 4096);
        let message = refused(path, &["--output", "pipe", "--latents-out", "./pipe"]);
        assert!(message.contains("are both"), "{message}");

        // Only root makes devices, and not in every container.
        let null = path.join("null");
        let usable = made("mknod", &["null", "c", "1", "3"], path)
            && fs::File::options().write(true).open(&null).is_ok();
        if usable {
            let both = ["--output", "null", "--latents-out", "null"];
            drawn(path, &both);
            drawn(path, &[&both[..], &["--count", "3"]].concat());
            let kind = fs::metadata(&null).unwrap().file_type();
            assert!(kind.is_char_device());
            assert!(!path.join("null-0.png").exists());
        }
    }

    #[test]
    fn standard_output_takes_a_picture_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["--steps", "1", "--output", "/dev/stdout"];
        let piped = run(folder.path(), &arguments).stdout;
        assert!(piped.starts_with(b"\x89PNG"));
        assert_eq!(names(folder.path()).len(), 0);
        // As `>>` does it.
        let log = folder.path().join("log");
        fs::write(&log, "before").unwrap();
        let file = fs::File::options().append(true).open(&log).unwrap();
        let mut command = program(folder.path(), &arguments);
        assert!(command.stdout(file).status().unwrap().success());
        let mut written = Vec::new();
        let mut file = fs::File::open(&log).unwrap();
        file.read_to_end(&mut written).unwrap();
        assert_eq!(written, [b"before", &piped[..]].concat());
    }

    #[test]
    fn links_stay_and_modes_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let target = path.join("target.png");
        symlink("target.png", path.join("link.png")).unwrap();
        symlink("link.png", path.join("second.png")).unwrap();
        // First a link to nothing, then one to an old file.
        drawn(path, &["--output", "second.png"]);
        fs::set_permissions(&target, fs::Permissions::from_mode(0o640)).unwrap();
        fs::write(&target, "old").unwrap();
        drawn(path, &["--output", "second.png"]);
        for link in ["link.png", "second.png"] {
            assert!(path.join(link).is_symlink(), "{link}");
        }
        assert!(is_png(&target) && !target.is_symlink());
        let mode = fs::metadata(&target).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(names(path).len(), 3, "a temporary file is left");
        symlink("round.png", path.join("round.png")).unwrap();
        let message = refused(path, &["--output", "round.png"]);
        assert!(message.contains("too many links"), "{message}");
    }

    #[test]
    fn what_cannot_be_written_is_refused_before_the_model_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let sealed = path.join("sealed.png");
        fs::write(&sealed, "sealed").unwrap();
        fs::set_permissions(&sealed, fs::Permissions::from_mode(0o444)).unwrap();
        fs::create_dir(path.join("folder")).unwrap();
        symlink("folder", path.join("link.png")).unwrap();
        symlink("no/such.png", path.join("nowhere.png")).unwrap();
        let long = format!("{}.png", "x".repeat(300));
        let mut hopeless = vec![
            "sealed.png",
            "folder",
            "link.png",
            "nowhere.png",
            "new.png/",
            "sealed.png/a.png",
            "..",
            "",
            &long,
        ];
        if cfg!(target_os = "linux") {
            hopeless.extend(["/proc/x.png", "/sys/x.png"]);
        }
        fs::create_dir(path.join("closed")).unwrap();
        let closed = fs::Permissions::from_mode(0o555);
        fs::set_permissions(path.join("closed"), closed).unwrap();
        // Root may write there all the same.
        if fs::write(path.join("closed/probe"), "").is_err() {
            hopeless.push("closed/x.png");
        }
        for name in hopeless {
            for option in ["--output", "--latents-out"] {
                let arguments = ["--model", "nowhere-at-all", option, name];
                let message = refused(path, &arguments);
                assert!(!message.contains("nowhere-at-all"), "{message}");
                assert!(message.starts_with("error: "), "{message}");
            }
        }
        assert_eq!(fs::read(&sealed).unwrap(), b"sealed");
    }

    #[test]
    fn a_name_of_any_bytes_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let name = std::ffi::OsStr::from_bytes(b"ring\xff.v1.png");
        let mut command = program(folder.path(), &["--steps", "1", "--count", "2"]);
        command.arg("--output").arg(name);
        let output = command.output().unwrap();
        if output.status.success() {
            let found = names(folder.path());
            let first = folder
                .path()
                .join(std::ffi::OsStr::from_bytes(b"ring\xff.v1-0.png"));
            assert!(found.contains(&first), "{found:?}");
        }
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

#[test]
fn flagged_pictures_are_as_the_choice_says() {
    let folder = tempfile::tempdir().unwrap();
    write_guarded_model(&folder.path().join("model"));
    let usual = [
        "--model",
        "model",
        "--steps",
        "1",
        "--guidance",
        "2",
        "--json",
    ];
    let draw = |name: &str, safety: &[&str]| {
        let file = format!("{name}.png");
        let output = run(
            folder.path(),
            &[&usual[..], &["--output", &file], safety].concat(),
        );
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{name}: {message}");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let picture = image::open(folder.path().join(file)).unwrap().to_rgb8();
        (picture, report["flagged"].clone(), message)
    };
    let (off, flagged, message) = draw("off", &["--safety", "off"]);
    assert_eq!(flagged, serde_json::json!([false]));
    assert_eq!(
        message
            .lines()
            .filter(|line| line.contains("safety"))
            .count(),
        1,
        "{message}"
    );
    let (black, flagged, _) = draw("black", &[]);
    assert_eq!(flagged, serde_json::json!([true]));
    assert!(black.iter().all(|byte| *byte == 0) && off.iter().any(|byte| *byte != 0));
    let (flag, flagged, _) = draw("flag", &["--safety", "flag"]);
    assert_eq!((flag, flagged), (off.clone(), serde_json::json!([true])));
    let (blur, flagged, _) = draw("blur", &["--safety", "blur"]);
    assert_eq!(flagged, serde_json::json!([true]));
    assert!(blur != off && blur.iter().any(|byte| *byte != 0));

    let refuse = [
        &usual[..],
        &["--safety", "refuse", "--output", "refused.png"],
    ]
    .concat();
    let message = refused(folder.path(), &refuse);
    assert!(
        message.contains("safety checker refuses") && message.contains("concept 0"),
        "{message}"
    );
}

#[test]
fn clip_score_prints_a_cosine_and_a_logit_for_each_text() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir_all(&model).unwrap();
    for entry in fs::read_dir(sd_fixtures::path("clip_whole")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, model.join(path.file_name().unwrap())).unwrap();
    }
    let tokenizer = sd_tiny::files().folder("tokenizer");
    for name in tokenizer.names() {
        fs::write(model.join(&name), tokenizer.read(&name).unwrap()).unwrap();
    }
    let fixture = sd_fixtures::Fixture::open("similarity");
    let texts: Vec<String> = serde_json::from_value(fixture.settings()["texts"].clone()).unwrap();
    let picture = image::RgbImage::from_raw(30, 30, sd_fixtures::picture(0, 30, 30)).unwrap();
    picture.save(folder.path().join("picture.png")).unwrap();
    let mut arguments = vec!["picture.png", "--model", "model", "--json"];
    arguments.extend(texts.iter().map(String::as_str));
    let output = example("clip_score", folder.path(), &arguments)
        .output()
        .unwrap();
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && message.contains("its end is cut"),
        "{message}"
    );
    let scores: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for (key, tolerance) in [("cosines", 1e-5), ("logits", 1e-3)] {
        let found: Vec<f64> = serde_json::from_value(scores[key].clone()).unwrap();
        assert_eq!(found.len(), texts.len());
        for (found, expected) in found.iter().zip(fixture.values(key)) {
            assert!(
                (found - expected).abs() < tolerance,
                "{key}: {found} {expected}"
            );
        }
    }
    let usage = example(
        "clip_score",
        folder.path(),
        &["picture.png", "--model", "model"],
    )
    .output();
    assert_eq!(usage.unwrap().status.code(), Some(2));
    let gone = example(
        "clip_score",
        folder.path(),
        &["gone.png", "a cat", "--model", "model"],
    );
    let output = { gone }.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("error: gone.png"));
    assert_eq!(output.status.code(), Some(1));
}

/// The micro model of Stable Diffusion 1 and a picture, in a folder.
fn micro(folder: &Path) {
    let micro = Micro::new(Family::Sd1, Layout::Diffusers, 0).unwrap();
    micro.write_to(folder.join("model")).unwrap();
    let picture = sd_fixtures::picture(5, 40, 31);
    let picture = image::RgbImage::from_raw(40, 31, picture).unwrap();
    picture.save(folder.join("picture.png")).unwrap();
}

#[test]
fn image_prompts_draw_another_picture_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    micro(folder);
    let of = |name: &str| model(&format!("image_prompts/{name}"));
    let size = ["--model", "model", "--width", "64", "--height", "64"];
    let file = |name: &str| fs::read(folder.join(name)).unwrap();
    let draw = |more: &[&str], output: &str| {
        drawn(
            folder,
            &[&size, more, &["--output", output, "--no-record"]].concat(),
        );
        file(output)
    };
    let none = draw(&[], "none.png");
    let (plain, plus) = (of("sd1_plain"), of("sd1_plus"));
    let one = draw(
        &["--ip-adapter", &format!("{plain},picture.png")],
        "one.png",
    );
    assert_ne!(none, one);
    let whole = draw(
        &["--ip-adapter", &format!("{plain},picture.png,1.0")],
        "whole.png",
    );
    assert_eq!(one, whole);
    let nothing = draw(
        &["--ip-adapter", &format!("{plus},picture.png,0")],
        "nothing.png",
    );
    assert_eq!(none, nothing);
    // The file's own path, and two adapters at once.
    let own = format!("{plain}/adapter.safetensors,picture.png,0.5");
    let two = [
        "--ip-adapter",
        &own,
        "--ip-adapter",
        &format!("{plus},picture.png"),
    ];
    assert_ne!(draw(&two, "two.png"), one);

    let report = run(
        folder,
        &[&size[..2], &two, &["--adapters", "--json"]].concat(),
    );
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).unwrap();
    let adapters = report["adapters"].as_array().unwrap();
    assert_eq!(adapters.len(), 2);
    assert_eq!(adapters[0]["kind"], "ip_adapter");
    assert_eq!(adapters[1]["matched"], 17);

    let prompt = format!("{plain},picture.png");
    drawn(
        folder,
        &[
            &size[..],
            &["--ip-adapter", &prompt, "--output", "told.png"],
        ]
        .concat(),
    );
    let message = refused(
        folder,
        &[
            "--model",
            "model",
            "--redraw",
            "told.png",
            "--output",
            "again.png",
        ],
    );
    assert!(message.contains("image_prompts"), "{message}");
}

#[test]
fn image_prompts_that_cannot_be_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    micro(folder);
    fs::write(folder.join("words.png"), "no picture").unwrap();
    let of = |name: &str| model(&format!("image_prompts/{name}"));
    let (plain, xl) = (of("sd1_plain"), of("sdxl_plus"));
    for (prompt, words) in [
        (plain.clone(), "DIR,PICTURE"),
        (format!("{plain},"), "DIR,PICTURE"),
        (format!("{plain},picture.png,NaN"), "finite"),
        (format!("{plain},nowhere.png"), "nowhere.png"),
        (format!("{plain},words.png"), "words.png"),
        ("nowhere,picture.png".into(), "nowhere"),
        ("model,picture.png".into(), "no IP-Adapter"),
        (format!("{plain}/image_encoder,picture.png"), "IP-Adapter"),
        (format!("{xl},picture.png"), "the family sdxl"),
    ] {
        let arguments = ["--model", "model", "--steps", "1", "--ip-adapter", &prompt];
        let message = refused(folder, &arguments);
        assert!(message.contains(words), "{prompt}: {message}");
    }
}
