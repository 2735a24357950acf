//! Generations inside a program's own thread pools: none waits for ever, none draws another picture.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use rayon::prelude::*;
use sd_pipeline::{
    Component, Picture, Pipeline, Request, Residency, Result, Slot, Source, WeightBytes, device,
};

/// Many times what it takes.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs `work` beside a watchdog: a test that waits for ever says nothing.
fn within(limit: Duration, work: impl FnOnce() + Send + 'static) {
    let (done, finished) = channel();
    let thread = std::thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    match finished.recv_timeout(limit) {
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it waits for ever"),
        _ => thread.join().unwrap(),
    }
}

/// Files of a component so wide that reading it is the work of all threads, in pieces of pieces, as
/// with a full-size model. A thread that waits for the rest of its piece takes on something else,
/// which rayon leaves to chance: here each does.
struct Wide<T: ?Sized>(Arc<T>);

fn pieces(depth: usize) {
    match depth {
        0 => {
            std::thread::sleep(Duration::from_micros(100));
            rayon::yield_now();
        }
        _ => drop(rayon::join(|| pieces(depth - 1), || pieces(depth - 1))),
    }
}

impl<T: Component + ?Sized> Source<T> for Wide<T> {
    fn spec(&self) -> &T::Spec {
        self.0.facts()
    }

    fn load(&self) -> Result<(Arc<T>, WeightBytes)> {
        pieces(6);
        Ok((self.0.clone(), WeightBytes::default()))
    }
}

/// The tiny model, its components read as wide ones are.
fn wide(residency: Residency) -> Pipeline {
    fn read<T: Component + ?Sized + 'static>(slot: &mut Slot<T>, residency: Residency) {
        *slot = Slot::on_demand(Wide(slot.get().unwrap()), residency).unwrap();
    }
    let mut pipeline = sd_tiny::pipeline(&device("flex").unwrap()).unwrap();
    read(&mut pipeline.text_encoder, residency);
    read(&mut pipeline.denoiser, residency);
    read(&mut pipeline.autoencoder, residency);
    pipeline
}

fn request() -> Request {
    Request {
        steps: 1,
        guidance_scale: 1.0,
        width: Some(32),
        height: Some(32),
        ..Request::new("a red cube")
    }
}

fn draw(pipeline: &Pipeline) -> Vec<Picture> {
    pipeline.generate(&request()).unwrap()
}

fn jobs(residency: Residency, rounds: usize, jobs: usize) {
    within(LIMIT, move || {
        let expected = draw(&wide(Residency::Always));
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4);
        // A thread that waits begins another job on its stack.
        let pool = pool.stack_size(64 << 20).build().unwrap();
        for _ in 0..rounds {
            let pipeline = wide(residency);
            pool.install(|| {
                (0..jobs).into_par_iter().with_max_len(1).for_each(|k| {
                    assert!(draw(&pipeline) == expected);
                    if residency == Residency::OnDemand && k % 10 == 0 {
                        pipeline.text_encoder.release();
                        pipeline.denoiser.release();
                        pipeline.autoencoder.release();
                    }
                });
            });
        }
    });
}

#[test]
fn jobs_of_a_pool_that_load_for_each_phase_end() {
    jobs(Residency::PerPhase, 3, 100);
}

#[test]
fn jobs_of_a_pool_that_load_on_demand_end() {
    jobs(Residency::OnDemand, 3, 100);
}

/// The same in the pool that everyone has in common, where the kernels compute, too.
#[test]
fn jobs_of_the_global_pool_end() {
    within(LIMIT, || {
        let expected = draw(&wide(Residency::Always));
        let pipeline = wide(Residency::PerPhase);
        (0..60).into_par_iter().with_max_len(1).for_each(|_| {
            assert!(draw(&pipeline) == expected);
        });
    });
}
