use std::any::Any;
use std::sync::Arc;

use burn::tensor::{Device, FloatDType, Tensor};

use crate::{Error, Result};

/// What a [`TextEncoder`](crate::TextEncoder) makes of `n` prompts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TextEmbedding {
    /// One vector per token, `[n, tokens, width]`: `[n, 77, 768]` for Stable Diffusion 1.
    pub tokens: Tensor<3>,
    /// One vector per prompt, `[n, width]`, for models that take one (SDXL).
    pub pooled: Option<Tensor<2>>,
    /// For each prompt the text that was cut because it did not fit, `None` where all did.
    pub cut: Vec<Option<String>>,
}

impl TextEmbedding {
    /// An embedding of `[n, tokens, width]` with nothing pooled and nothing cut.
    pub fn new(tokens: Tensor<3>) -> Self {
        let cut = vec![None; tokens.dims()[0]];
        Self {
            tokens,
            pooled: None,
            cut,
        }
    }

    /// Adds the pooled embedding `[n, width]`.
    pub fn with_pooled(mut self, pooled: Tensor<2>) -> Self {
        self.pooled = Some(pooled);
        self
    }

    /// Sets what was cut from each prompt.
    pub fn with_cut(mut self, cut: Vec<Option<String>>) -> Self {
        self.cut = cut;
        self
    }
}

/// All that a [`Denoiser`](crate::Denoiser) is told besides the latent and the timestep.
#[derive(Clone)]
#[non_exhaustive]
pub struct Conditioning {
    /// Token embeddings for cross-attention, `[n, tokens, width]`.
    pub context: Tensor<3>,
    /// Pooled text embedding `[n, width]`, for models that take one.
    pub pooled: Option<Tensor<2>>,
    /// Further numbers per sample `[n, k]`: SDXL's sizes and crops.
    pub extra: Option<Tensor<2>>,
    /// What [`Denoiser::prepare`](crate::Denoiser::prepare) computed once for the whole run, for
    /// example the keys and values of cross-attention. Only the denoiser that made it reads it.
    pub prepared: Option<Arc<dyn Any + Send + Sync>>,
}

impl Conditioning {
    /// Conditioning on token embeddings alone.
    pub fn new(context: Tensor<3>) -> Self {
        Self {
            context,
            pooled: None,
            extra: None,
            prepared: None,
        }
    }

    /// Number of samples, `n`.
    pub fn len(&self) -> usize {
        self.context.dims()[0]
    }

    /// Whether there is no sample at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts `other`'s samples behind these, as classifier-free guidance does with the
    /// unconditional and the conditional half. Anything prepared is dropped.
    ///
    /// # Errors
    /// [`Error::Shape`] when token count or width differ, or only one side has pooled or extra
    /// vectors.
    pub fn concat(self, other: Self) -> Result<Self> {
        let ([_, l, w], found) = (self.context.dims(), other.context.dims());
        if found[1..] != [l, w] {
            return Err(Error::shape("context", &found, format!("[n, {l}, {w}]")));
        }
        Ok(Self {
            context: Tensor::cat(vec![self.context, other.context], 0),
            pooled: concat_optional("pooled", self.pooled, other.pooled)?,
            extra: concat_optional("extra", self.extra, other.extra)?,
            prepared: None,
        })
    }

    /// The same conditioning on another device and in another precision. Anything prepared is
    /// dropped.
    pub fn to(self, device: &Device, dtype: FloatDType) -> Self {
        Self {
            context: self.context.to_device(device).cast(dtype),
            pooled: self.pooled.map(|p| p.to_device(device).cast(dtype)),
            extra: self.extra.map(|e| e.to_device(device).cast(dtype)),
            prepared: None,
        }
    }
}

impl From<TextEmbedding> for Conditioning {
    fn from(text: TextEmbedding) -> Self {
        Self {
            pooled: text.pooled,
            ..Self::new(text.tokens)
        }
    }
}

impl std::fmt::Debug for Conditioning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Conditioning")
            .field("context", &self.context.dims())
            .field("pooled", &self.pooled.as_ref().map(Tensor::dims))
            .field("extra", &self.extra.as_ref().map(Tensor::dims))
            .field("prepared", &self.prepared.is_some())
            .finish()
    }
}

fn concat_optional(
    what: &'static str,
    a: Option<Tensor<2>>,
    b: Option<Tensor<2>>,
) -> Result<Option<Tensor<2>>> {
    match (a, b) {
        (None, None) => Ok(None),
        (Some(a), Some(b)) if a.dims()[1] == b.dims()[1] => Ok(Some(Tensor::cat(vec![a, b], 0))),
        (a, b) => {
            let dims = |t: &Option<Tensor<2>>| t.as_ref().map_or(vec![], |t| t.dims().to_vec());
            Err(Error::shape(
                what,
                &dims(&b),
                format!("{:?} but for n", dims(&a)),
            ))
        }
    }
}
