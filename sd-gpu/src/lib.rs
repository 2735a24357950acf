//! GPU kernels of Stable Diffusion's layers, for the devices of Burn that run CubeCL's kernels (CUDA,
//! ROCm, Vulkan, Metal, WebGPU).
//!
//! Each function is one launch that does the work of five to fifteen of Burn's operations. Tensors are
//! stored in the precision they have; what is added up is added up in f32. Pictures look like
//! `[n, channels, h, w]` and are made channels-last in memory, as Burn's convolutions make and want
//! them.
//!
//! A tensor that lies elsewhere is a panic: whoever calls asks `runs_on` first. Nothing here knows
//! whether a device computes right; that is for whoever calls to try.
#![cfg(feature = "cubecl")]

mod attention;
mod concat;
mod convolution;
mod epilogue;
mod geglu;
mod group_norm;
mod heads;
mod launches;
mod layer_norm;
mod products;
mod softmax;
mod sums;
mod tensor;
mod unavailable;

pub use attention::Attention;
pub use concat::concat_channels;
pub use convolution::{Gemm, convolution, convolution_by};
pub use epilogue::{Act, Behind, finish, finish_picture};
pub use geglu::geglu;
pub use group_norm::{GroupNorm, group_norm};
pub use launches::Launches;
pub use layer_norm::{LayerNorm, finish_normed, layer_norm};
pub use products::{product, products};
pub use tensor::runs_on;
pub use unavailable::Unavailable;
