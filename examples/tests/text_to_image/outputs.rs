//! Files that are written, and pictures drawn again from them.

use super::*;

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

#[test]
fn a_picture_in_int8_is_drawn_again_in_int8() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // The sums are whole numbers: what another processor's instructions do is the same.
    let draw = |arguments: &[&str]| {
        let mut example = example("text_to_image", folder, arguments);
        let output = example.env("SD_KERNELS_INT8", "emulated").output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
    };
    let few = ["--steps", "2", "--width", "64", "--height", "64"];
    let own = |more: &[&'static str]| [&["a red cube"][..], &few, more].concat();
    draw(&own(&["--output", "plain.png"]));
    draw(&own(&["--compute", "int8", "--output", "int8.png"]));
    draw(&["--redraw", "int8.png", "--output", "again.png"]);
    let read = |name: &str| fs::read(folder.join(name)).unwrap();
    assert!(read("int8.png") == read("again.png"));
    let pixels = |name: &str| image::open(folder.join(name)).unwrap().into_rgb8();
    let [plain, int8] = ["plain.png", "int8.png"].map(pixels);
    let pairs = plain.as_raw().iter().zip(int8.as_raw());
    let far: f64 = pairs.map(|(a, b)| f64::from(a.abs_diff(*b))).sum();
    let far = far / plain.as_raw().len() as f64;
    assert!(far > 0.01 && far < 15.0, "{far}");
    let refusal = refused(folder, &["--redraw", "int8.png", "--compute", "int8"]);
    assert!(
        refusal.contains("cannot be used with '--compute"),
        "{refusal}"
    );
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
