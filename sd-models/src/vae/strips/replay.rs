//! Memory that the layers take in strips, replayed by sizes alone: what [`run`](super::run) makes,
//! holds and gives back, in its order.

use std::collections::VecDeque;
use std::ops::Range;

use sd_kernels::{ConvShape, OutputReplay, Picture, Replayed};

use super::ranges;
use crate::layers::Conv2d;
use crate::vae::StripRows;
use crate::vae::description::{Convolution, FeatureMap, Layer, Operation, Residual};

/// One picture through all `layers`, whose latent is of `latent` pixels.
pub(in crate::vae) fn replay(
    layers: &[Layer<'_>],
    latent: [usize; 2],
    strips: &StripRows,
    outputs: &mut OutputReplay,
) {
    let mut replay = Replay { latent, outputs };
    let Some(first) = layers.first() else {
        return;
    };
    let [height, _] = replay.size(first.from);
    let mut x = replay.build(first.from, height, |replay, rows| {
        replay.take(first.from, rows.len())
    });
    let mut kept = None;
    for layer in layers {
        x = match layer.operation {
            Operation::Convolution(convolution) => {
                let rows = strips.rows[layer.to.level];
                replay.convolve(layer, convolution, x, rows, &mut kept)
            }
            Operation::Attention(_) => replay.attend(layer.to, x, strips.attention),
        };
    }
    // The strips, and the picture that is made of them.
    let whole = replay.take(x.map, x.height);
    replay.drop(x);
    replay.outputs.free(whole);
}

struct Replay<'a> {
    latent: [usize; 2],
    outputs: &'a mut OutputReplay,
}

/// A picture in strips, each with its rows.
struct Strips {
    map: FeatureMap,
    height: usize,
    first: usize,
    strips: VecDeque<(usize, Replayed)>,
}

impl Replay<'_> {
    fn size(&self, map: FeatureMap) -> [usize; 2] {
        self.latent.map(|side| side << map.level)
    }

    /// Some rows of a map.
    fn take(&mut self, map: FeatureMap, rows: usize) -> Replayed {
        let [_, width] = self.size(map);
        self.outputs.take(map.channels * rows * width)
    }

    fn build(
        &mut self,
        map: FeatureMap,
        rows: usize,
        mut each: impl FnMut(&mut Self, Range<usize>) -> Replayed,
    ) -> Strips {
        let [height, _] = self.size(map);
        let strip = |rows: Range<usize>| (rows.len(), each(self, rows));
        Strips {
            map,
            height,
            first: 0,
            strips: ranges(height, rows).map(strip).collect(),
        }
    }

    fn drop(&mut self, strips: Strips) {
        for (_, strip) in strips.strips {
            self.outputs.free(strip);
        }
    }

    fn forget_before(&mut self, strips: &mut Strips, row: usize) {
        while let Some((rows, strip)) = strips.strips.pop_front() {
            if strips.first + rows > row {
                strips.strips.push_front((rows, strip));
                break;
            }
            strips.first += rows;
            self.outputs.recycle(strip);
        }
    }

    /// Some rows; they and all above are then gone.
    fn rows(&mut self, strips: &mut Strips, rows: Range<usize>) -> Replayed {
        if rows.start == strips.first
            && let Some((count, strip)) = strips.strips.pop_front()
        {
            if count == rows.len() {
                strips.first = rows.end;
                return strip;
            }
            strips.strips.push_front((count, strip));
        }
        let copy = self.take(strips.map, rows.len());
        self.forget_before(strips, rows.end);
        copy
    }

    fn convolve(
        &mut self,
        layer: &Layer<'_>,
        convolution: Convolution<'_>,
        mut x: Strips,
        rows: usize,
        kept: &mut Option<Strips>,
    ) -> Strips {
        let (conv, to) = (convolution.conv, layer.to);
        if let Residual::Keep = convolution.residual {
            let from = x.map;
            let height = x.height;
            *kept = Some(x);
            return self.build(to, rows, |replay, rows| {
                replay.strip(conv, [from, to], conv.reach(rows.clone(), height), rows)
            });
        }
        let (shortcut, mut added) = match convolution.residual {
            Residual::Add(shortcut) => (shortcut.is_some(), kept.take()),
            Residual::None | Residual::Keep => (false, None),
        };
        let [height, _] = self.size(to);
        let made = self.build(to, rows, |replay, rows| {
            let residual = added.as_mut().map(|kept| {
                let residual = replay.rows(kept, rows.clone());
                match shortcut {
                    false => residual,
                    true => {
                        let shortened = replay.take(to, rows.len());
                        replay.outputs.recycle(residual);
                        shortened
                    }
                }
            });
            let reach = conv.reach(rows.clone(), x.height);
            let strip = replay.strip(conv, [x.map, to], reach, rows.clone());
            if let Some(residual) = residual {
                replay.outputs.recycle(residual);
            }
            let next = rows.end..(rows.end + 1).min(height);
            let done = match next.is_empty() {
                true => x.height,
                false => conv.reach(next, x.height).start,
            };
            replay.forget_before(&mut x, done);
            strip
        });
        self.drop(x);
        if let Some(added) = added {
            self.drop(added);
        }
        made
    }

    /// Some rows of a convolution's output, of a copy of those that they reach.
    fn strip(
        &mut self,
        conv: &Conv2d,
        [from, to]: [FeatureMap; 2],
        reach: Range<usize>,
        rows: Range<usize>,
    ) -> Replayed {
        let input = self.take(from, reach.len());
        let [_, width] = self.size(to);
        let picture = Picture {
            n: 1,
            height: rows.len(),
            width,
        };
        let [inputs, outputs] = conv.channels();
        let kernel = conv.kernel();
        self.outputs
            .convolve(ConvShape::same(inputs, outputs, kernel), picture);
        let made = self.take(to, rows.len());
        self.outputs.recycle(input);
        made
    }

    fn attend(&mut self, map: FeatureMap, mut x: Strips, rows: usize) -> Strips {
        // Keys and values of all pixels, made of a normalised copy.
        let normed = self.take(map, x.height);
        let held = [(); 2].map(|()| self.take(map, x.height));
        self.outputs.recycle(normed);
        let made = self.build(map, rows, |replay, rows| {
            let normed = replay.take(map, rows.len());
            let strip = replay.rows(&mut x, rows.clone());
            let query = replay.take(map, rows.len());
            replay.outputs.recycle(normed);
            // Those that are held are copied for each strip.
            let copies = [(); 2].map(|()| replay.take(map, x.height));
            let gathered = replay.take(map, rows.len());
            for map in copies.into_iter().chain([query]) {
                replay.outputs.recycle(map);
            }
            let made = replay.take(map, rows.len());
            replay.outputs.recycle(gathered);
            replay.outputs.recycle(strip);
            made
        });
        for map in held {
            self.outputs.free(map);
        }
        self.drop(x);
        made
    }
}
