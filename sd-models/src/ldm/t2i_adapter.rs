use super::{Layout, Storage};
use crate::t2i_adapter::{AdapterType, T2IAdapterConfig};

impl Layout {
    /// Table of a T2I-Adapter: of its own code's names, whose residual blocks, of all but light ones,
    /// are in one list.
    pub fn t2i_adapter(config: &T2IAdapterConfig) -> Self {
        let mut table = Self::new();
        let is_light = config.kind == AdapterType::Light;
        if !is_light {
            table.row("adapter.conv_in", "conv_in", Storage::Whole);
        }
        for stage in 0..config.channels.len() + usize::from(is_light) {
            let ours = format!("adapter.body.{stage}");
            let first = match is_light {
                true => stage,
                false => stage * config.resnets,
            };
            for conv in ["in_conv", "out_conv"] {
                let theirs = format!("body.{first}.{conv}");
                table.row(format!("{ours}.{conv}"), theirs, Storage::Whole);
            }
            for resnet in 0..config.resnets {
                let theirs = match is_light {
                    true => format!("body.{stage}.body.{resnet}"),
                    false => format!("body.{}", first + resnet),
                };
                for conv in ["block1", "block2"] {
                    let ours = format!("{ours}.resnets.{resnet}.{conv}");
                    table.row(ours, format!("{theirs}.{conv}"), Storage::Whole);
                }
            }
        }
        table
    }
}
