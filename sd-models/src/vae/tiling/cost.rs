//! Bytes that the layers of an autoencoder take while they run.

use super::StripRows;
use crate::layers::SCORES;
use crate::vae::description::{Convolution, FeatureMap, Layer, Operation, Residual};

/// Bytes that a layer takes, or at most any of several.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LayerCost {
    /// All that is held at once.
    pub(super) peak: u64,
    /// The largest single buffer.
    pub(super) largest: u64,
}

impl LayerCost {
    fn max(self, other: Self) -> Self {
        Self {
            peak: self.peak.max(other.peak),
            largest: self.largest.max(other.largest),
        }
    }
}

/// The conditions that layers run under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Costs<'a> {
    pub(super) layers: &'a [Layer<'a>],
    /// Height and width of the latent.
    pub(super) latent: [usize; 2],
    /// Bytes of a number.
    pub(super) number: u64,
    /// True where the CPU kernels of this workspace compute, which make no copies of their own.
    pub(super) kernels: bool,
}

impl Costs<'_> {
    /// Of all layers, each on the whole picture.
    pub(super) fn whole(&self) -> LayerCost {
        self.most(|layer, kept| match layer.operation {
            Operation::Convolution(convolution) => self.convolution(layer, convolution, kept),
            Operation::Attention(_) => self.attention(layer.to),
        })
    }

    /// Of all layers, each in strips.
    pub(super) fn strips(&self, strips: &StripRows) -> LayerCost {
        let cost = self.most(|layer, kept| match layer.operation {
            Operation::Convolution(convolution) => {
                self.convolution_in_strips(strips, layer, convolution, kept)
            }
            Operation::Attention(_) => self.attention_in_strips(strips, layer.to),
        });
        // What goes into the network and comes out of it is in one piece.
        let input = self
            .layers
            .first()
            .map_or(0, |layer| self.bytes(layer.from));
        let output = self.layers.last().map_or(0, |layer| self.bytes(layer.to));
        LayerCost {
            largest: cost.largest.max(input).max(output),
            ..cost
        }
    }

    /// The most of what `cost` says of each layer and of the picture that is kept beside it.
    fn most(&self, cost: impl Fn(&Layer<'_>, Option<FeatureMap>) -> LayerCost) -> LayerCost {
        let (mut most, mut kept) = (LayerCost::default(), None);
        for layer in self.layers {
            most = most.max(cost(layer, kept));
            if let Operation::Convolution(convolution) = layer.operation {
                match convolution.residual {
                    Residual::None => {}
                    Residual::Keep => kept = Some(layer.from),
                    Residual::Add(_) => kept = None,
                }
            }
        }
        most
    }

    pub(super) fn size(&self, level: usize) -> [usize; 2] {
        self.latent.map(|side| side.saturating_mul(1 << level))
    }

    fn bytes(&self, map: FeatureMap) -> u64 {
        self.rows_bytes(map, self.size(map.level)[0])
    }

    fn rows_bytes(&self, map: FeatureMap, rows: usize) -> u64 {
        let [_, width] = self.size(map.level);
        product(&[map.channels, rows, width, self.number as usize])
    }

    /// Copies of its input that a layer makes beside the input and the output: the normalised one,
    /// and where a backend computes those of its element-wise steps and its layout.
    fn copies(&self) -> u64 {
        if self.kernels { 1 } else { 3 }
    }

    fn convolution(
        &self,
        layer: &Layer<'_>,
        convolution: Convolution<'_>,
        kept: Option<FeatureMap>,
    ) -> LayerCost {
        let (x, y) = (self.bytes(layer.from), self.bytes(layer.to));
        let beside = kept.map_or(0, |map| self.bytes(map));
        let (own, shortcut) = match convolution.residual {
            Residual::None | Residual::Add(None) => (0, 0),
            Residual::Keep => (x, 0),
            Residual::Add(Some(_)) => (0, y),
        };
        // An input that is needed again is copied before it is normalised.
        let norm = match convolution.norm {
            Some(_) => own + x + x * self.copies() + beside,
            None => x,
        };
        let input = own + x * self.copies();
        let residual = if shortcut > 0 { shortcut } else { beside };
        let product = input + (beside + shortcut).max(residual + y * self.copies());
        LayerCost {
            peak: norm.max(product),
            largest: x.max(y),
        }
    }

    fn convolution_in_strips(
        &self,
        strips: &StripRows,
        layer: &Layer<'_>,
        convolution: Convolution<'_>,
        kept: Option<FeatureMap>,
    ) -> LayerCost {
        let Layer { from, to, .. } = *layer;
        let ([height, _], [input_height, _]) = (self.size(to.level), self.size(from.level));
        let (step, input_step) = (strips.rows[to.level], strips.rows[from.level]);
        let mut most = LayerCost::default();
        let mut first = 0;
        while first < height {
            let end = height.min(first + step);
            let reach = convolution.conv.reach(first..end, input_height);
            // The first row of the input that is still held, and what is copied of it.
            let held = match convolution.residual {
                Residual::Keep => 0,
                Residual::None | Residual::Add(_) => reach.start - reach.start % input_step,
            };
            let input = self.rows_bytes(from, input_height - held);
            let gathered = self.rows_bytes(from, reach.len());
            let strip = self.rows_bytes(to, end - first);
            let made = self.rows_bytes(to, end);
            let shortcut = match convolution.residual {
                Residual::Add(Some(_)) => strip,
                _ => 0,
            };
            let beside = kept.map_or(0, |map| self.rows_bytes(map, height - first) + shortcut);
            let work = gathered * self.copies() + (self.copies() - 1) * strip;
            most = most.max(LayerCost {
                peak: input + beside + made + work,
                largest: gathered.max(strip),
            });
            first = end;
        }
        most
    }

    fn attention(&self, map: FeatureMap) -> LayerCost {
        let (x, scores) = (self.bytes(map), self.scores(self.latent[0]));
        LayerCost {
            peak: 7 * x + 2 * scores,
            largest: x.max(scores),
        }
    }

    fn attention_in_strips(&self, strips: &StripRows, map: FeatureMap) -> LayerCost {
        let (x, scores) = (self.bytes(map), self.scores(strips.attention));
        let strip = self.rows_bytes(map, strips.attention.min(self.latent[0]));
        LayerCost {
            // The picture, keys, values and the copies of them that are multiplied, the result.
            peak: 6 * x + 4 * strip + 2 * scores,
            largest: x.max(scores),
        }
    }

    /// Of `rows` of queries, which attention takes no more of at a time than [`SCORES`] allows. The
    /// kernels keep none.
    fn scores(&self, rows: usize) -> u64 {
        let [height, width] = self.latent;
        let keys = product(&[height, width]);
        let scores = product(&[rows, width, height, width]);
        match self.kernels {
            true => 0,
            false => 4 * scores.min(keys.max(SCORES as u64)),
        }
    }
}

/// The product, at most what may be added a hundred times.
pub(super) fn product(factors: &[usize]) -> u64 {
    let factors = factors.iter().map(|factor| *factor as u64);
    factors.fold(1, u64::saturating_mul).min(1 << 56)
}
