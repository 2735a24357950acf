//! Files of a hub on loopback, which breaks, lies and hangs.

mod server;

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sd_hub::{Body, Hub, HubClient, HubError, Listing, Metadata, ModelId, Result, Settings, Token};
use server::{COMMIT, Fault, Server};
use sha1::Sha1;
use sha2::{Digest, Sha256};

const SECRET: &str = "hf_secret";
const SMALL: usize = 1000;

/// A hub's etags: SHA-256 of large files, git's hash of small ones.
fn etag(bytes: &[u8]) -> String {
    let digits = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
    match bytes.len() {
        0..=SMALL => {
            let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
            digits(&Sha1::digest(blob))
        }
        _ => digits(&Sha256::digest(bytes)),
    }
}

/// Bytes that repeat nowhere.
fn weights() -> Vec<u8> {
    (0..200_000_u32)
        .flat_map(|k| (k.wrapping_mul(2_654_435_761)).to_le_bytes())
        .collect()
}

struct Case {
    server: Arc<Server>,
    folder: tempfile::TempDir,
}

const INDEX: &str = "model_index.json";
const WEIGHTS: &str = "unet/a b.safetensors";

impl Case {
    fn new() -> Self {
        let files: [(&str, &[u8]); 3] = [
            (INDEX, b"{}"),
            (WEIGHTS, &weights()),
            ("unet/config.json", b"{\"a\":1}"),
        ];
        Self {
            server: Server::start(&files, SMALL, etag),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn settings(&self) -> Settings {
        let none = |_: &str| None;
        let mut settings = Settings::from_variables(none, Some(self.folder.path().into())).unwrap();
        settings.cache = self.folder.path().join("hub");
        settings.endpoint.clone_from(&self.server.address);
        settings.timeout = Duration::from_millis(400);
        settings.pause = Duration::from_millis(1);
        settings.attempts = 3;
        settings
    }

    fn hub(&self) -> Hub {
        Hub::new(self.settings()).unwrap()
    }

    fn fetch(&self, file: &str) -> Result<Vec<u8>> {
        let path = self.hub().repository(&id("owner/model"))?.fetch(file)?;
        Ok(fs::read(path).unwrap())
    }

    /// Paths of all in the cache, with the text or target of what is a link or short.
    fn tree(&self) -> BTreeMap<String, String> {
        let mut tree = BTreeMap::new();
        walk(&self.folder.path().join("hub"), "", &mut tree);
        tree
    }

    /// The tree without locks, which are empty and stay.
    fn kept(&self) -> Vec<String> {
        let tree = self.tree().into_keys();
        tree.filter(|path| !path.starts_with(".locks")).collect()
    }
}

fn id(text: &str) -> ModelId {
    text.parse().unwrap()
}

fn walk(folder: &Path, inside: &str, tree: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let inside = if inside.is_empty() {
            name.into()
        } else {
            format!("{inside}/{name}")
        };
        if let Ok(target) = path.read_link() {
            tree.insert(inside, format!("-> {}", target.display()));
        } else if path.is_dir() {
            walk(&path, &inside, tree);
        } else {
            let bytes = fs::read(&path).unwrap();
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(100)]).into_owned();
            tree.insert(inside, text);
        }
    }
}

