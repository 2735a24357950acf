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

    /// Shape of diffusers' tensor that the file's of `shape` holds so, which is the way back from
    /// [`file_shape`](Self::file_shape); `None` where it cannot. Sides of 1 do not count.
    pub fn shape(self, shape: &[usize]) -> Option<Vec<usize>> {
        let mut shape = shape.to_vec();
        match (self, &mut shape[..]) {
            (Self::Whole | Self::Pointwise, _) => {}
            (Self::Rows { of, .. }, [rows, ..]) if rows.is_multiple_of(of) => *rows /= of,
            (Self::Transposed, [_, _]) => shape.reverse(),
            _ => return None,
        }
        Some(shape)
    }

    /// Rows of the file's tensor, which has `rows`, that hold diffusers'.
    pub fn rows(self, rows: usize) -> Range<usize> {
        match self {
            Self::Rows { part, of } => part * rows / of..(part + 1) * rows / of,
            _ => 0..rows,
        }
    }
}
