use crate::buffer::Buffer;
use crate::error::{Result, check_len};
use crate::simd::Isa;

/// The right-hand matrix of a product, laid out once for the multiplication kernel.
///
/// Bᵀ, `[columns, depth]` as PyTorch stores a linear weight, becomes panels of two registers of
/// columns: `[columns / width][depth][width]`, zero beyond the last column.
#[derive(Clone, Debug)]
pub struct PackedMatrix {
    pub(crate) data: Buffer,
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    pub(crate) isa: Isa,
}

impl PackedMatrix {
    /// Packs `weight`, `[columns, depth]`.
    ///
    /// # Errors
    /// Where `weight` is not of that size.
    pub fn new(isa: Isa, weight: &[f32], columns: usize, depth: usize) -> Result<Self> {
        check_len("the weight", weight.len(), &[columns, depth])?;
        Ok(Self::from_fn(isa, columns, depth, |column, k| {
            weight[column * depth + k]
        }))
    }

    /// Packs a gated linear layer's `weight`, `[2·columns, depth]`: the values' rows, then the
    /// gates'. Each panel holds a register of values and the register of their gates, so that a
    /// tile has both halves at hand.
    ///
    /// # Errors
    /// Where `weight` is not of that size.
    pub(crate) fn gated(isa: Isa, weight: &[f32], columns: usize, depth: usize) -> Result<Self> {
        check_len("the weight", weight.len(), &[2, columns, depth])?;
        let row = gated_row(isa.lanes(), columns);
        let padded = columns.div_ceil(isa.lanes()) * 2 * isa.lanes();
        Ok(Self::from_fn(isa, padded, depth, |column, k| {
            row(column).map_or(0.0, |row| weight[row * depth + k])
        }))
    }

    /// Packs the matrix whose entry at (`k`, `column`) is `weight(column, k)`.
    pub(crate) fn from_fn(
        isa: Isa,
        columns: usize,
        depth: usize,
        weight: impl Fn(usize, usize) -> f32,
    ) -> Self {
        let width = 2 * isa.lanes();
        let panels = columns.div_ceil(width);
        let mut data = Buffer::zeroed(panels * width * depth);
        let all = data.as_mut_slice();
        for (panel, out) in all.chunks_exact_mut((width * depth).max(1)).enumerate() {
            let first = panel * width;
            for column in first..columns.min(first + width) {
                for k in 0..depth {
                    out[k * width + column - first] = weight(column, k);
                }
            }
        }
        Self {
            data,
            columns,
            depth,
            isa,
        }
    }

    /// Number of columns of B: the outputs of the layer.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of rows of B: the inputs of the layer.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// The instruction set it is laid out for.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.data.bytes()
    }
}

/// Which row of a gated weight a packed column holds; none for padding.
fn gated_row(lanes: usize, columns: usize) -> impl Fn(usize) -> Option<usize> {
    move |packed| {
        let (register, lane) = (packed / lanes, packed % lanes);
        let column = register / 2 * lanes + lane;
        (column < columns).then_some(column + register % 2 * columns)
    }
}
