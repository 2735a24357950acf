//! A Brownian path that can be asked at any σ in any order: the noise of DPM++ SDE.

mod seed_sequence;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use rayon::prelude::*;
use sd_core::{Error, Level, Noise, Plan, Result, TorchRng, noise_like};

use seed_sequence::generate_state;

/// One Brownian path per image over the σ of a plan: torchsde's `BrownianInterval` as k-diffusion
/// sets it up, number for number. A step between two σ gets the path's increment, so that runs of
/// different lengths from one seed follow the same path.
///
/// The path is asked at σ itself. torchsde rounds the place to 1e-6, and diffusers and k-diffusion ask
/// at `exp(log σ)` in f32, whose last bit is about that near σ = 14: a path moves by 1e-3 there between
/// two neighbours, and with few steps from the highest noise their own pictures change by as much as
/// 0.08, of latents up to 79, when every σ is shifted by one f32. So no other program's latents agree
/// to more than that, each other's included; those of diffusers asked at the same σ as here do, to 1e-3.
#[derive(Debug, Clone)]
pub(crate) struct Brownian {
    ends: Ends,
    /// The last few points asked for, of all images: a step begins where the one before ended.
    points: VecDeque<(f64, Arc<Vec<f64>>)>,
    kept: Kept,
}

/// Beginning and end of the paths.
#[derive(Debug, Clone, Copy)]
struct Ends {
    low: f64,
    high: f64,
}

impl Ends {
    fn between(low: f64, high: f64) -> Self {
        Self {
            low: round(low),
            high: round(high),
        }
    }
}

impl Brownian {
    /// The paths over all levels of `plan` above σ = 0.
    pub(crate) fn over(plan: &Plan) -> Self {
        let ratio = |level: Level| level.sigma / level.alpha;
        let ends = (plan.stages.iter()).flat_map(|stage| [ratio(stage.from), ratio(stage.to)]);
        let positive = ends.filter(|sigma| *sigma > 0.0);
        let (low, high) = positive.fold((f64::INFINITY, 0.0f64), |(low, high), sigma| {
            (low.min(sigma), high.max(sigma))
        });
        Self {
            ends: Ends::between(low, high),
            points: VecDeque::new(),
            kept: Kept::new(),
        }
    }

    /// The increment from σ `from` down to σ `to`, divided by its standard deviation. Where the
    /// run has no seeds (recorded noise) it is the next draw. All calls of a run give the same
    /// seeds.
    pub(crate) fn increment(
        &mut self,
        from: f64,
        to: f64,
        x: &Tensor<4>,
        noise: &mut dyn Noise,
    ) -> Result<Tensor<4>> {
        let seeds = noise.seeds();
        if seeds.is_empty() {
            return noise_like(x, noise);
        }
        let [n, c, h, w] = x.dims();
        if seeds.len() != n {
            let expected = format!("the run has {} seeds, one per image", seeds.len());
            return Err(Error::invalid("noise batch", n, expected));
        }
        let scale = -(from - to).abs().sqrt().recip();
        let above = self.point(from, &seeds, c * h * w);
        let below = self.point(to, &seeds, c * h * w);
        let steps = above.iter().zip(below.iter());
        let values: Vec<f32> = steps.map(|(a, b)| ((a - b) * scale) as f32).collect();
        let data = TensorData::new(values, [n, c, h, w]);
        Ok(Tensor::from_data(data, &x.device()))
    }

    /// Values of all paths at `sigma`.
    fn point(&mut self, sigma: f64, seeds: &[u64], count: usize) -> Arc<Vec<f64>> {
        if let Some((_, point)) = self.points.iter().find(|(known, _)| *known == sigma) {
            return point.clone();
        }
        let ends = self.ends;
        let paths = seeds.iter().map(|&seed| Path { ends, seed, count });
        let kept = &mut self.kept;
        let point = Arc::new(paths.flat_map(|path| path.at(sigma, kept)).collect());
        self.points.push_front((sigma, Arc::clone(&point)));
        self.points.truncate(3);
        point
    }
}

struct Path {
    ends: Ends,
    seed: u64,
    count: usize,
}

/// A halving of an interval on the way to a point.
struct Halving {
    /// Seed of its noise, beside the path's.
    key: [u64; 2],
    /// The noise's standard deviation.
    deviation: f64,
    /// The left half's share of the interval.
    share: f64,
    goes_left: bool,
}

/// The noises of the halvings nearest the root, which the next point's way has in common.
type Kept = HashMap<(u64, [u64; 2]), Arc<Vec<f32>>>;

/// Number of halvings kept; further down two points seldom share one.
const KEPT: u64 = 10;

