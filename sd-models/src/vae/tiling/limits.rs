use std::fmt;

use serde::{Deserialize, Serialize};

/// The way a [`Vae`](super::super::Vae) cuts pictures.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tiling {
    /// In [`Strips`](Self::Strips) on this workspace's CPU kernels, where they are the faster way;
    /// elsewhere whole where that fits into the [`Limits`], else in strips.
    #[default]
    Auto,
    /// Never.
    Whole,
    /// Layer by layer in strips of rows. Every normalisation takes its mean and deviation over the
    /// whole picture, so the result is that of the whole picture, up to rounding. Takes about half
    /// the memory.
    Strips,
    /// In square tiles that overlap, each a picture of its own, with a linear transition between
    /// neighbours: what diffusers' `enable_tiling` does. Its memory does not grow with the picture.
    /// The result is another one: each tile is normalised by itself, so that colours and contrast
    /// differ between tiles.
    Blend {
        /// Height and width of a tile in pixels; diffusers takes the model's
        /// [`sample_size`](super::super::VaeConfig::sample_size).
        tile: usize,
        /// Share of a tile that its neighbour covers too, in `0.0 .. 1.0`; diffusers takes 0.25.
        overlap: f64,
    },
}

/// Memory that encoding and decoding may take of a device, weights not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// The largest buffer that the device gives out, in bytes; `None` where only its memory limits
    /// it.
    pub largest_buffer: Option<u64>,
    /// All buffers together, in bytes; `None`: whatever there is.
    pub budget: Option<u64>,
}

/// The two directions of an autoencoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Pixels to latents.
    Encode,
    /// Latents to pixels.
    Decode,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Encode => "encoding",
            Self::Decode => "decoding",
        })
    }
}
