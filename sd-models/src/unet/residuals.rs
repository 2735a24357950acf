use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Conditioning, DenoiserSpec, Error, Extension, Result};

/// Additions to what a U-Net keeps on its way down, made by networks beside it (Zhang et al. 2023,
/// arXiv:2302.05543; Mou et al. 2023, arXiv:2302.08453).
#[derive(Debug, Clone, Default)]
pub struct UNetResiduals {
    /// One for each tensor kept, the first convolution's first, `[n, c, h, w]` each; or none.
    pub skips: Vec<Tensor<4>>,
    /// One for the middle block's output.
    pub mid: Option<Tensor<4>>,
}

impl UNetResiduals {
    /// Adds them to `skips`, and to the middle block's output `x`.
    pub(super) fn add(self, skips: &mut [Tensor<4>], x: Tensor<4>) -> Result<Tensor<4>> {
        if !self.skips.is_empty() && self.skips.len() != skips.len() {
            let expected = format!("expected {}, one for each tensor kept", skips.len());
            return Err(Error::invalid("skip residuals", self.skips.len(), expected));
        }
        let mid = self.mid.clone();
        self.add_first(skips)?;
        match mid {
            Some(residual) => sum("the middle residual", x, residual),
            None => Ok(x),
        }
    }

    /// Adds the first of them to `skips`, which may be fewer, and leaves the middle block's.
    pub(super) fn add_first(self, skips: &mut [Tensor<4>]) -> Result<()> {
        for (skip, residual) in skips.iter_mut().zip(self.skips) {
            *skip = sum("a skip residual", skip.clone(), residual)?;
        }
        Ok(())
    }

    /// The residuals of two sources together.
    fn and(self, other: Self) -> Result<Self> {
        let skips = match (self.skips.is_empty(), other.skips.is_empty()) {
            (true, _) => other.skips,
            (_, true) => self.skips,
            _ if self.skips.len() != other.skips.len() => {
                let expected = format!("expected {}, as many as the other's", self.skips.len());
                return Err(Error::invalid(
                    "skip residuals",
                    other.skips.len(),
                    expected,
                ));
            }
            _ => {
                let pairs = self.skips.into_iter().zip(other.skips);
                let sums = pairs.map(|(a, b)| sum("a skip residual", a, b));
                sums.collect::<Result<_>>()?
            }
        };
        let mid = match (self.mid, other.mid) {
            (Some(a), Some(b)) => Some(sum("the middle residual", a, b)?),
            (a, b) => a.or(b),
        };
        Ok(Self { skips, mid })
    }
}

fn sum(what: &'static str, x: Tensor<4>, residual: Tensor<4>) -> Result<Tensor<4>> {
    if x.dims() == residual.dims() {
        Ok(x + residual)
    } else {
        let expected = format!("{:?}", x.dims());
        Err(Error::shape(what, &residual.dims(), expected))
    }
}

/// A network beside the U-Net, such as a ControlNet, with what it is steered by.
pub trait UNetAdapter: Debug + Send + Sync {
    /// Begins a run of one branch, whose conditioning the adapter may read too.
    ///
    /// # Errors
    /// [`Error::Shape`] for conditioning that does not fit.
    fn prepare(
        &self,
        conditioning: &Conditioning,
        spec: &DenoiserSpec,
    ) -> Result<Box<dyn PreparedAdapter>>;
}

/// A [`UNetAdapter`] in a run.
pub trait PreparedAdapter: Send {
    /// The addition for the latent `x` `[n, c, h, w]`, as the U-Net sees it, at timestep `t`.
    ///
    /// # Errors
    /// Those of its network.
    fn residuals(&self, x: &Tensor<4>, t: f64) -> Result<UNetResiduals>;
}

/// The [`Extension`] of a branch's [`Conditioning`] that holds its adapters; what several add is
/// summed.
#[derive(Debug, Clone, Default)]
pub struct UNetAdapters(pub Vec<Arc<dyn UNetAdapter>>);

impl Extension for UNetAdapters {
    const NAME: &'static str = "networks beside a U-Net";
}

/// The sum that all of `adapters` add for one branch; `None` when there are none.
pub(super) fn of_branch(
    adapters: &[Box<dyn PreparedAdapter>],
    x: &Tensor<4>,
    t: f64,
) -> Result<Option<UNetResiduals>> {
    let mut sum: Option<UNetResiduals> = None;
    for adapter in adapters {
        let residuals = adapter.residuals(x, t)?;
        sum = Some(match sum {
            Some(sum) => sum.and(residuals)?,
            None => residuals,
        });
    }
    Ok(sum)
}

/// The residuals of several branches behind each other, zeros where a branch has none; `None` when
/// none has any.
pub(super) fn batch(branches: Vec<Option<UNetResiduals>>) -> Result<Option<UNetResiduals>> {
    if branches.iter().all(Option::is_none) {
        return Ok(None);
    }
    let branches: Vec<_> = branches
        .into_iter()
        .map(Option::unwrap_or_default)
        .collect();
    let count = branches.iter().map(|b| b.skips.len()).max().unwrap_or(0);
    let skips = (0..count).map(|i| rows(branches.iter().map(|b| b.skips.get(i))));
    Ok(Some(UNetResiduals {
        skips: skips
            .collect::<Result<Option<Vec<_>>>>()?
            .unwrap_or_default(),
        mid: rows(branches.iter().map(|b| b.mid.as_ref()))?,
    }))
}

/// All tensors behind each other, zeros for one that is missing; `None` when all are.
fn rows<'a>(
    parts: impl Iterator<Item = Option<&'a Tensor<4>>> + Clone,
) -> Result<Option<Tensor<4>>> {
    let Some(like) = parts.clone().flatten().next() else {
        return Ok(None);
    };
    let part = |part: Option<&Tensor<4>>| match part {
        Some(part) if part.dims() != like.dims() => {
            let expected = format!("{:?}, another branch's", like.dims());
            Err(Error::shape("a residual", &part.dims(), expected))
        }
        Some(part) => Ok(part.clone()),
        None => Ok(like.zeros_like()),
    };
    let parts = parts.map(part).collect::<Result<Vec<_>>>()?;
    Ok(Some(Tensor::cat(parts, 0)))
}
