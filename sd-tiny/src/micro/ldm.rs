//! Checkpoints of the original code (CompVis/latent-diffusion, Stability-AI/stablediffusion).

use std::collections::BTreeMap;

use safetensors::Dtype;
use sd_pipeline::models::ldm::{self, Layout, Numbering, Storage};

use super::Family;
use super::values::{self, Tensor};

type Tensors = BTreeMap<String, Tensor>;

/// All tensors of a checkpoint, from those of the components under diffusers' names.
pub(super) fn tensors(
    family: Family,
    text: Tensors,
    unet: Tensors,
    vae: Tensors,
    seed: u64,
) -> Tensors {
    let layout = Layout::unet(&super::unet_config(family), Numbering::Contiguous);
    let unet = in_file(unet, &layout.under(ldm::UNET));
    let vae = in_file(vae, &Layout::vae(&super::vae_config()).under(ldm::VAE));
    let text = match family {
        Family::Sd1 => clip(text),
        Family::Sd2 => open_clip(text, seed),
    };
    unet.into_iter().chain(vae).chain(text).collect()
}

/// A component's tensors as a file of this layout has them.
fn in_file(tensors: Tensors, layout: &Layout) -> Tensors {
    // Of a tensor that holds several of diffusers', one below the other.
    let mut parts: BTreeMap<String, BTreeMap<usize, Tensor>> = BTreeMap::new();
    for (name, mut tensor) in tensors {
        let place = layout.in_file(&name);
        let place = place.unwrap_or_else(|| unreachable!("{name} is no tensor of the component"));
        let part = match place.storage {
            Storage::Whole => 0,
            Storage::Pointwise => {
                tensor.shape = place.storage.file_shape(&tensor.shape);
                0
            }
            Storage::Rows { part, .. } => part,
            Storage::Transposed => unreachable!("no micro model's projection is used"),
        };
        let parts = parts.entry(place.name).or_default();
        parts.insert(part, tensor);
    }
    let joined = parts.into_iter().filter_map(|(name, parts)| {
        let mut parts = parts.into_values();
        let mut tensor = parts.next()?;
        for below in parts {
            tensor.shape[0] += below.shape[0];
            tensor.bytes.extend(below.bytes);
        }
        Some((name, tensor))
    });
    joined.collect()
}

/// Stable Diffusion 1 holds transformers' text encoder as it is, with a table of positions.
fn clip(text: Tensors) -> Tensors {
    let positions = Tensor {
        dtype: Dtype::I64,
        shape: vec![1, 77],
        bytes: (0..77_i64).flat_map(i64::to_le_bytes).collect(),
    };
    let mut text = text;
    text.insert("embeddings.position_ids".into(), positions);
    in_file(text, &Layout::clip().under(ldm::TEXT))
}

/// Stable Diffusion 2 holds OpenCLIP's: one layer more than is used, and the two parameters that
/// only pictures need.
fn open_clip(mut text: Tensors, seed: u64) -> Tensors {
    let mut config = super::text_config(Family::Sd2);
    let layers = config.num_hidden_layers;
    let [used, unused] = [layers - 1, layers].map(|i| format!("encoder.layers.{i}."));
    let mut more: BTreeMap<String, Vec<usize>> = text
        .iter()
        .filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(&used)?;
            Some((format!("{unused}{rest}"), tensor.shape.clone()))
        })
        .collect();
    let width = config.hidden_size;
    more.insert("logit_scale".into(), vec![1]);
    more.insert("text_projection".into(), vec![width, width]);
    let mut more = values::random(more, seed, 3);
    let pictures = ["logit_scale", "text_projection"].map(|name| (name, more.remove(name)));
    text.extend(more);
    config.num_hidden_layers += 1;
    let mut tensors = in_file(text, &Layout::open_clip(&config).under(ldm::TEXT));
    for (name, tensor) in pictures {
        let Some(mut tensor) = tensor else { continue };
        if name == "logit_scale" {
            tensor.shape.clear();
        }
        tensors.insert(format!("{}.model.{name}", ldm::TEXT), tensor);
    }
    tensors
}
