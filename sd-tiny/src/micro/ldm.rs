//! What the original code (CompVis/latent-diffusion, Stability-AI/stablediffusion) calls a tensor.

use std::collections::BTreeMap;

use safetensors::Dtype;

use super::values::{self, Tensor};
use super::{Family, config};

type Tensors = BTreeMap<String, Tensor>;

/// All tensors of a checkpoint, from those of the components under diffusers' names.
pub(super) fn tensors(
    family: Family,
    text: Tensors,
    unet: Tensors,
    vae: Tensors,
    seed: u64,
) -> Tensors {
    let unet = rename(unet, |name| {
        format!("model.diffusion_model.{}", unet_name(name))
    });
    let vae = vae.into_iter().map(|(name, mut tensor)| {
        let name = format!("first_stage_model.{}", vae_name(&name));
        // Its attention is made of 1×1 convolutions.
        if name.contains(".attn_1.") && tensor.shape.len() == 2 {
            tensor.shape.extend([1, 1]);
        }
        (name, tensor)
    });
    let text = match family {
        Family::Sd1 => clip(text),
        Family::Sd2 => open_clip(text, seed),
    };
    unet.chain(vae).chain(text).collect()
}

fn rename(
    tensors: Tensors,
    name: impl Fn(&str) -> String,
) -> impl Iterator<Item = (String, Tensor)> {
    tensors
        .into_iter()
        .map(move |(old, tensor)| (name(&old), tensor))
}

/// Parts of the list of blocks that one resolution takes: its layers, and one more.
const PER_RESOLUTION: usize = 3;

/// The blocks of the way down are numbered through, downsamplers included, and so are those of the
/// way up, where an upsampler belongs to the block before it.
fn unet_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["time_embedding", "linear_1", end] => format!("time_embed.0.{end}"),
        ["time_embedding", "linear_2", end] => format!("time_embed.2.{end}"),
        ["conv_in", end] => format!("input_blocks.0.0.{end}"),
        ["conv_norm_out", end] => format!("out.0.{end}"),
        ["conv_out", end] => format!("out.2.{end}"),
        ["down_blocks", i, "downsamplers", "0", "conv", end] => {
            format!(
                "input_blocks.{}.0.op.{end}",
                PER_RESOLUTION * (number(i) + 1)
            )
        }
        ["down_blocks", i, kind, j, ref rest @ ..] => {
            let block = 1 + PER_RESOLUTION * number(i) + number(j);
            format!("input_blocks.{block}.{}", layer(kind, rest))
        }
        ["mid_block", "attentions", "0", ref rest @ ..] => {
            format!("middle_block.1.{}", rest.join("."))
        }
        ["mid_block", "resnets", j, layer, end] => {
            format!("middle_block.{}.{}.{end}", 2 * number(j), resnet(layer))
        }
        ["up_blocks", i, "upsamplers", "0", "conv", end] => {
            let block = PER_RESOLUTION * number(i) + PER_RESOLUTION - 1;
            // Behind the block's residual part and, except at the coarsest resolution, attention.
            let place = if i == "0" { 1 } else { 2 };
            format!("output_blocks.{block}.{place}.conv.{end}")
        }
        ["up_blocks", i, kind, j, ref rest @ ..] => {
            let block = PER_RESOLUTION * number(i) + number(j);
            format!("output_blocks.{block}.{}", layer(kind, rest))
        }
        _ => unreachable!("{name} is no tensor of a U-Net"),
    }
}

/// A residual part is a block's first, attention its second; inside, attention has the same names.
fn layer(kind: &str, rest: &[&str]) -> String {
    match (kind, rest) {
        ("resnets", [layer, end]) => format!("0.{}.{end}", resnet(layer)),
        ("attentions", rest) => format!("1.{}", rest.join(".")),
        _ => unreachable!("{kind} are no layers of a U-Net"),
    }
}

fn resnet(layer: &str) -> &str {
    match layer {
        "norm1" => "in_layers.0",
        "conv1" => "in_layers.2",
        "time_emb_proj" => "emb_layers.1",
        "norm2" => "out_layers.0",
        "conv2" => "out_layers.3",
        "conv_shortcut" => "skip_connection",
        _ => unreachable!("{layer} is no layer of a residual block"),
    }
}

