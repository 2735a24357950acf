use super::tile::Finish;
use crate::simd::{Vector, gelu, quick_gelu, silu};

/// A function applied to each output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// The identity.
    #[default]
    None,
    /// x·sigmoid(x).
    Silu,
    /// x·Φ(x).
    Gelu,
    /// x·sigmoid(1.702 x), CLIP's approximation of GELU.
    QuickGelu,
}

impl Activation {
    #[inline(always)]
    pub(crate) unsafe fn apply<V: Vector>(self, x: V) -> V {
        match self {
            Self::None => x,
            Self::Silu => silu(x),
            Self::Gelu => gelu(x),
            Self::QuickGelu => quick_gelu(x),
        }
    }
}

/// Writes C = f(sum + bias) + residual, rectified or not, `stride` f32 apart row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Store {
    pub(crate) out: crate::buffer::Shared,
    pub(crate) stride: usize,
    pub(crate) columns: usize,
    /// Adds to what an earlier part of the depth left in `out`.
    pub(crate) accumulate: bool,
    /// The last part of the depth: bias, activation and all behind it are due.
    pub(crate) last: bool,
    /// Null where absent; `[columns]`.
    pub(crate) bias: *const f32,
    /// Null where absent; laid out as `out`.
    pub(crate) residual: *const f32,
    pub(crate) activation: Activation,
    pub(crate) rectified: bool,
}

// SAFETY: the constant pointers are read only.
unsafe impl Send for Store {}
// SAFETY: as above; writes go to disjoint tiles.
unsafe impl Sync for Store {}

impl Store {
    /// The same for one of the parts that the depth is cut into.
    pub(crate) fn chunk(self, index: usize, parts: usize) -> Self {
        Self {
            accumulate: self.accumulate || index > 0,
            last: self.last && index + 1 == parts,
            ..self
        }
    }
}

impl Finish for Store {
    #[inline(always)]
    unsafe fn finish<V: Vector, const R: usize, const N: usize>(
        self,
        row: usize,
        panel: usize,
        tile: [[V; N]; R],
    ) {
        let first = panel * 2 * V::LANES;
        for j in 0..N {
            let column = first + j * V::LANES;
            let count = self.columns.saturating_sub(column).min(V::LANES);
            let bias = if self.last && !self.bias.is_null() {
                V::load_up_to(self.bias.add(column), count)
            } else {
                V::zero()
            };
            for (r, sums) in tile.iter().enumerate() {
                let at = (row + r) * self.stride + column;
                let out = self.out.get().add(at);
                let mut x = sums[j];
                if self.accumulate {
                    x = x.add(V::load_up_to(out, count));
                }
                if self.last {
                    x = self.activation.apply(x.add(bias));
                    if !self.residual.is_null() {
                        x = x.add(V::load_up_to(self.residual.add(at), count));
                    }
                    if self.rectified {
                        // The bound on the left, which keeps a NaN.
                        x = V::zero().max(x);
                    }
                }
                x.store_up_to(out, count);
            }
        }
    }
}

/// Writes (value + bias) · gelu(gate + bias) of panels packed by
/// [`PackedMatrix::gated`](super::PackedMatrix::gated).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gate {
    pub(crate) out: crate::buffer::Shared,
    pub(crate) columns: usize,
    /// Null where absent; `[2·columns]`, the values' then the gates'.
    pub(crate) bias: *const f32,
    /// Null where absent; `[rows, 2·columns]`, added before the gate: the values', then the gates'.
    pub(crate) beside: *const f32,
}

// SAFETY: the constant pointers are read only.
unsafe impl Send for Gate {}
// SAFETY: as above; writes go to disjoint tiles.
unsafe impl Sync for Gate {}

impl Finish for Gate {
    #[inline(always)]
    unsafe fn finish<V: Vector, const R: usize, const N: usize>(
        self,
        row: usize,
        panel: usize,
        tile: [[V; N]; R],
    ) {
        let column = panel * V::LANES;
        let count = self.columns.saturating_sub(column).min(V::LANES);
        let (mut value_bias, mut gate_bias) = (V::zero(), V::zero());
        if !self.bias.is_null() {
            value_bias = V::load_up_to(self.bias.add(column), count);
            gate_bias = V::load_up_to(self.bias.add(self.columns + column), count);
        }
        for (r, sums) in tile.iter().enumerate() {
            let (mut value, mut gate) = (sums[0].add(value_bias), sums[N - 1].add(gate_bias));
            if !self.beside.is_null() {
                let beside = self.beside.add((row + r) * 2 * self.columns + column);
                value = value.add(V::load_up_to(beside, count));
                gate = gate.add(V::load_up_to(beside.add(self.columns), count));
            }
            let x = value.mul(gelu(gate));
            x.store_up_to(self.out.get().add((row + r) * self.columns + column), count);
        }
    }
}