#[test]
fn files_lie_as_the_python_tools_lay_them() {
    let case = Case::new();
    let mut settings = case.settings();
    settings.token = Some(Token::new(SECRET).unwrap());
    let hub = Hub::new(settings).unwrap();
    assert!(!format!("{hub:?}").contains(SECRET));
    let repository = hub.repository(&id("hf:owner/model")).unwrap();
    assert_eq!((repository.commit(), repository.files().len()), (COMMIT, 3));
    assert!(case.kept().is_empty(), "nothing was asked for yet");
    for (file, expected) in [(INDEX, &b"{}"[..]), (WEIGHTS, &weights())] {
        let path = repository.fetch(file).unwrap();
        assert!(path.ends_with(format!("models--owner--model/snapshots/{COMMIT}/{file}")));
        assert!(fs::read(path).unwrap() == expected, "{file}");
    }
    assert!(
        !case.kept().iter().any(|path| path.contains("refs")),
        "the note comes last"
    );
    repository.keep().unwrap();

    let (small, large) = (etag(b"{}"), etag(&weights()));
    let tree = case.tree();
    let model = |path: &str| format!("models--owner--model/{path}");
    let lock = |etag: &str| format!(".locks/models--owner--model/{etag}.lock");
    let snapshot = |file: &str| model(&format!("snapshots/{COMMIT}/{file}"));
    let mut names = [
        lock(&small),
        lock(&large),
        model(&format!("blobs/{small}")),
        model(&format!("blobs/{large}")),
        model("refs/main"),
        snapshot(INDEX),
        snapshot(WEIGHTS),
    ];
    names.sort();
    assert_eq!(
        tree.keys().collect::<Vec<_>>(),
        names.iter().collect::<Vec<_>>()
    );
    assert_eq!(tree[&model("refs/main")], COMMIT);
    if cfg!(unix) {
        assert_eq!(tree[&snapshot(INDEX)], format!("-> ../../blobs/{small}"));
        assert_eq!(
            tree[&snapshot(WEIGHTS)],
            format!("-> ../../../blobs/{large}")
        );
    }

    // The hub is asked with the token, and the host of large files without.
    let log = case.server.log();
    assert!(
        log.len() > 4 && log.iter().all(|line| line.ends_with("(token)")),
        "{log:?}"
    );
    let log = case.server.store().log();
    assert_eq!(log, [format!("GET /store/{large}")]);

    // What is there is not asked for again.
    assert!(case.fetch(WEIGHTS).unwrap() == weights());
    assert_eq!(
        case.server.log(),
        ["GET /api/models/owner/model/revision/main"]
    );
    let error = case.fetch("unet/b.safetensors").unwrap_err();
    assert!(
        matches!(&error, HubError::NoFile { others, .. } if others == &[WEIGHTS]),
        "{error}"
    );
    let other = id("owner/model/unet/config.json@refs/pr/1");
    assert!(case.hub().file(&other).unwrap().is_file());
    assert_eq!(case.tree()[&model("refs/refs/pr/1")], COMMIT);
}

#[test]
fn a_download_that_breaks_goes_on_where_it_ended() {
    let case = Case::new();
    let store = case.server.store();
    let bytes = weights();
    for (times, fault) in [(2, Fault::Cut(200_000)), (1, Fault::Hang(100_000))] {
        store.fault("GET", times, fault);
    }
    assert!(case.fetch(WEIGHTS).unwrap() == bytes);
    let log = store.log();
    let ranges: Vec<&str> = log
        .iter()
        .filter_map(|line| line.split(' ').nth(2))
        .collect();
    assert_eq!(ranges, ["200000-", "400000-", "500000-"], "{log:?}");

    // In another process, too; and where the server knows no ranges, from the beginning.
    for (fault, second) in [
        (Fault::Cut(300_000), None),
        (Fault::Cut(300_000), Some(Fault::Whole)),
    ] {
        let case = Case::new();
        let store = case.server.store();
        store.fault("GET", 1, fault);
        store.fault("GET", 2, Fault::Status(503, ""));
        let error = case.fetch(WEIGHTS).unwrap_err();
        assert!(
            matches!(error, HubError::Status { status: 503, .. }),
            "{error}"
        );
        let part = format!("models--owner--model/blobs/{}.incomplete", etag(&bytes));
        assert_eq!(case.kept(), [part]);
        store.log();
        if let Some(fault) = second {
            store.fault("GET", 1, fault);
        }
        assert!(case.fetch(WEIGHTS).unwrap() == bytes);
        assert!(store.log()[0].ends_with(" 300000-"));
        assert!(!case.kept().iter().any(|path| path.ends_with("incomplete")));
    }

    // What somebody else left is fetched again: other bytes, too many, all of them but wrong.
    for length in [1000, bytes.len(), bytes.len() + 1] {
        let case = Case::new();
        let blobs = case.folder.path().join("hub/models--owner--model/blobs");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(etag(&bytes) + ".incomplete"), vec![7; length]).unwrap();
        assert!(case.fetch(WEIGHTS).unwrap() == bytes, "{length}");
    }
}

