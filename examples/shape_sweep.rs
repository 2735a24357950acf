//! Compares a backend's products, convolutions and attentions with flex's in f32, at every size that
//! a model's U-Net and VAE have, and times them.
//!
//! ```sh
//! cargo run --release --features cuda --example shape_sweep -- DIR --device cuda [--dtype f32,f16,bf16] [--size 512] [--batch 2]
//! ```
//!
//! DIR is a folder in diffusers layout, of which only the configurations are read. One line of JSON
//! for each operation and precision: `first` are the seconds of the first call, in which kernels are
//! compiled and with `autotune` chosen, `seconds` the least of the others, `error` the root mean
//! square of the difference, relative. The exit code is 1 where one is beyond its bound.

#[path = "support/shapes.rs"]
mod shapes;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, ValueEnum};
use sd_pipeline::burn::tensor::ops::{AttentionModuleOptions, ConvOptions};
use sd_pipeline::burn::tensor::{DType, Device, Tensor, TensorData, module};
use sd_pipeline::core::BoxError;
use sd_pipeline::models::Files;
use sd_pipeline::{Noise, SeededNoise, device};

use shapes::Work;

/// Compares a backend's products, convolutions and attentions with flex's in f32.
#[derive(Parser)]
struct Arguments {
    /// A model folder in diffusers layout
    dir: PathBuf,
    #[arg(long)]
    device: String,
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Precision::F32, Precision::F16, Precision::Bf16])]
    dtype: Vec<Precision>,
    /// Width and height of the picture in pixels
    #[arg(long, default_value_t = 512)]
    size: usize,
    /// Samples in the U-Net's batch
    #[arg(long, default_value_t = 2)]
    batch: usize,
    /// Timed runs after the first
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Precision {
    F32,
    F16,
    Bf16,
}

impl Precision {
    fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::Bf16 => DType::BF16,
        }
    }

    /// Relative error that rounding a result once cannot make: twice u/√3 for a unit roundoff
    /// u. A sum of a thousand products that is rounded after each is beyond it. In f32 sums are
    /// rounded so everywhere.
    fn bound(self) -> f64 {
        let unit = match self {
            Self::F32 => return 1e-5,
            Self::F16 => 11,
            Self::Bf16 => 8,
        };
        2.0 * 2f64.powi(-unit) / 3f64.sqrt()
    }
}

fn main() -> Result<ExitCode, BoxError> {
    let arguments = Arguments::parse();
    let found = device(&arguments.device)?;
    let works = shapes::works(
        &Files::directory(&arguments.dir),
        arguments.size,
        arguments.batch,
    )?;
    let (mut count, mut wrong) = (0, 0);
    for precision in &arguments.dtype {
        if !found.supports_dtype(precision.dtype()) {
            eprintln!(
                "SKIPPED {precision:?}, which {} does not compute in",
                arguments.device
            );
            continue;
        }
        for work in &works {
            let trial = Trial::new(*work, precision.dtype())?;
            let line = trial.compare(&found, *precision, arguments.runs)?;
            let is_right = line["error"]
                .as_f64()
                .is_some_and(|e| e <= precision.bound());
            println!("{line}");
            count += 1;
            wrong += usize::from(!is_right);
        }
    }
    eprintln!("{count} compared, {wrong} beyond the bound");
    Ok(ExitCode::from(u8::from(wrong > 0)))
}

/// An operation on numbers that the precision it is tried in holds exactly.
struct Trial {
    work: Work,
    operands: Vec<TensorData>,
}

impl Trial {
    fn new(work: Work, dtype: DType) -> Result<Self, BoxError> {
        // Operands, the weight second, and the number of products of which each result is a sum.
        let (shapes, depth): (Vec<[usize; 4]>, usize) = match work {
            Work::Linear {
                rows,
                inputs,
                outputs,
            } => (vec![[1, 1, rows, inputs], [1, 1, outputs, inputs]], inputs),
            Work::Conv {
                batch,
                inputs,
                outputs,
                side,
                kernel,
                ..
            } => (
                vec![
                    [batch, inputs, side, side],
                    [outputs, inputs, kernel, kernel],
                ],
                inputs * kernel * kernel,
            ),
            Work::Attention {
                batch,
                heads,
                queries,
                keys,
                width,
            } => {
                let key = [batch, heads, keys, width];
                (vec![[batch, heads, queries, width], key, key], 1)
            }
        };
        let operand = |(seed, shape): (usize, [usize; 4])| -> Result<TensorData, BoxError> {
            let flat = [1, 1, 1, shape.iter().product()];
            let normal = SeededNoise::new(seed as u64, 1).normal(flat)?;
            // Results of about 1, as activations are.
            let scale = if seed == 1 {
                (depth as f32).powf(-0.5)
            } else {
                1.0
            };
            let values: Vec<f32> = normal.iter::<f32>().map(|value| value * scale).collect();
            Ok(TensorData::new(values, shape).convert_dtype(dtype))
        };
        let operands = shapes.into_iter().enumerate().map(operand);
        let operands = operands.collect::<Result<_, _>>()?;
        Ok(Self { work, operands })
    }

    fn operands(&self, device: &Device, dtype: DType) -> Vec<Tensor<4>> {
        let upload = |data: &TensorData| {
            let data = data.clone().convert_dtype(dtype);
            Tensor::from_data(data, (device, dtype))
        };
        self.operands.iter().map(upload).collect()
    }

    fn run(&self, operands: &[Tensor<4>]) -> Tensor<4> {
        let operand = |i: usize| operands[i].clone();
        match self.work {
            Work::Linear { .. } => operand(0).matmul(operand(1).swap_dims(2, 3)),
            Work::Conv { kernel, stride, .. } => {
                let options = ConvOptions::new([stride; 2], [kernel / 2; 2], [1; 2], 1);
                module::conv2d(operand(0), operand(1), None, options)
            }
            Work::Attention { .. } => {
                let options = AttentionModuleOptions::default();
                module::attention(operand(0), operand(1), operand(2), None, None, options)
            }
        }
    }

    /// What `device` makes of it beside flex, as a line of the report.
    fn compare(
        &self,
        device: &Device,
        precision: Precision,
        runs: usize,
    ) -> Result<serde_json::Value, BoxError> {
        let operands = self.operands(device, precision.dtype());
        device.sync()?;
        let (mut first, mut best, mut last) = (None, f64::INFINITY, None);
        for _ in 0..=runs {
            let clock = Instant::now();
            let made = self.run(&operands);
            device.sync()?;
            let seconds = clock.elapsed().as_secs_f64();
            match first {
                None => first = Some(seconds),
                Some(_) => best = best.min(seconds),
            }
            last = Some(made);
        }
        let found = last.ok_or("no runs")?.try_into_data()?;
        let flex = Device::flex();
        let expected = self
            .run(&self.operands(&flex, DType::F32))
            .try_into_data()?;
        let square = |x: f32| f64::from(x) * f64::from(x);
        let pairs = found.iter::<f32>().zip(expected.iter::<f32>());
        let off: f64 = pairs.map(|(a, b)| square(a - b)).sum();
        let size: f64 = expected.iter::<f32>().map(square).sum();
        Ok(serde_json::json!({
            "work": format!("{:?}", self.work),
            "dtype": format!("{precision:?}"),
            "error": (off / size).sqrt(),
            "first": first,
            "seconds": best,
        }))
    }
}