impl Path {
    /// `W(sigma) − W(low)`: from the whole interval's increment down by halves, each half's
    /// increment drawn given the whole's (Lévy's construction), until `sigma` is reached.
    fn at(&self, sigma: f64, kept: &mut Kept) -> Vec<f64> {
        let Ends { low, high } = self.ends;
        let target = round(sigma).clamp(low, high);
        if target == low {
            return vec![0.0; self.count];
        }
        let halvings = self.halvings(target);
        // Every noise has a seed of its own, so that all can be drawn at once.
        let root = (Vec::new(), None);
        let seeds = halvings.iter().map(|h| (h.key.to_vec(), Some(h.key)));
        let draws: Vec<Arc<Vec<f32>>> = std::iter::once(root)
            .chain(seeds)
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|(spawn, key)| {
                let known = kept.get(&(self.seed, key.unwrap_or([u64::MAX; 2])));
                known.cloned().unwrap_or_else(|| {
                    let seed = generate_state(self.seed, &spawn);
                    Arc::new(TorchRng::new(u64::from(seed)).randn(self.count))
                })
            })
            .collect();
        kept.retain(|(seed, _), _| *seed != self.seed);
        kept.insert((self.seed, [u64::MAX; 2]), draws[0].clone());
        for (halving, draw) in halvings.iter().zip(&draws[1..]) {
            if halving.key[1] < KEPT {
                kept.insert((self.seed, halving.key), draw.clone());
            }
        }

        const CHUNK: usize = 4096;
        let whole = (high - low).sqrt();
        let mut sums = vec![0.0; self.count];
        sums.par_chunks_mut(CHUNK)
            .enumerate()
            .for_each(|(k, sums)| {
                let of = |draw: &Arc<Vec<f32>>| {
                    let noise = draw[k * CHUNK..].iter().take(CHUNK).map(|v| f64::from(*v));
                    noise.collect::<Vec<f64>>()
                };
                let mut increments: Vec<f64> = of(&draws[0]).iter().map(|v| v * whole).collect();
                for (halving, draw) in halvings.iter().zip(&draws[1..]) {
                    let noise = of(draw);
                    for ((increment, sum), noise) in
                        increments.iter_mut().zip(&mut *sums).zip(noise)
                    {
                        let to_middle = *increment * halving.share + noise * halving.deviation;
                        if halving.goes_left {
                            *increment = to_middle;
                        } else {
                            *sum += to_middle;
                            *increment -= to_middle;
                        }
                    }
                }
                for (sum, increment) in sums.iter_mut().zip(increments) {
                    *sum += increment;
                }
            });
        sums
    }

    fn halvings(&self, target: f64) -> Vec<Halving> {
        let (mut start, mut end) = (self.ends.low, self.ends.high);
        let (mut key, mut depth) = (0u64, 0u64);
        let mut halvings = Vec::with_capacity(32);
        while target != end {
            let middle = round(0.5 * (end + start));
            let (left, right) = (middle - start, end - middle);
            let goes_left = target <= middle;
            halvings.push(Halving {
                key: [key, depth],
                deviation: (left * right / (end - start)).sqrt(),
                share: left / (end - start),
                goes_left,
            });
            key = 2 * key + u64::from(!goes_left);
            depth += 1;
            if goes_left {
                end = middle;
            } else {
                start = middle;
            }
        }
        halvings
    }
}

/// To six decimals, which is where the halving ends. Most middles lie half way between two of
/// them, so it has to be the exact value that decides, as in Python's `round`.
fn round(sigma: f64) -> f64 {
    format!("{sigma:.6}").parse().unwrap_or(sigma)
}

#[cfg(test)]
mod tests {
    use super::{Ends, Kept, Path};

    #[test]
    fn the_path_is_torchsdes() {
        let fixture = sd_fixtures::Fixture::open("schedulers_brownian");
        for (i, case) in fixture.settings().as_array().unwrap().iter().enumerate() {
            let number = |key: &str| case[key].as_f64().unwrap();
            let ends = Ends::between(number("low"), number("high"));
            let seed = case["seed"].as_u64().unwrap();
            let path = Path {
                ends,
                seed,
                count: fixture.shape(&format!("{i}"))[0],
            };
            let mut kept = Kept::new();
            let [from, to] = ["from", "to"].map(|key| path.at(number(key), &mut kept));
            assert_eq!(to, path.at(number("to"), &mut Kept::new()));
            let found: Vec<f32> = to.iter().zip(from).map(|(t, f)| (t - f) as f32).collect();
            fixture.assert_close(&format!("{i}"), &found, 3e-6);
        }
    }
}
