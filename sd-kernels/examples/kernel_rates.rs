//! GFLOP/s of the products and convolutions of Stable Diffusion 1.5 at 512×512, beside what this
//! machine can multiply at most.
//!
//! `RAYON_NUM_THREADS=1 cargo run --release -p sd-kernels --example kernel_rates`
use std::time::Instant;

use sd_kernels::{
    Algorithm, ConvShape, Epilogue, Isa, PackedConv, PackedMatrix, Picture, linear, peak_rate,
};

/// Rows, columns and depth of the U-Net's linear layers, batch 2.
const PRODUCTS: [[usize; 3]; 6] = [
    [8192, 320, 320],
    [8192, 2560, 320],
    [2048, 640, 5120],
    [2048, 640, 640],
    [512, 1280, 1280],
    [154, 320, 768],
];

/// Batch, side, and channels in and out of 3×3 convolutions.
const CONVOLUTIONS: [[usize; 4]; 5] = [
    [2, 64, 320, 320],
    [2, 32, 640, 640],
    [2, 16, 1280, 1280],
    [1, 64, 512, 512],
    [1, 256, 128, 128],
];

fn main() -> sd_kernels::Result<()> {
    for isa in Isa::all() {
        let peak = peak_rate(isa) / 1e9;
        println!("{}: peak of one thread {peak:.0} GFLOP/s", isa.name());
        let report = |what: String, work: f64, seconds: f64| {
            println!("  {what:32} {:6.0} GFLOP/s", work / seconds / 1e9);
        };
        for [rows, columns, depth] in PRODUCTS {
            let (x, weight) = (vec![0.01; rows * depth], vec![0.02; columns * depth]);
            let packed = PackedMatrix::new(isa, &weight, columns, depth)?;
            let mut out = vec![0.0; rows * columns];
            let seconds = fastest(|| linear(&x, rows, &packed, Epilogue::default(), &mut out))?;
            let work = 2.0 * (rows * columns * depth) as f64;
            report(format!("{rows}×{depth}×{columns}"), work, seconds);
        }
        for [n, side, inputs, outputs] in CONVOLUTIONS {
            let shape = ConvShape::same(inputs, outputs, 3);
            let weight = vec![0.02; outputs * inputs * 9];
            let (height, width) = (side, side);
            let x = vec![0.01; n * side * side * inputs];
            let mut out = vec![0.0; n * side * side * outputs];
            for algorithm in [
                Algorithm::Direct,
                Algorithm::Winograd2,
                Algorithm::Winograd4,
                Algorithm::Winograd6,
            ] {
                let packed = PackedConv::new(isa, &weight, shape)?;
                let picture = Picture { n, height, width };
                let seconds = fastest(|| {
                    packed.forward_by(algorithm, &x, picture, Epilogue::default(), &mut out)
                })?;
                // Counted as a direct convolution, so Winograd can exceed the peak.
                let work = 18.0 * (n * side * side * inputs * outputs) as f64;
                let what = format!("{n}×{inputs}→{outputs} @ {side}² {algorithm:?}");
                report(what, work, seconds);
            }
        }
    }
    Ok(())
}

/// Seconds of the fastest of five runs.
fn fastest(mut run: impl FnMut() -> sd_kernels::Result<()>) -> sd_kernels::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let clock = Instant::now();
        run()?;
        best = best.min(clock.elapsed().as_secs_f64());
    }
    Ok(best)
}
