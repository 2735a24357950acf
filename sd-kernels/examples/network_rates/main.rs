//! Shares of the time of Stable Diffusion 1.5's and XL's networks: each class of layers, its share
//! of the time and its rate beside what this machine can multiply at most (a roofline).
//!
//! `cargo run --release -p sd-kernels --example network_rates -- [unet|xl-unet|decoder|encoder|text]
//! [--size 512] [--batch 2] [--isa avx2] [--products pairs] [--int8 tiles] [--weights q8] [--runs 3]
//! [--busy]`; products of f32 or, as this processor has them, of bf16, with linear layers' of int8 beside
//! them; weights of `f32`, rounded to `q8` or `q4`, or a GGUF file's blocks (`Q4K`);
//! `RAYON_NUM_THREADS` chooses the threads. With `--busy` and one thread only the time counts
//! that the thread was running: on a machine with other work.
//!
//! Each layer is timed by itself and the fastest run counts, so the sum is what the network would
//! take if nothing happened between its layers.

mod layers;
mod weight;

use std::time::Instant;

use layers::{Network, Op, SD15, SDXL};
use sd_kernels::{
    Activation, AttentionShape, Blocks, ConvShape, Epilogue, GroupNorm, Int8, Isa, PackedConv,
    PackedGeglu, PackedMatrix, Packing, Picture, Products, WeightStorage, attention_by,
    concat_channels, geglu, group_norm, layer_norm, linear, peak_rate,
};
use weight::Weight;

type Error = Box<dyn std::error::Error>;

struct Options {
    networks: Vec<String>,
    size: usize,
    batch: usize,
    runs: usize,
    isa: Isa,
    packing: Packing,
    blocks: Option<Blocks>,
    busy: bool,
}

impl Options {
    fn parse() -> Result<Self, Error> {
        let mut options = Self {
            networks: Vec::new(),
            size: 512,
            batch: 2,
            runs: 3,
            isa: Isa::best(),
            packing: Packing::default(),
            blocks: None,
            busy: false,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || {
                let missing = || format!("{argument} needs a value");
                arguments.next().ok_or_else(missing)
            };
            match argument.as_str() {
                "--busy" => options.busy = true,
                "--size" => options.size = value()?.parse()?,
                "--batch" => options.batch = value()?.parse()?,
                "--runs" => options.runs = value()?.parse()?,
                "--isa" => {
                    let name = value()?;
                    let found = Isa::all().into_iter().find(|isa| isa.name() == name);
                    options.isa = found.ok_or(format!("this processor has no {name}"))?;
                }
                "--products" => {
                    let name = value()?;
                    let mut all = Products::all().into_iter().chain([Products::F32]);
                    let found = all.find(|unit| unit.name() == name);
                    let found = found.ok_or(format!("there are no {name} here"))?;
                    options.packing.products = found.with_int8(options.packing.products.int8());
                }
                "--int8" => {
                    let name = value()?;
                    let found = Int8::all().into_iter().find(|unit| unit.name() == name);
                    let found = found.ok_or(format!("there is no int8 by {name} here"))?;
                    options.packing.products = options.packing.products.with_int8(Some(found));
                }
                "--weights" => {
                    let name = value()?;
                    let mut all = Blocks::ALL.into_iter();
                    options.blocks = all.find(|blocks| format!("{blocks:?}") == name);
                    options.packing.storage = match name.as_str() {
                        "f32" => WeightStorage::F32,
                        "q8" => WeightStorage::Q8,
                        "q4" => WeightStorage::Q4,
                        _ if options.blocks.is_some() => WeightStorage::AsStored,
                        other => return Err(format!("no weights of {other}").into()),
                    }
                }
                network => options.networks.push(network.into()),
            }
        }
        if options.networks.is_empty() {
            options.networks = ["text", "unet", "decoder", "encoder"]
                .map(String::from)
                .into();
        }
        Ok(options)
    }
}

