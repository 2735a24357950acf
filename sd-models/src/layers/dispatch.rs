//! The one place where the ways part: the [kernels](cpu) where a layer's weight is packed for them,
//! or where they know the tensor's device and precision; those of [GPUs](gpu) where they were tried
//! and found right; [Burn's operations](plain) elsewhere.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};
use sd_kernels::{Activation, Moments, OutputRows, Products};

#[cfg(feature = "cubecl")]
use super::gpu::{self, Kernel};
use super::{Conv2d, Epilogue, Geglu, GroupNorm, Input, LayerNorm, Linear, Stream, cpu, plain};

/// True where there are kernels for tensors of `dtype` on `device`.
pub(crate) fn has_kernels(device: &Device, dtype: DType) -> bool {
    #[cfg(feature = "flex")]
    let is_flex = *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    let is_flex = false;
    is_flex && dtype == DType::F32
}

/// True where the kernels can work on `x`, and on all that is made of it.
fn runs_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    has_kernels(&x.device(), x.dtype())
}

/// `doubled` says whether the layer sees the picture twice as high and wide.
pub(super) fn conv2d(
    layer: &Conv2d,
    x: Input<'_, 4>,
    doubled: bool,
    epilogue: Epilogue<4>,
) -> Tensor<4> {
    match &layer.packed {
        Some(packed) => packed.conv2d(x, doubled, epilogue),
        #[cfg(feature = "cubecl")]
        None if gpu::has(Kernel::Picture, x.get()) => {
            gpu::conv2d(layer, x.into_tensor(), doubled, epilogue)
        }
        None => plain::conv2d(layer, x.into_tensor(), doubled, epilogue),
    }
}

/// Some rows of the output from the strip `x`, whose first row is the input's row `top`.
pub(super) fn conv2d_rows(
    layer: &Conv2d,
    x: Input<'_, 4>,
    top: usize,
    rows: Range<usize>,
    epilogue: Epilogue<4>,
) -> Tensor<4> {
    match &layer.packed {
        Some(packed) => {
            let (first, count) = (layer.first_row(top, &rows), rows.len());
            packed.conv2d_rows(x, layer.doubles, OutputRows { first, count }, epilogue)
        }
        // Elsewhere its weight is f32, as Burn's operations want it.
        #[cfg(feature = "cubecl")]
        None if gpu::convolves(&x.get().device(), x.get().dtype()) => {
            gpu::conv2d_rows(layer, x.into_tensor(), top, rows, epilogue)
        }
        None => plain::conv2d_rows(layer, x.into_tensor(), top, rows, epilogue),
    }
}

/// A normalisation with the moments of the whole picture, and the function behind it.
#[derive(Clone, Copy)]
pub(crate) struct Normed<'a> {
    pub(crate) norm: &'a GroupNorm,
    pub(crate) activation: Activation,
    pub(crate) moments: &'a Moments,
}

/// Some `rows` of the output from `parts`, rows of several strips of the input from row `top` on, one
/// below the other, normalised or not; and with `measured` what a normalisation must know of them.
pub(crate) fn conv2d_strip<'a>(
    layer: &Conv2d,
    parts: impl Iterator<Item = Rows<'a>>,
    normed: Option<Normed<'_>>,
    (top, rows): (usize, Range<usize>),
    epilogue: Epilogue<4>,
    measured: bool,
) -> (Tensor<4>, Option<Measured>) {
    if let Some(packed) = layer.packed.as_ref().filter(|_| layer.is_bare()) {
        let (first, count) = (layer.first_row(top, &rows), rows.len());
        let (parts, rows) = (parts.collect(), OutputRows { first, count });
        let made = packed.conv2d_strip(parts, layer.doubles, normed, rows, epilogue, measured);
        return (made.0, made.1.map(Measured::Host));
    }
    let x = match normed {
        Some(of) => group_norm_rows(of.norm, parts, of.moments, of.activation),
        None => copy_rows(parts),
    };
    let mut made = layer.forward_rows(x, top, rows, epilogue);
    let measured = measured.then(|| moments(&mut made));
    (made, measured)
}

