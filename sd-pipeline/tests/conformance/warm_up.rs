//! Compiling before the first picture: all of it, part of it, and nothing where nothing is compiled.

use std::ops::ControlFlow;

use sd_pipeline::{OpenOptions, Pipeline, Request, WarmUp, WarmUpStage};

use crate::Place;
use crate::report::{Log, psnr};

pub(crate) fn check(place: &Place, log: &mut Log) {
    let options = OpenOptions {
        dtype: place.dtype,
        ..OpenOptions::new(&place.device)
    };
    let pipeline = Pipeline::from_files(&sd_tiny::files(), &options).expect("the model opens");
    let request = Request {
        steps: 2,
        width: Some(64),
        height: Some(64),
        ..Request::new(sd_tiny::PROMPT)
    };
    let before = pipeline.generate(&request).expect("a picture");
    let mut seen = Vec::new();
    let mut warm_up = |last: usize| {
        seen.clear();
        let came_to_its_end = pipeline.warm_up(&[request.clone(), request.clone()], |at| {
            seen.push(at);
            match seen.len() == last {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        (came_to_its_end.expect("it warms up"), seen.clone())
    };
    let (ended, all) = warm_up(usize::MAX);
    let in_order = all.iter().enumerate().all(|(i, at)| at.done == i);
    let last = all[all.len() - 1];
    let whole = ended && last.done == last.total && last.stage == WarmUpStage::Ready;
    log.at_least(
        "in order to the end",
        f64::from(u8::from(in_order && whole)),
        1.0,
    );
    // Text encoder, three steps and autoencoder, twice.
    let parts = if place.compiles() { 10.0 } else { 0.0 };
    log.at_least("parts", all.len() as f64 - 2.0, parts);
    log.at_most("parts", all.len() as f64 - 2.0, parts);

    let mut stops = vec![(1, WarmUpStage::Begun)];
    if place.compiles() {
        stops.extend([(2, WarmUpStage::TextEncoder), (4, WarmUpStage::Denoiser)]);
    }
    for (reports, stage) in stops {
        let (ended, some) = warm_up(reports);
        let stopped = !ended && some.len() == reports && some[reports - 1].stage == stage;
        log.at_least("stopped", f64::from(u8::from(stopped)), 1.0);
    }

    let wrong = Request {
        width: Some(63),
        ..request.clone()
    };
    let never = |at: WarmUp| -> ControlFlow<()> { panic!("{at:?} of a wrong request") };
    let refused = pipeline.warm_up(&[wrong], never).is_err();
    log.at_least("refused", f64::from(u8::from(refused)), 1.0);
    // It leaves nothing behind in the pictures.
    let after = pipeline.generate(&request).expect("a picture");
    log.at_least("psnr before and after", psnr(&before[0], &after[0]), 100.0);
}
