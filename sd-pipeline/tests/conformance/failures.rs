//! A device that fails gives an error, and the program goes on.

use std::sync::Arc;

use burn::tensor::Tensor;
use sd_pipeline::core::Result;
use sd_pipeline::{
    Conditioning, Denoiser, DenoiserSpec, Network, OpenOptions, Pipeline, Request, Slot, burn,
    each_branch,
};

use crate::Place;
use crate::report::{Log, psnr};

/// A denoiser that asks for more memory than there is.
struct Greedy {
    inner: Slot<dyn Denoiser>,
    numbers: usize,
}

impl Denoiser for Greedy {
    fn spec(&self) -> &DenoiserSpec {
        self.inner.spec()
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        each_branch("a greedy network", branches, move |x, _, _| {
            let more = Tensor::<1>::zeros([self.numbers], &x.device());
            Ok(x.clone() + more.narrow(0, 0, 1).reshape([1, 1, 1, 1]))
        })
    }
}

fn request() -> Request {
    Request {
        steps: 1,
        guidance_scale: 1.0,
        ..Request::new(sd_tiny::PROMPT)
    }
}

fn pipeline(place: &Place) -> Pipeline {
    let options = OpenOptions {
        dtype: place.dtype,
        ..OpenOptions::new(&place.device)
    };
    Pipeline::from_files(&sd_tiny::files(), &options).expect("the model opens")
}

/// 1 if `generate` fails with an error of the backend, else 0: a panic never gets here.
fn fails(pipeline: &Pipeline) -> f64 {
    let error = pipeline.generate(&request()).err();
    let error = error.map(|e| e.to_string()).unwrap_or_default();
    f64::from(u8::from(error.contains("the backend failed in")))
}

pub(crate) fn out_of_memory(place: &Place, log: &mut Log) {
    if place.dtype != sd_pipeline::FloatDType::F32 {
        return log.not_here();
    }
    let mut pipeline = pipeline(place);
    let before = pipeline.generate(&request()).expect("a picture");
    let denoiser = pipeline.denoiser.clone();
    pipeline.denoiser = Slot::from(Greedy {
        inner: denoiser.clone(),
        // Where the memory is the program's own, what can be asked of it but not given would end
        // the program; there it is more than can be asked.
        numbers: if place.shares_memory() {
            1 << 61
        } else {
            1 << 40
        },
    });
    log.at_least("errors", fails(&pipeline), 1.0);
    pipeline.denoiser = denoiser;
    let after = pipeline
        .generate(&request())
        .expect("a picture after the error");
    log.at_least("psnr before and after", psnr(&before[0], &after[0]), 100.0);
}

#[cfg(not(feature = "wgpu"))]
pub(crate) fn lost_device(_: &Place, log: &mut Log) {
    log.not_here();
}

#[cfg(feature = "wgpu")]
pub(crate) fn lost_device(place: &Place, log: &mut Log) {
    let is_wgpu = place.name.starts_with("wgpu") || place.name.starts_with("vulkan");
    if !is_wgpu || place.dtype != sd_pipeline::FloatDType::F32 {
        return log.not_here();
    }
    // A device of its own, on the same adapter: the other checks go on with theirs.
    let open = sd_pipeline::devices::wgpu::setup(&place.device).expect("its handles");
    let setup = crate::shared_device::setup(&open.instance, open.adapter);
    let Ok(device) = sd_pipeline::devices::wgpu::from_setup(setup.clone()) else {
        return log.not_here();
    };
    let place = Place {
        name: "another".into(),
        device,
        dtype: place.dtype,
    };
    let pipeline = pipeline(&place);
    pipeline
        .generate(&request())
        .expect("a picture before the loss");
    setup.device.destroy();
    log.at_least("errors", fails(&pipeline), 1.0);
    // Later calls fail too, and do not bring the program down.
    log.at_least("errors again", fails(&pipeline), 1.0);
}