pub(super) fn linear<const D: usize>(
    layer: &Linear,
    x: Input<'_, D>,
    epilogue: Epilogue<D>,
) -> Tensor<D> {
    match &layer.packed {
        Some(packed) => packed.linear(x, epilogue),
        #[cfg(feature = "cubecl")]
        None if gpu::has(Kernel::Product, x.get()) => gpu::linear(layer, x.into_tensor(), epilogue),
        None => plain::linear(layer, x.into_tensor(), epilogue),
    }
}

/// A linear layer of tokens that a normalisation comes behind; its epilogue is a residual at most.
pub(super) fn stream(layer: &Linear, x: Tensor<3>, epilogue: Epilogue<3>) -> Stream {
    #[cfg(feature = "cubecl")]
    if layer.packed.is_none() && gpu::has(Kernel::Product, &x) && gpu::has(Kernel::Normed, &x) {
        return gpu::Unfinished::new(layer, x, epilogue.residual).into();
    }
    linear(layer, x.into(), epilogue).into()
}

pub(super) fn geglu(layer: &Geglu, mut x: Tensor<3>) -> Tensor<3> {
    match &layer.packed {
        Some(packed) => {
            let beside = layer.proj.beside(&mut x);
            packed.geglu(x, beside)
        }
        #[cfg(feature = "cubecl")]
        None if layer.proj.is_bare() && gpu::has(Kernel::Geglu, &x) => gpu::geglu(layer, x),
        None => plain::geglu(layer, x),
    }
}

pub(super) fn layer_norm<const D: usize>(layer: &LayerNorm, x: Input<'_, D>) -> Tensor<D> {
    match runs_kernels(x.get()) {
        true => cpu::layer_norm(layer, x),
        #[cfg(feature = "cubecl")]
        false if gpu::has(Kernel::LayerNorm, x.get()) => gpu::layer_norm(layer, x.into_tensor()),
        false => plain::layer_norm(layer, x.into_tensor()),
    }
}

pub(super) fn group_norm(layer: &GroupNorm, x: Input<'_, 4>, activation: Activation) -> Tensor<4> {
    match runs_kernels(x.get()) {
        true => cpu::group_norm(layer, x, activation),
        #[cfg(feature = "cubecl")]
        false if gpu::has(Kernel::GroupNorm, x.get()) => {
            gpu::group_norm(layer, x.into_tensor(), activation)
        }
        false => plain::group_norm(layer, x.into_tensor(), activation),
    }
}

/// Attention of `heads` heads that lie side by side in tokens of `[n, tokens, heads · width]`.
///
/// `products` are the kernels', where these compute it.
pub(crate) fn multi_head_attention<'a>(
    query: impl Into<Input<'a, 3>>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    is_causal: bool,
    products: Products,
) -> Tensor<3> {
    let query = query.into();
    match runs_kernels(query.get()) {
        true => cpu::attention(products, query, key, value, heads, is_causal),
        #[cfg(feature = "cubecl")]
        false if gpu::has(Kernel::Attention, query.get()) => {
            gpu::attention(query.into_tensor(), key, value, heads, is_causal)
        }
        false => plain::attention(query.into_tensor(), key, value, heads, is_causal),
    }
}

/// What the tokens `[n, tokens, width]` gather from each other, by a layer that makes queries, keys
/// and values in one product, where a way does that.
pub(super) fn self_attention(joined: &Linear, x: &Tensor<3>, heads: usize) -> Option<Tensor<3>> {
    #[cfg(feature = "cubecl")]
    if gpu::has(Kernel::Attention, x) && gpu::has(Kernel::Product, x) {
        return Some(gpu::self_attention(joined, x.clone(), heads));
    }
    let _ = (joined, x, heads);
    None
}

/// A layer that makes what these three make, where its device wants it. Their weights become parts of
/// its own.
pub(super) fn join_products(layers: [&mut Linear; 3]) -> Option<Linear> {
    #[cfg(feature = "cubecl")]
    return gpu::join_products(layers);
    #[cfg(not(feature = "cubecl"))]
    {
        let _ = layers;
        None
    }
}

