use sd_kernels::*;
use std::time::Instant;
fn best(runs: usize, mut f: impl FnMut()) -> f64 {
    let mut best = f64::MAX;
    for _ in 0..runs {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}
fn main() {
    for isa in Isa::all() {
        let peak = peak_rate(isa) / 1e9;
        println!("{} peak {peak:.1}", isa.name());

        for (m, n, k) in [
            (8192, 320, 320),
            (8192, 2560, 320),
            (2048, 640, 5120),
            (2048, 5120, 640),
            (2048, 640, 640),
            (512, 1280, 1280),
            (512, 10240, 1280),
            (512, 1280, 5120),
            (154, 320, 768),
        ] {
            let x = vec![0.01f32; m * k];
            let w = vec![0.02f32; n * k];
            let mut out = vec![0.0; m * n];
            let p = PackedMatrix::new(isa, &w, n, k).unwrap();
            let t = best(7, || {
                linear(&x, m, &p, Epilogue::default(), &mut out).unwrap()
            });
            println!(
                "{} {m}x{n}x{k}: {:.1} GFLOP/s",
                isa.name(),
                2.0 * (m * n * k) as f64 / t / 1e9
            );
            println!("   {:.0} %", 2.0 * (m * n * k) as f64 / t / 1e7 / peak);
        }
    }
}
