//! Two guidances of our own: one that works in an interval of the run and keeps the contrast, and
//! one that remembers.
//!
//! A request takes them as a value:
//!
//! ```no_run
//! # use std::sync::Arc;
//! # use outside::guidance::Rescaled;
//! # use sd_pipeline::Request;
//! let request = Request {
//!     guidance: Some(Arc::new(Rescaled {
//!         scale: 7.5,
//!         rescale: 0.7,
//!         interval: 0.2..0.8,
//!     })),
//!     ..Request::new("a lighthouse in a storm")
//! };
//! ```

use std::ops::Range;

use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::core::Result;
use sd_pipeline::{At, Guidance, Guide, NetworkOutput, SavedState, Text, exactly};

/// Classifier-free guidance whose output keeps the contrast of the prompt's own (Lin et al. 2023,
/// arXiv:2305.08891, section 3.4), in one part of the run (Kynkäänniemi et al. 2024,
/// arXiv:2404.07724). Elsewhere the prompt alone is evaluated, which costs half.
#[derive(Debug, Clone, PartialEq)]
pub struct Rescaled {
    /// The guidance scale.
    pub scale: f64,
    /// Share of the rescaled output in the result, φ: 0 is plain guidance.
    pub rescale: f64,
    /// The guided part of the run, in fractions of its steps.
    pub interval: Range<f64>,
}

impl Rescaled {
    fn guides(&self, at: &At<'_>) -> bool {
        self.interval.contains(&(at.step as f64 / at.steps as f64))
    }
}

impl Guidance for Rescaled {
    fn texts(&self) -> Vec<Text> {
        vec![Text::Negative, Text::Prompt]
    }

    fn start(&self) -> Box<dyn Guide> {
        // It remembers nothing, so its settings are its run.
        Box::new(self.clone())
    }
}

impl Guide for Rescaled {
    fn wanted(&self, at: &At<'_>) -> Vec<usize> {
        if self.guides(at) { vec![0, 1] } else { vec![1] }
    }

    fn combine(&mut self, at: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput> {
        if !self.guides(at) {
            let [cond] = exactly(outputs)?;
            return Ok(NetworkOutput::unguided(cond));
        }
        let [uncond, cond] = exactly(outputs)?;
        let guided = uncond.clone() + (cond.clone() - uncond.clone()) * self.scale;
        let kept = guided.clone() * (deviation(cond) / deviation(guided.clone()));
        Ok(NetworkOutput {
            guided: guided.clone() + (kept - guided) * self.rescale,
            uncond: Some(uncond),
        })
    }
}

/// Standard deviation of each sample, `[n, 1, 1, 1]`.
fn deviation(x: Tensor<4>) -> Tensor<4> {
    let [n, ..] = x.dims();
    let samples: Tensor<2> = x.reshape([n as i32, -1]);
    samples.var(1).sqrt().reshape([n, 1, 1, 1])
}

/// Classifier-free guidance with momentum: to the difference between both branches' clean latents
/// a share of the last one is added (Sadat et al. 2024, arXiv:2410.02416, section 4.3, where it is
/// negative: the guidance then does not push twice in one direction).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Momentum {
    /// The guidance scale.
    pub scale: f64,
    /// Share of the last difference, −0.75 to −0.25 in the paper.
    pub momentum: f64,
}

impl Guidance for Momentum {
    fn texts(&self) -> Vec<Text> {
        vec![Text::Negative, Text::Prompt]
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(MomentumGuide {
            settings: *self,
            last: None,
        })
    }
}

/// One run of [`Momentum`]. All that it remembers is here, so runs never meet.
#[derive(Debug)]
struct MomentumGuide {
    settings: Momentum,
    last: Option<Tensor<4>>,
}

/// Name of the last difference in a saved run.
const LAST: &str = "last difference";

impl Guide for MomentumGuide {
    fn wanted(&self, _: &At<'_>) -> Vec<usize> {
        vec![0, 1]
    }

