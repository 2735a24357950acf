use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{
    Guidance, Guide, Layer, Level, Model, Noise, Plan, Result, RunStart, Sampler, SavedState,
    Scheduler, StartedLayer, Step,
};

use super::handover::{Cut, FirstHalf};

/// All settings of a run's arithmetic.
pub(super) struct Settings {
    pub(super) scheduler: Arc<dyn Scheduler>,
    pub(super) guidance: Arc<dyn Guidance>,
    pub(super) layers: Vec<Arc<dyn Layer>>,
    pub(super) plan: Plan,
    /// The stage the run begins with.
    pub(super) first: usize,
    /// The place at which another model goes on, where there is one.
    pub(super) cut: Option<Cut>,
    /// The initial noise, of unit variance.
    pub(super) noise: Tensor<4>,
}

impl Settings {
    /// The number behind the run's last stage.
    pub(super) fn end(&self) -> usize {
        self.cut.map_or(self.plan.stages.len(), |cut| cut.end())
    }

    /// Number of the run's steps.
    pub(super) fn steps(&self) -> usize {
        self.end() - self.first
    }
}

/// All that steps of a run remember, but for the latent and the noise.
pub(super) struct Solving {
    sampler: Box<dyn Sampler>,
    pub(super) guide: Box<dyn Guide>,
    layers: Vec<Box<dyn StartedLayer>>,
}

/// [`Solving`] in plain values.
#[derive(Debug, Clone, Default)]
pub(crate) struct SavedSolving {
    pub(crate) sampler: SavedState,
    pub(crate) guide: SavedState,
    pub(crate) layers: Vec<SavedState>,
}

impl Solving {
    /// The beginning of a run.
    pub(super) fn start(settings: &Settings) -> Result<Self> {
        let run = RunStart::new(&settings.noise, &settings.plan, settings.first);
        let layers = settings.layers.iter().map(|layer| layer.start(&run));
        Ok(Self {
            sampler: settings.scheduler.start(&settings.plan, settings.first)?,
            guide: settings.guidance.start(),
            layers: layers.collect::<Result<_>>()?,
        })
    }

    pub(super) fn save(&self) -> SavedSolving {
        SavedSolving {
            sampler: self.sampler.save(),
            guide: self.guide.save(),
            layers: self.layers.iter().map(|layer| layer.save()).collect(),
        }
    }

    /// A run that goes on where `saved` was.
    pub(super) fn restored(settings: &Settings, saved: &SavedSolving) -> Result<Self> {
        let mut solving = Self::start(settings)?;
        solving.sampler.restore(&saved.sampler)?;
        solving.guide.restore(&saved.guide)?;
        for (layer, saved) in solving.layers.iter_mut().zip(&saved.layers) {
            layer.restore(saved)?;
        }
        Ok(solving)
    }

    /// The next step, or its first half; `model` makes the innermost model under the guide. Also
    /// gives the number of evaluations.
    pub(super) fn step<'a>(
        &'a mut self,
        x: Tensor<4>,
        halves: bool,
        model: impl FnOnce(&'a mut dyn Guide) -> Box<dyn Model + 'a>,
        noise: &mut dyn Noise,
    ) -> Result<(Step, usize)> {
        let mut model = model(&mut *self.guide);
        for layer in &mut self.layers {
            model = layer.wrap(model)?;
        }
        if halves {
            let mut half = FirstHalf::new(model);
            let step = self.sampler.step(x, &mut half, noise);
            let evaluations = half.evaluations();
            let step = match half.reached() {
                Some((x, level, denoised)) => Step {
                    x,
                    level,
                    denoised,
                    progress: 1.0,
                    done: true,
                },
                None => step?,
            };
            return Ok((step, evaluations));
        }
        let step = self.sampler.step(x, &mut *model, noise)?;
        let evaluations = model.evaluations();
        Ok((step, evaluations))
    }

    /// The latent of a step as the layers leave it to the next.
    pub(super) fn after_step(&mut self, x: Tensor<4>, level: Level) -> Result<Tensor<4>> {
        let mut layers = self.layers.iter_mut();
        layers.try_fold(x, |x, layer| layer.after_step(x, level))
    }
}