#[test]
fn lies_leave_nothing_behind() {
    let digits = "f".repeat(64);
    let header = |name, value: &str| Fault::Header(name, value.into());
    let length = weights().len();
    let more = (length + 1).to_string();
    for (at_store, question, fault, expected) in [
        (false, "HEAD", header("x-linked-size", "5"), "size"),
        (false, "HEAD", header("x-linked-size", &more), "size"),
        (false, "HEAD", header("x-linked-etag", &digits), "hash"),
        (
            false,
            "HEAD",
            header("x-linked-etag", &digits[..40]),
            "hash",
        ),
        (true, "GET", Fault::Body("x".repeat(length)), "hash"),
        (true, "GET", Fault::Body("x".repeat(length - 1)), "size"),
        (
            false,
            "HEAD",
            header("x-linked-etag", "../../../x"),
            "unsafe",
        ),
        (false, "HEAD", header("x-linked-etag", "/etc/x"), "unsafe"),
        (false, "HEAD", header("x-linked-size", "many"), "reply"),
        (false, "HEAD", header("x-repo-commit", "other"), "reply"),
        (false, "revision", Fault::Body("<html>".into()), "reply"),
        (
            false,
            "revision",
            Fault::Body(r#"{"sha":"../x"}"#.into()),
            "reply",
        ),
    ] {
        let case = Case::new();
        let server = if at_store {
            case.server.store()
        } else {
            &*case.server
        };
        server.fault(question, 9, fault);
        let error = case.fetch(WEIGHTS).unwrap_err();
        let found = match error {
            HubError::Size { .. } => "size",
            HubError::Hash { .. } => "hash",
            HubError::UnsafeName { .. } => "unsafe",
            HubError::Reply { .. } => "reply",
            _ => "other",
        };
        assert_eq!(found, expected, "{error}");
        assert!(case.kept().is_empty(), "{error}: {:?}", case.kept());
    }
    for name in [
        "../evil",
        "/etc/evil",
        "unet/../../evil",
        "a\\..\\..\\evil",
        "C:evil",
        "",
    ] {
        let case = Case::new();
        case.server.put(name, b"evil");
        let error = case.fetch(INDEX).unwrap_err();
        assert!(
            matches!(error, HubError::UnsafeName { .. }),
            "{name}: {error}"
        );
        assert!(case.tree().is_empty());
    }
}

#[test]
fn refusals_are_errors_that_say_what_would_help() {
    let case = Case::new();
    for (question, status, lines, words) in [
        (
            "revision",
            401,
            "x-error-message: Invalid credentials\r\n",
            "Invalid credentials",
        ),
        ("revision", 401, "", "HF_TOKEN"),
        ("revision", 403, "", "gated"),
        ("revision", 404, "", "not there"),
        ("HEAD", 404, "x-error-message: Entry gone\r\n", "Entry gone"),
        ("HEAD", 403, "", "403"),
        ("GET /owner", 410, "", "410"),
    ] {
        case.server.fault(question, 1, Fault::Status(status, lines));
        let error = case.fetch(INDEX).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\x1b'), "{error}");
        assert!(case.kept().len() <= 1, "{:?}", case.kept());
    }
    // Those that pass are waited for, and no longer than it takes.
    case.server.log();
    case.server
        .fault("revision", 1, Fault::Status(429, "retry-after: 1\r\n"));
    case.server.fault("HEAD", 2, Fault::Status(500, ""));
    let clock = Instant::now();
    assert_eq!(case.fetch(INDEX).unwrap(), b"{}");
    assert!(clock.elapsed() >= Duration::from_secs(1));

    let case = Case::new();
    case.server.fault("HEAD", 9, Fault::Status(503, ""));
    let error = case.fetch(INDEX).unwrap_err();
    assert!(
        matches!(error, HubError::Status { status: 503, .. }),
        "{error}"
    );
    let asked = case
        .server
        .log()
        .iter()
        .filter(|line| line.contains("HEAD"))
        .count();
    assert_eq!(asked, 3);
    let error = case.hub().repository(&id("owner/other")).unwrap_err();
    assert!(matches!(error, HubError::NotFound { .. }), "{error}");
}

#[test]
fn nothing_is_waited_for_without_end() {
    for (question, fault) in [
        ("revision", Fault::Hang(0)),
        (
            "HEAD",
            Fault::Header(
                "location",
                "/owner/model/resolve/main/model_index.json".into(),
            ),
        ),
        (
            "HEAD",
            Fault::Header("location", "ftp://elsewhere/x".into()),
        ),
        ("HEAD", Fault::Header("location", String::new())),
    ] {
        let case = Case::new();
        case.server.fault(question, 99, fault);
        let clock = Instant::now();
        let error = case.fetch(INDEX).unwrap_err();
        let is_right = match error {
            HubError::Network { .. } => question == "revision",
            HubError::Redirect { .. } => question == "HEAD",
            _ => false,
        };
        assert!(is_right, "{error}");
        assert!(clock.elapsed() < Duration::from_secs(20));
        assert!(case.server.log().len() < 20 && case.kept().is_empty());
    }
    // Signatures stay out of messages.
    let case = Case::new();
    case.server.store().fault("GET", 9, Fault::Status(403, ""));
    let error = case.fetch(WEIGHTS).unwrap_err().to_string();
    assert!(
        error.contains("/store/") && !error.contains("secret"),
        "{error}"
    );
}

#[test]
fn what_is_in_the_cache_needs_no_hub() {
    let case = Case::new();
    let mut settings = case.settings();
    settings.offline = true;
    let offline = Hub::new(settings).unwrap();
    let model = id("owner/model");
    let error = offline.repository(&model).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }), "{error}");
    let there = id("owner/model/model_index.json");
    let path = case.hub().file(&there).unwrap();
    case.server.log();

    assert_eq!(offline.file(&there).unwrap(), path);
    let repository = offline.repository(&model).unwrap();
    assert_eq!(repository.files().iter().collect::<Vec<_>>(), [INDEX]);
    assert!(matches!(
        repository.fetch(WEIGHTS),
        Err(HubError::NoFile { .. })
    ));
    let commit = format!("owner/model@{COMMIT}");
    assert!(offline.repository(&id(&commit)).is_ok());
    assert!(offline.repository(&id("owner/model@v2")).is_err());
    assert!(case.server.log().is_empty());

    // A hub that cannot be reached is no reason to fail, one that refuses is.
    case.server.fault("revision", 1, Fault::Status(503, ""));
    assert_eq!(case.hub().file(&there).unwrap(), path);
    case.server.fault("revision", 1, Fault::Status(401, ""));
    assert!(matches!(
        case.hub().file(&there),
        Err(HubError::Refused { .. })
    ));

    // A link whose content was removed is put right by whoever is online.
    fs::remove_file(path.canonicalize().unwrap()).unwrap();
    let repository = offline.repository(&model).unwrap();
    assert!(matches!(
        repository.fetch(INDEX),
        Err(HubError::Offline { .. })
    ));
    assert_eq!(case.fetch(INDEX).unwrap(), b"{}");
}

