//! The way from Burn's tensors to the kernels of `sd-kernels` and back, on the flex device in f32.
//!
//! To a network's code a picture is always `[n, channels, h, w]`. What the kernels make is stored
//! channels-last and only looks like that: it is `[n, h, w, channels]` in memory, permuted. The
//! next kernel permutes it back, which moves nothing, so from the first layer to the last no number
//! is transposed. Getting at the numbers moves nothing either: a flex tensor that nobody else
//! holds gives its buffer away.

mod rows;

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use sd_core::WeightBytes;
use sd_kernels::{
    Activation, AttentionShape, ConvShape, Epilogue, Isa, PackedConv, PackedGeglu, PackedMatrix,
    Picture, take_output,
};

pub(super) use rows::{Part, copy_rows, group_norm_rows, moments};

use crate::weights::Weights;
use crate::{Result, meter};

/// Whether the kernels can work on `x`, and on all that is made of it.
pub(crate) fn runs_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    has_kernels(&x.device(), x.dtype())
}

/// Whether there are kernels for tensors of `dtype` on `device`.
pub(crate) fn has_kernels(device: &Device, dtype: DType) -> bool {
    #[cfg(feature = "flex")]
    let is_flex = *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    let is_flex = false;
    is_flex && dtype == DType::F32
}

/// The numbers of `x`, row by row.
pub(super) fn values<const D: usize>(x: Tensor<D>) -> Values {
    let data = x.try_into_data();
    Values(data.unwrap_or_else(|_| unreachable!("a tensor in this process's memory can be read")))
}

/// The numbers of a tensor in f32. Their memory will be a later layer's output.
pub(super) struct Values(TensorData);

impl std::ops::Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let values = self.0.as_slice();
        values.unwrap_or_else(|_| unreachable!("`runs_kernels` holds only for f32"))
    }
}

impl std::ops::DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        let values = self.0.as_mut_slice();
        values.unwrap_or_else(|_| unreachable!("`runs_kernels` holds only for f32"))
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        let (bytes, _, _) = self.take().into_parts();
        if let Ok(values) = bytes.try_into_vec::<f32>() {
            sd_kernels::recycle_output(values);
        }
    }
}

impl Values {
    fn take(&mut self) -> TensorData {
        std::mem::replace(&mut self.0, TensorData::new(Vec::<f32>::new(), [0]))
    }

    /// The tensor whose [`values`] these are.
    fn into_tensor<const D: usize>(mut self, device: &Device) -> Tensor<D> {
        Tensor::from_data(self.take(), (device, DType::F32))
    }

    /// The picture whose [`pixels`] these are.
    fn into_picture(self, device: &Device) -> Tensor<4> {
        self.into_tensor(device).permute([0, 3, 1, 2])
    }
}

/// The numbers of a picture, channels-last.
fn pixels(x: Tensor<4>) -> Values {
    values(x.permute([0, 2, 3, 1]))
}

/// A tensor of `values` on the device whose kernels made them.
pub(super) fn tensor<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    // Here what went in and what came out are in memory side by side.
    meter::look();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// A picture of channels-last `values`; `shape` is `[n, h, w, channels]`.
fn picture(values: Vec<f32>, shape: [usize; 4], device: &Device) -> Tensor<4> {
    tensor(values, shape, device).permute([0, 3, 1, 2])
}

/// A layer's weight as the kernels want it, and its bias.
#[derive(Clone)]
pub(super) struct Packed<W> {
    weight: Arc<W>,
    bias: Option<Arc<[f32]>>,
}

impl<W: std::fmt::Debug> std::fmt::Debug for Packed<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.weight.fmt(f)
    }
}

impl<W> Packed<W> {
    /// A packed weight with the bias that belongs to it, `{name}.bias`, where there is one.
    pub(super) fn new(weight: W, bias: bool, name: &str, weights: &Weights) -> Result<Self> {
        let bias = bias.then(|| weights.values(&format!("{name}.bias")));
        Ok(Self {
            weight: Arc::new(weight),
            bias: bias.transpose()?.map(Into::into),
        })
    }

    /// Bytes of the whole, of which the weight takes `weight`.
    pub(super) fn bytes(&self, weight: usize) -> WeightBytes {
        let bias = self.bias.as_ref().map_or(0, |bias| size_of_val(&**bias));
        WeightBytes {
            plain: 0,
            packed: (weight + bias) as u64,
        }
    }
}

