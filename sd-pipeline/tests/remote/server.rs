//! Servers to draw on: Burn's in a process of its own, and what may stand between.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sd_pipeline::devices;

/// Names the role in which this program is started once more.
const ROLE: &str = "SD_REMOTE_TEST_SERVER";
const TOKEN: &str = "open sesame";

/// A Burn server on flex in a process that can be killed.
pub(crate) struct Server {
    process: Child,
    /// Kept open: a server that cannot print would end.
    _output: ChildStdout,
    pub(crate) port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_as("open", 0)
    }

    /// One that asks for the token.
    pub(crate) fn guarded() -> (Self, &'static str) {
        (Self::start_as("guarded", 0), TOKEN)
    }

    /// One at the port of another that is gone.
    pub(crate) fn start_at(port: u16) -> Self {
        Self::start_as("open", port)
    }

    fn start_as(role: &str, port: u16) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "server_process", "--nocapture"])
            .env(ROLE, format!("{role} {port}"))
            .env("RUST_LOG", "off")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = process.stdout.take().unwrap();
        let lines = BufReader::new(&mut output).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("port ")?.parse().ok());
        let port = port.expect("the server says its port");
        Self {
            process,
            _output: output,
            port,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The other side of [`Server`]: serves until the parent process is gone. Does nothing where this
/// program was started to test.
pub(crate) fn serve_if_asked() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let (role, port) = role.split_once(' ').unwrap();
    // Its port may still be held for a moment by the connections of a server that was killed.
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, port.parse().unwrap()));
    let listener = (0..100).find_map(|_| {
        let bound = bind().ok();
        if bound.is_none() {
            thread::sleep(Duration::from_millis(50));
        }
        bound
    });
    let listener = listener.expect("the port is free");
    println!("\nport {}", listener.local_addr().unwrap().port());
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let token = (role == "guarded").then_some(TOKEN);
    devices::serve(listener, &[devices::open("flex").unwrap()], token).unwrap();
}

/// What a [`Proxy`] does with what passes.
#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub(crate) enum Mode {
    Pass,
    /// Takes everything, connections too, and gives nothing on.
    Freeze,
    /// Changes every byte the server sends on the first connection, the session's.
    Garble,
    /// Keeps back what the server sends on the first connection, the session's.
    Withhold,
}

/// Stands between client and server, counts and interferes.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    state: Arc<State>,
}

struct State {
    mode: AtomicU8,
    /// Bytes of the first connection, to the server and back.
    passed: [AtomicU64; 2],
    open: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    pub(crate) fn before(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            mode: AtomicU8::new(Mode::Pass as u8),
            passed: Default::default(),
            open: Mutex::default(),
        });
        let shared = state.clone();
        thread::spawn(move || {
            for (k, client) in listener.incoming().enumerate() {
                let to = SocketAddr::from((Ipv4Addr::LOCALHOST, server));
                let (Ok(client), Ok(server)) = (client, TcpStream::connect(to)) else {
                    continue;
                };
                for (from, to, back) in [(&client, &server, false), (&server, &client, true)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = shared.clone();
                    thread::spawn(move || shared.pass(from, to, back, k == 0));
                }
                shared.open.lock().unwrap().extend([client, server]);
            }
        });
        Self { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://127.0.0.1:{}", self.port)
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state.mode.store(mode as u8, SeqCst);
    }

    /// Bytes so far to the server and back, on the session's connection.
    pub(crate) fn passed(&self) -> [u64; 2] {
        [0, 1].map(|k| self.state.passed[k].load(SeqCst))
    }

    /// Ends every connection.
    pub(crate) fn close(&self) {
        for stream in self.state.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn pass(&self, mut from: TcpStream, mut to: TcpStream, back: bool, session: bool) {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = from.read(&mut buffer) {
            let mode = self.mode.load(SeqCst);
            let answer = back && session;
            if mode == Mode::Garble as u8 && answer {
                buffer[..n].iter_mut().for_each(|byte| *byte ^= 0xa5);
            }
            let kept = mode == Mode::Freeze as u8 || mode == Mode::Withhold as u8 && answer;
            if !kept && to.write_all(&buffer[..n]).is_err() {
                break;
            }
            if session {
                self.passed[usize::from(back)].fetch_add(n as u64, SeqCst);
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    }
}
