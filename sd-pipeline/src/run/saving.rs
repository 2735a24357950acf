//! Runs in files: written, and gone on with.

use std::path::Path;

use sd_core::{Network, Noise};

use super::{Run, Solving};
use crate::saved::SavedRun;
use crate::synchronized::synchronized;
use crate::{Error, Pipeline, Request, Result};

/// Steps of a saved run whose solver chooses them, beyond which no run gets.
const MOST_STEPS: usize = 1 << 20;

impl Run {
    /// Writes this run to a file, from which [`Pipeline::resume`] continues it, in this process
    /// or another, as if it had not been interrupted.
    ///
    /// # Errors
    /// [`Error::Io`](crate::Error::Io) when the file cannot be written; it appears whole or not at
    /// all.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let saved = self.saved();
        synchronized(&[&self.x.device()], "saving the run", || {
            saved.write(path.as_ref())
        })
    }

    fn saved(&self) -> SavedRun {
        SavedRun {
            latents: self.x.clone(),
            solving: self.solving.save(),
            network: self.lease.save(),
            done: self.done,
            draws: self.noise.draws(),
            finished: self.finished,
            passed: self.passed,
            others: self.others.iter().map(Self::saved).collect(),
        }
    }

    /// A run of `request` that goes on where the one in the file `path` stopped.
    pub(crate) fn resume(pipeline: &Pipeline, request: &Request, path: &Path) -> Result<Self> {
        // What is wrong with the file shows before anything is loaded.
        let saved = SavedRun::read(path, &pipeline.denoiser.spec().device)?;
        let mut run = Self::new(pipeline, request)?;
        let misfit = |reason: String| Error::SavedRun {
            path: path.to_path_buf(),
            reason,
        };
        if let Some(passed) = saved.passed {
            if run.ahead.is_none() || passed.steps >= MOST_STEPS {
                let steps = passed.steps;
                let reason = "it is in a second pass, and the request has one";
                return Err(misfit(format!("{reason}, or {steps} steps are behind it")));
            }
            run.resume_pass(passed)?;
        }
        let own_steps = pipeline.scheduler.steps_each_image();
        run.restore(saved, own_steps, &misfit)?;
        run.show();
        Ok(run)
    }

    /// `own_steps` says whether the solver decides how many steps there are.
    fn restore(
        &mut self,
        saved: SavedRun,
        own_steps: bool,
        misfit: &dyn Fn(String) -> Error,
    ) -> Result<()> {
        let (shape, stages) = (self.x.dims(), self.settings.plan.stages.len());
        if saved.latents.dims() != shape {
            let found = saved.latents.dims();
            return Err(misfit(format!(
                "its latents are {found:?}, the request's {shape:?}"
            )));
        }
        let (found, images) = (1 + saved.others.len(), 1 + self.others.len());
        if found != images {
            return Err(misfit(format!(
                "it has {found} images, the request {images}"
            )));
        }
        // Of its first pass nothing is left to do then, and the solver is not asked again.
        let is_between = saved.finished && self.ahead.is_some();
        let most = match own_steps {
            true => MOST_STEPS,
            false => stages + usize::from(is_between),
        };
        if saved.done >= most || saved.solving.sampler.index() >= most {
            let done = saved.done;
            return Err(misfit(format!(
                "{done} steps are done, the request has {stages}"
            )));
        }
        let tensors = &saved.solving.sampler.tensors;
        if let Some((name, found)) = tensors.iter().find(|(_, t)| t.dims() != shape) {
            let found = found.dims();
            return Err(misfit(format!(
                "its solver's '{name}' is {found:?}, the request's latents {shape:?}"
            )));
        }
        let layers = self.settings.layers.len();
        if saved.solving.layers.len() != layers {
            let found = saved.solving.layers.len();
            return Err(misfit(format!(
                "it has {found} layers around the model, the request {layers}"
            )));
        }
        // No solver draws as often in one step; a file that claims it would keep us drawing.
        let most = 16 * (stages as u64 + 2);
        if saved.draws > most {
            let reason = format!(
                "it counts {} noise draws, expected at most {most}",
                saved.draws
            );
            return Err(misfit(reason));
        }
        if !is_between {
            self.solving = Solving::restored(&self.settings, &saved.solving)?;
            self.lease.restore(&saved.network)?;
        }
        // Seeds and the number of draws are the whole state of the noise.
        while self.noise.draws() < saved.draws {
            self.noise.normal(shape)?;
        }
        self.x = saved.latents;
        self.done = saved.done;
        self.finished = saved.finished;
        if let Some(before) = saved.done.checked_sub(1) {
            let stages = &self.settings.plan.stages;
            self.level = stages[(self.settings.first + before).min(stages.len() - 1)].to;
        }
        for (other, saved) in self.others.iter_mut().zip(saved.others) {
            other.restore(saved, own_steps, misfit)?;
        }
        Ok(())
    }
}
