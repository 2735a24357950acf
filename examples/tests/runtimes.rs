//! The library inside an asynchronous program: it blocks the thread that asks it, and needs nothing
//! of a runtime nor minds one.

use std::sync::Arc;

use sd_pipeline::{OpenOptions, Picture, Pipeline, Request, Residency, device};

fn open() -> Pipeline {
    let options = OpenOptions {
        residency: Residency::PerPhase,
        ..OpenOptions::new(&device("flex").unwrap())
    };
    Pipeline::from_files(&sd_tiny::files(), &options).unwrap()
}

fn draw(pipeline: &Pipeline) -> Vec<Picture> {
    let request = Request {
        steps: 2,
        ..sd_tiny::request("a red cube")
    };
    pipeline.generate(&request).unwrap()
}

/// In the runtime's own threads, in those for work that blocks, in several at once.
async fn everywhere() {
    let expected = std::thread::spawn(|| draw(&open())).join().unwrap();
    let pipeline = Arc::new(open());
    assert_eq!(draw(&pipeline), expected);
    let tasks = (0..4).map(|k| {
        let pipeline = pipeline.clone();
        match k % 2 {
            0 => tokio::spawn(async move { draw(&pipeline) }),
            _ => tokio::task::spawn_blocking(move || draw(&pipeline)),
        }
    });
    let tasks: Vec<_> = tasks.collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), expected);
    }
    // A task that is no longer wanted, and with it what it draws.
    let task = tokio::spawn(async move { draw(&pipeline) });
    task.abort();
    let _ = task.await;
}

#[tokio::test(flavor = "current_thread")]
async fn in_a_runtime_of_one_thread() {
    everywhere().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_runtime_of_several_threads() {
    everywhere().await;
    // `block_in_place` is for these alone.
    let expected = draw(&open());
    assert_eq!(tokio::task::block_in_place(|| draw(&open())), expected);
}
