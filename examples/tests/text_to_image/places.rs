//! Places to write to: pipes, devices, links, folders.

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