#[test]
fn progress_is_told_and_can_end_it() {
    let case = Case::new();
    let most = Arc::new(AtomicU64::new(500_000));
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (limit, list) = (most.clone(), seen.clone());
    let hub = case.hub().with_progress(move |progress| {
        list.lock().unwrap().push((progress.done, progress.total));
        match progress.done > limit.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    let repository = hub.repository(&id("owner/model")).unwrap();
    let error = repository.fetch(WEIGHTS).unwrap_err();
    assert!(matches!(error, HubError::Stopped { .. }), "{error}");
    most.store(u64::MAX, Ordering::Relaxed);
    repository.fetch(WEIGHTS).unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.first(), Some(&(0, Some(800_000))));
    assert_eq!(seen.last(), Some(&(800_000, Some(800_000))));
    let again = seen
        .windows(2)
        .filter(|pair| pair[0].0 >= pair[1].0)
        .count();
    assert_eq!(
        again, 1,
        "the second one begins where the first was stopped"
    );
}

#[test]
fn two_at_once_fetch_it_once() {
    let case = Case::new();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| case.fetch(WEIGHTS).unwrap()))
            .collect();
        for one in all {
            assert!(one.join().unwrap() == weights());
        }
    });
    assert_eq!(case.server.store().log().len(), 1);
}

