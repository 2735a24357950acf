//! Two-dimensional convolution, channels-last.

mod algorithm;
mod direct;
mod geometry;
mod rows;
mod scales;
mod taps;
mod winograd;

pub use algorithm::Algorithm;
use direct::Patches;
use geometry::Pixels;
pub use geometry::{ConvShape, OutputRows, Picture};
use rows::PixelRows;
pub use rows::StripInput;
use winograd::{Call, F2, F4, F6};

use crate::buffer::Shared;
use crate::error::{Error, Result, check_len, check_option};
use crate::gemm::{BLOCK, Order, PackedMatrix, Rows, Store, product};
use crate::held::Held;
use crate::linear::{Epilogue, pointer};
use crate::norm::Moments;
use crate::outputs::recycle_output;
use crate::products::Products;
use crate::simd::Isa;
use crate::weight::{DType, Packing, WeightRows, WeightStorage};

/// Fewest outputs of a convolution of several pixels in int8: fewer do not fill a panel, so nothing is
/// gained by it.
const FEWEST: usize = 32;

/// A convolution's weight, laid out once for the kernels, in its own size.
#[derive(Clone, Debug)]
pub struct PackedConv {
    shape: ConvShape,
    /// Rows in the order (tap, input).
    weight: PackedMatrix,
}

impl PackedConv {
    /// Packs `weight`, `[outputs, inputs, kernel, kernel]`.
    ///
    /// # Errors
    /// A `weight` of another size, and a kernel or a stride of 0.
    pub fn new(isa: Isa, weight: &[f32], shape: ConvShape) -> Result<Self> {
        let ConvShape {
            inputs,
            outputs,
            kernel,
            ..
        } = shape;
        check_len(
            "the weight",
            weight.len(),
            &[outputs, inputs, kernel, kernel],
        )?;
        Self::read(isa, weight, shape, WeightStorage::F32)
    }

