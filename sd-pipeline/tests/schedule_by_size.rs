//! A model may shift its noise levels by the picture's size, as flow-matching models do.

use std::sync::Arc;

use sd_pipeline::core::{Error as CoreError, Result};
use sd_pipeline::schedulers::Euler;
use sd_pipeline::{
    Conditioning, Denoiser, DenoiserSpec, Error, Network, NoiseSchedule, Parameterization,
    Pipeline, Request, Slot, device, each_branch,
};

/// A flow whose shift is the latent's number of pixels over 256, up to 1024 pixels.
struct Shifting(DenoiserSpec);

impl Denoiser for Shifting {
    fn spec(&self) -> &DenoiserSpec {
        &self.0
    }

    fn schedule(&self, [h, w]: [usize; 2]) -> Result<Arc<NoiseSchedule>> {
        if h * w > 1024 {
            let expected = "expected at most 1024";
            return Err(CoreError::invalid("latent pixels", h * w, expected));
        }
        let shifted = self.0.schedule.with_shift((h * w) as f64 / 256.0)?;
        Ok(Arc::new(shifted))
    }

    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>> {
        each_branch("a flow", branches, |x, _, _| Ok(x.clone()))
    }
}

#[test]
fn a_runs_levels_follow_its_size() {
    let mut pipeline: Pipeline = sd_tiny::pipeline(&device("flex").unwrap()).unwrap();
    let mut spec = pipeline.denoiser.spec().clone();
    spec.schedule = Arc::new(NoiseSchedule::flow(1.0).unwrap());
    spec.parameterization = Parameterization::Flow;
    pipeline.denoiser = Slot::from(Shifting(spec));
    pipeline.scheduler = Arc::new(Euler::default());
    let run = |side: usize| {
        let request = Request {
            steps: 4,
            guidance_scale: 1.0,
            width: Some(side),
            height: Some(side),
            ..Request::new("a red cube")
        };
        pipeline.start(&request)
    };
    // The second of σ = 1, 0.667, 0.334, 0.001, shifted: s·σ / (1 + (s − 1)·σ).
    for (side, shift) in [(128, 1.0), (192, 2.25), (256, 4.0)] {
        let sigma = 1.0 - 0.999 / 3.0;
        let expected = shift * sigma / (1.0 + (shift - 1.0) * sigma);
        let found = run(side).unwrap().plan().stages[1].from;
        assert!((found.sigma - expected).abs() < 1e-6, "{side}: {found:?}");
        assert!((found.alpha + found.sigma - 1.0).abs() < 1e-12);
        assert!((found.t - 1000.0 * found.sigma).abs() < 1e-9);
    }
    let error = run(512).unwrap_err();
    let refused = matches!(error, Error::Component(CoreError::InvalidArgument { .. }));
    assert!(refused, "{error:?}");
}
