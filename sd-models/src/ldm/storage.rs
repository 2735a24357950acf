use std::ops::Range;

/// Form in which a file's tensor holds one of diffusers'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// As it is.
    Whole,
    /// As some of the rows: OpenCLIP has queries, keys and values in one tensor.
    Rows {
        /// Number of the part, from 0.
        part: usize,
        /// Number of parts, all of one size.
        of: usize,
    },
    /// `[b, a]` for diffusers' `[a, b]`: OpenCLIP multiplies with its projection from the right.
    Transposed,
    /// The weight `[o, i, 1, 1]` of a convolution for that of a linear layer, `[o, i]`.
    Pointwise,
}

impl Storage {
    /// Shape of the file's tensor that holds diffusers' of `shape`.
    pub fn file_shape(self, shape: &[usize]) -> Vec<usize> {
        let mut shape = shape.to_vec();
        match self {
            Self::Whole => {}
            Self::Rows { of, .. } => shape.iter_mut().take(1).for_each(|rows| *rows *= of),
            Self::Transposed => shape.reverse(),
            Self::Pointwise => shape.extend([1, 1]),
        }
        shape
    }

    /// Rows of the file's tensor, which has `rows`, that hold diffusers'.
    pub fn rows(self, rows: usize) -> Range<usize> {
        match self {
            Self::Rows { part, of } => part * rows / of..(part + 1) * rows / of,
            _ => 0..rows,
        }
    }
}
