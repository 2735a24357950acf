use burn::tensor::{FloatDType, Tensor};
use sd_core::{Error, Extension, Result};

use super::config::UNetConfig;
use crate::layers::{SideMap, mix, to_picture, to_tokens};

/// FreeU (Si et al. 2023, arXiv:2309.11497): on a U-Net's way up, the first half of the channels that
/// come from below is amplified, and of those kept on the way down the lowest frequencies are
/// damped. An [`Extension`] of a branch's conditioning, usually of all.
///
/// Each pair of numbers is of two places: [`at`](Self::at) says which.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct FreeU {
    /// Factors of the channels from below, `b1` and `b2`; 1 leaves them.
    pub backbone: [f64; 2],
    /// Factors of the low frequencies of what was kept, `s1` and `s2`; 1 leaves them.
    pub skip: [f64; 2],
    /// Where the numbers count.
    pub at: FreeUPlaces,
    /// `true` for FreeU's second version: the factor from below is not the same everywhere, but 1
    /// where the channels' mean is least and `b` where it is most.
    pub adaptive: bool,
}

/// The two places of [`FreeU`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreeUPlaces {
    /// The first two blocks on the way up, as diffusers has it. In Stable Diffusion 1 both are of the
    /// widest channels.
    Blocks,
    /// The layers with four times and those with twice the finest block's channels coming from below
    /// (1280 and 640 in Stable Diffusion), as the authors and ComfyUI have it.
    Channels,
}

impl FreeU {
    /// diffusers' `enable_freeu(s1, s2, b1, b2)`: the first version, in the first two blocks.
    pub fn new(backbone: [f64; 2], skip: [f64; 2]) -> Self {
        Self {
            backbone,
            skip,
            at: FreeUPlaces::Blocks,
            adaptive: false,
        }
    }

    /// The authors' second version, by channels.
    pub fn second_version(backbone: [f64; 2], skip: [f64; 2]) -> Self {
        Self {
            at: FreeUPlaces::Channels,
            adaptive: true,
            ..Self::new(backbone, skip)
        }
    }

    pub(super) fn check(&self, config: &UNetConfig) -> Result<()> {
        for (name, values) in [("FreeU's b", self.backbone), ("FreeU's s", self.skip)] {
            if let Some(value) = values.into_iter().find(|v| !v.is_finite() || *v < 0.0) {
                return Err(Error::invalid(
                    name,
                    value,
                    "expected a finite number, 0 or more",
                ));
            }
        }
        let finest = config.blocks[0].channels;
        let wide =
            |block: &super::BlockConfig| [4, 2].map(|k| k * finest).contains(&block.channels);
        let found = match self.at {
            FreeUPlaces::Blocks => config.blocks.len() > 1,
            FreeUPlaces::Channels => config.blocks.iter().any(wide),
        };
        match found {
            true => Ok(()),
            false => {
                let expected = "expected a U-Net of two blocks or more, and by channels one with four \
                                or two times the finest block's";
                Err(Error::invalid(
                    "FreeU's places",
                    format!("{:?}", self.at),
                    expected,
                ))
            }
        }
    }

    /// The place, 0 or 1, of a layer of the up block `block`, to which `channels` come from below.
    fn place(&self, block: usize, channels: usize, finest: usize) -> Option<usize> {
        match self.at {
            FreeUPlaces::Blocks => (block < 2).then_some(block),
            FreeUPlaces::Channels => [4, 2].iter().position(|times| channels == times * finest),
        }
    }

    /// What comes from below and what was kept, for a layer of the up block `block`.
    pub(super) fn apply(
        &self,
        block: usize,
        finest: usize,
        x: Tensor<4>,
        skip: Tensor<4>,
    ) -> (Tensor<4>, Tensor<4>) {
        match self.place(block, x.dims()[1], finest) {
            Some(k) => (
                self.amplified(x, self.backbone[k]),
                damped(skip, self.skip[k]),
            ),
            None => (x, skip),
        }
    }