/// The precision in which a weight of so many dimensions is kept where layers compute in `dtype`.
pub(crate) fn stored_dtype(rank: usize, device: &Device, dtype: DType) -> DType {
    #[cfg(feature = "cubecl")]
    return gpu::stored_dtype(rank, device, dtype);
    #[cfg(not(feature = "cubecl"))]
    {
        let _ = (rank, device);
        dtype
    }
}

/// A weight as its device wants it in memory; to whoever reads it, it is the same.
pub(crate) fn stored<const D: usize>(weight: Tensor<D>) -> Tensor<D> {
    #[cfg(feature = "cubecl")]
    if D == 4 && sd_gpu::runs_on(&weight.device()) {
        return gpu::channels_last(weight);
    }
    weight
}

/// A second picture like `x`.
pub(crate) fn duplicate(x: &mut Tensor<4>) -> Tensor<4> {
    match runs_kernels(x) {
        true => cpu::duplicate(x),
        false => x.clone(),
    }
}

/// The end of a picture that nobody else holds.
pub(crate) fn recycle(x: Tensor<4>) {
    if runs_kernels(&x) {
        cpu::recycle(x);
    }
}

/// Two pictures as one with the channels of both.
pub(crate) fn concat_channels(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    match runs_kernels(&a) {
        true => cpu::concat_channels(a, b),
        #[cfg(feature = "cubecl")]
        false if a.dtype() == b.dtype() && gpu::has(Kernel::Concat, &a) => {
            sd_gpu::concat_channels(a, b)
        }
        false => Tensor::cat(vec![a, b], 1),
    }
}

/// Strips of a picture, one below the other.
pub(crate) fn concat_rows(mut strips: Vec<Tensor<4>>) -> Tensor<4> {
    if strips.len() == 1 {
        return strips.swap_remove(0);
    }
    if !strips.first().is_some_and(runs_kernels) {
        return Tensor::cat(strips, 2);
    }
    let last = |x: Tensor<4>| x.permute([0, 2, 3, 1]);
    Tensor::cat(strips.into_iter().map(last).collect(), 1).permute([0, 3, 1, 2])
}

/// Rows of one strip of a picture.
pub(crate) struct Rows<'a> {
    pub(crate) strip: &'a mut Tensor<4>,
    pub(crate) rows: Range<usize>,
}

impl Rows<'_> {
    fn runs_kernels(&self) -> bool {
        runs_kernels(self.strip)
    }

    /// The rows as Burn's operations take them.
    fn tensor(self) -> Tensor<4> {
        let Self { strip, rows } = self;
        match rows.len() == strip.dims()[2] {
            true => strip.clone(),
            false => strip.clone().narrow(2, rows.start, rows.len()),
        }
    }
}

/// Copies of rows of several strips, one below the other.
pub(crate) fn copy_rows<'a>(rows: impl Iterator<Item = Rows<'a>>) -> Tensor<4> {
    let mut rows = rows.peekable();
    match rows.peek().is_some_and(Rows::runs_kernels) {
        true => cpu::copy_rows(rows),
        false => concat_rows(rows.map(Rows::tensor).collect()),
    }
}

/// [`group_norm`] of rows of several strips, one below the other, with the whole picture's
/// `moments`.
pub(crate) fn group_norm_rows<'a>(
    layer: &GroupNorm,
    rows: impl Iterator<Item = Rows<'a>>,
    moments: &Moments,
    activation: Activation,
) -> Tensor<4> {
    let mut rows = rows.peekable();
    match rows.peek().is_some_and(Rows::runs_kernels) {
        true => cpu::group_norm_rows(layer, rows, moments, activation),
        false => {
            let x = concat_rows(rows.map(Rows::tensor).collect());
            plain::group_norm_rows(layer, x, moments, activation)
        }
    }
}

/// A picture's moments, where they were computed.
#[allow(
    clippy::large_enum_variant,
    reason = "made for one call; on GPUs a tensor is large"
)]
pub(crate) enum Measured {
    Host(Moments),
    /// Variances and means of its channels, `[channels, 2]`.
    Device(Tensor<2>),
}

/// The moments of a picture `[1, channels, h, w]`.
pub(crate) fn moments(x: &mut Tensor<4>) -> Measured {
    match runs_kernels(x) {
        true => Measured::Host(cpu::moments(x)),
        false => Measured::Device(plain::moments(x.clone())),
    }
}
