use std::collections::BTreeSet;
use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};
use sd_core::{Conditioning, DenoiserSpec, Error, Result};

use super::PreparedAdapter;
use crate::Weights;

/// A network that has a picture steer a U-Net: a ControlNet, a T2I-Adapter.
pub trait ControlNetwork: Send + Sync {
    /// Facts of the network.
    fn spec(&self) -> &ControlSpec;

    /// Begins a run of `branches`, all steered alike, beside the U-Net of `unet`.
    ///
    /// # Errors
    /// [`Error::Shape`] for a picture or conditioning that does not fit;
    /// [`Error::InvalidArgument`] for a kind of picture that it does not know.
    fn prepare(
        self: Arc<Self>,
        steering: &Steering,
        branches: &[&Conditioning],
        unet: &DenoiserSpec,
    ) -> Result<Box<dyn PreparedAdapter>>;
}

/// Facts of a [`ControlNetwork`] that a program must know to use it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ControlSpec {
    /// Kind of the network: `controlnet`, `t2i_adapter`.
    pub kind: &'static str,
    /// Number of its modules that have weights.
    pub modules: usize,
    /// Channels of its picture: 3, or 1 of a grey one.
    pub channels: usize,
    /// `true` when the picture's channels are blue, green and red.
    pub is_bgr: bool,
    /// Number that height and width of its picture are multiples of.
    pub factor: usize,
    /// Number of kinds of pictures that it is told one of; 0 where it knows one alone.
    pub kinds: usize,
    /// Width of the prompt's tokens, where it reads them.
    pub context_width: Option<usize>,
    /// Whether the U-Net it is for is told sizes and crops (SDXL), where that is known.
    pub embeds_size: Option<bool>,
    /// Channels of the latent, where it sees that.
    pub latent_channels: Option<usize>,
    /// Channels of what it adds to each block of the U-Net's way down, finest first.
    pub block_channels: Vec<usize>,
    /// `true` of one that steers the prompt's branch alone: what it adds is one number for each
    /// channel (`global_pool_conditions`).
    pub is_global: bool,
    /// Device it computes on.
    pub device: Device,
    /// The precision it computes in.
    pub dtype: FloatDType,
}

/// Number of the modules that `weights` are of.
pub(crate) fn modules(weights: &Weights) -> usize {
    let names = weights.shapes().map(|(name, _)| name);
    let modules = names.map(|name| name.rsplit_once('.').map_or(name, |(module, _)| module));
    modules.collect::<BTreeSet<_>>().len()
}

/// A picture and how strongly it steers.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Steering {
    /// The picture `[1, c, h, w]`, f32, in pixels of the picture that is drawn; channels in
    /// `[0, 1]`, or -1 where an area is to be drawn anew.
    pub picture: Tensor<4>,
    /// Number of its kind, for a network of several.
    pub kind: Option<usize>,
    /// Factor on what is added.
    pub scale: f64,
    /// `true` where what is added grows from a tenth at the finest to all at the middle, so that a network
    /// without a prompt finds its way ("guess mode").
    pub guess: bool,
}

impl Steering {
    /// The picture as it is, to its full effect.
    pub fn new(picture: Tensor<4>) -> Self {
        Self {
            picture,
            kind: None,
            scale: 1.0,
            guess: false,
        }
    }

    /// The picture on the network's device in its precision, found fit for it.
    pub(crate) fn fitted(&self, spec: &ControlSpec) -> Result<Tensor<4>> {
        let [n, c, h, w] = self.picture.dims();
        let factor = spec.factor;
        let is_multiple = |side: usize| side > 0 && side.is_multiple_of(factor);
        if n != 1 || c != spec.channels || !is_multiple(h) || !is_multiple(w) {
            let channels = spec.channels;
            let expected =
                format!("[1, {channels}, h, w] with sides that are multiples of {factor}");
            return Err(Error::shape(
                "control picture",
                &self.picture.dims(),
                expected,
            ));
        }
        sd_core::placed(self.picture.clone(), &spec.device, spec.dtype)
    }
}