/// The way up is numbered from the finest resolution.
fn vae_name(name: &str) -> String {
    let shortcut = |layer: &str| layer.replace("conv_shortcut", "nin_shortcut");
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        [side, "conv_norm_out", end] => format!("{side}.norm_out.{end}"),
        [side, "mid_block", "resnets", j, layer, end] => {
            format!("{side}.mid.block_{}.{layer}.{end}", number(j) + 1)
        }
        [side, "mid_block", "attentions", "0", ref layer @ .., end] => {
            let layer = match layer {
                ["group_norm"] => "norm",
                ["to_q"] => "q",
                ["to_k"] => "k",
                ["to_v"] => "v",
                ["to_out", "0"] => "proj_out",
                _ => unreachable!("{name} is no tensor of an autoencoder"),
            };
            format!("{side}.mid.attn_1.{layer}.{end}")
        }
        [side, "down_blocks", i, "downsamplers", "0", "conv", end] => {
            format!("{side}.down.{i}.downsample.conv.{end}")
        }
        [side, "down_blocks", i, "resnets", j, layer, end] => {
            format!("{side}.down.{i}.block.{j}.{}.{end}", shortcut(layer))
        }
        [side, "up_blocks", i, "upsamplers", "0", "conv", end] => {
            format!("{side}.up.{}.upsample.conv.{end}", 3 - number(i))
        }
        [side, "up_blocks", i, "resnets", j, layer, end] => {
            format!(
                "{side}.up.{}.block.{j}.{}.{end}",
                3 - number(i),
                shortcut(layer)
            )
        }
        // conv_in, conv_out, quant_conv and post_quant_conv.
        _ => name.into(),
    }
}

/// Stable Diffusion 1 holds transformers' text encoder as it is, with a table of positions.
fn clip(text: Tensors) -> Tensors {
    let positions = Tensor {
        dtype: Dtype::I64,
        shape: vec![1, 77],
        bytes: (0..77_i64).flat_map(i64::to_le_bytes).collect(),
    };
    let prefix = "cond_stage_model.transformer.text_model";
    let mut tensors: Tensors = rename(text, |name| format!("{prefix}.{name}")).collect();
    tensors.insert(format!("{prefix}.embeddings.position_ids"), positions);
    tensors
}

/// Stable Diffusion 2 holds OpenCLIP's: queries, keys and values in one tensor, one layer more than
/// is used, and the two parameters that only pictures need.
fn open_clip(mut text: Tensors, seed: u64) -> Tensors {
    let layers = config::text_layers(Family::Sd2);
    let [used, unused] = [layers - 1, layers].map(|i| format!("encoder.layers.{i}."));
    let mut more: BTreeMap<String, Vec<usize>> = text
        .iter()
        .filter_map(|(name, tensor)| {
            let rest = name.strip_prefix(&used)?;
            Some((format!("{unused}{rest}"), tensor.shape.clone()))
        })
        .collect();
    let width = text["final_layer_norm.weight"].shape[0];
    more.insert("logit_scale".into(), vec![1]);
    more.insert("text_projection".into(), vec![width, width]);
    text.extend(values::random(more, seed, 3));
    if let Some(scale) = text.get_mut("logit_scale") {
        scale.shape.clear();
    }

    let fused = text.iter().filter_map(|(name, tensor)| {
        if name.contains(".k_proj.") || name.contains(".v_proj.") {
            return None;
        }
        let mut tensor = tensor.clone();
        if name.contains(".q_proj.") {
            for other in [".k_proj.", ".v_proj."] {
                let below = &text[&name.replace(".q_proj.", other)];
                tensor.bytes.extend(&below.bytes);
                tensor.shape[0] += below.shape[0];
            }
        }
        Some((
            format!("cond_stage_model.model.{}", open_clip_name(name)),
            tensor,
        ))
    });
    fused.collect()
}

fn open_clip_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts[..] {
        ["embeddings", "token_embedding", end] => format!("token_embedding.{end}"),
        ["embeddings", "position_embedding", _] => "positional_embedding".into(),
        ["final_layer_norm", end] => format!("ln_final.{end}"),
        ["encoder", "layers", i, ref layer @ .., end] => {
            let layer = match layer {
                ["layer_norm1"] => "ln_1.",
                ["layer_norm2"] => "ln_2.",
                ["self_attn", "q_proj"] => "attn.in_proj_",
                ["self_attn", "out_proj"] => "attn.out_proj.",
                ["mlp", "fc1"] => "mlp.c_fc.",
                ["mlp", "fc2"] => "mlp.c_proj.",
                _ => unreachable!("{name} is no tensor of a text encoder"),
            };
            format!("transformer.resblocks.{i}.{layer}{end}")
        }
        // text_projection and logit_scale.
        _ => name.into(),
    }
}

fn number(text: &str) -> usize {
    text.parse().expect("blocks and layers are numbered")
}
