use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, FloatDType, Tensor, TensorData};

use super::KeyValue;

/// Tokens that an [`Attention`](super::Attention) layer looks at beside others, in an attention of
/// their own whose result is added.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    pub(crate) key_value: KeyValue,
    /// Factor of what is added.
    pub(crate) scale: f64,
    /// Share of it that each token that looks gets; all of it without one.
    pub(crate) shares: Option<Arc<TokenShares>>,
}

impl Beside {
    /// `sum` and what the tokens gathered, both `[n, tokens, width]`.
    pub(super) fn added(&self, sum: Tensor<3>, gathered: Tensor<3>) -> Tensor<3> {
        let gathered = match &self.shares {
            Some(shares) => {
                let shares = shares.tensor(&gathered);
                gathered * shares
            }
            None => gathered,
        };
        match self.scale {
            1.0 => sum + gathered,
            scale => sum + gathered * scale,
        }
    }
}

/// Shares of a picture's tokens, of which the layers have different numbers.
pub(crate) struct TokenShares {
    /// Shares of so many tokens.
    of: Box<dyn Fn(usize) -> Vec<f32> + Send + Sync>,
    /// By their number, `[1, tokens, 1]`, as they are first asked for.
    known: Mutex<HashMap<usize, Tensor<3>>>,
}

impl TokenShares {
    pub(crate) fn new(of: impl Fn(usize) -> Vec<f32> + Send + Sync + 'static) -> Self {
        Self {
            of: Box::new(of),
            known: Mutex::default(),
        }
    }

    /// The shares of the tokens of `like`, on its device in its precision.
    fn tensor(&self, like: &Tensor<3>) -> Tensor<3> {
        let [_, tokens, _] = like.dims();
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shares) = known().get(&tokens) {
            return shares.clone();
        }
        // Not under the lock: who computes may be a thread that is asked for the same meanwhile.
        let data = TensorData::new((self.of)(tokens), [1, tokens, 1]);
        let shares = Tensor::<3>::from_data(data, (&like.device(), DType::F32));
        let shares = shares.cast(FloatDType::from(like.dtype()));
        known().insert(tokens, shares.clone());
        shares
    }
}

impl std::fmt::Debug for TokenShares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenShares")
    }
}