    /// Reads and packs a weight `[outputs, inputs, kernel, kernel]`.
    ///
    /// # Errors
    /// Those of reading; a kernel or stride of 0; a size that no memory holds.
    pub fn read<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        shape: ConvShape,
        packing: impl Into<Packing>,
    ) -> Result<Self, W::Error> {
        shape.check()?;
        let (held, products) = Self::packed_as(weight, shape, packing.into())?;
        let (order, depth) = Self::order(shape);
        let outputs = shape.outputs;
        let weight = PackedMatrix::ordered(isa, weight, outputs, depth, order, held, products)?;
        Ok(Self { shape, weight })
    }

    /// The order in which a row's terms are multiplied, and their number.
    fn order(shape: ConvShape) -> (Order, usize) {
        let (inputs, taps) = (shape.inputs, shape.kernel.saturating_mul(shape.kernel));
        (
            Order::TapsFirst { inputs, taps },
            taps.saturating_mul(inputs),
        )
    }

    /// The weight's layout and what it is multiplied with. What is a linear layer of pixels may be
    /// multiplied in int8, and so may strips of a picture; what Winograd's algorithms do faster in f32
    /// is not multiplied in bf16.
    fn packed_as<W: WeightRows + ?Sized>(
        weight: &W,
        shape: ConvShape,
        packing: Packing,
    ) -> Result<(Held, Products), W::Error> {
        let (order, depth) = Self::order(shape);
        let strips = |products| taps::fits(products, shape) && shape.outputs >= FEWEST;
        let int8 = packing.products.of_weight(true);
        let (held, products) = if shape.kernel == 1 || int8.is_int8() && strips(int8) {
            packing.of(weight, order, [shape.outputs, depth])?
        } else {
            let held = packing.holds(weight.dtype(), weight.blocks(), order, depth);
            (held, packing.products.of_weight(false))
        };
        if products.is_f32() || products.convolves() || Algorithm::Winograd4.check(shape).is_err() {
            return Ok((held, products));
        }
        let held = match (held, weight.dtype()) {
            (Held::Pairs, DType::F32) => Held::Numbers(DType::Bf16),
            (Held::Pairs, half) => Held::Numbers(half),
            (held, _) => held,
        };
        Ok((held, Products::F32))
    }

    /// The sizes it was packed for.
    pub fn shape(&self) -> ConvShape {
        self.shape
    }

    /// Memory that a packed `weight` of this shape will take, in bytes. It is read only where int8 is
    /// asked for.
    ///
    /// # Errors
    /// Those of reading.
    pub fn bytes_of<W: WeightRows + ?Sized>(
        isa: Isa,
        weight: &W,
        shape: ConvShape,
        packing: impl Into<Packing>,
    ) -> Result<usize, W::Error> {
        let (_, depth) = Self::order(shape);
        let (held, _) = Self::packed_as(weight, shape, packing.into())?;
        Ok(PackedMatrix::held_bytes(isa, shape.outputs, depth, held))
    }

    /// Layout of its numbers in memory.
    pub fn held(&self) -> Held {
        self.weight.held()
    }

    /// What it is multiplied with.
    pub fn products(&self) -> Products {
        self.weight.products()
    }

    /// The algorithm for pictures of this size: a weight in pairs of bf16 has but one.
    fn choose(&self, shape: ConvShape, picture: Picture) -> Algorithm {
        match self.products().is_f32() {
            true => Algorithm::choose(shape, picture),
            false => Algorithm::Direct,
        }
    }

    /// f32 of scratch memory that a convolution of this shape takes and its threads keep: all of so
    /// many threads together, and each.
    pub(crate) fn scratch(shape: ConvShape, picture: Picture, threads: usize) -> [usize; 2] {
        let (isa, threads) = (Isa::best(), threads.max(1));
        let Ok((height, width)) = shape.output(picture) else {
            return [0; 2];
        };
        let size = (picture.n, height, width);
        match Algorithm::choose(shape, picture) {
            // A block of the left-hand side, or a strip of the picture.
            Algorithm::Direct => [0, BLOCK.max(taps::scratch(shape))],
            Algorithm::Winograd2 => winograd::scratch::<4, 2>(isa, shape, size, threads),
            Algorithm::Winograd4 => winograd::scratch::<6, 4>(isa, shape, size, threads),
            Algorithm::Winograd6 => winograd::scratch::<8, 6>(isa, shape, size, threads),
        }
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.weight.bytes()
    }

    /// `out = activation(conv(x) + bias) + residual`: `x` `[n, height, width, inputs]`, `out` (and
    /// the residual) `[n, out_height, out_width, outputs]` of [`ConvShape::output`].
    ///
    /// # Errors
    /// A slice whose length does not fit, and a picture smaller than the kernel.
    pub fn forward(
        &self,
        x: &[f32],
        picture: Picture,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        self.forward_as(self.shape.upsample, x, picture, epilogue, out)
    }

    /// [`forward`](Self::forward) of the input enlarged twofold or not, whatever the shape that
    /// the weight was packed for says.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_as(
        &self,
        upsample: bool,
        x: &[f32],
        picture: Picture,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        let shape = ConvShape {
            upsample,
            ..self.shape
        };
        let algorithm = self.choose(shape, picture);
        let rows = shape.output_rows(picture)?;
        self.run(algorithm, shape, x, (picture, rows), epilogue, out)
    }

    /// [`forward_as`](Self::forward_as) of a strip: `picture` is the strip's size, and only the
    /// `rows` of the output are computed. At the left and right the padding is the shape's.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and where the rows begin beyond the strip.
    pub fn forward_rows(
        &self,
        upsample: bool,
        x: &[f32],
        picture: Picture,
        rows: OutputRows,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        let shape = ConvShape {
            upsample,
            ..self.shape
        };
        let algorithm = self.choose(shape, picture);
        self.run(algorithm, shape, x, (picture, rows), epilogue, out)
    }

    /// [`forward`](Self::forward) by an algorithm of the caller's choice.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and where a Winograd algorithm is asked for another kernel
    /// than 3×3, another stride than 1 or inputs that are not a multiple of 16.
    pub fn forward_by(
        &self,
        algorithm: Algorithm,
        x: &[f32],
        picture: Picture,
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        let rows = self.shape.output_rows(picture)?;
        self.run(algorithm, self.shape, x, (picture, rows), epilogue, out)
    }

    /// [`forward_as`](Self::forward_as) of a strip of one picture, which may lie in several parts and be
    /// normalised on its way in: only the `rows` of the output are computed. At the left and right the
    /// padding is the shape's. With `measured` they are measured on their way out.
    ///
    /// The bits are those of [`forward_rows`](Self::forward_rows) of what
    /// [`group_norm_with`](crate::group_norm_with) writes.
    ///
    /// # Errors
    /// As [`forward_rows`](Self::forward_rows), parts that are no whole rows, and a normalisation or
    /// moments of other channels.
    pub fn forward_strip(
        &self,
        upsample: bool,
        input: StripInput<'_>,
        rows: OutputRows,
        epilogue: Epilogue<'_>,
        measured: bool,
        out: &mut [f32],
    ) -> Result<Option<Moments>> {
        let shape = ConvShape {
            upsample,
            ..self.shape
        };
        let (weight, picture) = (&self.weight, input.picture(shape.inputs)?);
        let isa = weight.isa;
        let call = self.call(shape, std::ptr::null(), (picture, rows), epilogue, out)?;
        if out.is_empty() {
            return Ok(None);
        }
        // Those of int8 are rounded by the largest of the picture, which must be known before.
        let in_taps = taps::fits(weight.products, shape) && weight.held != Held::Int8;
        if !in_taps {
            match (input.parts, input.norm) {
                ([x], None) => self.forward_rows(upsample, x, picture, rows, epilogue, out)?,
                _ => {
                    let x = input.collect(isa)?;
                    self.forward_rows(upsample, &x, picture, rows, epilogue, out)?;
                    recycle_output(x);
                }
            }
            let moments = measured.then(|| Moments::of(isa, out, shape.outputs));
            return moments.transpose();
        }
        let segments = measured.then(|| taps::segments(call));
        let forward = |input| {
            let input = PixelRows::strip(input, picture, shape);
            taps::forward(weight, shape, call, store(call), &input, segments.as_ref());
        };
        if input.norm.is_none() || taps::rounds_once(weight, shape, call) {
            forward(input);
        } else {
            let x = input.collect(isa)?;
            forward(StripInput {
                parts: &[&x],
                norm: None,
                ..input
            });
            recycle_output(x);
        }
        Ok(segments.map(|segments| segments.moments(isa)))
    }

    fn run(
        &self,
        algorithm: Algorithm,
        shape: ConvShape,
        x: &[f32],
        (picture, rows): (Picture, OutputRows),
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) -> Result<()> {
        algorithm.check(shape)?;
        if algorithm != Algorithm::Direct && !self.products().is_f32() {
            return Err(Error::Dimension {
                name: "bits of the products",
                value: if self.products().is_int8() { 8 } else { 16 },
                expected: "32 for Winograd",
            });
        }
        let Picture { n, height, width } = picture;
        check_len("the input", x.len(), &[n, height, width, shape.inputs])?;
        let call = self.call(shape, x.as_ptr(), (picture, rows), epilogue, out)?;
        if out.is_empty() {
            return Ok(());
        }
        match algorithm {
            Algorithm::Direct => direct(&self.weight, shape, call),
            Algorithm::Winograd2 => winograd::forward::<F2, 4, 2>(&self.weight, call),
            Algorithm::Winograd4 => winograd::forward::<F4, 6, 4>(&self.weight, call),
            Algorithm::Winograd6 => winograd::forward::<F6, 8, 6>(&self.weight, call),
        }
        Ok(())
    }

    /// The convolution of a picture at `data`, whose other sizes are checked here.
    fn call(
        &self,
        shape: ConvShape,
        data: *const f32,
        (picture, rows): (Picture, OutputRows),
        epilogue: Epilogue<'_>,
        out: &mut [f32],
    ) -> Result<Call> {
        rows.check(shape, picture)?;
        let (out_height, out_width) = (rows.count, shape.output_side("width", picture.width)?);
        let out_dims = [picture.n, out_height, out_width, shape.outputs];
        check_len("the output", out.len(), &out_dims)?;
        check_option("the bias", epilogue.bias, &[shape.outputs])?;
        check_option("the residual", epilogue.residual, &out_dims)?;
        let input = Pixels {
            data,
            picture,
            channels: shape.inputs,
            upsample: shape.upsample,
        };
        Ok(Call {
            input,
            out: Shared(out.as_mut_ptr()),
            out_height,
            out_width,
            outputs: shape.outputs,
            first_row: rows.first,
            pad: shape.pad_before,
            bias: pointer(epilogue.bias),
            residual: pointer(epilogue.residual),
            activation: epilogue.activation,
            rectified: epilogue.rectified,
        })
    }
}

fn store(call: Call) -> Store {
    Store {
        out: call.out,
        stride: call.outputs,
        columns: call.outputs,
        accumulate: false,
        last: true,
        bias: call.bias,
        residual: call.residual,
        activation: call.activation,
        rectified: call.rectified,
    }
}

fn direct(weight: &PackedMatrix, shape: ConvShape, call: Call) {
    let store = store(call);
    let rows = call.input.picture.n * call.out_height * call.out_width;
    let plain = shape.kernel == 1
        && shape.stride == 1
        && shape.pad_before + shape.pad_after == 0
        && !shape.upsample;
    if taps::fits(weight.products, shape) {
        taps::forward(
            weight,
            shape,
            call,
            store,
            &PixelRows::plain(call.input),
            None,
        );
    } else if plain {
        let source = Rows {
            data: call.input.data,
            stride: shape.inputs,
            depth: shape.inputs,
        };
        product(rows, source, weight, store);
    } else {
        let source = Patches {
            input: call.input,
            shape,
            first_row: call.first_row,
            out_height: call.out_height,
            out_width: call.out_width,
        };
        product(rows, source, weight, store);
    }
}