/// A client of the program's own: a repository in memory.
#[derive(Debug)]
struct Memory;

impl HubClient for Memory {
    fn listing(&self, _: &str, _: &str) -> Result<Listing> {
        Ok(Listing {
            commit: COMMIT.into(),
            files: [INDEX.to_string()].into(),
        })
    }

    fn metadata(&self, _: &str, _: &str, _: &str) -> Result<Metadata> {
        Ok(Metadata {
            etag: "mine".into(),
            size: Some(2),
        })
    }

    fn read(&self, _: &str, _: &str, _: &str, from: u64) -> Result<Body> {
        let bytes = Box::new(&b"{}"[from as usize..]);
        let total = None;
        Ok(Body { from, total, bytes })
    }
}

#[test]
fn a_program_brings_its_own_client() {
    let case = Case::new();
    let hub = Hub::with_client(Arc::new(Memory), case.settings());
    let path = hub.file(&id("owner/model/model_index.json")).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"{}");
    assert!(case.server.log().is_empty());
}

/// Needs Python with huggingface_hub: `PYTHON=… cargo test --workspace --test hub -- --ignored`.
#[test]
#[ignore = "needs Python with huggingface_hub, named by the variable PYTHON"]
fn python_lays_the_same_tree_and_finds_ours() {
    let python = std::env::var("PYTHON").expect("PYTHON names an interpreter");
    let run = |case: &Case, offline: &str| {
        let script = "import huggingface_hub as h, sys\n\
            p = h.snapshot_download('owner/model')\n\
            print(open(p + '/unet/config.json').read())\n\
            print(h.hf_hub_download('owner/model', 'unet/a b.safetensors'))";
        let output = std::process::Command::new(&python)
            .args(["-c", script])
            .env("HF_ENDPOINT", &case.server.address)
            .env("HF_HOME", case.folder.path())
            .env("HF_HUB_OFFLINE", offline)
            .env("HF_HUB_DISABLE_XET", "1")
            .env_remove("HF_HUB_CACHE")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        String::from_utf8(output.stdout).unwrap()
    };
    let theirs = Case::new();
    run(&theirs, "0");
    let ours = Case::new();
    let repository = ours.hub().repository(&id("owner/model")).unwrap();
    for file in repository.files() {
        repository.fetch(file).unwrap();
    }
    repository.keep().unwrap();
    let said = run(&ours, "1");
    assert!(said.starts_with("{\"a\":1}"), "{said}");
    println!(
        "theirs: {:#?}\nours: {:#?}",
        theirs.tree().keys(),
        ours.tree().keys()
    );
    let snapshots = |case: &Case| {
        let tree = case.tree().into_iter();
        // Python keeps a note of all sizes, too, which it does without where there is none.
        let own =
            tree.filter(|(path, _)| path.starts_with("models--") && !path.contains("/trees/"));
        own.collect::<BTreeMap<_, _>>()
    };
    assert_eq!(snapshots(&theirs), snapshots(&ours));
    // And the other way round.
    let mut settings = theirs.settings();
    settings.offline = true;
    let repository = Hub::new(settings)
        .unwrap()
        .repository(&id("owner/model"))
        .unwrap();
    assert!(fs::read(repository.fetch(WEIGHTS).unwrap()).unwrap() == weights());
}
