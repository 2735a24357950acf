//! CPU kernels for the networks of Stable Diffusion: f32, channels-last, weights packed once.
//!
//! Activations are `[n, height, width, channels]` (or `[rows, channels]`), so a 1×1 convolution and
//! a linear layer are the same matrix product and nothing is transposed between layers. Work runs
//! in the rayon pool of the caller; the instruction set is a run-time value, [`Isa`].

mod add;
mod attention;
mod blocks;
mod buffer;
mod concat;
mod conv;
mod copy;
mod elementwise;
mod error;
mod gemm;
mod held;
mod linear;
mod norm;
mod outputs;
mod parallel;
mod peak;
mod products;
mod simd;
mod transpose;
mod weight;

pub use add::add;
pub use attention::{AttentionShape, attention, attention_by};
pub use blocks::{Blocks, KeptBlocks};
pub use buffer::{release_scratch, scratch_bytes};
pub use concat::concat_channels;
pub use conv::{Algorithm, ConvShape, OutputRows, PackedConv, Picture, StripInput};
pub use copy::copy;
pub use elementwise::activate;
pub use error::{Error, Result};
pub use gemm::{Activation, PackedMatrix};
pub use held::Held;
pub use linear::{Epilogue, PackedGeglu, geglu, linear};
pub use norm::{
    GroupNorm, Moments, group_norm, group_norm_in_place, group_norm_shifted, group_norm_with,
    layer_norm,
};
pub use outputs::{
    OutputReplay, Replayed, kept_output_bytes, recycle_output, release_outputs, take_output,
};
pub use peak::peak_rate;
pub use products::{Int8, Products};
pub use simd::Isa;
pub use transpose::{to_channels_first, to_channels_last};
pub use weight::{DType, Packing, WeightRows, WeightStorage};
