use crate::buffer::Shared;
use crate::error::{Result, check_len};
use crate::parallel::{chunk, for_each};
use crate::simd::{Isa, Kernel, Vector};

/// Normalises each row of `x`, `[rows, width]`, to mean 0 and variance 1, then scales by `weight`
/// and adds `bias`, both `[width]`. `out` is as `x`.
///
/// # Errors
/// A slice whose length does not fit.
pub fn layer_norm(
    isa: Isa,
    x: &[f32],
    rows: usize,
    weight: &[f32],
    bias: &[f32],
    epsilon: f32,
    out: &mut [f32],
) -> Result<()> {
    let width = weight.len();
    check_len("the bias", bias.len(), &[width])?;
    check_len("the input", x.len(), &[rows, width])?;
    check_len("the output", out.len(), &[rows, width])?;
    if x.is_empty() {
        return Ok(());
    }
    let to = Shared(out.as_mut_ptr());
    // A task is worth sending to another thread from some 16 Ki numbers on.
    let tasks = (x.len() >> 14).clamp(1, 4 * rayon::current_num_threads());
    for_each(tasks, |task| {
        let (from, end) = chunk(rows, tasks, task);
        isa.run(Rows {
            x: &x[from * width..end * width],
            weight,
            bias,
            epsilon,
            // SAFETY: within `out`; each task writes rows of its own.
            out: unsafe { to.get().add(from * width) },
        });
    });
    Ok(())
}

struct Rows<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
    out: *mut f32,
}

impl Kernel for Rows<'_> {
    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let width = self.weight.len();
        for (i, row) in self.x.chunks_exact(width).enumerate() {
            let centre = moments::<V>(row, 0.0).0;
            // Around the mean: E[x²] − E[x]² would cancel. What the first mean was rounded off by
            // comes out with the squares.
            let (rest, variance) = moments::<V>(row, centre);
            let factor = 1.0 / (variance + self.epsilon).sqrt();
            let (centre, summand) = (V::splat(centre), V::splat(-rest * factor));
            let factor = V::splat(factor);
            let mut c = 0;
            while c < width {
                let count = V::LANES.min(width - c);
                let x = V::load_up_to(row.as_ptr().add(c), count).sub(centre);
                let weight = V::load_up_to(self.weight.as_ptr().add(c), count);
                let bias = V::load_up_to(self.bias.as_ptr().add(c), count);
                let y = x.mul_add(factor, summand).mul_add(weight, bias);
                y.store_up_to(self.out.add(i * width + c), count);
                c += V::LANES;
            }
        }
    }
}

/// Registers summed side by side: an addition takes as many cycles as this, or a few more.
const CHAINS: usize = 4;

/// Mean and variance of x − centre.
#[inline(always)]
unsafe fn moments<V: Vector>(x: &[f32], centre: f32) -> (f32, f32) {
    let around = V::splat(centre);
    let (mut sums, mut squares) = ([V::zero(); CHAINS], [V::zero(); CHAINS]);
    let mut blocks = x.chunks_exact(CHAINS * V::LANES);
    for block in &mut blocks {
        for j in 0..CHAINS {
            let d = V::load(block.as_ptr().add(j * V::LANES)).sub(around);
            sums[j] = sums[j].add(d);
            squares[j] = d.mul_add(d, squares[j]);
        }
    }
    let (mut sum, mut square) = (0.0, 0.0);
    for x in blocks.remainder() {
        let d = x - centre;
        sum += d;
        square += d * d;
    }
    for j in 1..CHAINS {
        sums[0] = sums[0].add(sums[j]);
        squares[0] = squares[0].add(squares[j]);
    }
    let count = x.len() as f32;
    let mean = (sum + sums[0].sum()) / count;
    let square = (square + squares[0].sum()) / count;
    // Never below zero, and NaN stays NaN.
    (mean, square - (mean * mean).min(square))
}
