use super::{Layout, Storage};
use crate::vae::TinyVaeConfig;

impl Layout {
    /// Table of the tiny autoencoder's encoder, whose own file numbers its layers as diffusers does.
    pub fn tiny_encoder(config: &TinyVaeConfig) -> Self {
        let blocks: usize = config.encoder_blocks.iter().sum();
        let mut table = Self::new();
        // A convolution before each resolution's blocks, and one behind all.
        for layer in 0..=blocks + config.encoder_blocks.len() {
            table.row(
                format!("encoder.layers.{layer}"),
                layer.to_string(),
                Storage::Whole,
            );
        }
        table
    }

    /// Table of its decoder, whose own file has a layer more at the beginning, a bound without
    /// weights.
    pub fn tiny_decoder(config: &TinyVaeConfig) -> Self {
        let blocks: usize = config.decoder_blocks.iter().sum();
        let mut table = Self::new();
        // The same, and a ReLU and a doubling before each convolution within, without weights.
        for layer in 0..=blocks + 2 * config.decoder_blocks.len() {
            let ours = format!("decoder.layers.{layer}");
            table.row(ours, (layer + 1).to_string(), Storage::Whole);
        }
        table
    }
}
