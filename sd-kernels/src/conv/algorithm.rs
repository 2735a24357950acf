use super::geometry::{ConvShape, Picture};
use crate::buffer::LINE;
use crate::error::{Error, Result};

/// Algorithm of a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// One product over all taps. Any kernel and stride.
    Direct,
    /// Winograd F(2×2, 3×3): 2.25 times fewer multiplications.
    Winograd2,
    /// Winograd F(4×4, 3×3): 4 times fewer multiplications.
    Winograd4,
    /// Winograd F(6×6, 3×3): 5 times fewer multiplications, four times the rounding error of
    /// F(4×4, 3×3).
    Winograd6,
}

impl Algorithm {
    /// The fastest for a convolution of pictures of this size.
    pub fn choose(shape: ConvShape, picture: Picture) -> Self {
        let fits = |algorithm: &Self| algorithm.check(shape).is_ok();
        let cost = |algorithm: &Self| algorithm.cost(shape, picture);
        let all = [
            Self::Direct,
            Self::Winograd2,
            Self::Winograd4,
            Self::Winograd6,
        ];
        (all.into_iter().filter(fits))
            .min_by(|a, b| cost(a).total_cmp(&cost(b)))
            .unwrap_or(Self::Direct)
    }

    /// An error for convolutions of a shape that it cannot compute.
    pub(crate) fn check(self, shape: ConvShape) -> Result<()> {
        if self == Self::Direct {
            return Ok(());
        }
        let whole = shape.inputs > 0 && shape.inputs.is_multiple_of(LINE);
        require("kernel", shape.kernel, shape.kernel == 3, "3 for Winograd")?;
        require("stride", shape.stride, shape.stride == 1, "1 for Winograd")?;
        require(
            "inputs",
            shape.inputs,
            whole,
            "a multiple of 16 for Winograd",
        )
    }

    /// Steps of work on a register, a multiplication with its addition counted as one; the other
    /// steps as they were measured beside it.
    fn cost(self, shape: ConvShape, picture: Picture) -> f64 {
        // Products per tile, input and output (F(6×6)'s are a little slower); outputs along a
        // tile's side; steps to transform a register of taps, of inputs, of outputs.
        let (square, out, filter, input, output) = match self {
            Self::Direct => (9.0, 1, 0.0, 0.0, 0.0),
            Self::Winograd2 => (16.0, 2, 60.0, 80.0, 60.0),
            Self::Winograd4 => (36.0, 4, 160.0, 250.0, 200.0),
            Self::Winograd6 => (66.0, 6, 330.0, 550.0, 450.0),
        };
        let Ok((height, width)) = shape.output(picture) else {
            return f64::INFINITY;
        };
        let (n, height, width) = (picture.n as f64, height.div_ceil(out), width.div_ceil(out));
        let tiles = n * height as f64 * width as f64;
        let blocks = (tiles / 128.0).ceil();
        let (inputs, outputs) = (shape.inputs as f64, shape.outputs as f64);
        inputs * outputs * (square * tiles + filter * blocks)
            + tiles * (input * inputs + output * outputs)
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
