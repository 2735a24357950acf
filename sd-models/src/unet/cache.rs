use burn::tensor::Tensor;
use sd_core::{Error, Extension, Result, SavedState};

use super::config::UNetConfig;

/// A way to leave out part of a U-Net's evaluations and use an earlier one's features in its place,
/// an [`Extension`] of a branch's conditioning, usually of all. It saves time and changes the
/// picture.
///
/// The features are the run's: they are saved with it. Evaluations are counted, so a solver that
/// evaluates twice in a step counts two.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepCache {
    /// DeepCache (Ma et al. 2023, arXiv:2312.00858): only each `interval`-th evaluation, from the
    /// first on, is whole. The others go down no further than to the skip connection of number
    /// `depth` and take from the last whole one what came up from below.
    Deep {
        /// Evaluations from a whole one to the next, 1 or more; 3 to 5 are usual.
        interval: usize,
        /// Number of the skip connection, from 0, that of the first convolution: the less, the less is
        /// computed. In networks of two layers a block, such as Stable Diffusion's, it is the
        /// `cache_branch_id` of the authors' program: block `depth / 3`, layer `depth % 3`.
        depth: usize,
    },
    /// First-block cache (as diffusers' `FirstBlockCacheConfig` for transformers, of the idea of
    /// TeaCache, Liu et al. 2024, arXiv:2411.19108): where the first layer changes the picture as it
    /// did in the last whole evaluation, what all others changed is taken from there.
    ///
    /// The pictures of a run are evaluated whole, or not, together.
    FirstBlock {
        /// The most that the first layer's change may differ, relative to that change, by their mean
        /// absolute values: 0 evaluates all whole; 0.05 to 0.2 are usual.
        threshold: f64,
    },
}

impl Extension for StepCache {
    const NAME: &'static str = "a cache of features";
}

impl StepCache {
    pub(super) fn check(self, config: &UNetConfig) -> Result<()> {
        match self {
            Self::Deep { interval: 0, .. } => Err(Error::invalid(
                "the cache's interval",
                0,
                "expected 1 or more",
            )),
            Self::Deep { depth, .. } if width(config, depth).is_none() => {
                let expected = format!("expected less than {}", skips(config));
                Err(Error::invalid("the cache's depth", depth, expected))
            }
            Self::FirstBlock { threshold } if !threshold.is_finite() || threshold < 0.0 => {
                let expected = "expected a finite number, 0 or more";
                Err(Error::invalid("the cache's threshold", threshold, expected))
            }
            _ => Ok(()),
        }
    }

    /// Channels of each tensor of features.
    fn widths(self, config: &UNetConfig) -> Vec<usize> {
        match self {
            Self::Deep { depth, .. } => width(config, depth).into_iter().collect(),
            Self::FirstBlock { .. } => vec![config.blocks[0].channels; 2],
        }
    }
}

/// Number of skip connections, which is that of layers on the way up.
fn skips(config: &UNetConfig) -> usize {
    let stages = config.up_stages();
    stages.iter().map(|stage| stage.resnets.len()).sum()
}

/// Channels that come from below to the layer that takes the skip connection of number `depth`.
fn width(config: &UNetConfig, depth: usize) -> Option<usize> {
    let before = skips(config).checked_sub(depth + 1)?;
    let stages = config.up_stages();
    let mut resnets = stages.iter().flat_map(|stage| &stage.resnets);
    match before.checked_sub(1) {
        Some(last) => resnets.nth(last).map(|resnet| resnet.outputs),
        None => config.blocks.last().map(|block| block.channels),
    }
}

/// What one branch remembers.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    /// Evaluations so far.
    calls: usize,
    /// Features of the last whole one, each `[n, c, h, w]`.
    features: Vec<Tensor<4>>,
}

impl Memory {
    /// `true` when the next evaluation is whole whatever the picture.
    pub(super) fn is_due(&self, cache: StepCache) -> bool {
        match cache {
            _ if self.features.is_empty() => true,
            StepCache::Deep { interval, .. } => self.calls.is_multiple_of(interval),
            StepCache::FirstBlock { .. } => false,
        }
    }

    /// The part of a saved state that is this branch's, of number `branch`.
    pub(super) fn save(&self, branch: usize, state: &mut SavedState) {
        let (calls, features) = names(branch);
        state.numbers.push((calls, self.calls as f64));
        let tensors = self.features.iter().enumerate();
        state
            .tensors
            .extend(tensors.map(|(k, x)| (features(k), x.clone())));
    }

