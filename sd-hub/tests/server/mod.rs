//! A hub on loopback: its routes, and its faults where a test asks for some.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{sleep, spawn};
use std::time::Duration;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What goes wrong with an answer.
#[derive(Clone)]
#[allow(dead_code)] // Not each test's program has them all.
pub(crate) enum Fault {
    /// This status, with these lines of a header.
    Status(u16, &'static str),
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// Nothing comes after so many bytes of the body.
    Hang(usize),
    /// This header says something else.
    Header(&'static str, String),
    /// Ranges are not known.
    Whole,
    /// The body, instead.
    Body(String),
}

/// Contents by path, a log of the questions, and faults to come: of those with a text that is in
/// the question, so many times.
pub(crate) struct Server {
    pub(crate) address: String,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    log: Mutex<Vec<String>>,
    faults: Mutex<Vec<(String, usize, Fault)>>,
    etag: fn(&[u8]) -> String,
    /// Another host, which has the contents of large files.
    store: Option<Arc<Server>>,
}

#[allow(dead_code)]
impl Server {
    /// A hub whose one repository has `files`; those of more than `small` bytes lie on another host.
    pub(crate) fn start(
        files: &[(&str, &[u8])],
        small: usize,
        etag: fn(&[u8]) -> String,
    ) -> Arc<Self> {
        let store = files.iter().filter(|(_, bytes)| bytes.len() > small);
        let store = store.map(|(_, bytes)| (format!("/store/{}", etag(bytes)), bytes.to_vec()));
        let store = Self::serve(store.collect(), etag, None);
        let files = files.iter();
        let files = files.map(|(name, bytes)| (name.to_string(), bytes.to_vec()));
        Self::serve(files.collect(), etag, Some(store))
    }

    fn serve(
        files: BTreeMap<String, Vec<u8>>,
        etag: fn(&[u8]) -> String,
        store: Option<Arc<Self>>,
    ) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Arc::new(Self {
            address: format!("http://{}", listener.local_addr().unwrap()),
            files: Mutex::new(files),
            log: Mutex::default(),
            faults: Mutex::default(),
            etag,
            store,
        });
        let this = server.clone();
        spawn(move || {
            for stream in listener.incoming().flatten() {
                let this = this.clone();
                // Whoever asks may go away at any time.
                spawn(move || this.answer(stream).ok());
            }
        });
        server
    }

    pub(crate) fn store(&self) -> &Server {
        self.store.as_ref().unwrap()
    }

    /// The questions since the last time, each `METHOD PATH RANGE`, with `(token)` behind those that
    /// brought one.
    pub(crate) fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }

    pub(crate) fn fault(&self, question: &str, times: usize, fault: Fault) {
        self.faults
            .lock()
            .unwrap()
            .push((question.into(), times, fault));
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        self.files.lock().unwrap().insert(name.into(), bytes.into());
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.lines();
        let mut question = lines.next().unwrap().split(' ');
        let (method, target) = (question.next().unwrap(), question.next().unwrap());
        let path = target.split('?').next().unwrap();
        let header = |name: &str| {
            let mut lines = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "));
            lines
                .find(|(found, _)| found.eq_ignore_ascii_case(name))
                .map(|(_, value)| value)
        };
        let range = header("range")
            .unwrap_or_default()
            .trim_start_matches("bytes=");
        let token = header("authorization").map_or("", |_| " (token)");
        let line = format!("{method} {path} {range}{token}").replace("  ", " ");
        self.log.lock().unwrap().push(line.trim().into());

        let mut faults = self.faults.lock().unwrap();
        let asked = format!("{method} {path}");
        let fault = faults
            .iter_mut()
            .find(|(text, times, _)| *times > 0 && asked.contains(&**text));
        let fault = fault.map(|(_, times, fault)| {
            *times -= 1;
            fault.clone()
        });
        drop(faults);

        let (mut status, mut headers, mut body) = self.reply(path);
        let from = range.trim_end_matches('-').parse().unwrap_or(0);
        if status == 200 && from > 0 && !matches!(fault, Some(Fault::Whole)) {
            let total = body.len();
            if from >= total {
                (status, body) = (416, Vec::new());
            } else {
                let range = format!("bytes {from}-{}/{total}", total - 1);
                headers.insert("content-range", range);
                (status, body) = (206, body.split_off(from));
            }
        }
        let (mut most, mut then) = (body.len(), Duration::ZERO);
        let mut more = "";
        match fault {
            Some(Fault::Status(other, lines)) => {
                (status, more, body, most) = (other, lines, vec![], 0);
            }
            Some(Fault::Cut(bytes)) => most = most.min(bytes),
            Some(Fault::Hang(bytes)) => (most, then) = (bytes, Duration::from_secs(3)),
            Some(Fault::Header(name, value)) => drop(headers.insert(name, value)),
            Some(Fault::Body(other)) => (most, body) = (other.len(), other.into()),
            Some(Fault::Whole) | None => {}
        }
        headers
            .entry("content-length")
            .or_insert(body.len().to_string());
        let mut text = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{more}");
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        stream.write_all((text + "\r\n").as_bytes())?;
        if method == "GET" {
            stream.write_all(&body[..most])?;
            stream.flush()?;
        }
        sleep(then);
        Ok(())
    }

