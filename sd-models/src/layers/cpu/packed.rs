use std::borrow::Cow;
use std::sync::Arc;

use burn::tensor::Tensor;
use sd_core::WeightBytes;
use sd_kernels::{
    Activation, ConvShape, Moments, OutputRows, PackedConv, PackedGeglu, PackedMatrix, Picture,
    StripInput, take_output,
};

use super::expect_shapes;
use super::norm;
use super::pictures::lend_rows;
use super::values::{Values, picture, pixels, tensor, values};
use crate::Result;
use crate::layers::{Epilogue, Input, Normed, Rows};
use crate::weights::Weights;

/// A layer's weight as the kernels want it, and its bias.
#[derive(Clone)]
pub(in crate::layers) struct Packed<W> {
    pub(in crate::layers) weight: Arc<W>,
    bias: Option<Arc<[f32]>>,
}

impl<W: std::fmt::Debug> std::fmt::Debug for Packed<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.weight.fmt(f)
    }
}

impl<W> Packed<W> {
    /// A packed weight with the bias that belongs to it, `{name}.bias`, where there is one.
    pub(in crate::layers) fn new(
        weight: W,
        bias: bool,
        name: &str,
        weights: &Weights,
    ) -> Result<Self> {
        let bias = bias.then(|| weights.values(&format!("{name}.bias")));
        Ok(Self {
            weight: Arc::new(weight),
            bias: bias.transpose()?.map(Into::into),
        })
    }

    /// A packed weight without a bias.
    pub(in crate::layers) fn bare(weight: W) -> Self {
        Self {
            weight: Arc::new(weight),
            bias: None,
        }
    }

    /// Bytes of the whole, of which the weight takes `weight`.
    pub(in crate::layers) fn bytes(&self, weight: usize) -> WeightBytes {
        let bias = self.bias.as_ref().map_or(0, |bias| size_of_val(&**bias));
        WeightBytes {
            plain: 0,
            packed: (weight + bias) as u64,
        }
    }

    /// Calls `product` with the numbers of all samples, or where their shift differs with those of
    /// one after the other, each with a bias of its own.
    fn run(
        &self,
        x: &[f32],
        epilogue: &Numbers,
        out: &mut [f32],
        product: impl Fn(&[f32], sd_kernels::Epilogue<'_>, &mut [f32]),
    ) {
        let chunks = epilogue.chunks();
        let (x_len, out_len) = (x.len() / chunks, out.len() / chunks);
        for (i, out) in out.chunks_exact_mut(out_len.max(1)).enumerate() {
            let bias = self.shifted_bias(epilogue, i);
            let chunk = |x: usize| i * x..(i + 1) * x;
            let behind = sd_kernels::Epilogue {
                bias: bias.as_deref(),
                activation: epilogue.activation,
                residual: epilogue.residual.as_ref().map(|r| &r[chunk(out_len)]),
                rectified: epilogue.rectified,
            };
            product(&x[chunk(x_len)], behind, out);
        }
    }

    /// The bias, and with it the shift of a chunk.
    fn shifted_bias(&self, epilogue: &Numbers, chunk: usize) -> Option<Cow<'_, [f32]>> {
        let Some((chunks, shift)) = &epilogue.shift else {
            return self.bias.as_deref().map(Cow::Borrowed);
        };
        let len = shift.len() / chunks;
        let mut sum = shift[chunk * len..(chunk + 1) * len].to_vec();
        for (sum, bias) in sum.iter_mut().zip(self.bias.iter().flat_map(|b| b.iter())) {
            *sum += bias;
        }
        Some(Cow::Owned(sum))
    }
}

/// The numbers of an [`Epilogue`].
struct Numbers {
    /// The number of samples that have one of their own, and all of them.
    shift: Option<(usize, Values)>,
    activation: Activation,
    residual: Option<Values>,
    rectified: bool,
}

impl Numbers {
    /// Those of `epilogue`, whose residual is laid out as `read` reads it.
    fn new<const D: usize>(epilogue: Epilogue<D>, read: fn(Tensor<D>) -> Values) -> Self {
        let shift = |shift: Tensor<D>| (shift.dims()[0], values(shift));
        Self {
            shift: epilogue.shift.map(shift),
            activation: epilogue.activation,
            residual: epilogue.residual.map(read),
            rectified: epilogue.rectified,
        }
    }

    /// The parts that are multiplied one after the other.
    fn chunks(&self) -> usize {
        self.shift.as_ref().map_or(1, |(chunks, _)| *chunks)
    }
}

