//! Orthogonal changes: how blocks of a weight are turned.

use super::matrix::inverse;

/// Rotations (I + Q)(I − Q)⁻¹ of each of the square `blocks`, with Q what is skew in it, and Q no
/// longer than `bound`; `None` where a block is not finite.
pub(super) fn rotations(side: usize, blocks: &[f32], bound: Option<f64>) -> Option<Vec<f32>> {
    let square = (side * side).max(1);
    let skew = blocks.chunks_exact(square).flat_map(|block| {
        (0..square).map(|k| {
            let (i, j) = (k / side, k % side);
            f64::from(block[i * side + j]) - f64::from(block[j * side + i])
        })
    });
    let mut skew: Vec<f64> = skew.collect();
    if let Some(bound) = bound {
        let norm = skew.iter().map(|x| x * x).sum::<f64>().sqrt() + 1e-8;
        if norm > bound {
            skew.iter_mut().for_each(|x| *x *= bound / norm);
        }
    }
    let mut made = Vec::with_capacity(skew.len());
    for q in skew.chunks_exact(square) {
        let with = |sign: f64| -> Vec<f64> {
            let one = |k: usize| f64::from(u8::from(k / side == k % side));
            (0..square).map(|k| one(k) + sign * q[k]).collect()
        };
        let (plus, inverse) = (with(1.0), inverse(side, with(-1.0))?);
        for i in 0..side {
            for j in 0..side {
                let sum: f64 = (0..side)
                    .map(|k| plus[i * side + k] * inverse[k * side + j])
                    .sum();
                made.push(sum as f32);
            }
        }
    }
    Some(made)
}

/// Side of the skew matrix whose part above the diagonal has `free` values.
pub(super) fn side_of(free: usize) -> Option<usize> {
    let side = ((8.0 * free as f64 + 1.0).sqrt() as usize).div_ceil(2);
    (side > 1 && side * (side - 1) / 2 == free).then_some(side)
}

/// Rotation of the values above a skew matrix' diagonal, with peft's series of five terms in place
/// of the inverse: I + 2Q + 2Q² + 2Q³ + Q⁴.
pub(super) fn neumann(side: usize, free: &[f32]) -> Vec<f32> {
    let mut q = vec![0.0f64; side * side];
    let mut free = free.iter();
    for i in 0..side {
        for j in i + 1..side {
            let x = f64::from(free.next().copied().unwrap_or(0.0));
            (q[i * side + j], q[j * side + i]) = (x, -x);
        }
    }
    let mut sum: Vec<f64> = (0..side * side)
        .map(|k| f64::from(u8::from(k / side == k % side)) + 2.0 * q[k])
        .collect();
    let mut power = q.clone();
    for weight in [2.0, 2.0, 1.0] {
        let mut next = vec![0.0; side * side];
        for i in 0..side {
            for k in 0..side {
                for j in 0..side {
                    next[i * side + j] += power[i * side + k] * q[k * side + j];
                }
            }
        }
        power = next;
        sum.iter_mut()
            .zip(&power)
            .for_each(|(s, p)| *s += weight * p);
    }
    sum.into_iter().map(|x| x as f32).collect()
}

/// Every block of rows turned: row m of it is the sum over n of R\[n, m\] times row n (LyCORIS'
/// `diag_oft`).
pub(super) fn turn_rows(side: usize, rotations: &[f32], old: &[f32], width: usize) -> Vec<f32> {
    let mut new = vec![0.0; old.len()];
    let blocks = old.chunks_exact(side * width);
    let blocks = new.chunks_exact_mut(side * width).zip(blocks);
    for ((new, old), r) in blocks.zip(rotations.chunks_exact(side * side)) {
        for (m, to) in new.chunks_exact_mut(width).enumerate() {
            for (n, from) in old.chunks_exact(width).enumerate() {
                let factor = r[n * side + m];
                to.iter_mut()
                    .zip(from)
                    .for_each(|(to, x)| *to += factor * x);
            }
        }
    }
    new
}

/// Stages of turned rows, each on rows shuffled more widely (LyCORIS' `boft`).
pub(super) fn butterflies(
    side: usize,
    rotations: &[f32],
    stages: usize,
    old: &[f32],
    width: usize,
) -> Vec<f32> {
    let rows = old.len() / width;
    let mut new = old.to_vec();
    for stage in 0..stages {
        let far = (1 << stage) * (side / 2);
        // Row (c, k, g) of the shuffled is row (c, g, k).
        let place = |row: usize| {
            let (c, rest) = (row / (2 * far), row % (2 * far));
            c * 2 * far + (rest % 2) * far + rest / 2
        };
        let of_stage = &rotations[stage * rows * side..][..rows * side];
        let mut next = vec![0.0; new.len()];
        for row in 0..rows {
            let (block, i) = (row / side, row % side);
            let to = &mut next[place(row) * width..][..width];
            for j in 0..side {
                let factor = of_stage[(block * side + i) * side + j];
                let from = &new[place(block * side + j) * width..][..width];
                to.iter_mut()
                    .zip(from)
                    .for_each(|(to, x)| *to += factor * x);
            }
        }
        new = next;
    }
    new
}

/// Every row's blocks of columns turned: column i is the sum over j of R\[i, j\] times column j
/// (peft's `oft`). One rotation may be all blocks'.
pub(super) fn turn_columns(side: usize, rotations: &[f32], old: &[f32], width: usize) -> Vec<f32> {
    let mut new = Vec::with_capacity(old.len());
    for row in old.chunks_exact(width) {
        let all = rotations.chunks_exact(side * side).cycle();
        for (block, r) in row.chunks_exact(side).zip(all) {
            let turned = r
                .chunks_exact(side)
                .map(|r| -> f32 { r.iter().zip(block).map(|(r, x)| r * x).sum() });
            new.extend(turned);
        }
    }
    new
}