    fn reply(&self, path: &str) -> (u16, BTreeMap<&'static str, String>, Vec<u8>) {
        let files = self.files.lock().unwrap();
        let mut headers = BTreeMap::new();
        let not_there = |code: &str| {
            let headers = BTreeMap::from([("x-error-code", code.to_string())]);
            (404, headers, Vec::new())
        };
        if let Some(revision) = path.strip_prefix("/api/models/owner/model/revision/") {
            if !["main", "refs%2Fpr%2F1", COMMIT].contains(&revision) {
                return not_there("RevisionNotFound");
            }
            let names = files
                .keys()
                .map(|name| format!("{{\"rfilename\":{name:?}}}"));
            let names: Vec<String> = names.collect();
            let names = names.join(",");
            let json = format!(
                "{{\"id\":\"owner/model\",\"sha\":\"{COMMIT}\",\"private\":false,\"tags\":[],\
                 \"downloads\":0,\"likes\":0,\"siblings\":[{names}]}}"
            );
            headers.insert("content-type", "application/json".into());
            return (200, headers, json.into_bytes());
        }
        // For the Python tools, which ask for all sizes at once.
        if path == format!("/api/models/owner/model/tree/{COMMIT}") {
            let files = files.iter().map(|(name, bytes)| {
                let (size, etag) = (bytes.len(), (self.etag)(bytes));
                let lfs = match etag.len() {
                    64 => format!(",\"lfs\":{{\"oid\":\"{etag}\",\"size\":{size},\"pointerSize\":134}}"),
                    _ => String::new(),
                };
                format!("{{\"type\":\"file\",\"path\":{name:?},\"size\":{size},\"oid\":\"{etag}\"{lfs}}}")
            });
            let files: Vec<String> = files.collect();
            return (200, headers, format!("[{}]", files.join(",")).into_bytes());
        }
        // Small files are behind a redirection of their own, as the hub has it today.
        let inner = format!("/api/resolve-cache/models/owner/model/{COMMIT}/");
        let outer = [
            format!("/owner/model/resolve/{COMMIT}/"),
            "/owner/model/resolve/main/".into(),
        ];
        let found = outer
            .iter()
            .find_map(|beginning| path.strip_prefix(beginning.as_str()));
        let is_outer = found.is_some();
        let name = match (found.or(path.strip_prefix(&inner)), &self.store) {
            (Some(name), _) => name,
            (None, None) => path,
            (None, Some(_)) => return not_there("RepoNotFound"),
        };
        let Some(bytes) = files.get(&name.replace("%20", " ")) else {
            return not_there("EntryNotFound");
        };
        let etag = (self.etag)(bytes);
        headers.insert("etag", format!("\"{etag}\""));
        let Some(store) = &self.store else {
            return (200, headers, bytes.clone());
        };
        headers.insert("x-repo-commit", COMMIT.into());
        let elsewhere = format!("/store/{etag}");
        if store.files.lock().unwrap().contains_key(&elsewhere) {
            headers.insert("x-linked-size", bytes.len().to_string());
            headers.insert("x-linked-etag", format!("\"{etag}\""));
            headers.insert("etag", "\"of-the-redirection\"".into());
            let address = &store.address;
            headers.insert("location", format!("{address}{elsewhere}?signature=secret"));
            return (302, headers, b"Found".to_vec());
        }
        if is_outer && name.ends_with(".json") {
            headers.insert("location", inner + name);
            return (307, headers, b"Temporary".to_vec());
        }
        (200, headers, bytes.clone())
    }
}
