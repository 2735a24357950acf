use burn::tensor::Tensor;

use super::known::{Known, restored};
use super::{Layer, Model, Prediction, RunStart, StartedLayer};
use crate::{Level, Parameterization, Result, SavedState, Stage};

/// A layer that keeps part of a picture by blending the latent: after each step the part where
/// `mask` is 0 is the known latent with the run's initial noise, at the level at which the next step
/// begins, and after the last step without any. In a step of second order it is blended before each
/// further evaluation, too, before the second with the noise of the step's end.
///
/// This is the rule of diffusers' inpainting pipelines for networks without channels for a mask.
/// Unlike [`Mask`](super::Mask), the model's answers stay its own, so what a solver remembers of the
/// kept part is not what is there.
#[derive(Debug, Clone)]
pub struct Blend {
    /// `[1 or n, 1 or c, h, w]`, f32, 1 where the picture is drawn anew.
    pub mask: Tensor<4>,
    /// The clean latent to keep, `[1 or n, c, h, w]`, f32.
    pub known: Tensor<4>,
}

impl Layer for Blend {
    fn start(&self, run: &RunStart<'_>) -> Result<Box<dyn StartedLayer>> {
        Ok(Box::new(StartedBlend {
            known: Known::of_run(&self.mask, &self.known, run)?,
            stages: run.plan.stages.clone(),
            next: run.first,
        }))
    }
}

struct StartedBlend {
    known: Known,
    stages: Vec<Stage>,
    /// The stage to do.
    next: usize,
}

impl StartedBlend {
    fn blended(&self, x: Tensor<4>, level: Level) -> Tensor<4> {
        self.known.mixed(x, self.known.noised(level))
    }
}

impl StartedLayer for StartedBlend {
    fn wrap<'a>(&'a mut self, model: Box<dyn Model + 'a>) -> Result<Box<dyn Model + 'a>> {
        Ok(Box::new(Blended {
            run: self,
            model,
            asked: 0,
            is_planned: false,
        }))
    }

    fn after_step(&mut self, x: Tensor<4>, level: Level) -> Result<Tensor<4>> {
        let stage = self.stages.get(self.next);
        self.next += 1;
        // A solver that chooses its own steps ends elsewhere than the plan says.
        if stage.is_none_or(|stage| stage.to != level) {
            return Ok(self.blended(x, level));
        }
        Ok(match self.stages.get(self.next) {
            Some(next) => self.blended(x, next.from),
            None => self.known.mixed(x, self.known.clean.clone()),
        })
    }

    fn save(&self) -> SavedState {
        SavedState::at(self.next)
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.next = restored(state, self.stages.len())?;
        Ok(())
    }
}

/// The model within one step.
struct Blended<'a> {
    run: &'a StartedBlend,
    model: Box<dyn Model + 'a>,
    /// Evaluations in this step. The first one's latent is blended already.
    asked: usize,
    /// `true` where the step is the plan's.
    is_planned: bool,
}

impl Model for Blended<'_> {
    fn parameterization(&self) -> Parameterization {
        self.model.parameterization()
    }

    fn predict(&mut self, x: &Tensor<4>, level: Level) -> Result<Prediction> {
        let stage = self.run.stages.get(self.run.next);
        self.asked += 1;
        if self.asked == 1 {
            self.is_planned = stage.is_some_and(|stage| stage.from == level);
            return self.model.predict(x, level);
        }
        let known = match stage {
            // diffusers counts this evaluation as a step.
            Some(stage) if self.asked == 2 && self.is_planned => stage.to,
            _ => level,
        };
        let x = self.run.blended(x.clone(), known);
        self.model.predict(&x, level)
    }

    fn read(&self, x: &Tensor<4>, level: Level, raw: Tensor<4>) -> Prediction {
        self.model.read(x, level, raw)
    }

    fn evaluations(&self) -> usize {
        self.model.evaluations()
    }
}
