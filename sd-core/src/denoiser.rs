use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};

use crate::{
    Cancel, Conditioning, Error, NoiseSchedule, Parameterization, Result, SavedState, TextEmbedding,
};

/// Facts of a [`Denoiser`] that a program must know to run it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DenoiserSpec {
    /// The noise levels the network was trained on.
    pub schedule: Arc<NoiseSchedule>,
    /// Meaning of the network's output.
    pub parameterization: Parameterization,
    /// Channels of the latent it denoises: 4.
    pub latent_channels: usize,
    /// Channels it takes beside the latent, in [`Conditioning::concat`]: 5 for inpainting, else 0.
    pub concat_channels: usize,
    /// Height and width it was trained at, in latent pixels: 64 for Stable Diffusion 1.
    pub sample_size: [usize; 2],
    /// Width of the token embeddings it attends to: 768 for Stable Diffusion 1.
    pub context_width: usize,
    /// Widths of its layers of cross-attention, in the order in which an image prompt numbers them;
    /// none where there are none, or they are not known.
    pub cross_attention: Vec<usize>,
    /// `true` when it embeds sizes and crops, [`Conditioning::size`] (SDXL).
    pub embeds_size: bool,
    /// `true` when it embeds an aesthetic score in the place of the target's size (SDXL's
    /// refiner): it was trained on little noise, and begins with a picture or another model's latent.
    pub embeds_aesthetic_score: bool,
    /// `true` when it embeds the guidance scale (LCM, arXiv:2310.04378): the prompt alone is then
    /// evaluated.
    pub embeds_guidance: bool,
    /// Device it computes on; inputs must live there.
    pub device: Device,
    /// The precision it computes in; inputs must have it.
    pub dtype: FloatDType,
    /// The precision that its products are rounded to, where that is another.
    pub products: Option<FloatDType>,
    /// `true` where its linear layers and convolutions multiply in int8 as far as their weights lose little by it.
    pub int8: bool,
    /// What its weights are rounded to in memory, where they are: "q8", "q4".
    pub rounding: Option<&'static str>,
}

impl DenoiserSpec {
    /// Stable Diffusion 1's on `device`, in f32: ε, 4 channels, 64×64, tokens of width 768. All
    /// fields can be set.
    pub fn new(device: &Device) -> Self {
        Self {
            schedule: Arc::new(NoiseSchedule::stable_diffusion()),
            parameterization: Parameterization::Epsilon,
            latent_channels: 4,
            concat_channels: 0,
            sample_size: [64, 64],
            context_width: 768,
            cross_attention: Vec::new(),
            embeds_size: false,
            embeds_aesthetic_score: false,
            embeds_guidance: false,
            device: device.clone(),
            dtype: FloatDType::F32,
            products: None,
            int8: false,
            rounding: None,
        }
    }
}

impl DenoiserSpec {
    /// `true` of a network that takes beside the latent that of a picture to change, as many
    /// channels (InstructPix2Pix, Brooks et al. 2023, arXiv:2211.09800).
    pub fn takes_picture(&self) -> bool {
        self.concat_channels == self.latent_channels
    }
}

/// The network that predicts the noise in a latent.
///
/// Guidance, noise levels and the loop live elsewhere, so a U-Net, a transformer, a remote
/// service or a closure with a formula in it can stand here. A run asks it once to
/// [`prepare`](Self::prepare) its conditioning, and the [`Network`] it gets once or more per step.
/// One that has nothing to prepare returns [`each_branch`] of its formula.
pub trait Denoiser: Send + Sync {
    /// Facts of this network.
    fn spec(&self) -> &DenoiserSpec;

    /// The noise schedule for a latent of `[height, width]`: models that shift it by size (Flux)
    /// override this. The default is the spec's, whatever the size.
    ///
    /// # Errors
    /// Those of a size the model cannot draw.
    fn schedule(&self, latent: [usize; 2]) -> Result<Arc<NoiseSchedule>> {
        let _ = latent;
        Ok(self.spec().schedule.clone())
    }

    /// Checks the conditioning of each of a run's branches, one or more of the same number of
    /// samples, and computes what does not change between the run's steps, such as the keys and
    /// values of cross-attention.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for conditioning that does not fit,
    /// [`Error::Unread`](crate::Error::Unread) for parts of it that this network does not read:
    /// see [`Conditioning::finish`].
    fn prepare(self: Arc<Self>, branches: Vec<Conditioning>) -> Result<Box<dyn Network>>;
}

/// A denoiser with a run's conditioning: the run's lease on the weights, which stay loaded as long
/// as it lives.
pub trait Network: Send {
    /// The raw outputs for the latent `x` `[n, c, h, w]`, already multiplied by
    /// [`c_in`](crate::Coefficients::c_in), at timestep `t` (0 ..= 999, fractions allowed), of each
    /// of `branches`, in their order: indices into those that were prepared. Of `x`'s shape, or
    /// with twice the channels where the network also learned its variance.
    ///
    /// A large network looks at `cancel` between its blocks.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) when `x` does not fit,
    /// [`Error::Cancelled`](crate::Error::Cancelled).
    fn predict(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<Tensor<4>>>;

    /// All that it remembers of the run's evaluations so far, for a later
    /// [`restore`](Self::restore): features it uses again, for example. The default is nothing, for
    /// a network without memory.
    fn save(&self) -> SavedState {
        SavedState::default()
    }

    /// Puts a network, of the same denoiser and the same branches, where `state` was saved.
    ///
    /// # Errors
    /// [`Error::SavedState`](crate::Error::SavedState) when `state` is of another network.
    fn restore(&self, state: &SavedState) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

impl std::fmt::Debug for dyn Network + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Network")
    }
}

/// A network that evaluates `formula(x, t, text)` for one branch after the other: all that a
/// denoiser needs that has nothing to prepare and reads nothing but the text. `reader` is its name
/// in errors.
///
/// # Errors
/// [`Error::Unread`](crate::Error::Unread) for further conditioning.
pub fn each_branch(
    reader: &'static str,
    branches: Vec<Conditioning>,
    formula: impl Fn(&Tensor<4>, f64, &TextEmbedding) -> Result<Tensor<4>> + Send + 'static,
) -> Result<Box<dyn Network>> {
    let read = |branch: Conditioning| {
        let text = branch.text.clone();
        branch.finish(reader).map(|()| text)
    };
    let texts = branches.into_iter().map(read).collect::<Result<_>>()?;
    Ok(Box::new(EachBranch { texts, formula }))
}

struct EachBranch<F> {
    texts: Vec<TextEmbedding>,
    formula: F,
}

impl<F> Network for EachBranch<F>
where
    F: Fn(&Tensor<4>, f64, &TextEmbedding) -> Result<Tensor<4>> + Send,
{
    fn predict(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<Tensor<4>>> {
        let evaluate = |branch: &usize| {
            cancel.check()?;
            let text = self.texts.get(*branch).ok_or_else(|| {
                let expected = format!("expected less than {}", self.texts.len());
                Error::invalid("branch", branch, expected)
            })?;
            (self.formula)(x, t, text)
        };
        branches.iter().map(evaluate).collect()
    }
}
