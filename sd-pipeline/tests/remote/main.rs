//! Drawing on another machine, over loopback: the picture is the local one, and whatever the
//! server does, the client gets an error in good time.

mod server;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use sd_pipeline::devices::remote::{self, RemoteOptions};
use sd_pipeline::devices::{DeviceError, DeviceErrorKind};
use sd_pipeline::{Error, Pipeline, Request, Result, device};
use server::{Mode, Proxy, Server};

/// One test at a time: what is measured in seconds must not wait for another's drawing.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Not a test: the server's process.
#[test]
fn server_process() {
    server::serve_if_asked();
}

/// No test here may take this long, whatever the server does.
const LIMIT: Duration = Duration::from_secs(120);

/// Short patience, so that the tests are short: far above what a step of the tiny model takes.
fn impatient() -> RemoteOptions {
    RemoteOptions {
        answer_within: Duration::from_secs(8),
        patience: Duration::from_secs(20),
        ..RemoteOptions::default()
    }
}

fn request() -> Request {
    Request {
        steps: 3,
        seed: 5,
        guidance_scale: 5.0,
        ..Request::new(sd_tiny::PROMPT)
    }
}

/// What `work` gives; fails when it takes too long, instead of waiting for it.
fn bounded<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    match receiver.recv_timeout(LIMIT) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => panic!("panicked"),
    }
}

fn open(url: &str) -> Result<Pipeline> {
    sd_tiny::pipeline(&remote::open(url, &impatient())?)
}

#[test]
fn the_picture_is_the_local_one() {
    let _turn = turn();
    let local = sd_tiny::pipeline(&device("flex").unwrap()).unwrap();
    let server = Server::start();
    let proxy = Proxy::before(server.port);
    let url = proxy.url();
    let (remote, traffic) = bounded(move || {
        let device = device(&format!("remote:{url}")).unwrap();
        let again = sd_pipeline::device(&format!("remote:{url}")).unwrap();
        assert_eq!(device, again);
        let pipeline = sd_tiny::pipeline(&device).unwrap();
        let traffic = || remote::traffic(&device).unwrap();
        println!("weights: {:?}", traffic());
        let mut run = pipeline.start(&request()).unwrap();
        for number in 1..=3 {
            let (clock, before) = (Instant::now(), traffic());
            run.next().unwrap().unwrap();
            let (time, step) = (clock.elapsed(), traffic() - before);
            println!("step {number}: {step:?} in {time:.0?}");
            // Descriptions of operations, no tensors.
            assert!((1_000..2_000_000).contains(&step.sent), "{step:?}");
            assert!((10..10_000).contains(&step.received), "{step:?}");
        }
        let before = traffic();
        let images = run.images().unwrap();
        println!("picture: {:?}", traffic() - before);
        // What was dropped may still be on its way.
        thread::sleep(Duration::from_secs(2));
        let counted = (traffic(), proxy.passed());
        drop((run, pipeline));
        (images, counted)
    });
    let (traffic, passed) = traffic;
    let local = local.generate(&request()).unwrap();

    assert_eq!(local[0].dimensions(), remote[0].dimensions());
    let pairs = local[0].as_raw().iter().zip(remote[0].as_raw());
    let differences: Vec<u8> = pairs.map(|(a, b)| a.abs_diff(*b)).collect();
    // Here our kernels compute, there Burn's: what lies half-way between two bytes may be rounded
    // to either.
    assert!(differences.iter().all(|d| *d <= 1));
    let unequal = differences.iter().filter(|d| **d > 0).count();
    assert!(unequal * 200 < differences.len(), "{unequal} bytes differ");

    // Counted twice: in the library, and on the way. More than the weights went out, more than
    // the picture came back.
    assert_eq!([traffic.sent, traffic.received], passed);
    assert!(traffic.sent > 8_000_000, "{traffic:?}");
    assert!(traffic.received > 128 * 128 * 3, "{traffic:?}");
}

#[test]
fn components_may_be_on_two_servers() {
    let _turn = turn();
    use sd_pipeline::{FloatDType, OpenOptions, Placement};
    let [one, two] = [Server::start(), Server::start()];
    let local = sd_tiny::pipeline(&device("flex").unwrap()).unwrap();
    let local = local.generate(&request()).unwrap();
    let remote = bounded(move || {
        let place = |server: &Server| Placement {
            device: remote::open(&server.url(), &impatient()).unwrap(),
            dtype: FloatDType::F32,
        };
        let options = OpenOptions {
            text_encoder: Some(place(&one)),
            autoencoder: Some(place(&one)),
            ..OpenOptions::new(&place(&two).device)
        };
        let pipeline = Pipeline::from_files(&sd_tiny::files(), &options).unwrap();
        pipeline.generate(&request()).unwrap()
    });
    let mut pairs = local[0].as_raw().iter().zip(remote[0].as_raw());
    assert!(pairs.all(|(a, b)| a.abs_diff(*b) <= 1));
}