impl Packed<PackedConv> {
    /// `x` `[n, in, h, w]`, or with `doubled` that picture twice as high and wide, to
    /// `[n, out, h', w']`, plus `shift` `[1 or n, out]` at every pixel, plus `residual`.
    pub(super) fn forward(
        &self,
        x: Tensor<4>,
        doubled: bool,
        shift: Option<Tensor<2>>,
        residual: Option<Tensor<4>>,
    ) -> Tensor<4> {
        let ([n, _, height, width], device) = (x.dims(), x.device());
        let shape = ConvShape {
            upsample: doubled,
            ..self.weight.shape()
        };
        let whole = Picture { n, height, width };
        let (out_height, out_width) = fits(shape.output(whole));
        let dims = [n, out_height, out_width, shape.outputs];
        let (x, residual) = (pixels(x), residual.map(pixels));
        let mut out = take_output(dims.iter().product());

        // Samples whose shift differs are convolved one by one, each with a bias of its own.
        let shift = shift.map(|shift| (shift.dims()[0], values(shift)));
        let parts = shift.as_ref().map_or(1, |(rows, _)| *rows);
        let part = |of: usize, i: usize| of / parts * i..of / parts * (i + 1);
        let (x_len, out_len) = (x.len(), out.len());
        for i in 0..parts {
            let bias = match (&self.bias, &shift) {
                (bias, None) => bias.as_ref().map(|bias| bias.to_vec()),
                (bias, Some((_, shift))) => {
                    let mut sum = shift[part(shift.len(), i)].to_vec();
                    for (sum, bias) in sum.iter_mut().zip(bias.iter().flat_map(|b| b.iter())) {
                        *sum += bias;
                    }
                    Some(sum)
                }
            };
            let epilogue = Epilogue {
                bias: bias.as_deref(),
                residual: residual.as_ref().map(|r| &r[part(out_len, i)]),
                ..Epilogue::default()
            };
            let picture = Picture {
                n: n / parts,
                ..whole
            };
            let (x, out) = (&x[part(x_len, i)], &mut out[part(out_len, i)]);
            fits(self.weight.forward_as(doubled, x, picture, epilogue, out));
        }
        picture(out, dims, &device)
    }
}

impl Packed<PackedMatrix> {
    /// `activation(x·Wᵀ + b) + residual`, `[…, in]` to `[…, out]`.
    pub(super) fn forward<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Activation,
        residual: Option<Tensor<D>>,
    ) -> Tensor<D> {
        let (dims, device) = (x.dims(), x.device());
        let residual = residual.map(values);
        self.run(&values(x), dims, activation, residual.as_deref(), &device)
    }

    /// `x·Wᵀ + b`, and `x`.
    pub(super) fn forward_keeping<const D: usize>(&self, x: Tensor<D>) -> (Tensor<D>, Tensor<D>) {
        let (dims, device) = (x.dims(), x.device());
        let x = values(x);
        let out = self.run(&x, dims, Activation::None, None, &device);
        (out, x.into_tensor(&device))
    }

    fn run<const D: usize>(
        &self,
        x: &[f32],
        mut dims: [usize; D],
        activation: Activation,
        residual: Option<&[f32]>,
        device: &Device,
    ) -> Tensor<D> {
        let rows = dims[..D - 1].iter().product();
        dims[D - 1] = self.weight.columns();
        let mut out = take_output(rows * self.weight.columns());
        let epilogue = Epilogue {
            bias: self.bias.as_deref(),
            activation,
            residual,
        };
        fits(sd_kernels::linear(
            x,
            rows,
            &self.weight,
            epilogue,
            &mut out,
        ));
        tensor(out, dims, device)
    }
}

impl Packed<PackedGeglu> {
    /// `[n, tokens, in]` to `[n, tokens, out]`.
    pub(super) fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let ([n, tokens, _], device) = (x.dims(), x.device());
        let columns = self.weight.columns();
        let mut out = take_output(n * tokens * columns);
        let bias = self.bias.as_deref();
        let x = values(x);
        fits(sd_kernels::geglu(
            &x,
            n * tokens,
            &self.weight,
            bias,
            &mut out,
        ));
        tensor(out, [n, tokens, columns], &device)
    }
}

/// A group normalisation.
pub(super) struct Norm {
    /// `[channels]`.
    pub(super) weight: Tensor<1>,
    /// `[channels]`.
    pub(super) bias: Tensor<1>,
    pub(super) groups: usize,
    pub(super) epsilon: f64,
    /// Behind it.
    pub(super) activation: Activation,
}

