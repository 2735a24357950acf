use burn::tensor::Tensor;

use super::known::{Known, restored};
use super::{Layer, Model, RunStart, StartedLayer};
use crate::{Level, Result, SavedState, Stage};

/// A layer that releases a picture bit by bit, so that grey is a strength for each pixel
/// (differential diffusion, Levin & Fried 2023, arXiv:2306.00950): the darker a pixel, the later.
///
/// Before step i of k, counted from 0, the latent is the known one where `1 − mask > i/k`, with the
/// run's initial noise at the level at which the step begins; elsewhere it is the solver's own. So
/// white is drawn all along, and black is kept up to the last step. Steps count whatever their
/// levels, as in the paper's programs; their number is that of the plan's stages from where the run
/// begins.
#[derive(Debug, Clone)]
pub struct SoftMask {
    /// `[1 or n, 1 or c, h, w]`, f32, within 0 and 1.
    pub mask: Tensor<4>,
    /// The clean latent to begin with, `[1 or n, c, h, w]`, f32.
    pub known: Tensor<4>,
}

impl Layer for SoftMask {
    fn start(&self, run: &RunStart<'_>) -> Result<Box<dyn StartedLayer>> {
        Ok(Box::new(StartedSoftMask {
            known: Known::of_run(&self.mask, &self.known, run)?,
            stages: run.plan.stages.iter().skip(run.first).copied().collect(),
            next: 0,
        }))
    }
}

struct StartedSoftMask {
    known: Known,
    /// The run's own.
    stages: Vec<Stage>,
    /// The step to do.
    next: usize,
}

impl StartedLayer for StartedSoftMask {
    fn wrap<'a>(&'a mut self, model: Box<dyn Model + 'a>) -> Result<Box<dyn Model + 'a>> {
        Ok(model)
    }

    fn after_step(&mut self, x: Tensor<4>, _level: Level) -> Result<Tensor<4>> {
        self.next += 1;
        let Some(stage) = self.stages.get(self.next) else {
            return Ok(x);
        };
        let share = self.next as f32 / self.stages.len() as f32;
        let kept = (-self.known.mask.clone() + 1.0).greater_elem(share);
        Ok(x.clone()
            .mask_where(kept.expand(x.dims()), self.known.noised(stage.from)))
    }

    fn save(&self) -> SavedState {
        SavedState::at(self.next)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.next = restored(state, self.stages.len())?;
        Ok(())
    }
}