impl Packed<PackedConv> {
    pub(in crate::layers) fn conv2d(
        &self,
        x: Input<'_, 4>,
        doubled: bool,
        epilogue: Epilogue<4>,
    ) -> Tensor<4> {
        let ([n, _, height, width], device) = (x.get().dims(), x.get().device());
        let shape = self.shape(doubled);
        let whole = Picture { n, height, width };
        let (out_height, out_width) = expect_shapes(shape.output(whole));
        let dims = [n, out_height, out_width, shape.outputs];
        let epilogue = Numbers::new(epilogue, pixels);
        let chunk = Picture {
            n: n / epilogue.chunks(),
            ..whole
        };
        x.read_pixels(|x| {
            let mut out = take_output(dims.iter().product());
            self.run(x, &epilogue, &mut out, |x, epilogue, out| {
                expect_shapes(self.weight.forward_as(doubled, x, chunk, epilogue, out));
            });
            picture(out, dims, &device)
        })
    }

    /// Some rows of the output from the strip `x` `[1, in, h, w]` of the input.
    pub(in crate::layers) fn conv2d_rows(
        &self,
        x: Input<'_, 4>,
        doubled: bool,
        rows: OutputRows,
        epilogue: Epilogue<4>,
    ) -> Tensor<4> {
        let mut given;
        let strip = match x {
            Input::Lent(x) => x,
            Input::Given(x) => {
                given = x;
                &mut given
            }
        };
        let all = 0..strip.dims()[2];
        let parts = vec![Rows { strip, rows: all }];
        let made = self.conv2d_strip(parts, doubled, None, rows, epilogue, false);
        made.0
    }

    /// Some rows of the output from rows of several strips of one picture, one below the other and
    /// normalised or not, and where they are to be `measured` their moments.
    pub(in crate::layers) fn conv2d_strip(
        &self,
        parts: Vec<Rows<'_>>,
        doubled: bool,
        normed: Option<Normed<'_>>,
        rows: OutputRows,
        epilogue: Epilogue<4>,
        measured: bool,
    ) -> (Tensor<4>, Option<Moments>) {
        let shape = self.shape(doubled);
        lend_rows(parts, |parts, width, device| {
            // The width does not depend on the height, for which any will do that the kernel fits in.
            let any = Picture {
                n: 1,
                height: shape.kernel,
                width,
            };
            let (_, out_width) = expect_shapes(shape.output(any));
            let dims = [1, rows.count, out_width, shape.outputs];
            let epilogue = Numbers::new(epilogue, pixels);
            let bias = self.shifted_bias(&epilogue, 0);
            let behind = sd_kernels::Epilogue {
                bias: bias.as_deref(),
                activation: epilogue.activation,
                residual: epilogue.residual.as_deref(),
                rectified: epilogue.rectified,
            };
            let mut out = take_output(dims.iter().product());
            let mut forward = |norm: Option<(sd_kernels::GroupNorm<'_>, &Moments)>| {
                let input = StripInput { parts, width, norm };
                let weight = &self.weight;
                expect_shapes(
                    weight.forward_strip(doubled, input, rows, behind, measured, &mut out),
                )
            };
            let moments = match normed {
                None => forward(None),
                Some(of) => norm::with(of.norm, of.activation, |norm| {
                    forward(Some((norm, of.moments)))
                }),
            };
            (picture(out, dims, device), moments)
        })
    }

    fn shape(&self, doubled: bool) -> ConvShape {
        ConvShape {
            upsample: doubled,
            ..self.weight.shape()
        }
    }
}

impl Packed<PackedMatrix> {
    pub(in crate::layers) fn linear<const D: usize>(
        &self,
        x: Input<'_, D>,
        epilogue: Epilogue<D>,
    ) -> Tensor<D> {
        let (mut dims, device) = (x.get().dims(), x.get().device());
        let epilogue = Numbers::new(epilogue, values);
        let (rows, columns) = (
            dims[..D - 1].iter().product::<usize>(),
            self.weight.columns(),
        );
        dims[D - 1] = columns;
        x.read(|x| {
            let mut out = take_output(rows * columns);
            let rows = rows / epilogue.chunks();
            self.run(x, &epilogue, &mut out, |x, epilogue, out| {
                expect_shapes(sd_kernels::linear(x, rows, &self.weight, epilogue, out));
            });
            tensor(out, dims, &device)
        })
    }
}

impl Packed<PackedGeglu> {
    /// `beside`, of twice the columns, is added to both products.
    pub(in crate::layers) fn geglu(&self, x: Tensor<3>, beside: Option<Tensor<3>>) -> Tensor<3> {
        let ([n, tokens, _], device) = (x.dims(), x.device());
        let (rows, columns) = (n * tokens, self.weight.columns());
        let (x, bias) = (values(x), self.bias.as_deref());
        let beside = beside.map(values);
        let mut out = take_output(rows * columns);
        expect_shapes(sd_kernels::geglu(
            &x,
            rows,
            &self.weight,
            bias,
            beside.as_deref(),
            &mut out,
        ));
        tensor(out, [n, tokens, columns], &device)
    }
}
