//! The line to a server.
//!
//! Burn's client waits without limit, cannot be told to stop and never connects again. So it is
//! given a port of this machine, and the bytes pass through here, unchanged, to the server and
//! back. When the server is dead or owes an answer for too long the line is cut, and every call
//! of Burn's that waits on it returns with an error. Passing, the bytes are counted.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::RemoteOptions;

/// How often the state of the line is looked at.
const TICK: Duration = Duration::from_millis(50);

pub(super) struct Line {
    server: TcpStream,
    client: OnceLock<TcpStream>,
    options: RemoteOptions,
    /// Bytes to and from the server.
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// Calls under way that end with an answer.
    due: AtomicUsize,
    /// Set once the server has answered for the first time.
    opened: AtomicBool,
    /// Milliseconds since the line was laid, in which a time of standing still does not count: a
    /// laptop that slept is no dead server.
    clock: AtomicU64,
    /// When the last byte was sent, or the first of the calls under way began.
    asked: AtomicU64,
    /// Why the line was cut.
    lost: OnceLock<String>,
}

impl Line {
    /// Connects to `host` (`name:port`). Gives the line and the port of this machine at which it
    /// begins.
    pub(super) fn lay(host: &str, options: &RemoteOptions) -> Result<(Arc<Self>, u16), String> {
        let server = dial(host, options.answer_within)?;
        let listen = || -> std::io::Result<(u16, TcpListener)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            server.set_nodelay(true)?;
            Ok((listener.local_addr()?.port(), listener))
        };
        let (port, listener) = listen().map_err(|e| e.to_string())?;
        let line = Arc::new(Self {
            server,
            client: OnceLock::new(),
            options: options.clone(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            due: AtomicUsize::new(0),
            opened: AtomicBool::new(false),
            clock: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            lost: OnceLock::new(),
        });
        let (passing, watching, host) = (line.clone(), line.clone(), host.to_string());
        thread::spawn(move || passing.pass(&listener));
        thread::spawn(move || watching.watch(&host));
        Ok((line, port))
    }

    /// From now on the server counts as one that answers.
    pub(super) fn opened(&self) {
        self.opened.store(true, Relaxed);
    }

    /// Why the line is cut, if it is.
    pub(super) fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// Ends the line, for the first reason given.
    pub(super) fn cut(&self, reason: impl Into<String>) {
        self.lost.get_or_init(|| reason.into());
        // Of a socket that is closed already there is nothing to shut down.
        let _ = self.server.shutdown(Shutdown::Both);
        if let Some(client) = self.client.get() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    pub(super) fn begin(&self) {
        if self.due.fetch_add(1, Relaxed) == 0 {
            self.asked.store(self.clock.load(Relaxed), Relaxed);
        }
    }

    pub(super) fn end(&self) {
        self.due.fetch_sub(1, Relaxed);
    }

    /// Lets Burn's client in, nobody after it, and passes its bytes.
    fn pass(&self, listener: &TcpListener) {
        let client = loop {
            match listener.accept() {
                Ok((client, _)) => break client,
                Err(e) if e.kind() == ErrorKind::WouldBlock && self.lost().is_none() => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return self.cut(e.to_string()),
            }
        };
        if let Err(e) = client
            .set_nonblocking(false)
            .and_then(|()| client.set_nodelay(true))
        {
            return self.cut(e.to_string());
        }
        let client = self.client.get_or_init(|| client);
        thread::scope(|scope| {
            scope.spawn(|| {
                self.cut(pump(client, &self.server, "this program", |n| {
                    self.sent.fetch_add(n, Relaxed);
                    self.asked.store(self.clock.load(Relaxed), Relaxed);
                }));
            });
            self.cut(pump(&self.server, client, "the server", |n| {
                self.received.fetch_add(n, Relaxed);
            }));
        });
    }

    /// Cuts the line when the server does not answer.
    fn watch(&self, host: &str) {
        let within = self.options.answer_within;
        let (mut clock, mut alive, mut tried) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut last = Instant::now();
        while self.lost().is_none() {
            thread::sleep(TICK);
            // What is far longer than it should be is no time of the server's.
            clock += last.elapsed().min(within / 2 + TICK);
            last = Instant::now();
            self.clock.store(clock.as_millis() as u64, Relaxed);
            if !self.opened.load(Relaxed) {
                alive = clock;
                if clock > within {
                    self.cut(format!("no answer within {within:?}"));
                }
                continue;
            }
            let asked = Duration::from_millis(self.asked.load(Relaxed));
            let patience = self.options.patience;
            if self.due.load(Relaxed) > 0 && clock.saturating_sub(asked) > patience {
                self.cut(format!("an answer has been due for {patience:?}"));
            } else if clock - tried > within / 4 {
                tried = clock;
                match ping(host, within / 4) {
                    true => alive = clock,
                    false if clock - alive > within => {
                        self.cut(format!("the server has been silent for {within:?}"));
                    }
                    false => {}
                }
            }
        }
    }
}

/// Whether a server at `host` still says anything at all: it is asked, on a connection of its
/// own, for a page it does not have. The session's connection cannot tell: while the server
/// computes, nothing comes back on it.
fn ping(host: &str, within: Duration) -> bool {
    let Ok(mut server) = dial(host, within) else {
        return false;
    };
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let asked = server
        .set_read_timeout(Some(within))
        .and_then(|()| server.set_write_timeout(Some(within)))
        .and_then(|()| server.write_all(request.as_bytes()));
    asked.is_ok() && matches!(server.read(&mut [0; 16]), Ok(1..))
}

/// Connects to the first of `host`'s addresses that takes the call.
fn dial(host: &str, within: Duration) -> Result<TcpStream, String> {
    let addresses: Vec<SocketAddr> = host
        .to_socket_addrs()
        .map_err(|e| format!("'{host}' is not found: {e}"))?
        .collect();
    let mut reason = format!("'{host}' has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, within) {
            Ok(stream) => return Ok(stream),
            Err(e) => reason = format!("{address}: {e}"),
        }
    }
    Err(reason)
}

/// Copies until one side ends; gives the reason.
fn pump(mut from: &TcpStream, mut to: &TcpStream, whose: &str, count: impl Fn(u64)) -> String {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return format!("{whose} closed the connection"),
            Ok(n) => {
                // Before they are delivered: who waits for them may ask next how many they were.
                count(n as u64);
                if let Err(e) = to.write_all(&buffer[..n]) {
                    return format!("what {whose} sent could not be delivered: {e}");
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return format!("{whose} is gone: {e}"),
        }
    }
}
