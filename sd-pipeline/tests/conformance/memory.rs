//! A device's memory: pictures leave nothing behind, and a component's weights go when its phase is
//! over.

use sd_pipeline::{OpenOptions, Pipeline, Request, Residency};

use crate::Place;
use crate::report::Log;

/// Pictures, and those of them in which the device finds out what it needs.
const PICTURES: usize = 100;
const FIRST: usize = 5;

/// Bytes of tensors, and of these and what is kept to be used again.
struct Usage {
    in_use: u64,
    reserved: u64,
}

pub(crate) fn check(place: &Place, log: &mut Log) {
    let Some(before) = cleaned(place) else {
        return log.not_here();
    };
    pictures(place, log);
    residency(place, log);
    let after = cleaned(place).expect("it told before");
    log.at_most("bytes left", grown(after.in_use, before.in_use), 0.0);
    let kept = grown(after.reserved, before.reserved);
    log.at_most("bytes kept", kept, 0.0);
}

/// As many pictures as a program draws in an evening.
fn pictures(place: &Place, log: &mut Log) {
    let pipeline = open(place, Residency::Always);
    let [mut in_use, mut reserved] = [[0; 2]; 2];
    for k in 0..PICTURES {
        let request = Request {
            seed: k as u64,
            ..request()
        };
        pipeline.generate(&request).expect("a picture");
        let usage = usage(place).expect("it told before");
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
        let before = usage(place).expect("it told before").in_use;
        let pipeline = open(place, residency);
        let run = pipeline.start(&request()).expect("it starts");
        let taken = usage(place).expect("it told before").in_use - before;
        (taken, pipeline.memory(), drop(run))
    };
    let (less, phase, ()) = in_first_step(Residency::PerPhase);
    let (more, all, ()) = in_first_step(Residency::OnDemand);
    assert_eq!(phase.text_encoder.total(), 0);
    let gone = all.text_encoder.total() as f64;
    log.at_least("share of the text encoder gone", (more - less) as f64 / gone, 1.0);
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

/// The same without what is kept to be used again.
fn cleaned(place: &Place) -> Option<Usage> {
    place.device.sync().expect("it works");
    place.device.memory_cleanup();
    usage(place)
}

fn grown(now: u64, before: u64) -> f64 {
    now.saturating_sub(before) as f64
}
