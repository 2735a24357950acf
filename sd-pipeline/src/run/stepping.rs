//! The steps of a run.

use burn::tensor::{DType, Tensor};
use sd_core::{Guided, Network};

use super::{Progress, Run, Solving};
use crate::finite::Witness;
use crate::memory::DENOISE;
use crate::synchronized::synchronized;
use crate::{Error, Result};

impl Run {
    /// A step of every image that is not finished.
    fn round(&mut self) -> Result<Progress> {
        if self.others.is_empty() {
            return self.step();
        }
        let unfinished = self.runs().filter(|run| !run.finished);
        // Behind a round that was cancelled in its middle some are a step ahead.
        let round = unfinished.map(|run| run.done).min().unwrap_or_default();
        let mut all = Progress {
            done: round + 1,
            total: self.settings.steps(),
            fraction: 1.0,
            evaluations: 0,
        };
        let mut others = std::mem::take(&mut self.others);
        let mut step = || {
            for run in std::iter::once(&mut *self).chain(&mut others) {
                if !run.finished && run.done == round {
                    let progress = run.step()?;
                    all.fraction = all.fraction.min(progress.fraction);
                    all.evaluations += progress.evaluations;
                }
            }
            Ok(all)
        };
        let result = step();
        self.others = others;
        result
    }

    fn step(&mut self) -> Result<Progress> {
        let total = self.settings.steps();
        let halves = self.settings.cut.is_some_and(|cut| cut.halves) && self.done + 1 == total;
        let _span = tracing::info_span!(
            "step", index = self.done, shape = ?self.x.dims(), device = ?self.spec.device
        )
        .entered();
        // A step that is stopped must leave no trace.
        let before = (self.solving.save(), self.noise.clone(), self.lease.save());
        let result = self.phases.watch(DENOISE, || {
            synchronized(&[&self.x.device()], "the scheduler", || {
                self.lease.take()?;
                // Those of a step that was stopped.
                drop(self.lease.witnesses());
                let (lease, spec, cancel) = (&self.lease, &self.spec, &self.cancel);
                let (evaluation, done) = (self.evaluation, self.done);
                let model = |guide| -> Box<dyn sd_core::Model + '_> {
                    let guided = Guided::new(lease, guide, spec.parameterization)
                        .in_precision(spec.dtype)
                        .evaluating(evaluation)
                        .cancelled_by(cancel)
                        .at_step(done, total);
                    Box::new(guided)
                };
                let noise = &mut self.noise;
                let (mut step, evaluations) =
                    self.solving.step(self.x.clone(), halves, model, noise)?;
                step.x = self.solving.after_step(step.x, step.level)?;
                let outputs = lease.witnesses();
                check_finite(outputs, &step.x, done + 1, spec.dtype.into())?;
                Ok((step, evaluations))
            })
        });
        if let Err(Error::Component(sd_core::Error::Cancelled)) = &result {
            self.cancel.release();
            let (solving, noise, network) = before;
            self.solving = Solving::restored(&self.settings, &solving)?;
            self.noise = noise;
            self.lease.restore(&network)?;
        }
        let (step, evaluations) = result?;
        self.done += 1;
        let cut = self.settings.cut.is_some();
        self.finished = step.done || (cut && self.done == total);
        if self.finished {
            self.lease.give_back();
        }
        self.x = step.x;
        self.level = step.level;
        self.denoised = Some(step.denoised);
        Ok(Progress {
            done: self.done,
            total,
            fraction: match cut {
                true => self.done as f64 / total as f64,
                false => step.progress,
            },
            evaluations,
        })
    }
}

impl Iterator for Run {
    type Item = Result<Progress>;

    /// Takes the next step; `None` after the last one, and after an error other than a
    /// [cancellation](Self::cancel_handle).
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.is_finished() {
            return None;
        }
        let step = self.begin_due_pass().and_then(|()| self.round());
        let step = step.map(|progress| self.over_both(progress));
        self.show();
        let cancelled = matches!(step, Err(Error::Component(sd_core::Error::Cancelled)));
        self.failed = step.is_err() && !cancelled;
        Some(step)
    }
}

/// Names who made the first NaN or infinite value in the step of number `step`: the denoiser, of
/// `dtype`, by its `outputs`, or what made the latent `x` of them.
fn check_finite(outputs: Vec<Witness>, x: &Tensor<4>, step: usize, dtype: DType) -> Result<()> {
    let evaluations = outputs.len();
    let all = outputs.into_iter().chain([Witness::of(x)]);
    let (component, dtype) = match Witness::first_bad(all)? {
        None => return Ok(()),
        Some(bad) if bad < evaluations => ("the denoiser", dtype),
        Some(_) => ("the scheduler", x.dtype()),
    };
    Err(sd_core::Error::NotFinite {
        component,
        step: Some(step),
        dtype,
    }
    .into())
}
