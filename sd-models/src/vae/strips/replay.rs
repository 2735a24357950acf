//! Memory that the layers take in strips, replayed by sizes alone: what [`run`](super::run) makes,
//! holds and gives back, in its order.

use std::collections::VecDeque;
use std::ops::Range;

use sd_kernels::{ConvShape, OutputReplay, Picture, Replayed};

use super::ranges;
use crate::vae::StripRows;
use crate::vae::description::{Convolution, FeatureMap, Layer, Operation, Residual};

/// One picture through all `layers`, whose latent is of `latent` pixels: in `strips`, or as
/// [`whole`](crate::vae::whole) runs it.
pub(in crate::vae) fn replay(
    layers: &[Layer<'_>],
    latent: [usize; 2],
    strips: Option<&StripRows>,
    outputs: &mut OutputReplay,
) {
    let mut replay = Replay {
        latent,
        is_whole: strips.is_none(),
        outputs,
    };
    // In one piece it is one strip.
    let rows = |map: FeatureMap| match strips {
        Some(strips) => strips.rows[map.level],
        None => latent[0] << map.level,
    };
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
                replay.convolve(layer, convolution, x, rows(layer.to), &mut kept)
            }
            Operation::Attention(_) => {
                let rows = strips.map_or(latent[0], |strips| strips.attention);
                replay.attend(layer.to, x, rows)
            }
        };
    }
    // The strips, and the picture that is made of them.
    let whole = replay.take(x.map, x.height);
    replay.drop(x);
    replay.outputs.free(whole);
}

struct Replay<'a> {
    latent: [usize; 2],
    /// True where the picture is in one piece.
    is_whole: bool,
    outputs: &'a mut OutputReplay,
}

/// A picture in strips, each with its rows.
struct Strips {
    map: FeatureMap,
    height: usize,
    first: usize,
    strips: VecDeque<(usize, Replayed)>,
}

impl Strips {
    /// The number of strips that have some of these rows.
    fn parts(&self, rows: &Range<usize>) -> usize {
        let mut top = self.first;
        let strips = self.strips.iter().filter(|(count, _)| {
            let first = top;
            top += count;
            first.max(rows.start) < top.min(rows.end)
        });
        strips.count()
    }
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
            let x = kept.insert(x);
            return self.build(to, rows, |replay, rows| {
                replay.strip(convolution, x, to, rows)
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
            let strip = replay.strip(convolution, &x, to, rows.clone());
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

    /// Some rows of a convolution's output. What they reach is copied for it where it is to be normalised
    /// or lies in several strips. (Convolutions by tiles make no copies, and are not told apart.)
    fn strip(
        &mut self,
        convolution: Convolution<'_>,
        x: &Strips,
        to: FeatureMap,
        rows: Range<usize>,
    ) -> Replayed {
        let conv = convolution.conv;
        let reach = conv.reach(rows.clone(), x.height);
        let is_normed = convolution.norm.is_some();
        let (input, made) = if self.is_whole {
            // In place, but for a picture that is kept.
            let is_copied = is_normed && matches!(convolution.residual, Residual::Keep);
            let input = is_copied.then(|| self.take(x.map, reach.len()));
            (input, self.take(to, rows.len()))
        } else {
            let made = self.take(to, rows.len());
            let is_copied = is_normed || x.parts(&reach) > 1;
            (is_copied.then(|| self.take(x.map, reach.len())), made)
        };
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
        if let Some(input) = input {
            self.outputs.recycle(input);
        }
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
