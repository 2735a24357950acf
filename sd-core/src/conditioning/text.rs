use burn::tensor::{Device, FloatDType, Tensor};

use super::placed;
use crate::{Error, Result};

/// Embedding of `n` prompts: what a [`TextEncoder`](crate::TextEncoder) makes of them.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TextEmbedding {
    /// One vector per token, `[n, tokens, width]`: `[n, 77, 768]` for Stable Diffusion 1.
    pub tokens: Tensor<3>,
    /// One vector per prompt, `[n, width]`, for models that take one (SDXL).
    pub pooled: Option<Tensor<2>>,
    /// For each prompt the text that was cut because it did not fit, `None` where all did.
    pub truncated: Vec<Option<String>>,
}

impl TextEmbedding {
    /// An embedding of `[n, tokens, width]` with nothing pooled and nothing cut.
    pub fn new(tokens: Tensor<3>) -> Self {
        let truncated = vec![None; tokens.dims()[0]];
        Self {
            tokens,
            pooled: None,
            truncated,
        }
    }

    /// Adds the pooled embedding `[n, width]`.
    pub fn with_pooled(mut self, pooled: Tensor<2>) -> Self {
        self.pooled = Some(pooled);
        self
    }

    /// Sets what was cut from each prompt.
    pub fn with_truncated(mut self, truncated: Vec<Option<String>>) -> Self {
        self.truncated = truncated;
        self
    }

    /// Number of prompts, `n`.
    pub fn len(&self) -> usize {
        self.tokens.dims()[0]
    }

    /// `true` when there is no prompt at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The embedding of prompt `k` alone; `k` must be below [`len`](Self::len).
    pub fn row(&self, k: usize) -> Self {
        Self {
            tokens: self.tokens.clone().narrow(0, k, 1),
            pooled: (self.pooled.as_ref()).map(|pooled| pooled.clone().narrow(0, k, 1)),
            truncated: vec![self.truncated.get(k).cloned().flatten()],
        }
    }

    /// Zeros of the same shapes.
    pub fn zeros_like(&self) -> Self {
        Self {
            tokens: self.tokens.zeros_like(),
            pooled: self.pooled.as_ref().map(Tensor::zeros_like),
            truncated: vec![None; self.len()],
        }
    }

    /// One prompt's embedding `count` times.
    ///
    /// # Errors
    /// [`Error::Shape`] when it is not of one prompt.
    pub fn repeat(self, count: usize) -> Result<Self> {
        if self.len() != 1 {
            let expected = "[1, tokens, width]";
            return Err(Error::shape("text tokens", &self.tokens.dims(), expected));
        }
        Ok(Self {
            tokens: self.tokens.repeat_dim(0, count),
            pooled: self.pooled.map(|pooled| pooled.repeat_dim(0, count)),
            truncated: vec![self.truncated.into_iter().next().flatten(); count],
        })
    }

    /// All prompts of `parts`, one behind the other.
    ///
    /// # Errors
    /// [`Error::Shape`] when token count or width differ, only some have pooled vectors, or there
    /// is none at all.
    pub fn cat(parts: Vec<Self>) -> Result<Self> {
        let Some(first) = parts.first() else {
            return Err(Error::shape("text tokens", &[0], "[n, tokens, width]"));
        };
        let [_, tokens, width] = first.tokens.dims();
        let pooled = first.pooled.as_ref().map(|pooled| pooled.dims()[1]);
        for part in &parts {
            let found = part.tokens.dims();
            if found[1..] != [tokens, width] {
                let expected = format!("[n, {tokens}, {width}]");
                return Err(Error::shape("text tokens", &found, expected));
            }
            let found = part.pooled.as_ref().map(|pooled| pooled.dims());
            if found.map(|dims| dims[1]) != pooled {
                let found = found.map_or(vec![], |dims| dims.to_vec());
                let expected = pooled.map_or("none".into(), |width| format!("[n, {width}]"));
                return Err(Error::shape("pooled text embedding", &found, expected));
            }
        }
        let mut all = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            all.0.push(part.tokens);
            all.1.extend(part.pooled);
            all.2.extend(part.truncated);
        }
        Ok(Self {
            tokens: Tensor::cat(all.0, 0),
            pooled: pooled.map(|_| Tensor::cat(all.1, 0)),
            truncated: all.2,
        })
    }

    /// The same embedding on another device in another precision.
    ///
    /// # Errors
    /// [`Error::Backend`] when it cannot be read from its device.
    pub fn to(self, device: &Device, dtype: FloatDType) -> Result<Self> {
        let pooled = self.pooled.map(|pooled| placed(pooled, device, dtype));
        Ok(Self {
            tokens: placed(self.tokens, device, dtype)?,
            pooled: pooled.transpose()?,
            truncated: self.truncated,
        })
    }
}
