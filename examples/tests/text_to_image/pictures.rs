//! Pictures that steer, begin, prompt, follow or are judged.

use super::*;

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
