//! A run that is stopped inside a step is as it was before that step, and goes on from there.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::Tensor;
use sd_pipeline::core::{Error as CoreError, Result};
use sd_pipeline::schedulers::names;
use sd_pipeline::{
    Cancel, Conditioning, Denoiser, DenoiserSpec, Error, Network, Pipeline, Request, Run, Slot,
    device,
};

/// The tiny model, whose network pulls the brake in one of its evaluations.
struct Stopping {
    inner: Slot<dyn Denoiser>,
    stop: Arc<Stop>,
}

#[derive(Default)]
struct Stop {
    evaluations: AtomicUsize,
    /// The evaluation to stop in, from 1.
    at: AtomicUsize,
}

impl Denoiser for Stopping {
    fn spec(&self) -> &DenoiserSpec {
        self.inner.spec()
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        let inner = self.inner.get().unwrap().prepare(branches)?;
        let stop = self.stop.clone();
        Ok(Box::new(StoppingNetwork { inner, stop }))
    }
}

struct StoppingNetwork {
    inner: Box<dyn Network>,
    stop: Arc<Stop>,
}

impl Network for StoppingNetwork {
    fn predict(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<Tensor<4>>> {
        let evaluation = self.stop.evaluations.fetch_add(1, Ordering::Relaxed) + 1;
        if evaluation == self.stop.at.load(Ordering::Relaxed) {
            cancel.pull();
        }
        self.inner.predict(x, t, branches, cancel)
    }
}

fn request() -> Request {
    Request {
        steps: 4,
        guidance_scale: 3.0,
        seed: 1,
        width: Some(64),
        height: Some(48),
        ..Request::new("a green cube above a white ring")
    }
}

fn bits(run: &Run) -> Vec<u32> {
    let values = run.latents().try_to_vec_as::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

fn is_cancelled(error: &Error) -> bool {
    matches!(error, Error::Component(CoreError::Cancelled))
}

/// Pipelines with each scheduler that a model of Stable Diffusion can use, one of which stops.
fn schedulers() -> impl Iterator<Item = (&'static str, Pipeline, Pipeline, Arc<Stop>)> {
    let tiny = sd_tiny::pipeline(&device("flex").unwrap()).unwrap();
    let usable = names().into_iter().filter(|name| *name != "IPNDM Cosine");
    usable.map(move |name| {
        let mut whole = tiny.clone();
        whole.set_scheduler(name).unwrap();
        let (mut stopping, stop) = (whole.clone(), Arc::new(Stop::default()));
        stopping.denoiser = Slot::from(Stopping {
            inner: whole.denoiser.clone(),
            stop: stop.clone(),
        });
        (name, whole, stopping, stop)
    })
}

#[test]
fn a_stopped_step_leaves_no_trace_in_any_scheduler() {
    for (name, whole, stopping, stop) in schedulers() {
        let mut expected = whole.start(&request()).unwrap();
        let mut evaluations = Vec::new();
        for step in &mut expected {
            evaluations.push(step.unwrap().evaluations);
        }
        // In the last evaluation of the third step: what came before in it must be forgotten.
        stop.at
            .store(evaluations[..3].iter().sum(), Ordering::Relaxed);
        let mut run = stopping.start(&request()).unwrap();
        let mut before = bits(&run);
        let mut cancelled = 0;
        while let Some(step) = run.next() {
            match step {
                Ok(_) => before = bits(&run),
                Err(error) => {
                    assert!(is_cancelled(&error), "{name}: {error:?}");
                    assert_eq!(bits(&run), before, "{name}: the latents");
                    cancelled += 1;
                }
            }
        }
        assert_eq!(cancelled, 1, "{name}");
        assert!(run.is_finished());
        assert_eq!(bits(&run), bits(&expected), "{name}");
    }
}

#[test]
fn a_stopped_run_can_be_looked_at_and_saved() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("run.safetensors");
    let (_, whole, stopping, stop) = schedulers().find(|(name, ..)| *name == "DPM++ 2M").unwrap();
    stop.at.store(3, Ordering::Relaxed);
    let mut run = stopping.start(&request()).unwrap();
    let stopped = run.by_ref().find_map(Result::err).unwrap();
    assert!(is_cancelled(&stopped));
    assert_eq!(run.images().unwrap()[0].dimensions(), (64, 48));
    run.save(&file).unwrap();
    let mut resumed = whole.resume(&request(), &file).unwrap();
    assert_eq!(resumed.next().unwrap().unwrap().done, 3);
    resumed.by_ref().for_each(|step| {
        step.unwrap();
    });
    let mut expected = whole.start(&request()).unwrap();
    expected.by_ref().for_each(|step| {
        step.unwrap();
    });
    assert_eq!(bits(&resumed), bits(&expected));
}

#[test]
fn another_thread_stops_a_run() {
    let pipeline = sd_tiny::pipeline(&device("flex").unwrap()).unwrap();
    let long = Request {
        steps: 500,
        ..request()
    };
    let mut run = pipeline.start(&long).unwrap();
    let handle = run.cancel_handle();
    let thread = std::thread::spawn(move || {
        let stopped = run.by_ref().find_map(Result::err);
        (run, stopped.expect("an error"))
    });
    std::thread::sleep(std::time::Duration::from_millis(100));
    handle.pull();
    let (run, stopped) = thread.join().unwrap();
    assert!(is_cancelled(&stopped));
    assert!(!run.is_finished());
    // A pulled brake holds for that run alone, and until it has noticed.
    assert!(!handle.is_pulled());
    assert!(pipeline.generate(&request()).is_ok());
}
