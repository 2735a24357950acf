//! What the tests share.

use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::models::Files;
use sd_pipeline::{OpenOptions, Pipeline, Request, Run, device};
use sd_tiny::micro::{Family, Layout, Micro};

/// The files of a model with every layer of `family` and random weights.
pub(crate) fn files(family: Family) -> Vec<(String, Vec<u8>)> {
    let micro = Micro::new(family, Layout::Diffusers, 0).unwrap();
    let files = micro.iter();
    files
        .map(|(name, bytes)| (name.into(), bytes.into()))
        .collect()
}

/// That model, opened.
pub(crate) fn open(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Pipeline {
    let options = OpenOptions::new(&device("flex").unwrap());
    Pipeline::from_files(&Files::memory(files), &options).unwrap()
}

/// A micro Stable Diffusion 1.
pub(crate) fn micro() -> Pipeline {
    open(files(Family::Sd1))
}

/// A small picture in a few steps.
pub(crate) fn request() -> Request {
    Request {
        steps: 8,
        width: Some(64),
        height: Some(64),
        ..Request::new("a")
    }
}

/// Takes all steps that are left, and gives the final latents.
pub(crate) fn finished(run: &mut Run) -> Tensor<4> {
    for step in &mut *run {
        step.unwrap();
    }
    run.latents().clone()
}

/// The final latents of `request`.
pub(crate) fn drawn(pipeline: &Pipeline, request: &Request) -> Tensor<4> {
    finished(&mut pipeline.start(request).unwrap())
}

/// The numbers of a tensor.
pub(crate) fn values(x: &Tensor<4>) -> Vec<f32> {
    x.clone().try_into_vec_as::<f32>().unwrap()
}

/// The largest difference between two tensors.
pub(crate) fn difference(a: &Tensor<4>, b: &Tensor<4>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let pairs = values(a).into_iter().zip(values(b));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
