//! A device's memory: pictures leave nothing behind, and a component's weights go when its phase is
//! over.

use sd_pipeline::{FloatDType, OpenOptions, Pipeline, Request, Residency};

use crate::Place;
use crate::report::Log;

/// Pictures in which the device finds out what it needs, and all of them unless
/// `SD_CONFORMANCE_PICTURES` says another number: on a software adapter each takes a second.
const FIRST: usize = 3;
const ALL: usize = 6;

/// Bytes of tensors, and of these and what is kept to be used again.
struct Usage {
    in_use: u64,
    reserved: u64,
}

pub(crate) fn check(place: &Place, log: &mut Log) {
    if place.dtype != FloatDType::F32 || usage(place).is_none() {
        return log.not_here();
    }
    let pipeline = open(place, Residency::Always);
    pipeline.generate(&request()).expect("a picture");
    let weights = pipeline.memory().total();
    let full = told(place);
    pipeline.release();
    let empty = told(place);
    let gone = grown(full.in_use, empty.in_use) / weights as f64;
    log.at_least("share of the weights that goes", gone, 1.0);
    let given_back = grown(full.reserved, empty.reserved);
    log.at_least("bytes given back", given_back, 1.0);

    pictures(place, &pipeline, log);
    pipeline.release();
    residency(place, log);
    pipeline.release();
    let end = told(place);
    log.at_most("bytes left", grown(end.in_use, empty.in_use), 0.0);
    log.at_most("bytes kept", grown(end.reserved, empty.reserved), 0.0);
}

/// After the first few, a picture needs no more than those before.
fn pictures(place: &Place, pipeline: &Pipeline, log: &mut Log) {
    let count = std::env::var("SD_CONFORMANCE_PICTURES").ok();
    let count = count.map_or(ALL, |count| count.parse().expect("a number of pictures"));
    let [mut in_use, mut reserved] = [[0; 2]; 2];
    for k in 0..count {
        let request = Request {
            seed: k as u64,
            ..request()
        };
        pipeline.generate(&request).expect("a picture");
        let usage = told(place);
        let later = usize::from(k >= FIRST);
        in_use[later] = in_use[later].max(usage.in_use);
        reserved[later] = reserved[later].max(usage.reserved);
    }
    let [first, later] = in_use;
    log.at_most("bytes in use grow by", grown(later, first), 0.0);
    let [first, later] = reserved;
    log.at_most("bytes reserved grow by", grown(later, first), 0.0);
}

/// Where components are there for their phase alone, the denoiser does not find the text encoder.
fn residency(place: &Place, log: &mut Log) {
    let in_first_step = |residency| {
        let before = told(place).in_use;
        let pipeline = open(place, residency);
        let run = pipeline.start(&request()).expect("it starts");
        let taken = told(place).in_use - before;
        (taken, pipeline.memory(), drop(run))
    };
    let (less, phase, ()) = in_first_step(Residency::PerPhase);
    let (more, all, ()) = in_first_step(Residency::OnDemand);
    assert_eq!(phase.text_encoder.total(), 0);
    let gone = all.text_encoder.total() as f64;
    let share = grown(more, less) / gone;
    // Launches leave a few kilobytes of their own.
    log.at_least("share of the text encoder that goes", share, 0.98);
}

fn open(place: &Place, residency: Residency) -> Pipeline {
    let options = OpenOptions {
        dtype: place.dtype,
        residency,
        ..OpenOptions::new(&place.device)
    };
    Pipeline::from_files(&sd_tiny::files(), &options).expect("the model opens")
}

fn request() -> Request {
    Request {
        steps: 1,
        guidance_scale: 1.0,
        width: Some(64),
        height: Some(64),
        ..Request::new(sd_tiny::PROMPT)
    }
}

/// The device's memory when its work is done; `None` where it does not tell.
fn usage(place: &Place) -> Option<Usage> {
    place.device.sync().expect("it works");
    let usage = place.device.memory_pool_usage()?;
    Some(Usage {
        in_use: usage.bytes_in_use,
        reserved: usage.bytes_reserved,
    })
}

/// The memory of a device that told it before.
fn told(place: &Place) -> Usage {
    usage(place).expect("it told before")
}

fn grown(now: u64, before: u64) -> f64 {
    now.saturating_sub(before) as f64
}
