//! Two-dimensional convolution, channels-last.

mod direct;
mod geometry;
mod scheme;
mod winograd;

use direct::Patches;
use geometry::Pixels;
pub use geometry::{ConvShape, Picture};
use scheme::{F2, F4};

use crate::buffer::{LINE, Shared};
use crate::error::{Error, Result, check_len, check_option};
use crate::gemm::{PackedMatrix, Rows, Store, product};
use crate::linear::{Epilogue, pointer};
use crate::simd::Isa;

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// One product over all taps. Any kernel and stride; the weight keeps its size.
    Direct,
    /// Winograd F(2×2, 3×3): 2.25 times fewer multiplications, 1.78 times the weight's memory.
    Winograd2,
    /// Winograd F(4×4, 3×3): 4 times fewer multiplications, 4 times the weight's memory.
    Winograd4,
}

impl Algorithm {
    /// The fastest for pictures of about `side` × `side` pixels. Where a picture is small, the
    /// weight is most of what must be read, and Winograd's is larger.
    pub fn choose(shape: ConvShape, side: usize) -> Self {
        let fits = shape.kernel == 3 && shape.stride == 1 && shape.inputs.is_multiple_of(LINE);
        match side {
            24.. if fits => Self::Winograd4,
            12.. if fits => Self::Winograd2,
            _ => Self::Direct,
        }
    }
}

/// A convolution's weight, laid out once for one algorithm.
#[derive(Clone, Debug)]
pub struct PackedConv {
    shape: ConvShape,
    weight: Weight,
}

#[derive(Clone, Debug)]
enum Weight {
    Direct(PackedMatrix),
    Winograd2(winograd::Weight<F2, 4, 2>),
    Winograd4(winograd::Weight<F4, 6, 4>),
}

impl PackedConv {
    /// Packs `weight`, `[outputs, inputs, kernel, kernel]`.
    ///
    /// # Errors
    /// Where `weight` is not of that size, or a Winograd algorithm is asked for another kernel
    /// than 3×3, another stride than 1 or inputs that are not a multiple of 16.
    pub fn new(isa: Isa, weight: &[f32], shape: ConvShape, algorithm: Algorithm) -> Result<Self> {
        shape.check()?;
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
        if algorithm != Algorithm::Direct {
            require("kernel", kernel, kernel == 3, "3 for Winograd")?;
            require("stride", shape.stride, shape.stride == 1, "1 for Winograd")?;
            let whole = inputs > 0 && inputs.is_multiple_of(LINE);
            require("inputs", inputs, whole, "a multiple of 16 for Winograd")?;
        }
        let weight = match algorithm {
            Algorithm::Direct => {
                let (taps, depth) = (kernel * kernel, kernel * kernel * inputs);
                let at = |output: usize, k: usize| {
                    let (tap, input) = (k / inputs, k % inputs);
                    weight[(output * inputs + input) * taps + tap]
                };
                Weight::Direct(PackedMatrix::from_fn(isa, outputs, depth, at))
            }
            Algorithm::Winograd2 => {
                Weight::Winograd2(winograd::Weight::new(isa, weight, outputs, inputs))
            }
            Algorithm::Winograd4 => {
                Weight::Winograd4(winograd::Weight::new(isa, weight, outputs, inputs))
            }
        };
        Ok(Self { shape, weight })
    }

    /// The sizes it was packed for.
    pub fn shape(&self) -> ConvShape {
        self.shape
    }

    /// Memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        match &self.weight {
            Weight::Direct(weight) => weight.bytes(),
            Weight::Winograd2(weight) => weight.bytes(),
            Weight::Winograd4(weight) => weight.bytes(),
        }
    }

    /// `out = activation(conv(x) + bias) + residual`: `x` `[n, height, width, inputs]`, `out` (and
    /// the residual) `[n, out_height, out_width, outputs]` of [`ConvShape::output`].
    ///
    /// # Errors
    /// Where a slice's length does not fit, or the picture is smaller than the kernel.
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
        let (out_height, out_width) = shape.output(picture)?;
        let Picture { n, height, width } = picture;
        let out_dims = [n, out_height, out_width, shape.outputs];
        check_len("the input", x.len(), &[n, height, width, shape.inputs])?;
        check_len("the output", out.len(), &out_dims)?;
        check_option("the bias", epilogue.bias, &[shape.outputs])?;
        check_option("the residual", epilogue.residual, &out_dims)?;
        if out.is_empty() {
            return Ok(());
        }
        let input = Pixels {
            data: x.as_ptr(),
            picture,
            channels: shape.inputs,
            upsample: shape.upsample,
        };
        let call = winograd::Call {
            input,
            out: Shared(out.as_mut_ptr()),
            out_height,
            out_width,
            outputs: shape.outputs,
            pad: shape.pad_before,
            bias: pointer(epilogue.bias),
            residual: pointer(epilogue.residual),
            activation: epilogue.activation,
        };
        match &self.weight {
            Weight::Direct(weight) => direct(weight, shape, call),
            Weight::Winograd2(weight) => weight.forward(call),
            Weight::Winograd4(weight) => weight.forward(call),
        }
        Ok(())
    }
}

fn direct(weight: &PackedMatrix, shape: ConvShape, call: winograd::Call) {
    let store = Store {
        out: call.out,
        stride: call.outputs,
        columns: call.outputs,
        accumulate: false,
        last: true,
        bias: call.bias,
        residual: call.residual,
        activation: call.activation,
    };
    let rows = call.input.picture.n * call.out_height * call.out_width;
    let plain = shape.kernel == 1
        && shape.stride == 1
        && shape.pad_before + shape.pad_after == 0
        && !shape.upsample;
    if plain {
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
            out_height: call.out_height,
            out_width: call.out_width,
        };
        product(rows, source, weight, store);
    }
}

fn require(name: &'static str, value: usize, holds: bool, expected: &'static str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::Dimension {
            name,
            value,
            expected,
        })
    }
}
