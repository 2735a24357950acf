//! Costs of a LoRA at full size: opened, merged, at run time.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use safetensors::tensor::{Dtype, TensorView};
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::core::BoxError;
use sd_pipeline::models::lora::LoraFile;
use sd_pipeline::models::unet::{UNet, UNetFiles};
use sd_pipeline::models::{BesideLayers, Files, LoadOptions};
use sd_pipeline::{
    Conditioning, Denoiser, Network, NoiseSchedule, Parameterization, TextEmbedding,
};

/// Writes a LoRA of rank `rank` in f16 on all that multiplies in the transformers of `files`' U-Net,
/// as most trainers make them, and on its residual blocks' convolutions where `convolutions`.
fn write(files: &Files, rank: usize, convolutions: bool, path: &Path) -> Result<(), BoxError> {
    let weights = files
        .folder("unet")
        .weights("diffusion_pytorch_model", None)?;
    let mut tensors = Vec::new();
    for (name, shape) in weights.shapes() {
        let Some(module) = name.strip_suffix(".weight") else {
            continue;
        };
        let wanted = name.contains("attentions") || convolutions && name.contains("resnets");
        if shape.len() < 2 || !wanted {
            continue;
        }
        let (mut low, mut high) = (shape.to_vec(), vec![1; shape.len()]);
        low[0] = rank;
        (high[0], high[1]) = (shape[0], rank);
        for (which, shape) in [("A", low), ("B", high)] {
            // 2⁻⁸ in f16, of alternating sign.
            let pairs = [0x1c00u16, 0x9c00].map(u16::to_le_bytes).concat();
            let bytes = pairs.repeat(shape.iter().product::<usize>().div_ceil(2));
            let count = 2 * shape.iter().product::<usize>();
            let name = format!("unet.{module}.lora_{which}.weight");
            tensors.push((name, shape, bytes[..count].to_vec()));
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        let view = TensorView::new(Dtype::F16, shape.clone(), bytes);
        view.map(|view| (name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    Ok(safetensors::serialize_to_file(views, None, path)?)
}

fn print(work: &str, seconds: f64) {
    let seconds = (seconds * 10_000.0).round() / 10_000.0;
    let line = serde_json::json!({ "peer": "ours", "work": work, "seconds": seconds });
    println!("{line}");
}

/// Prints the seconds that a LoRA of rank `rank` on `files`' U-Net takes to be opened, merged and put
/// beside its layers, and hands `step` a network of `batch` branches with it for a step's time.
pub(crate) fn measure(
    (files, options): (&Files, &LoadOptions),
    (rank, convolutions): (usize, bool),
    batch: usize,
    step: &mut dyn FnMut(&str, &dyn Network) -> Result<(), BoxError>,
) -> Result<(), BoxError> {
    let path = std::env::temp_dir().join(format!("bench_lora_{}.safetensors", std::process::id()));
    write(files, rank, convolutions, &path)?;
    let what = match convolutions {
        true => format!("LoRA of rank {rank}, convolutions too"),
        false => format!("LoRA of rank {rank}"),
    };
    let timed = |work: &str, clock: Instant| {
        print(&format!("{what}: {work}"), clock.elapsed().as_secs_f64());
    };
    let schedule = Arc::new(NoiseSchedule::stable_diffusion());
    let kind = Parameterization::Epsilon;
    let base = UNetFiles::open(files, "unet", schedule, kind, options)?;
    let clock = Instant::now();
    let unet: Arc<UNet> = Arc::new(base.load()?);
    timed("the U-Net read without it", clock);
    let clock = Instant::now();
    let lora = LoraFile::open(&path)?;
    timed("opened", clock);
    let prepared = |strength: f32| -> Result<Box<dyn Network>, BoxError> {
        let changes = base.lora_beside(&lora, &strength.into(), &mut lora.unmatched())?;
        let context = Tensor::ones([1, 77, unet.spec().context_width], &options.device);
        let mut branch = Conditioning::from(TextEmbedding::new(context));
        branch.extensions.insert(BesideLayers(vec![vec![changes]]));
        Ok(unet.clone().prepare(vec![branch; batch])?)
    };
    let clock = Instant::now();
    drop(prepared(1.0)?);
    timed("put beside the layers, read from its file", clock);
    let clock = Instant::now();
    let network = prepared(0.5)?;
    timed("put beside the layers at another strength", clock);
    step(
        &format!("UNet step, batch {batch}, {what} at run time"),
        &*network,
    )?;
    drop(network);
    drop(unet);
    let clock = Instant::now();
    let merged = base.with_lora(&lora, &1.0.into(), &mut lora.unmatched())?;
    drop(merged.load()?);
    timed("the U-Net read with it merged", clock);
    std::fs::remove_file(&path)?;
    Ok(())
}