    fn combine(&mut self, at: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput> {
        let [uncond, cond] = exactly(outputs)?;
        let clean = at.denoised(cond);
        let mut difference = clean.clone() - at.denoised(uncond.clone());
        if let Some(last) = self.last.take() {
            difference = difference + last * self.settings.momentum;
        }
        self.last = Some(difference.clone());
        Ok(NetworkOutput {
            guided: at.output(clean + difference * (self.settings.scale - 1.0)),
            uncond: Some(uncond),
        })
    }

    fn save(&self) -> SavedState {
        match &self.last {
            Some(last) => SavedState::default().with_tensor(LAST, last.clone()),
            None => SavedState::default(),
        }
    }

    fn restore(&mut self, state: &SavedState) -> Result<()> {
        self.last = state.tensor(LAST);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sd_pipeline::core::{Guided, noise_like};
    use sd_pipeline::{
        ClassifierFree, Conditioning, Device, Level, Model, Parameterization, Request, SeededNoise,
        TextEmbedding, Unguided, each_branch,
    };

    use super::*;
    use crate::testing::{difference, drawn, finished, micro, request, values};

    fn guided(guidance: impl Guidance + 'static) -> Request {
        Request {
            guidance: Some(Arc::new(guidance)),
            negative_prompt: Some("b".into()),
            ..request()
        }
    }

    #[test]
    fn an_interval_lies_between_no_guidance_and_guidance_all_along() {
        let pipeline = micro();
        let within = |interval| Rescaled {
            scale: 4.0,
            rescale: 0.0,
            interval,
        };
        let always = drawn(&pipeline, &guided(ClassifierFree { scale: 4.0 }));
        let never = drawn(&pipeline, &guided(Unguided));
        let part = drawn(&pipeline, &guided(within(0.25..0.75)));
        let whole = drawn(&pipeline, &guided(within(0.0..1.0)));
        let none = drawn(&pipeline, &guided(within(0.0..0.0)));
        assert_eq!(values(&whole), values(&always));
        // One prompt is encoded alone, the other beside a negative one: not the same sums.
        assert!(difference(&none, &never) < 1e-4);
        assert!(difference(&part, &always) > 1e-2 && difference(&part, &never) > 1e-2);
    }

    #[test]
    fn a_rescaled_output_has_the_contrast_of_the_prompts_own() {
        let branch = |share: f32| {
            let tokens = Tensor::full([2, 1, 1], share, &Device::flex());
            Conditioning::new(TextEmbedding::new(tokens))
        };
        // A network that says a fifth of what it sees without the prompt, and all of it with.
        let branches = vec![branch(0.2), branch(1.0)];
        let network = each_branch("a test", branches, |x, _, text| {
            Ok(x.clone() * text.tokens.clone().reshape([2, 1, 1, 1]))
        });
        let network = network.unwrap();
        let guidance = Rescaled {
            scale: 4.0,
            rescale: 1.0,
            interval: 0.0..1.0,
        };
        let mut guide = guidance.start();
        let mut model = Guided::new(&*network, &mut *guide, Parameterization::Sample);
        let x = Tensor::zeros([2, 4, 8, 8], &Device::flex());
        let x = noise_like(&x, &mut SeededNoise::new(0, 2)).unwrap();
        let level = Level::variance_preserving(500.0, 0.5);
        let guided = model.predict(&x, level).unwrap().raw;
        // Without rescaling it would be 3.4 times as much.
        assert!(difference(&guided, &x) < 1e-5);
    }

    #[test]
    fn memory_goes_with_a_saved_run_and_nowhere_else() {
        let pipeline = micro();
        let guidance = Momentum {
            scale: 4.0,
            momentum: -0.5,
        };
        let request = guided(guidance);
        let whole = drawn(&pipeline, &request);

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("run");
        let mut run = pipeline.start(&request).unwrap();
        for step in run.by_ref().take(3) {
            step.unwrap();
        }
        run.save(&file).unwrap();
        // Another run in between.
        drawn(&pipeline, &request);
        let mut resumed = pipeline.resume(&request, &file).unwrap();
        for run in [&mut resumed, &mut run] {
            assert_eq!(values(&finished(run)), values(&whole));
        }

        let plain = drawn(&pipeline, &guided(ClassifierFree { scale: 4.0 }));
        let without = Momentum {
            momentum: 0.0,
            ..guidance
        };
        let without = drawn(&pipeline, &guided(without));
        assert!(difference(&without, &plain) < 1e-3);
        assert!(difference(&whole, &plain) > 1e-2);
    }
}
