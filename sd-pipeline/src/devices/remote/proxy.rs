//! A proxy between Burn's client and a server.
//!
//! Burn's client waits without limit, cannot be told to stop and never connects again. So it is
//! given a port of this machine, and the bytes pass through here, unchanged, to the server and
//! back. When the server is dead or owes an answer for too long the connection is closed, and
//! every call of Burn's that waits on it returns with an error. Passing, the bytes are counted.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use super::options::RemoteOptions;
use crate::devices::{DeviceError, DeviceErrorKind};

/// The time between two looks at the state of the connection.
const TICK: Duration = Duration::from_millis(50);

pub(in crate::devices) struct Proxy {
    /// The device's name in errors.
    name: String,
    server: TcpStream,
    client: OnceLock<TcpStream>,
    options: RemoteOptions,
    /// Bytes to and from the server.
    sent: AtomicU64,
    received: AtomicU64,
    /// Calls under way that end with an answer.
    pending: AtomicUsize,
    /// Set once the server has answered for the first time.
    answered: AtomicBool,
    /// Milliseconds since the start, in which a time of standing still does not count: a laptop
    /// that slept is no dead server.
    clock: AtomicU64,
    /// The time at which the last byte was sent, or the first of the calls under way began.
    asked: AtomicU64,
    /// The reason for which the connection was closed.
    lost: OnceLock<String>,
}

impl Proxy {
    /// Connects to `host` (`name:port`) and listens. Gives the proxy of the device `name`, and the
    /// port of this machine at which it listens.
    pub(super) fn start(
        name: String,
        host: &str,
        options: &RemoteOptions,
    ) -> Result<(Arc<Self>, u16), String> {
        let server = connect(host, options.answer_within)?;
        let listen = || -> std::io::Result<(u16, TcpListener)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            listener.set_nonblocking(true)?;
            server.set_nodelay(true)?;
            Ok((listener.local_addr()?.port(), listener))
        };
        let (port, listener) = listen().map_err(|e| e.to_string())?;
        let proxy = Arc::new(Self {
            name,
            server,
            client: OnceLock::new(),
            options: options.clone(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            answered: AtomicBool::new(false),
            clock: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            lost: OnceLock::new(),
        });
        let (forwarding, watching, host) = (proxy.clone(), proxy.clone(), host.to_string());
        thread::spawn(move || forwarding.forward(&listener));
        thread::spawn(move || watching.watch(&host));
        Ok((proxy, port))
    }

    /// Marks the server as one that answers.
    pub(super) fn answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Bytes to the server so far.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Bytes from the server so far.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }

    /// The reason for which the connection is closed, if it is.
    pub(in crate::devices) fn lost(&self) -> Option<&str> {
        self.lost.get().map(String::as_str)
    }

    /// The same as an error.
    pub(super) fn loss(&self) -> Option<DeviceError> {
        let reason = self.lost()?.to_string();
        Some(DeviceErrorKind::Lost { reason }.of(&self.name))
    }

    /// Closes the connection, for the first reason given.
    pub(super) fn close(&self, reason: impl Into<String>) {
        self.lost.get_or_init(|| reason.into());
        // Of a socket that is closed already there is nothing to shut down.
        let _ = self.server.shutdown(Shutdown::Both);
        if let Some(client) = self.client.get() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Counts a call that ends with an answer.
    pub(super) fn begin(&self) {
        if self.pending.fetch_add(1, Relaxed) == 0 {
            self.asked.store(self.clock.load(Relaxed), Relaxed);
        }
    }

    /// Counts a call that has ended.
    pub(super) fn end(&self) {
        self.pending.fetch_sub(1, Relaxed);
    }

    /// Lets Burn's client in, nobody after it, and forwards its bytes.
    fn forward(&self, listener: &TcpListener) {
        let client = loop {
            match listener.accept() {
                Ok((client, _)) => break client,
                Err(e) if e.kind() == ErrorKind::WouldBlock && self.lost().is_none() => {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return self.close(e.to_string()),
            }
        };
        if let Err(e) = client
            .set_nonblocking(false)
            .and_then(|()| client.set_nodelay(true))
        {
            return self.close(e.to_string());
        }
        let client = self.client.get_or_init(|| client);
        thread::scope(|scope| {
            scope.spawn(|| {
                self.close(copy((client, US), (&self.server, SERVER), |n| {
                    self.sent.fetch_add(n, Relaxed);
                    self.asked.store(self.clock.load(Relaxed), Relaxed);
                }));
            });
            self.close(copy((&self.server, SERVER), (client, US), |n| {
                self.received.fetch_add(n, Relaxed);
            }));
        });
    }

    /// Closes the connection when the server does not answer.
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
            if !self.answered.load(Relaxed) {
                alive = clock;
                if clock > within {
                    self.close(format!("no answer within {within:?}"));
                }
                continue;
            }
            let asked = Duration::from_millis(self.asked.load(Relaxed));
            let patience = self.options.patience;
            if self.pending.load(Relaxed) > 0 && clock.saturating_sub(asked) > patience {
                self.close(format!("an answer has been due for {patience:?}"));
            } else if clock - tried > within / 4 {
                tried = clock;
                match ping(host, within / 4) {
                    true => alive = clock,
                    false if clock - alive > within => {
                        self.close(format!("the server has been silent for {within:?}"));
                    }
                    false => {}
                }
            }
        }
    }
}

/// A sign of life: true if a server at `host` still says anything at all. It is asked, on a connection of its
/// own, for a page it does not have. The session's connection cannot tell: while the server
/// computes, nothing comes back on it.
fn ping(host: &str, within: Duration) -> bool {
    let Ok(mut server) = connect(host, within) else {
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
fn connect(host: &str, within: Duration) -> Result<TcpStream, String> {
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

/// What the two sides of a connection are called in the reason for its end.
const US: &str = "this program";
const SERVER: &str = "the server";

/// Copies bytes until one side ends; gives the reason.
fn copy(
    (mut from, sender): (&TcpStream, &str),
    (mut to, receiver): (&TcpStream, &str),
    count: impl Fn(u64),
) -> String {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return ended(sender, &ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                // Before they are delivered: who waits for them may ask next how many they were.
                count(n as u64);
                if let Err(e) = to.write_all(&buffer[..n]) {
                    return ended(receiver, &e);
                }
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return ended(sender, &e),
        }
    }
}

/// The reason for the end of a connection. A side that closes it is noticed as the end of what
/// it sends or as a failure to send to it, whichever comes first, and both are told alike.
fn ended(whose: &str, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof
        | ErrorKind::BrokenPipe
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted => format!("{whose} closed the connection"),
        _ => format!("{whose} is gone: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of a connection.
    fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (here, listener.accept().unwrap().0)
    }

    #[test]
    fn a_side_that_closes_is_named_however_it_is_noticed() {
        let closed = "the server closed the connection";

        // Something is sent to a server that takes no more.
        let ((mut program, from), (to, _server)) = (connection(), connection());
        to.shutdown(Shutdown::Write).unwrap();
        program.write_all(&[1; 8]).unwrap();
        assert_eq!(copy((&from, US), (&to, SERVER), |_| ()), closed);

        // A server leaves without having read all: the connection is reset.
        let (mut to, server) = connection();
        to.write_all(&[1; 8]).unwrap();
        drop(server);
        assert_eq!(copy((&to, SERVER), (&from, US), |_| ()), closed);

        // A server has said all that it had to say.
        let (to, server) = connection();
        drop(server);
        assert_eq!(copy((&to, SERVER), (&from, US), |_| ()), closed);
    }
}
