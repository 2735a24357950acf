use std::fmt::Debug;
use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::{Cancel, Conditioning, DenoiserSpec, Error, Extension, Result};

/// Additions to what a U-Net keeps on its way down, made by networks beside it (Zhang et al. 2023,
/// arXiv:2302.05543; Mou et al. 2023, arXiv:2302.08453).
#[derive(Debug, Clone, Default)]
pub struct UNetResiduals {
    /// One for each tensor kept, the first convolution's first, `[n, c, h, w]` each; or none.
    pub skips: Vec<Tensor<4>>,
    /// One for the middle block's output.
    pub mid: Option<Tensor<4>>,
    /// One for each block on the way down, finest first, or fewer, added while the picture is on its way:
    /// to what the last layer makes where a block has transformers, else to what the block makes. One
    /// more than there are blocks is for the middle block's output (as in diffusers' T2I-Adapter).
    pub blocks: Vec<Tensor<4>>,
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
        let mid = match (self.mid, other.mid) {
            (Some(a), Some(b)) => Some(sum("the middle residual", a, b)?),
            (a, b) => a.or(b),
        };
        Ok(Self {
            skips: each("skip residuals", self.skips, other.skips)?,
            mid,
            blocks: each("residuals of blocks", self.blocks, other.blocks)?,
        })
    }
}

/// The sums of both lists' tensors, of which one may be empty.
fn each(what: &'static str, own: Vec<Tensor<4>>, other: Vec<Tensor<4>>) -> Result<Vec<Tensor<4>>> {
    match (own.len(), other.len()) {
        (0, _) => Ok(other),
        (_, 0) => Ok(own),
        (expected, found) if expected != found => {
            let expected = format!("expected {expected}, as many as the other's");
            Err(Error::invalid(what, found, expected))
        }
        _ => {
            let pairs = own.into_iter().zip(other);
            pairs.map(|(a, b)| sum("a residual", a, b)).collect()
        }
    }
}

pub(super) fn sum(what: &'static str, x: Tensor<4>, residual: Tensor<4>) -> Result<Tensor<4>> {
    if x.dims() == residual.dims() {
        Ok(x + residual)
    } else {
        let expected = format!("{:?}", x.dims());
        Err(Error::shape(what, &residual.dims(), expected))
    }
}

/// A network beside the U-Net, such as a ControlNet, with what it is steered by.
pub trait UNetAdapter: Debug + Send + Sync {
    /// Begins a run of `branches`, those that have this adapter, whose conditioning it may read too.
    ///
    /// # Errors
    /// [`Error::Shape`] for conditioning that does not fit.
    fn prepare(
        &self,
        branches: &[&Conditioning],
        spec: &DenoiserSpec,
    ) -> Result<Box<dyn PreparedAdapter>>;
}

/// A [`UNetAdapter`] in a run.
pub trait PreparedAdapter: Send {
    /// The addition to each of `branches`, numbers of those it was prepared for, for the latent `x`
    /// `[n, c, h, w]`, as the U-Net sees it but for channels beside it, at timestep `t`. Branches that
    /// it cannot tell apart share what is computed.
    ///
    /// # Errors
    /// Those of its network, [`Error::Cancelled`].
    fn residuals(
        &self,
        x: &Tensor<4>,
        t: f64,
        branches: &[usize],
        cancel: &Cancel,
    ) -> Result<Vec<UNetResiduals>>;
}

/// The [`Extension`] of a branch's [`Conditioning`] that holds its adapters; what several add is
/// summed.
#[derive(Debug, Clone, Default)]
pub struct UNetAdapters(pub Vec<Arc<dyn UNetAdapter>>);

impl Extension for UNetAdapters {
    const NAME: &'static str = "networks beside a U-Net";
}

/// An adapter in a run, and its own numbers of the U-Net's branches.
pub(super) struct Beside {
    network: Box<dyn PreparedAdapter>,
    numbers: Numbers,
}

/// Of each branch its number to an adapter; `None` of one that has not this adapter.
type Numbers = Vec<Option<usize>>;

impl Beside {
    /// The adapters of all branches, each prepared once for those that have it; `adapters` are those of
    /// each branch.
    pub(super) fn all(
        branches: &[Conditioning],
        adapters: &[Vec<Arc<dyn UNetAdapter>>],
        spec: &DenoiserSpec,
    ) -> Result<Vec<Self>> {
        let mut found: Vec<(&Arc<dyn UNetAdapter>, Numbers)> = Vec::new();
        for (branch, adapters) in adapters.iter().enumerate() {
            for adapter in adapters {
                // One that a branch has twice is added twice.
                let known = found.iter().position(|(other, numbers)| {
                    std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(adapter))
                        && numbers[branch].is_none()
                });
                let known = known.unwrap_or_else(|| {
                    found.push((adapter, vec![None; branches.len()]));
                    found.len() - 1
                });
                let numbers = &mut found[known].1;
                numbers[branch] = Some(numbers.iter().flatten().count());
            }
        }
        let prepared = found.into_iter().map(|(adapter, numbers)| {
            let own = branches.iter().zip(&numbers);
            let own: Vec<_> = own.filter_map(|(b, number)| number.map(|_| b)).collect();
            Ok(Self {
                network: adapter.prepare(&own, spec)?,
                numbers,
            })
        });
        prepared.collect()
    }
}

/// The sum of what all of `adapters` add to each of `branches`; `None` where there are none.
pub(super) fn of_branches(
    adapters: &[Beside],
    x: &Tensor<4>,
    t: f64,
    branches: &[usize],
    cancel: &Cancel,
) -> Result<Vec<Option<UNetResiduals>>> {
    let mut sums: Vec<Option<UNetResiduals>> = vec![None; branches.len()];
    for adapter in adapters {
        let own = branches.iter().enumerate();
        let own = own.filter_map(|(k, branch)| Some((k, (*adapter.numbers.get(*branch)?)?)));
        let (places, numbers): (Vec<usize>, Vec<usize>) = own.unzip();
        if numbers.is_empty() {
            continue;
        }
        let all = adapter.network.residuals(x, t, &numbers, cancel)?;
        if all.len() != numbers.len() {
            let expected = format!("expected one for each of {} branches", numbers.len());
            return Err(Error::invalid(
                "an adapter's residuals",
                all.len(),
                expected,
            ));
        }
        for (place, residuals) in places.into_iter().zip(all) {
            sums[place] = Some(match sums[place].take() {
                Some(sum) => sum.and(residuals)?,
                None => residuals,
            });
        }
    }
    Ok(sums)
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
    let mut counts = branches.iter().map(|b| b.skips.len()).filter(|n| *n > 0);
    if let Some(first) = counts.next()
        && let Some(other) = counts.find(|n| *n != first)
    {
        let expected = format!("expected {first}, as many as another branch's");
        return Err(Error::invalid("skip residuals", other, expected));
    }
    let lists = |list: fn(&UNetResiduals) -> &Vec<Tensor<4>>| {
        let count = branches.iter().map(|b| list(b).len()).max().unwrap_or(0);
        let all = (0..count).map(|i| rows(branches.iter().map(|b| list(b).get(i))));
        let all = all.collect::<Result<Option<Vec<_>>>>()?;
        Ok::<_, Error>(all.unwrap_or_default())
    };
    Ok(Some(UNetResiduals {
        skips: lists(|b| &b.skips)?,
        mid: rows(branches.iter().map(|b| b.mid.as_ref()))?,
        blocks: lists(|b| &b.blocks)?,
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