fn main() -> Result<(), Error> {
    let options = Options::parse()?;
    let threads = rayon::current_num_threads();
    let peak = threads as f64 * peak_rate(options.isa);
    let weights = match options.blocks {
        Some(blocks) => format!("{blocks:?}"),
        None => format!("{:?}", options.packing.storage),
    };
    let products = options.packing.products;
    let int8 = products.int8().map(|int8| int8.name());
    println!(
        "{}, products of {}{}, {weights} weights, {threads} threads: peak of f32 {:.0} GFLOP/s",
        options.isa.name(),
        products.name(),
        int8.map_or(String::new(), |name| format!(" and int8 by {name}")),
        peak / 1e9
    );
    for name in &options.networks {
        let network = match name.as_str() {
            "unet" => Network::unet(&SD15, options.batch, options.size / 8),
            "xl-unet" => Network::unet(&SDXL, options.batch, options.size / 8),
            "decoder" => Network::decoder(1, options.size),
            "encoder" => Network::encoder(1, options.size),
            "text" => Network::text(options.batch),
            other => return Err(format!("no network {other}").into()),
        };
        table(name, &network, peak, &options)?;
    }
    Ok(())
}

/// Time that passes, or that this thread is given of it.
enum Clock {
    Passing(Instant),
    Busy(f64),
}

impl Clock {
    fn start(busy: bool) -> Self {
        match busy {
            true => Self::Busy(Self::given()),
            false => Self::Passing(Instant::now()),
        }
    }

    fn seconds(&self) -> f64 {
        match self {
            Self::Passing(start) => start.elapsed().as_secs_f64(),
            Self::Busy(start) => Self::given() - start,
        }
    }

    /// Seconds that the thread has run, by Linux's count.
    fn given() -> f64 {
        let line = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let nanoseconds = line
            .split(' ')
            .next()
            .and_then(|word| word.parse::<f64>().ok());
        nanoseconds.unwrap_or(f64::NAN) / 1e9
    }
}

/// One row: layers of a class.
struct Row {
    class: String,
    layers: usize,
    work: f64,
    seconds: f64,
}

fn table(name: &str, network: &Network, peak: f64, options: &Options) -> Result<(), Error> {
    let mut rows: Vec<Row> = Vec::new();
    let mut done: Vec<(Op, f64)> = Vec::new();
    for op in &network.ops {
        let seconds = match done.iter().find(|(other, _)| other == op) {
            Some((_, seconds)) => *seconds,
            None => {
                let seconds = time(op, options)?;
                done.push((*op, seconds));
                seconds
            }
        };
        let class = op.class();
        let index = rows.iter().position(|row| row.class == class);
        let index = index.unwrap_or_else(|| {
            rows.push(Row {
                class,
                layers: 0,
                work: 0.0,
                seconds: 0.0,
            });
            rows.len() - 1
        });
        rows[index].layers += 1;
        rows[index].work += op.work();
        rows[index].seconds += seconds;
    }
    rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let total: f64 = rows.iter().map(|row| row.seconds).sum();
    println!("\n| {name} | layers | GFLOP | ms | of the time | GFLOP/s | of the peak |");
    println!("|---|---|---|---|---|---|---|");
    for row in &rows {
        let rate = row.work / row.seconds;
        println!(
            "| {} | {} | {:.1} | {:.1} | {:.1} % | {:.0} | {:.0} % |",
            row.class,
            row.layers,
            row.work / 1e9,
            row.seconds * 1e3,
            100.0 * row.seconds / total,
            rate / 1e9,
            100.0 * rate / peak,
        );
    }
    let work: f64 = rows.iter().map(|row| row.work).sum();
    println!(
        "| all | {} | {:.1} | {:.1} | 100 % | {:.0} | {:.0} % |",
        network.ops.len(),
        work / 1e9,
        total * 1e3,
        work / total / 1e9,
        100.0 * work / total / peak,
    );
    Ok(())
}

/// Numbers around zero that no kernel finds easier than others.
fn numbers(len: usize) -> Vec<f32> {
    let mut state = 1u32;
    let next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    std::iter::repeat_with(next).take(len).collect()
}