    fn amplified(&self, x: Tensor<4>, factor: f64) -> Tensor<4> {
        let [n, c, ..] = x.dims();
        let half = x.clone().narrow(1, 0, c / 2);
        let rest = x.clone().narrow(1, c / 2, c - c / 2);
        let half = match self.adaptive {
            false => half * factor,
            true => {
                let dtype = FloatDType::from(x.dtype());
                let mean = x.cast(FloatDType::F32).mean_dim(1);
                let flat: Tensor<2> = mean.clone().reshape([n as i32, -1]);
                let [least, most] = [flat.clone().min_dim(1), flat.max_dim(1)];
                let range = (most - least.clone()).clamp_min(f64::from(f32::MIN_POSITIVE));
                let each = |x: Tensor<2>| x.reshape([n, 1, 1, 1]);
                let share = (mean - each(least)) / each(range);
                half * (share * (factor - 1.0) + 1.0).cast(dtype)
            }
        };
        Tensor::cat(vec![half, rest], 1)
    }
}

impl Extension for FreeU {
    const NAME: &'static str = "FreeU's factors";
}

/// `x` with its lowest frequencies times `factor`: the mean, and the wave whose period is the side,
/// in one of its two directions. A transform's middle is not in the middle of an even number of
/// frequencies, and the authors' square of four bins holds 0 and −1 of each side.
fn damped(x: Tensor<4>, factor: f64) -> Tensor<4> {
    if factor == 1.0 {
        return x;
    }
    let [_, _, h, w] = x.dims();
    // Re((1 + e^{-ia})·(1 + e^{-ib})) = (1 + cos a)·(1 + cos b) − sin a·sin b, for differences a
    // of rows and b of columns.
    let angle = |side: usize, to: usize, from: usize| {
        std::f64::consts::TAU * (to as f64 - from as f64) / side as f64
    };
    // Of one place there is but the mean.
    let even = |side: usize| {
        SideMap::new(side, |to, from| match side {
            1 => 1.0,
            _ => (1.0 + angle(side, to, from).cos()) / side as f64,
        })
    };
    let odd =
        |side: usize| SideMap::new(side, |to, from| angle(side, to, from).sin() / side as f64);
    let tokens = to_tokens(x.clone());
    let low = mix(tokens.clone(), &even(h), &even(w)) - mix(tokens, &odd(h), &odd(w));
    x + to_picture(low, h, w) * (factor - 1.0)
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use std::f64::consts::TAU;

    use burn::tensor::{DType, Device, TensorData};

    use super::*;

    /// The discrete Fourier transform with the four bins times `factor`, as it is written.
    fn reference(x: &[f64], h: usize, w: usize, factor: f64) -> Vec<f64> {
        let wave = |u: usize, v: usize, r: usize, c: usize| {
            TAU * ((u * r) as f64 / h as f64 + (v * c) as f64 / w as f64)
        };
        let bins = |side: usize| move |k: &usize| *k == 0 || *k == side - 1;
        let mut out = x.to_vec();
        for u in (0..h).filter(bins(h)) {
            for v in (0..w).filter(bins(w)) {
                let sum = |f: fn(f64) -> f64| -> f64 {
                    let places = (0..h).flat_map(|r| (0..w).map(move |c| (r, c)));
                    places
                        .map(|(r, c)| x[r * w + c] * f(wave(u, v, r, c)))
                        .sum()
                };
                let (re, im) = (sum(f64::cos), -sum(f64::sin));
                for r in 0..h {
                    for c in 0..w {
                        let angle = wave(u, v, r, c);
                        let part = re * angle.cos() - im * angle.sin();
                        out[r * w + c] += (factor - 1.0) * part / (h * w) as f64;
                    }
                }
            }
        }
        out
    }

    #[test]
    fn low_frequencies_are_those_of_the_transform() {
        for (h, w) in [(1, 1), (1, 4), (2, 1), (2, 2), (3, 2), (4, 5), (7, 6)] {
            let value = |i: usize| (f64::sin(i as f64 * 12.9898) * 43758.5453).fract();
            let x: Vec<f64> = (0..h * w).map(value).collect();
            let data = x.iter().map(|v| *v as f32).collect();
            let data = TensorData::new(data, [1, 1, h, w]);
            let tensor = Tensor::<4>::from_data(data, (&Device::flex(), DType::F32));
            let found = damped(tensor, 0.3).try_into_vec_as::<f32>().unwrap();
            let expected = reference(&x, h, w, 0.3);
            let pairs = found.iter().zip(&expected);
            let worst = pairs
                .map(|(f, e)| (f64::from(*f) - e).abs())
                .fold(0.0, f64::max);
            assert!(worst < 1e-6, "{worst:e} at {h}x{w}");
        }
    }
}