    /// The branch of number `branch`, of `samples` pictures, as it was saved.
    pub(super) fn restored(
        cache: StepCache,
        config: &UNetConfig,
        samples: usize,
        branch: usize,
        state: &SavedState,
    ) -> Result<Self> {
        let (calls, name) = names(branch);
        let widths = cache.widths(config);
        let found = (0..widths.len()).map_while(|k| state.tensor(&name(k)));
        let memory = Self {
            calls: state.number(&calls).unwrap_or_default() as usize,
            features: found.collect(),
        };
        let fits = |(x, width): (&Tensor<4>, &usize)| x.dims()[..2] == [samples, *width];
        let whole = [0, widths.len()].contains(&memory.features.len());
        if whole && memory.features.iter().zip(&widths).all(fits) {
            return Ok(memory);
        }
        let found: Vec<_> = memory.features.iter().map(|x| x.dims()).collect();
        Err(Error::SavedState(format!(
            "the features kept are {found:?}, expected {samples} samples of {widths:?} channels"
        )))
    }
}

fn names(branch: usize) -> (String, impl Fn(usize) -> String) {
    let features = move |k| format!("branch {branch} features {k}");
    (format!("branch {branch} evaluations"), features)
}

/// What of one evaluation is taken from an earlier one.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "made for one evaluation, moved and never stored"
)]
pub(super) enum Reuse {
    /// Nothing, and nothing is kept.
    Nothing,
    /// What comes from below to the layer that takes the skip connection of number `depth`; where it
    /// is not there, the evaluation is whole and leaves it.
    Deep {
        depth: usize,
        features: Option<Tensor<4>>,
    },
    /// What the first layer changed, and what all others did; where they do not serve, the evaluation
    /// is whole and leaves others.
    FirstBlock {
        threshold: f64,
        features: Option<[Tensor<4>; 2]>,
    },
}

impl Reuse {
    /// What an evaluation of branches with these `memories` takes from them.
    pub(super) fn of(cache: Option<StepCache>, memories: &[Memory]) -> Self {
        let Some(cache) = cache else {
            return Self::Nothing;
        };
        let due = memories.iter().any(|memory| memory.is_due(cache));
        let all = |k: usize| {
            let parts: Vec<_> = (memories.iter())
                .filter_map(|memory| memory.features.get(k).cloned())
                .collect();
            (!due).then(|| Tensor::cat(parts, 0))
        };
        match cache {
            StepCache::Deep { depth, .. } => Self::Deep {
                depth,
                features: all(0),
            },
            StepCache::FirstBlock { threshold } => Self::FirstBlock {
                threshold,
                features: all(0).zip(all(1)).map(|(a, b)| [a, b]),
            },
        }
    }

    /// What the branches remember after the evaluation.
    pub(super) fn remember(self, memories: &mut [Memory]) {
        let features = match self {
            Self::Nothing => return,
            Self::Deep { features, .. } => features.into_iter().collect(),
            Self::FirstBlock { features, .. } => features.map_or_else(Vec::new, Vec::from),
        };
        let count = memories.len();
        for (k, memory) in memories.iter_mut().enumerate() {
            memory.calls += 1;
            let part = |x: &Tensor<4>| {
                let n = x.dims()[0] / count;
                x.clone().narrow(0, k * n, n)
            };
            memory.features = features.iter().map(part).collect();
        }
    }
}

/// A check that features fit a picture of this evaluation.
pub(super) fn check_size(features: &Tensor<4>, like: &Tensor<4>) -> Result<()> {
    let ([n, _, h, w], [m, _, y, x]) = (features.dims(), like.dims());
    if (n, h, w) == (m, y, x) {
        return Ok(());
    }
    Err(Error::SavedState(format!(
        "the features kept are {n} of {h}x{w}, and {m} of {y}x{x} are needed"
    )))
}

/// `true` where `now` is within `threshold` of `before`, relative to it.
pub(super) fn is_close(before: &Tensor<4>, now: &Tensor<4>, threshold: f64) -> Result<bool> {
    let mean = |x: Tensor<4>| -> Result<f64> {
        let x = x.cast(burn::tensor::FloatDType::F32).abs().mean();
        let x = x.try_into_vec_as::<f32>();
        let x = x.map_err(|e| Error::backend("comparing features", e))?;
        Ok(x.first().copied().map_or(f64::NAN, f64::from))
    };
    let difference = mean(now.clone() - before.clone())?;
    Ok(difference <= threshold * mean(before.clone())? && threshold > 0.0)
}