/// The reason why no device could be opened at `url`.
fn refused(url: String, options: RemoteOptions) -> String {
    match bounded(move || remote::open(&url, &options)) {
        Err(DeviceError {
            kind: DeviceErrorKind::Unreachable { reason },
            ..
        }) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn where_nobody_serves_no_device_opens() {
    let _turn = turn();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    drop(listener);
    let reason = refused(url.clone(), impatient());
    assert!(reason.contains("refused"), "{reason}");
    // By its name, as in a program's settings.
    let error = bounded(move || device(&format!("remote:{url}"))).unwrap_err();
    assert!(error.to_string().contains("no server answers"), "{error}");
}

#[test]
fn a_server_that_accepts_and_never_answers_is_given_up() {
    let _turn = turn();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    assert!(refused(url, impatient()).contains("no answer within 8s"));
}

#[test]
fn what_is_no_burn_server_is_refused() {
    let _turn = turn();
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n",
        "HTTP/1.1 200 OK\r\n\r\n",
        "\0\0\0",
        "",
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            use std::io::{Read, Write};
            for mut client in listener.incoming().flatten() {
                let _ = client.read(&mut [0; 1024]);
                let _ = client.write_all(answer.as_bytes());
            }
        });
        assert!(!refused(url, impatient()).is_empty());
    }
}

#[test]
fn a_session_without_the_token_or_on_a_device_that_is_not_there_is_refused() {
    let _turn = turn();
    let (server, token) = Server::guarded();
    let url = server.url();
    let with = |token: Option<&str>, index| RemoteOptions {
        token: token.map(Into::into),
        index,
        ..impatient()
    };
    assert!(refused(url.clone(), with(None, 0)).contains("rejected"));
    assert!(refused(url.clone(), with(Some("guess"), 0)).contains("rejected"));
    assert!(refused(url.clone(), with(Some(token), 1)).contains("hosts only 1"));
    let admitted = with(Some(token), 0);
    assert!(bounded(move || remote::open(&url, &admitted)).is_ok());
}

/// Draws, lets `harm` happen after the first step, and gives the reason for which the drawing
/// then ended.
fn lost_after(pipeline: Pipeline, harm: impl FnOnce() + Send + 'static) -> String {
    let outcome = bounded(move || {
        let mut run = pipeline.start(&request()).unwrap();
        run.next().unwrap().unwrap();
        harm();
        let failed = run.by_ref().find_map(Result::err);
        // The pipeline is of no use any more, and says so too.
        assert!(pipeline.start(&request()).is_err());
        (failed, run.images().map(|_| ()))
    });
    let reason = |error: Option<Error>| match error {
        Some(Error::Device(DeviceError {
            kind: DeviceErrorKind::Lost { reason },
            ..
        })) => reason,
        other => panic!("{other:?}"),
    };
    reason(outcome.1.err());
    reason(outcome.0)
}

#[test]
fn a_server_killed_in_mid_run_is_an_error_and_its_successor_serves() {
    let _turn = turn();
    let mut server = Server::start();
    let (port, name) = (server.port, format!("remote:{}", server.url()));
    let opened = name.clone();
    let pipeline = bounded(move || sd_tiny::pipeline(&device(&opened)?)).unwrap();
    let reason = lost_after(pipeline, move || server.kill());
    assert!(reason.contains("closed"), "{reason}");

    let _next = Server::start_at(port);
    let images = bounded(move || sd_tiny::pipeline(&device(&name)?)?.generate(&request()));
    assert_eq!(images.unwrap().len(), 1);
}

#[test]
fn a_connection_closed_in_mid_run_is_an_error() {
    let _turn = turn();
    let server = Server::start();
    let proxy = Proxy::before(server.port);
    let pipeline = open(&proxy.url()).unwrap();
    let reason = lost_after(pipeline, move || proxy.close());
    assert!(reason.contains("closed"), "{reason}");
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let _turn = turn();
    let server = Server::start();
    let proxy = Proxy::before(server.port);
    let pipeline = open(&proxy.url()).unwrap();
    let reason = lost_after(pipeline, move || proxy.set(Mode::Freeze));
    assert!(reason.contains("silent for 8s"), "{reason}");
}

#[test]
fn a_server_that_never_answers_in_mid_run_is_given_up() {
    let _turn = turn();
    let server = Server::start();
    let proxy = Proxy::before(server.port);
    let pipeline = open(&proxy.url()).unwrap();
    let reason = lost_after(pipeline, move || proxy.set(Mode::Withhold));
    assert!(reason.contains("due for 20s"), "{reason}");
}

#[test]
fn a_server_that_talks_nonsense_in_mid_run_is_given_up() {
    let _turn = turn();
    let server = Server::start();
    let proxy = Proxy::before(server.port);
    let pipeline = open(&proxy.url()).unwrap();
    lost_after(pipeline, move || proxy.set(Mode::Garble));
}
