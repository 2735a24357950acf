//! Attention of heads that lie side by side in tokens: in three kernels that store the scores, or in
//! one of Burn's that does not.

mod flash;
#[cfg(feature = "autotune")]
mod tuned;

use burn::tensor::{DType, Tensor};
use burn_cubecl::tensor::CubeTensor;

use crate::heads::{split_three, values};
use crate::product;
use crate::softmax::softmax;
use crate::tensor::{cube, empty, in_precision, reshaped, rows, tensor};
use crate::unavailable::Unavailable;

/// Queries, and keys and values of as many tokens as each other, each `[n, tokens, heads · width]`.
#[derive(Debug)]
pub struct Attention {
    /// From the tokens that look.
    pub query: Tensor<3>,
    /// From the tokens that are looked at.
    pub key: Tensor<3>,
    /// From the tokens that are looked at.
    pub value: Tensor<3>,
    /// Heads, side by side in each token.
    pub heads: usize,
    /// A token sees itself and those before it alone.
    pub causal: bool,
    /// Scores that may be in memory at once.
    pub scores: usize,
}

impl Attention {
    /// The values gathered, `[n, tokens, heads · width]`: [`separately`](Self::separately), or on
    /// matrix units in one kernel of Burn's flash attention if that was faster when the shape first
    /// occurred. Without the cargo feature `autotune` nothing is measured.
    pub fn gather(self) -> Tensor<3> {
        #[cfg(feature = "autotune")]
        if !self.causal {
            return self.tuned();
        }
        self.separately()
    }

    /// The values gathered in three kernels for as many queries as make [`scores`](Self::scores).
    ///
    /// Scores are f32 whatever the tokens are: q·kᵀ reaches 10⁵ before it is divided, and f16 ends at
    /// 65504. What they become are shares of one, in the tokens' precision.
    pub fn separately(self) -> Tensor<3> {
        let Self { heads, causal, .. } = self;
        let tokens = [self.query, self.key, self.value];
        let [query, key, value] = match heads {
            1 => tokens.map(|x| x.unsqueeze_dim(1)),
            _ => split_three(tokens, heads),
        };
        let [n, _, queries, width] = query.dims();
        let (keys, dtype) = (key.dims()[2], query.dtype());
        let scale = 1.0 / (width as f64).sqrt();
        let attend = |query| {
            let scores = product(query, key.clone(), true, DType::F32);
            let shares = softmax(scores, scale, causal, dtype);
            values(shares, value.clone())
        };
        // A text's tokens are few, and those of a part would count from its own beginning.
        let at_once = (self.scores / (n * heads * keys).max(1)).max(1);
        if causal || at_once >= queries {
            return attend(query);
        }
        let parts = query.split(at_once, 2).into_iter().map(attend);
        Tensor::cat(parts.collect(), 1)
    }

    /// The values gathered in one kernel, of Burn's flash attention: on matrix units where the device
    /// has them and the shape fits, else on plain ones.
    ///
    /// # Errors
    /// [`Unavailable`] where no kernel can be launched for this shape on this device.
    pub fn at_once(self) -> Result<Tensor<3>, Unavailable> {
        let whole = Whole::of(self);
        let accelerated = |planes| whole.gather(flash::accelerated(planes)).ok();
        let made = flash::PLANES.into_iter().find_map(accelerated);
        let made = made.map_or_else(|| whole.gather(flash::unit()), Ok);
        made.map(tensor)
    }
}

/// Tokens for kernels that find the heads in them by themselves: each `[n, heads, tokens, width]`,
/// of which nothing was moved.
#[derive(Clone, Debug)]
struct Whole {
    query: CubeTensor,
    key: CubeTensor,
    value: CubeTensor,
    causal: bool,
}

impl Whole {
    fn of(attention: Attention) -> Self {
        let (dtype, heads) = (attention.query.dtype(), attention.heads);
        let split = |x: Tensor<3>| {
            let [n, tokens, all] = x.dims();
            let x = rows(cube(in_precision(x, dtype)));
            let mut x = reshaped(x, [n, tokens, heads, all / heads]);
            x.meta.swap(1, 2);
            x
        };
        Self {
            query: split(attention.query),
            key: split(attention.key),
            value: split(attention.value),
            causal: attention.causal,
        }
    }

    /// Where the heads are to be written, and tokens `[n, tokens, heads · width]` in the same memory.
    fn out(&self) -> [CubeTensor; 2] {
        let [n, heads, tokens, width] = self.query.meta.shape().dims();
        let mut out = empty(&self.query, [n, tokens, heads, width], self.query.dtype);
        let side_by_side = reshaped(out.clone(), [n, tokens, heads * width]);
        out.meta.swap(1, 2);
        [out, side_by_side]
    }
}
