use super::unet::{ADDED, MIDDLE, TIME};
use super::{Layout, Numbering, Storage};
use crate::controlnet::ControlNetConfig;

impl Layout {
    /// Table of a ControlNet.
    pub fn controlnet(config: &ControlNetConfig) -> Self {
        let mut table = Self::new();
        table.rows_in("", "", TIME);
        if config.unet.text_time.is_some() {
            table.rows_in("", "", ADDED);
        }
        table.way_down(&config.unet, Numbering::Contiguous);
        table.middle(&config.unet);
        let mut numbers = (0..).step_by(2);
        let mut hint = |name: String| {
            let number = numbers.next().unwrap_or_default();
            let ours = format!("controlnet_cond_embedding.{name}");
            table.row(ours, format!("input_hint_block.{number}"), Storage::Whole);
        };
        // A number for each activation, too.
        hint("conv_in".into());
        for block in 0..2 * (config.embedding_channels.len() - 1) {
            hint(format!("blocks.{block}"));
        }
        hint("conv_out".into());
        for kept in 0..config.kept() {
            let ours = format!("controlnet_down_blocks.{kept}");
            table.row(ours, format!("zero_convs.{kept}.0"), Storage::Whole);
        }
        table.rows_in("", "", MIDDLE);
        table
    }
}