impl Norm {
    /// Calls `run` with the normalisation as the kernels take it.
    fn with<R>(self, run: impl FnOnce(sd_kernels::GroupNorm<'_>) -> R) -> R {
        let (weight, bias) = (values(self.weight), values(self.bias));
        run(sd_kernels::GroupNorm {
            weight: &weight,
            bias: &bias,
            groups: self.groups,
            epsilon: self.epsilon as f32,
            activation: self.activation,
        })
    }
}

/// A group normalisation of `[n, channels, h, w]`, in place where nobody else holds the picture.
pub(super) fn group_norm(x: Tensor<4>, norm: Norm) -> Tensor<4> {
    let ([n, _, h, w], device) = (x.dims(), x.device());
    let (mut x, isa) = (pixels(x), Isa::best());
    norm.with(|norm| {
        fits(sd_kernels::group_norm_in_place(isa, &mut x, n, h * w, norm));
    });
    x.into_picture(&device)
}

/// [`group_norm`], and the picture it was made of.
pub(super) fn group_norm_keeping(x: Tensor<4>, norm: Norm) -> (Tensor<4>, Tensor<4>) {
    let ([n, c, h, w], device) = (x.dims(), x.device());
    let (x, isa) = (pixels(x), Isa::best());
    let mut out = take_output(x.len());
    norm.with(|norm| fits(sd_kernels::group_norm(isa, &x, n, h * w, norm, &mut out)));
    let out = picture(out, [n, h, w, c], &device);
    (out, x.into_picture(&device))
}

/// A layer normalisation of `[…, width]`, and the tensor it was made of.
pub(super) fn layer_norm<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
) -> (Tensor<D>, Tensor<D>) {
    let (dims, device) = (x.dims(), x.device());
    let rows = dims[..D - 1].iter().product();
    let (x, weight, bias) = (values(x), values(weight), values(bias));
    let (mut out, epsilon) = (take_output(x.len()), epsilon as f32);
    let isa = Isa::best();
    fits(sd_kernels::layer_norm(
        isa, &x, rows, &weight, &bias, epsilon, &mut out,
    ));
    (tensor(out, dims, &device), x.into_tensor(&device))
}

/// Attention of `heads` heads that lie side by side in tokens of `[n, tokens, heads · width]`.
pub(super) fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    is_causal: bool,
) -> Tensor<3> {
    let ([n, queries, width], device) = (query.dims(), query.device());
    let shape = AttentionShape {
        causal: is_causal,
        ..AttentionShape::new(n, heads, width / heads, queries, key.dims()[1])
    };
    let (q, k, v) = (values(query), values(key), values(value));
    let mut out = take_output(q.len());
    fits(sd_kernels::attention(
        Isa::best(),
        &q,
        &k,
        &v,
        shape,
        &mut out,
    ));
    tensor(out, [n, queries, width], &device)
}

/// A picture twice. To the kernels a mere clone would be a copy made by one thread.
pub(crate) fn duplicate(x: Tensor<4>) -> [Tensor<4>; 2] {
    if !runs_kernels(&x) {
        return [x.clone(), x];
    }
    let ([n, c, h, w], device) = (x.dims(), x.device());
    let x = pixels(x);
    let mut copy = take_output(x.len());
    fits(sd_kernels::copy(&x, &mut copy));
    [
        picture(copy, [n, h, w, c], &device),
        x.into_picture(&device),
    ]
}

/// Two pictures as one with the channels of both.
pub(crate) fn concat_channels(a: Tensor<4>, b: Tensor<4>) -> Tensor<4> {
    if !runs_kernels(&a) {
        return Tensor::cat(vec![a, b], 1);
    }
    let ([n, channels_a, h, w], channels_b) = (a.dims(), b.dims()[1]);
    let (device, count) = (a.device(), n * h * w);
    let (a, b) = (pixels(a), pixels(b));
    let mut out = take_output(a.len() + b.len());
    fits(sd_kernels::concat_channels(
        &a, channels_a, &b, channels_b, count, &mut out,
    ));
    picture(out, [n, h, w, channels_a + channels_b], &device)
}

/// The kernels check the sizes they are given; here these come from the tensors themselves.
pub(super) fn fits<T>(result: sd_kernels::Result<T>) -> T {
    result.unwrap_or_else(|error| unreachable!("the sizes are the tensors' own: {error}"))
}
