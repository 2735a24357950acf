//! Lending a device and drawing on it, as processes of their own.

use std::io::{BufRead, BufReader, Lines};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use image::RgbImage;

/// Built by `cargo test` without `--test`, or by naming it: `--example NAME`.
fn program(name: &str) -> Command {
    let test = std::env::current_exe().expect("the test's own path");
    let profile = test.ancestors().nth(2).expect("target/<profile>");
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let path: PathBuf = profile.join("examples").join(file);
    assert!(path.exists(), "{} is not built", path.display());
    Command::new(path)
}

fn run(name: &str, arguments: &[&str], folder: &Path) -> Output {
    let mut program = program(name);
    program.args(arguments).current_dir(folder);
    program.output().unwrap()
}

fn refused(name: &str, arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let output = run(name, arguments, folder.path());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} was accepted");
    assert!(!message.contains("panicked"), "{arguments:?}: {message}");
    message
}

/// A process that ends with its owner, and what it prints.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(name: &str, arguments: &[&str], folder: &Path) -> Self {
        let mut program = program(name);
        program.args(arguments).current_dir(folder);
        let mut child = program.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The example serving flex, and the address it prints.
    fn serving(token: &[&str]) -> (Self, String) {
        let arguments = ["--device", "flex", "--listen", "127.0.0.1:0"];
        let mut server = Self::start(
            "serve_device",
            &[&arguments, token].concat(),
            Path::new("."),
        );
        let line = server.line();
        let address = line.strip_prefix("flex is remote:").expect("its address");
        (server, address.to_string())
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("a line").unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn picture(file: PathBuf) -> RgbImage {
    image::open(file).unwrap().into_rgb8()
}

fn alike(a: &RgbImage, b: &RgbImage) -> bool {
    let mut bytes = a.as_raw().iter().zip(b.as_raw());
    a.dimensions() == b.dimensions() && bytes.all(|(a, b)| a.abs_diff(*b) <= 1)
}

#[test]
fn the_picture_is_the_local_one() {
    let (_server, address) = Process::serving(&[]);
    let folder = tempfile::tempdir().unwrap();
    let device = format!("remote:{address}");
    let pictures = ["flex", &device].map(|device| {
        let arguments = ["--steps", "4", "--device", device];
        let output = run("text_to_image", &arguments, folder.path());
        assert!(output.status.success(), "{output:?}");
        picture(folder.path().join("out.png"))
    });
    assert!(alike(&pictures[0], &pictures[1]));
}

#[test]
fn what_a_lost_server_had_begun_another_draws() {
    let [(one, first), (_two, second)] = [(); 2].map(|()| Process::serving(&["--token", "open"]));
    let prompts = ["a red cube", "a blue sphere", "a green cone"];
    let folder = tempfile::tempdir().unwrap();
    let servers = ["--server", &first, "--server", &second];
    let options = ["--token", "open", "--steps", "20"];
    let arguments = [&prompts[..], &servers, &options].concat();
    let mut client = Process::start("draw_remotely", &arguments, folder.path());
    for server in [&first, &second] {
        assert!(client.line().starts_with(&format!("{server}: opened in")));
    }
    drop(one);
    for _ in prompts {
        let line = client.line();
        assert!(line.starts_with(&second), "{line}");
        assert!(line.contains("20 steps of"), "{line}");
    }
    assert!(client.child.wait().unwrap().success());

    for (number, prompt) in prompts.iter().enumerate() {
        assert!(
            run("text_to_image", &[prompt], folder.path())
                .status
                .success()
        );
        let files = [format!("{number}.png"), "out.png".into()];
        let [remote, local] = files.map(|file| picture(folder.path().join(file)));
        assert!(alike(&remote, &local), "{prompt}");
    }
}

#[test]
fn mistakes_are_refused_in_words() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let its_address = taken.local_addr().unwrap().to_string();
    let serve = |arguments: &[&str]| refused("serve_device", arguments);
    let free = ["--listen", "127.0.0.1:0"];
    assert!(serve(&["--listen", "nowhere"]).contains("cannot listen at nowhere"));
    assert!(serve(&[&free[..], &["--device", "gpu"]].concat()).contains("known are flex"));
    assert!(serve(&[&free[..], &["--token", ""]].concat()).contains("token is empty"));
    assert!(serve(&["--listen", "0.0.0.0:0"]).contains("give a --token"));
    assert!(serve(&["--listen", &its_address]).contains("--listen names another address"));

    let (_server, address) = Process::serving(&["--token", "open"]);
    let at = ["--server", &address, "--token", "open"];
    let draw = |arguments: &[&str]| refused("draw_remotely", arguments);
    assert!(draw(&[]).contains("--server <URL>"));
    let wrong = draw(&["--server", &address, "--token", "guess"]);
    assert!(wrong.contains("no server is left"), "{wrong}");
    assert!(wrong.contains("no server answers"), "{wrong}");
    assert!(draw(&["--server", "gpu:3000"]).contains("ws://gpu:3000"));
    let no_folder = draw(&[&at[..], &["--output", "nowhere"]].concat());
    assert!(no_folder.contains("no folder nowhere"), "{no_folder}");
    let no_steps = draw(&[&at[..], &["--steps", "0"]].concat());
    assert!(no_steps.contains("steps is 0"), "{no_steps}");
}