fn time(op: &Op, options: &Options) -> Result<f64, Error> {
    let (isa, packing) = (options.isa, options.packing);
    let fastest = |run: &mut dyn FnMut() -> sd_kernels::Result<()>| {
        run()?;
        let mut best = f64::INFINITY;
        for _ in 0..options.runs {
            let clock = Clock::start(options.busy);
            run()?;
            best = best.min(clock.seconds());
        }
        Ok(best)
    };
    match *op {
        Op::Conv {
            n,
            side,
            inputs,
            outputs,
            kernel,
            stride,
            upsample,
            residual,
        } => {
            let shape = ConvShape {
                stride,
                upsample,
                ..ConvShape::same(inputs, outputs, kernel)
            };
            let from = if upsample { side / 2 } else { side * stride };
            let picture = Picture {
                n,
                height: from,
                width: from,
            };
            let weight = Weight::new(numbers(outputs * inputs * kernel * kernel), options.blocks);
            let packed = PackedConv::read(isa, &weight, shape, packing)?;
            let x = numbers(n * from * from * inputs);
            let mut out = vec![0.0; n * side * side * outputs];
            let bias = numbers(outputs);
            let residual = residual.then(|| numbers(out.len()));
            let epilogue = Epilogue {
                bias: Some(&bias),
                residual: residual.as_deref(),
                ..Epilogue::default()
            };
            fastest(&mut || packed.forward(&x, picture, epilogue, &mut out))
        }
        Op::Linear {
            rows,
            inputs,
            outputs,
        } => {
            let weight = Weight::new(numbers(outputs * inputs), options.blocks);
            let packed = PackedMatrix::read(isa, &weight, outputs, inputs, packing)?;
            let (x, mut out) = (numbers(rows * inputs), vec![0.0; rows * outputs]);
            fastest(&mut || linear(&x, rows, &packed, Epilogue::default(), &mut out))
        }
        Op::Geglu {
            rows,
            inputs,
            outputs,
        } => {
            let weight = Weight::new(numbers(2 * outputs * inputs), options.blocks);
            let packed = PackedGeglu::read(isa, &weight, outputs, inputs, packing)?;
            let (x, mut out) = (numbers(rows * inputs), vec![0.0; rows * outputs]);
            fastest(&mut || geglu(&x, rows, &packed, None, None, &mut out))
        }
        Op::Attention {
            n,
            heads,
            size,
            queries,
            keys,
            causal,
        } => {
            let shape = AttentionShape {
                causal,
                ..AttentionShape::new(n, heads, size, queries, keys)
            };
            let [q, k, v] = [queries, keys, keys].map(|tokens| numbers(n * tokens * heads * size));
            let mut out = vec![0.0; q.len()];
            let products = packing.products;
            fastest(&mut || attention_by(products, isa, &q, &k, &v, shape, &mut out))
        }
        Op::GroupNorm { n, side, channels } => {
            let x = numbers(n * side * side * channels);
            let (weight, bias) = (numbers(channels), numbers(channels));
            let norm = GroupNorm {
                weight: &weight,
                bias: &bias,
                groups: 32,
                epsilon: 1e-5,
                activation: Activation::Silu,
            };
            let mut out = vec![0.0; x.len()];
            fastest(&mut || group_norm(isa, &x, n, side * side, norm, &mut out))
        }
        Op::LayerNorm { rows, width } => {
            let x = numbers(rows * width);
            let (weight, bias) = (numbers(width), numbers(width));
            let mut out = vec![0.0; x.len()];
            fastest(&mut || layer_norm(isa, &x, rows, &weight, &bias, 1e-5, &mut out))
        }
        Op::Concat { pixels, a, b } => {
            let (x, y) = (numbers(pixels * a), numbers(pixels * b));
            let mut out = vec![0.0; x.len() + y.len()];
            fastest(&mut || concat_channels(&x, a, &y, b, pixels, &mut out))
        }
    }
}
