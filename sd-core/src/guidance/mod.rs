//! Guidance: which branches of the network are evaluated, and what is made of their outputs.

mod combination;
mod composed;
mod contrast;
mod interval;
mod samples;
mod scale;

use std::any::Any;
use std::fmt::Debug;

use burn::tensor::Tensor;

use crate::{Conditioning, Error, Level, Parameterization, Result, SavedState};

pub use combination::{
    Combination, Linear, PerpendicularNegative, Projected, Thresholded, ZeroStar,
};
pub use composed::Composed;
pub use contrast::{Contrast, Perturbation, Perturbed, SecondNetwork};
pub use scale::ScaleCurve;

/// A way to steer the network by evaluating it under several conditions: which branches there are,
/// and what is made of their outputs.
///
/// A guidance holds settings only and serves any number of runs at once. Everything one run
/// changes is in the [`Guide`] that [`start`](Self::start) makes, as with
/// [`Scheduler`](crate::Scheduler) and [`Sampler`](crate::Sampler).
pub trait Guidance: Any + Debug + Send + Sync {
    /// The texts to encode for it, in the order in which [`branches`](Self::branches) gets them.
    fn texts(&self) -> Vec<Text>;

    /// The branches of the network, from the conditioning of each of [`texts`](Self::texts). A
    /// branch may be one of these, changed, or there twice. The default takes them as they are.
    ///
    /// # Errors
    /// Settings that do not fit the conditioning.
    fn branches(&self, texts: Vec<Conditioning>) -> Result<Vec<Conditioning>> {
        Ok(texts)
    }

    /// Number of branches that one evaluation costs in the step number `step`, from 0, of `steps`;
    /// at most, where the branches depend on the level too. The default is one for each text.
    fn evaluations(&self, step: usize, steps: usize) -> usize {
        let _ = (step, steps);
        self.texts().len()
    }

    /// Begins a run.
    fn start(&self) -> Box<dyn Guide>;
}

/// A text that a [`Guidance`] wants encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Text {
    /// The prompt: what the picture should show.
    Prompt,
    /// The negative prompt; where none is given, what the encoder has for that.
    Negative,
    /// The empty prompt, whatever the negative one is.
    Empty,
}

/// One run of a [`Guidance`]. What it remembers lives here and ends with it.
pub trait Guide: Debug + Send {
    /// The branches to evaluate there, one or more, as indices into
    /// [`Guidance::branches`]'s.
    fn wanted(&self, at: &At<'_>) -> Vec<usize>;

    /// Makes one output of those of the [`wanted`](Self::wanted) branches, f32, in their order.
    ///
    /// # Errors
    /// Whatever keeps it from doing so.
    fn combine(&mut self, at: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput>;

    /// All that a later [`restore`](Self::restore) needs to continue from here. The default is
    /// nothing, for a guide without memory.
    fn save(&self) -> SavedState {
        SavedState::default()
    }

    /// Puts a guide just started by the same guidance where `state` was saved.
    ///
    /// # Errors
    /// [`Error::SavedState`](crate::Error::SavedState) when `state` is of another guidance.
    fn restore(&mut self, state: &SavedState) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

/// Place of a run when it asks its [`Guide`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct At<'a> {
    /// The latent `[n, c, h, w]`, f32, in the solver's scale.
    pub x: &'a Tensor<4>,
    /// Its level.
    pub level: Level,
    /// Meaning of the network's outputs.
    pub parameterization: Parameterization,
    /// Number of the step, from 0. A step may evaluate the network more than once.
    pub step: usize,
    /// Number of steps of the run.
    pub steps: usize,
}

impl<'a> At<'a> {
    /// A place in the only step of a run, for trying a guide by itself; all fields can be set.
    pub fn new(x: &'a Tensor<4>, level: Level, parameterization: Parameterization) -> Self {
        Self {
            x,
            level,
            parameterization,
            step: 0,
            steps: 1,
        }
    }

    /// The clean latent x₀ that `output` implies here.
    pub fn denoised(&self, output: Tensor<4>) -> Tensor<4> {
        let (x, level) = (self.x.clone(), self.level);
        self.parameterization.denoised(x, level, output)
    }

    /// The output that implies the clean latent `denoised` here: the way back.
    pub fn output(&self, denoised: Tensor<4>) -> Tensor<4> {
        let [a, b] = self.parameterization.coefficients(self.level).clean;
        (denoised - self.x.clone() * a) / b
    }
}

/// Result of one evaluation, as a [`Guide`] makes it.
#[derive(Debug, Clone)]
pub struct NetworkOutput {
    /// The output to follow: of the latent's shape, or with twice its channels, whose second half
    /// is what the network learned of its variance (Nichol & Dhariwal 2021).
    pub guided: Tensor<4>,
    /// The unconditional branch's output, where there is one.
    pub uncond: Option<Tensor<4>>,
}

impl NetworkOutput {
    /// An output without guidance.
    pub fn unguided(output: Tensor<4>) -> Self {
        Self {
            guided: output,
            uncond: None,
        }
    }
}

/// No guidance: the prompt alone is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unguided;

impl Guidance for Unguided {
    fn texts(&self) -> Vec<Text> {
        vec![Text::Prompt]
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(*self)
    }
}

impl Guide for Unguided {
    fn wanted(&self, _: &At<'_>) -> Vec<usize> {
        vec![0]
    }

    fn combine(&mut self, _: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput> {
        let [output] = exactly(outputs)?;
        Ok(NetworkOutput::unguided(output))
    }
}

/// Classifier-free guidance (Ho & Salimans 2022, arXiv:2207.12598): `scale` times as far from the
/// negative prompt's output as the prompt's output is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClassifierFree {
    /// The guidance scale, above 1; usually 1 to 15.
    pub scale: f64,
}

impl Guidance for ClassifierFree {
    fn texts(&self) -> Vec<Text> {
        vec![Text::Negative, Text::Prompt]
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(*self)
    }
}

impl Guide for ClassifierFree {
    fn wanted(&self, _: &At<'_>) -> Vec<usize> {
        vec![0, 1]
    }

    fn combine(&mut self, _: &At<'_>, outputs: Vec<Tensor<4>>) -> Result<NetworkOutput> {
        let [uncond, cond] = exactly(outputs)?;
        Ok(NetworkOutput {
            guided: uncond.clone() + (cond - uncond.clone()) * self.scale,
            uncond: Some(uncond),
        })
    }
}

/// Guidance that a distilled network does itself: the scale is embedded like a timestep (Luo et al.
/// 2023, arXiv:2310.04378), and the prompt alone is evaluated, whatever the scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Embedded {
    /// The guidance scale.
    pub scale: f64,
}

impl Guidance for Embedded {
    fn texts(&self) -> Vec<Text> {
        vec![Text::Prompt]
    }

    fn branches(&self, mut texts: Vec<Conditioning>) -> Result<Vec<Conditioning>> {
        for conditioning in &mut texts {
            conditioning.guidance_scale = Some(self.scale);
        }
        Ok(texts)
    }

    fn start(&self) -> Box<dyn Guide> {
        Box::new(Unguided)
    }
}

/// The `N` outputs that a guide asked for.
///
/// # Errors
/// [`Error::InvalidArgument`](crate::Error::InvalidArgument) when there are more or fewer.
pub fn exactly<const N: usize>(outputs: Vec<Tensor<4>>) -> Result<[Tensor<4>; N]> {
    <[Tensor<4>; N]>::try_from(outputs).map_err(|outputs| {
        let expected = format!("expected {N}, one for each branch that was asked for");
        Error::invalid("network outputs", outputs.len(), expected)
    })
}
