//! What each scheduler itself costs per step, beside a network that costs nothing.

use std::hint::black_box;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sd_pipeline::core::{Model, NetworkOutput, NoiseSchedule, PredictionType, SeededNoise};
use sd_pipeline::schedulers::{SchedulerName, names};

const STEPS: usize = 10;

fn schedulers(c: &mut Criterion) {
    let train = Arc::new(NoiseSchedule::stable_diffusion());
    let device = Device::flex();
    for side in [64, 128] {
        let mut group = c.benchmark_group(format!("4x{side}x{side}, {STEPS} steps"));
        group.sample_size(10);
        for name in names() {
            let parsed: SchedulerName = name.parse().expect("a name of its own");
            let scheduler = parsed.scheduler().expect("its default settings");
            let plan = scheduler.plan(&train, STEPS).expect("a plan");
            let x = Tensor::<4>::ones([1, 4, side, side], &device);
            group.bench_function(BenchmarkId::from_parameter(name), |b| {
                b.iter(|| {
                    let mut network = |x: Tensor<4>, _t| {
                        Ok(NetworkOutput {
                            guided: x,
                            uncond: None,
                        })
                    };
                    let mut model = Model::new(PredictionType::VPrediction, &mut network);
                    let mut noise = SeededNoise::new(1, 1);
                    let mut sampler = scheduler.start(&plan, 0).expect("a run");
                    let mut x = x.clone();
                    loop {
                        let step = sampler.step(x, &mut model, &mut noise).expect("a step");
                        x = step.x;
                        if step.done {
                            break;
                        }
                    }
                    black_box(x.into_data())
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, schedulers);
criterion_main!(benches);
