//! Reading a tensor that is a view of a storage.

use std::io;
use std::ops::Range;

use super::pickle::Tensor;
use crate::weights::content::Content;

/// Most bytes of a storage that are in memory at once.
const WINDOW: u64 = 1 << 20;

/// A tensor's elements in the file.
#[derive(Debug)]
pub(super) struct View {
    /// Place of its first element.
    start: u64,
    /// Bytes of an element.
    size: u64,
    shape: Vec<usize>,
    strides: Vec<u64>,
    is_contiguous: bool,
}

impl View {
    /// `storage` is the place of the tensor's storage in the file.
    pub(super) fn new(tensor: Tensor, storage: u64) -> Self {
        let size = tensor.element.size as u64;
        let mut expected = 1;
        let mut is_contiguous = true;
        for (side, stride) in tensor.shape.iter().zip(&tensor.strides).rev() {
            is_contiguous &= *side <= 1 || *stride == expected;
            expected = expected.saturating_mul(*side as u64);
        }
        Self {
            start: storage + tensor.offset * size,
            size,
            shape: tensor.shape,
            strides: tensor.strides,
            is_contiguous,
        }
    }

    /// Fills `to` with the elements from the one of number `first` on, in row-major order.
    pub(super) fn read(&self, content: &Content, first: usize, to: &mut [u8]) -> io::Result<()> {
        if self.is_contiguous {
            return content.read_at(self.start + first as u64 * self.size, to);
        }
        let elements: usize = self.shape.iter().product();
        let count = to.len() / self.size as usize;
        if first + count > elements {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if count == 0 {
            return Ok(());
        }
        // The whole rows of the outermost side that hold these elements.
        let row = elements / self.shape[0];
        let mut sides: Vec<Range<usize>> = self.shape.iter().map(|side| 0..*side).collect();
        sides[0] = first / row..(first + count).div_ceil(row);
        self.gather(content, sides, first, to)
    }

    /// Puts the elements of the block `sides` into their places in `to`, which begins with the
    /// element of number `first`. A block is halved until what it spans of the storage is small.
    fn gather(
        &self,
        content: &Content,
        mut sides: Vec<Range<usize>>,
        first: usize,
        to: &mut [u8],
    ) -> io::Result<()> {
        let spans = sides.iter().zip(&self.strides);
        let spans = spans.map(|(side, stride)| (side.len() as u64 - 1) * stride);
        let (widest, span) = spans
            .clone()
            .enumerate()
            .max_by_key(|(_, span)| *span)
            .unwrap_or_default();
        let total = spans.sum::<u64>() + 1;
        if total * self.size > WINDOW && span > 0 {
            let Range { start, end } = sides[widest];
            let middle = start + (end - start) / 2;
            let mut other = sides.clone();
            sides[widest] = start..middle;
            other[widest] = middle..end;
            self.gather(content, sides, first, to)?;
            return self.gather(content, other, first, to);
        }
        let begin: u64 = sides
            .iter()
            .zip(&self.strides)
            .map(|(s, stride)| s.start as u64 * stride)
            .sum();
        let mut window = vec![0; (total * self.size) as usize];
        content.read_at(self.start + begin * self.size, &mut window)?;
        let size = self.size as usize;
        let mut index: Vec<usize> = sides.iter().map(|side| side.start).collect();
        loop {
            let at = index
                .iter()
                .zip(&self.shape)
                .fold(0, |at, (i, side)| at * side + i);
            if let Some(at) = at
                .checked_sub(first)
                .filter(|at| (at + 1) * size <= to.len())
            {
                let from: u64 = index
                    .iter()
                    .zip(&self.strides)
                    .map(|(i, stride)| *i as u64 * stride)
                    .sum();
                let from = (from - begin) as usize * size;
                to[at * size..(at + 1) * size].copy_from_slice(&window[from..from + size]);
            }
            // The next index, the innermost side first.
            let mut side = sides.len();
            loop {
                let Some(next) = side.checked_sub(1) else {
                    return Ok(());
                };
                side = next;
                index[side] += 1;
                if index[side] < sides[side].end {
                    break;
                }
                index[side] = sides[side].start;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::globals;
    use super::*;

    /// A storage that is larger than what is in memory at once, transposed, permuted and expanded.
    #[test]
    fn a_view_of_a_large_storage_is_read_in_blocks() {
        let numbers: Vec<u16> = (0..800_000u32).map(|i| (i ^ i >> 16) as u16).collect();
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        let content = Content::Memory(bytes.into());
        let views: [(&[usize], &[u64]); 4] = [
            (&[1000, 800], &[1, 1000]),
            (&[80, 100, 100], &[1, 8000, 80]),
            (&[3, 250, 7], &[0, 2999, 0]),
            (&[400, 1], &[2000, 5]),
        ];
        for (shape, strides) in views {
            let view = View::new(
                Tensor {
                    storage: 0,
                    element: globals::number_type("torch.float16").unwrap(),
                    offset: 0,
                    shape: shape.to_vec(),
                    strides: strides.to_vec(),
                },
                0,
            );
            let elements: usize = shape.iter().product();
            let expected = (0..elements).map(|mut i| {
                let sides = shape.iter().zip(strides).rev();
                let place: u64 = sides
                    .map(|(side, stride)| {
                        let at = (i % side) as u64 * stride;
                        i /= side;
                        at
                    })
                    .sum();
                numbers[place as usize]
            });
            let expected: Vec<u8> = expected.flat_map(u16::to_le_bytes).collect();
            let (mut found, chunk) = (vec![0; 2 * elements], 2 * 1001);
            for (i, to) in found.chunks_mut(chunk * 50).enumerate() {
                view.read(&content, i * chunk * 50 / 2, to).unwrap();
            }
            assert!(found == expected, "{shape:?}");
        }
    }
}
