use super::{Layout, Storage};
use crate::vae::VaeConfig;

/// Layers of an encoder or a decoder outside its blocks.
const OUTER: &[(&str, &str)] = &[
    ("conv_in", "conv_in"),
    ("conv_norm_out", "norm_out"),
    ("conv_out", "conv_out"),
];

/// Layers of a residual block.
const RESNET: &[(&str, &str)] = &[
    ("norm1", "norm1"),
    ("conv1", "conv1"),
    ("norm2", "norm2"),
    ("conv2", "conv2"),
    ("conv_shortcut", "nin_shortcut"),
];

/// Layers of the attention, linear in diffusers and 1×1 convolutions in the file.
const ATTENTION: &[(&str, &str)] = &[
    ("to_q", "q"),
    ("to_k", "k"),
    ("to_v", "v"),
    ("to_out.0", "proj_out"),
];

impl Layout {
    /// Table of an autoencoder.
    pub fn vae(config: &VaeConfig) -> Self {
        let mut table = Self::new();
        let convolutions = [
            (config.use_quant_conv, "quant_conv"),
            (config.use_post_quant_conv, "post_quant_conv"),
        ];
        for (_, name) in convolutions.iter().filter(|(used, _)| *used) {
            table.row(*name, *name, Storage::Whole);
        }
        let [blocks, layers] = [config.block_out_channels.len(), config.layers_per_block];
        for side in ["encoder", "decoder"] {
            table.rows_in(side, side, OUTER);
            table.vae_middle(side, config.mid_block_add_attention);
        }
        for i in 0..blocks {
            let [ours, theirs] = [
                format!("encoder.down_blocks.{i}"),
                format!("encoder.down.{i}"),
            ];
            table.vae_block(&ours, &theirs, layers);
            if i + 1 < blocks {
                let resample = [("downsamplers.0.conv", "downsample.conv")];
                table.rows_in(&ours, &theirs, &resample);
            }
            // The file numbers the way up from the finest resolution.
            let number = blocks - 1 - i;
            let [ours, theirs] = [
                format!("decoder.up_blocks.{i}"),
                format!("decoder.up.{number}"),
            ];
            table.vae_block(&ours, &theirs, layers + 1);
            if number > 0 {
                table.rows_in(&ours, &theirs, &[("upsamplers.0.conv", "upsample.conv")]);
            }
        }
        table
    }

    fn vae_block(&mut self, diffusers: &str, file: &str, layers: usize) {
        for j in 0..layers {
            let [ours, theirs] = [
                format!("{diffusers}.resnets.{j}"),
                format!("{file}.block.{j}"),
            ];
            self.rows_in(&ours, &theirs, RESNET);
        }
    }

    fn vae_middle(&mut self, side: &str, attends: bool) {
        for j in 0..2 {
            let theirs = format!("{side}.mid.block_{}", j + 1);
            self.rows_in(&format!("{side}.mid_block.resnets.{j}"), &theirs, RESNET);
        }
        if !attends {
            return;
        }
        let ours = format!("{side}.mid_block.attentions.0");
        let theirs = format!("{side}.mid.attn_1");
        self.rows_in(&ours, &theirs, &[("group_norm", "norm")]);
        for (layer, name) in ATTENTION {
            let [ours, theirs] = [format!("{ours}.{layer}"), format!("{theirs}.{name}")];
            self.rows_in(&ours, &theirs, &[("bias", "bias")]);
            self.row(
                format!("{ours}.weight"),
                format!("{theirs}.weight"),
                Storage::Pointwise,
            );
        }
    }
}
