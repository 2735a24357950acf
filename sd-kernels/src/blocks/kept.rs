use super::{Blocks, PART};
use crate::gemm::Order;

/// Blocks in a packed weight, its columns side by side.
///
/// A column is in pieces of [`span`](Self::span) terms, each with the block's scale: all terms of a
/// block, or where rows begin in the middle of one, parts of it. A row of 320 terms is a block of 256
/// and a quarter of the next, in which the next row begins, so its pieces are of 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeptBlocks {
    pub(super) blocks: Blocks,
    pub(super) span: usize,
    /// The order of the terms as they are multiplied; they lie as they are stored.
    pub(super) order: Order,
}

impl KeptBlocks {
    /// Those of rows of `depth` terms, which are a multiple of 32.
    pub(crate) fn new(blocks: Blocks, order: Order, depth: usize) -> Self {
        let order = match order {
            Order::TapsFirst { taps: 1, .. } => Order::AsStored,
            order => order,
        };
        let span = blocks.elements().min(1 << depth.trailing_zeros().min(8));
        Self {
            blocks,
            span,
            order,
        }
    }

    /// The blocks.
    pub fn blocks(self) -> Blocks {
        self.blocks
    }

    /// Terms of a column that share a block's scale.
    pub fn span(self) -> usize {
        self.span
    }

    /// Bytes of so many terms of one column of a panel.
    pub(crate) fn piece(self) -> usize {
        2 * self.blocks.halves() + self.span / PART * self.blocks.part_bytes()
    }
}
