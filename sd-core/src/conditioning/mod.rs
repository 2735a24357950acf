//! Conditioning: all that a network is told besides the latent and the timestep.

mod extensions;
mod size;
mod text;

use burn::tensor::{DType, Device, FloatDType, Tensor};

use crate::{Error, Result};

pub use extensions::{Extension, Extensions};
pub use size::SizeConditioning;
pub use text::TextEmbedding;

/// Conditioning of one branch, `n` samples: all that a [`Denoiser`](crate::Denoiser) is told
/// besides the latent and the timestep.
///
/// Its parts have names; what the core does not know travels in [`extensions`](Self::extensions),
/// by type. Whoever reads a part takes it out, and [`finish`](Self::finish) refuses what is left:
/// a part that nothing reads is an error, never silence.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Conditioning {
    /// The prompt's embedding.
    pub text: TextEmbedding,
    /// Sizes and crops in pixels (SDXL), the same for all samples. Plain numbers, so that they stay
    /// exact in every precision.
    pub size: Option<SizeConditioning>,
    /// Guidance scale, for a network that embeds it (LCM).
    pub guidance_scale: Option<f64>,
    /// Channels beside the latent's, `[1 or n, c, h, w]`: inpainting's mask and masked latent.
    pub concat: Option<Tensor<4>>,
    /// Parts that the core does not know: a control picture, an image prompt, LoRA scales.
    pub extensions: Extensions,
}

impl Conditioning {
    /// Conditioning on text alone.
    pub fn new(text: TextEmbedding) -> Self {
        Self {
            text,
            size: None,
            guidance_scale: None,
            concat: None,
            extensions: Extensions::default(),
        }
    }

    /// Number of samples, `n`.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// `true` when there is no sample at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One sample's conditioning for `count` samples.
    ///
    /// # Errors
    /// [`Error::Shape`] when it is not of one sample.
    pub fn repeat(self, count: usize) -> Result<Self> {
        Ok(Self {
            text: self.text.repeat(count)?,
            extensions: self.extensions.repeat(count),
            ..self
        })
    }

    /// The same conditioning on another device, its tensors in another precision.
    ///
    /// # Errors
    /// [`Error::Backend`] when a tensor cannot be read from its device.
    pub fn to(self, device: &Device, dtype: FloatDType) -> Result<Self> {
        let concat = self.concat.map(|concat| placed(concat, device, dtype));
        Ok(Self {
            text: self.text.to(device, dtype)?,
            concat: concat.transpose()?,
            extensions: self.extensions.to(device, dtype)?,
            ..self
        })
    }

    /// Ends the reading: whoever read this conditioning took out what it read, all but the text,
    /// whose pooled vectors an encoder may make for others.
    ///
    /// # Errors
    /// [`Error::Unread`] naming `reader` and what is left.
    pub fn finish(self, reader: &'static str) -> Result<()> {
        let named = [
            (self.size.is_some(), "sizes and crops"),
            (self.guidance_scale.is_some(), "an embedded guidance scale"),
            (self.concat.is_some(), "channels beside the latent"),
        ];
        let mut parts: Vec<_> = named.into_iter().filter(|(left, _)| *left).collect();
        parts.extend(self.extensions.names().map(|name| (true, name)));
        if parts.is_empty() {
            return Ok(());
        }
        let parts = parts.into_iter().map(|(_, name)| name).collect();
        Err(Error::Unread { reader, parts })
    }
}

impl From<TextEmbedding> for Conditioning {
    fn from(text: TextEmbedding) -> Self {
        Self::new(text)
    }
}

/// `tensor` on `device` in precision `dtype`, by way of the host and f32: two servers need not
/// reach each other, and a device may lack the other's precision.
///
/// # Errors
/// [`Error::Backend`] when it cannot be read from its device.
pub fn placed<const D: usize>(
    tensor: Tensor<D>,
    device: &Device,
    dtype: FloatDType,
) -> Result<Tensor<D>> {
    if tensor.device() == *device {
        return Ok(tensor.cast(dtype));
    }
    let data = tensor.cast(FloatDType::F32).try_into_data();
    let data = data.map_err(|e| Error::backend("moving a tensor", e))?;
    Ok(Tensor::<D>::from_data(data, (device, DType::F32)).cast(dtype))
}
