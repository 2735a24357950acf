//! Matrices that a change is made of.

use std::ops::Range;

/// A matrix in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Matrix {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) values: Vec<f32>,
}

impl Matrix {
    /// `values` as `rows` rows; there are as many as fill them.
    pub(super) fn new(rows: usize, values: Vec<f32>) -> Self {
        Self {
            rows,
            columns: values.len() / rows.max(1),
            values,
        }
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    pub(super) fn transposed(&self) -> Self {
        let columns = (0..self.columns).flat_map(|c| (0..self.rows).map(move |r| (r, c)));
        let values = columns.map(|(r, c)| self.values[r * self.columns + c]);
        Self::new(self.columns, values.collect())
    }

    /// The rows `rows` of this matrix times `other`.
    pub(super) fn times(&self, rows: Range<usize>, other: &Self) -> Vec<f32> {
        let mut product = vec![0.0; rows.len() * other.columns];
        if other.columns == 0 {
            return product;
        }
        for (to, row) in product.chunks_exact_mut(other.columns).zip(rows) {
            for (k, &factor) in self.row(row).iter().enumerate() {
                for (to, value) in to.iter_mut().zip(other.row(k)) {
                    *to += factor * value;
                }
            }
        }
        product
    }

    /// This matrix times `other`.
    pub(super) fn product(&self, other: &Self) -> Self {
        Self::new(self.rows, self.times(0..self.rows, other))
    }
}

/// A core `[i, j, k…]` with its second side replaced by the columns of `inner`, `[j, in]`: `[i, in,
/// k…]`, row `i` of it in row `i` (a Tucker decomposition without its first factor).
pub(super) fn tucker(core: &Matrix, inner: &Matrix) -> Matrix {
    let kernel = core.columns / inner.rows.max(1);
    let mut values = vec![0.0; core.rows * inner.columns * kernel];
    let width = (inner.columns * kernel).max(1);
    for (i, to) in values.chunks_exact_mut(width).enumerate() {
        for (j, core) in core.row(i).chunks_exact(kernel.max(1)).enumerate() {
            for (to, factor) in to.chunks_exact_mut(kernel.max(1)).zip(inner.row(j)) {
                for (to, value) in to.iter_mut().zip(core) {
                    *to += factor * value;
                }
            }
        }
    }
    Matrix::new(core.rows, values)
}

/// The inverse of a small square matrix `[n, n]` in f64, by Gauss and Jordan with pivots; `None`
/// where there is none.
pub(super) fn inverse(n: usize, mut a: Vec<f64>) -> Option<Vec<f64>> {
    let mut inverse = vec![0.0; n * n];
    for i in 0..n {
        inverse[i * n + i] = 1.0;
    }
    for column in 0..n {
        let pivot = (column..n).max_by(|&i, &j| {
            let [x, y] = [i, j].map(|row| a[row * n + column].abs());
            x.total_cmp(&y)
        })?;
        if a[pivot * n + column] == 0.0 || !a[pivot * n + column].is_finite() {
            return None;
        }
        for k in 0..n {
            a.swap(column * n + k, pivot * n + k);
            inverse.swap(column * n + k, pivot * n + k);
        }
        let scale = a[column * n + column].recip();
        for k in 0..n {
            a[column * n + k] *= scale;
            inverse[column * n + k] *= scale;
        }
        for row in (0..n).filter(|&row| row != column) {
            let factor = a[row * n + column];
            if factor == 0.0 {
                continue;
            }
            for k in 0..n {
                a[row * n + k] -= factor * a[column * n + k];
                inverse[row * n + k] -= factor * inverse[column * n + k];
            }
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_between_two_factors_is_the_sum_over_both() {
        let core = Matrix::new(2, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        let inner = Matrix::new(2, vec![1.0, 0.0, -1.0, 2.0, 1.0, 0.0]);
        let made = tucker(&core, &inner);
        // [i, in, k]: 1·[1, 2] + 2·[3, 4] first.
        assert_eq!((made.rows, made.columns), (2, 6));
        assert_eq!(made.row(0), [7.0, 10.0, 3.0, 4.0, -1.0, -2.0]);
    }

    #[test]
    fn an_inverse_times_its_matrix_is_the_identity() {
        let a = vec![0.0, 2.0, 1.0, 1.0, 0.0, 3.0, 4.0, -1.0, 0.5];
        let b = inverse(3, a.clone()).unwrap();
        for i in 0..3 {
            for j in 0..3 {
                let sum: f64 = (0..3).map(|k| a[i * 3 + k] * b[k * 3 + j]).sum();
                assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-12);
            }
        }
        assert_eq!(inverse(2, vec![1.0, 2.0, 2.0, 4.0]), None);
    }
}
