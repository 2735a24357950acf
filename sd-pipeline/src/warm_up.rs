use std::ops::ControlFlow;

use crate::devices::compiles_kernels;
use crate::{Pipeline, Request, Result};

/// Steps of a warm-up: a solver that remembers steps uses its whole formula in the second of
/// three.
const STEPS: usize = 3;

/// Progress of a [warm-up](Pipeline::warm_up).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct WarmUp {
    /// The part just done.
    pub stage: WarmUpStage,
    /// Parts done so far.
    pub done: usize,
    /// Parts there are.
    pub total: usize,
}

/// Part of a [warm-up](Pipeline::warm_up).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WarmUpStage {
    /// Nothing yet.
    Begun,
    /// The text encoder ran.
    TextEncoder,
    /// The denoiser ran, and the scheduler.
    Denoiser,
    /// The autoencoder decoded a picture.
    Autoencoder,
    /// All is ready.
    Ready,
}

impl Pipeline {
    /// Makes a backend compile and tune, now instead of in the first picture, what pictures like
    /// `requests` need: three steps and a decoding of each. Size, count, whether there is guidance
    /// and the pipeline's scheduler matter; prompts, seeds and numbers of steps do not.
    ///
    /// `progress` is called before the first part and after each. Where it returns
    /// [`ControlFlow::Break`] the warm-up ends; what is compiled by then stays. Returns whether it
    /// came to its end.
    ///
    /// On flex and ndarray there is nothing to compile or tune: the requests are checked, and that
    /// is all. What GPU backends find out they keep for the life of the process; a program that
    /// calls [`kernel_cache`](crate::devices::kernel_cache) first keeps it in a folder, for later ones.
    ///
    /// # Errors
    /// Those of [`generate`](Self::generate).
    pub fn warm_up(
        &self,
        requests: &[Request],
        mut progress: impl FnMut(WarmUp) -> ControlFlow<()>,
    ) -> Result<bool> {
        let (denoiser, autoencoder) = (self.denoiser.spec(), self.autoencoder.spec());
        for request in requests {
            request.latent_shape(denoiser, autoencoder)?;
        }
        let compiles = [&denoiser.device, &autoencoder.device].map(compiles_kernels);
        let parts = if compiles.contains(&true) {
            (STEPS + 2) * requests.len()
        } else {
            0
        };
        let total = parts + 1;
        let mut done = 0;
        let mut report = |stage| {
            let report = WarmUp { stage, done, total };
            done += 1;
            progress(report).is_break()
        };
        if report(WarmUpStage::Begun) {
            return Ok(false);
        }
        for request in requests.iter().take(parts) {
            let request = Request {
                steps: STEPS,
                ..request.clone()
            };
            let mut run = self.start(&request)?;
            if report(WarmUpStage::TextEncoder) {
                return Ok(false);
            }
            // A solver may choose its own number of steps.
            for _ in 0..STEPS {
                run.next().transpose()?;
                if report(WarmUpStage::Denoiser) {
                    return Ok(false);
                }
            }
            run.images()?;
            if report(WarmUpStage::Autoencoder) {
                return Ok(false);
            }
        }
        // Nothing is left to stop.
        let _ = report(WarmUpStage::Ready);
        Ok(true)
    }
}
