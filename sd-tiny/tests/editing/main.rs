//! Pictures changed, in whole and in part, and enlarged, and previews of them, beside diffusers, torch
//! and numpy, and beside references of their own.
#![cfg(feature = "micro")]

mod hires;
mod inpaint;
mod measured;
mod pix2pix;
mod previews;
mod seam;

use sd_pipeline::{Pipeline, Request, RgbImage, Run};

/// `sd_fixtures::picture` as a picture.
fn picture(seed: u64, width: u32, height: u32) -> RgbImage {
    let bytes = sd_fixtures::picture(seed, width as usize, height as usize);
    RgbImage::from_raw(width, height, bytes).unwrap()
}

fn finished(pipeline: &Pipeline, request: &Request) -> Run {
    let mut run = pipeline.start(request).unwrap();
    for step in &mut run {
        step.unwrap();
    }
    run
}
