//! Pictures in strips of rows: the kernels' part of [`Strips`](crate::layers::Strips).

use std::ops::Range;

use burn::tensor::Tensor;
use sd_kernels::{ConvShape, Epilogue, Isa, Moments, OutputRows, PackedConv, Picture, take_output};

use super::{Norm, Packed, fits, picture, pixels};

/// A strip, and those of its rows that are asked for.
pub(in crate::layers) type Part<'a> = (&'a mut Tensor<4>, Range<usize>);

/// Copies of rows of strips, one below the other.
pub(in crate::layers) fn copy_rows<'a>(parts: impl Iterator<Item = Part<'a>>) -> Tensor<4> {
    each_part(parts, |x, out| fits(sd_kernels::copy(x, out)))
}

/// The same, normalised; `moments` are the whole picture's.
pub(in crate::layers) fn group_norm_rows<'a>(
    parts: impl Iterator<Item = Part<'a>>,
    moments: &Moments,
    norm: Norm,
) -> Tensor<4> {
    let isa = Isa::best();
    norm.with(|norm| {
        each_part(parts, |x, out| {
            fits(sd_kernels::group_norm_with(isa, x, moments, norm, out));
        })
    })
}

/// `write` makes the rows of each part from those it is given.
fn each_part<'a>(
    parts: impl Iterator<Item = Part<'a>>,
    write: impl Fn(&[f32], &mut [f32]),
) -> Tensor<4> {
    let parts: Vec<Part<'_>> = parts.collect();
    let Some((first, _)) = parts.first() else {
        unreachable!("a layer needs at least one row of its input");
    };
    let ([_, channels, _, width], device) = (first.dims(), first.device());
    let (rows, line) = (
        parts.iter().map(|(_, rows)| rows.len()).sum(),
        channels * width,
    );
    let mut out = take_output(rows * line);
    let mut rest = &mut out[..];
    for (strip, rows) in parts {
        let (here, below) = rest.split_at_mut(rows.len() * line);
        rest = below;
        // Numbers can be read without a copy only from a tensor that nobody else holds.
        let held = std::mem::replace(strip, Tensor::empty([1; 4], &device));
        let x = pixels(held);
        write(&x[rows.start * line..rows.end * line], here);
        *strip = x.into_picture(&device);
    }
    picture(out, [1, rows, width, channels], &device)
}

/// The moments of a picture `[1, channels, h, w]`, and the picture.
pub(in crate::layers) fn moments(x: Tensor<4>) -> (Tensor<4>, Moments) {
    let (channels, device) = (x.dims()[1], x.device());
    let x = pixels(x);
    let moments = fits(Moments::of(Isa::best(), &x, channels));
    (x.into_picture(&device), moments)
}

impl Packed<PackedConv> {
    /// Some rows of the output, plus `residual`, from the strip `x` `[1, in, h, w]` of the input.
    pub(in crate::layers) fn forward_rows(
        &self,
        x: Tensor<4>,
        doubled: bool,
        rows: OutputRows,
        residual: Option<Tensor<4>>,
    ) -> Tensor<4> {
        let ([n, _, height, width], device) = (x.dims(), x.device());
        let shape = ConvShape {
            upsample: doubled,
            ..self.weight.shape()
        };
        let strip = Picture { n, height, width };
        // The width does not depend on the height, for which any will do that the kernel fits in.
        let any = Picture {
            height: shape.kernel,
            ..strip
        };
        let dims = [n, rows.count, fits(shape.output(any)).1, shape.outputs];
        let (x, residual) = (pixels(x), residual.map(pixels));
        let mut out = take_output(dims.iter().product());
        let epilogue = Epilogue {
            bias: self.bias.as_deref(),
            residual: residual.as_deref(),
            ..Epilogue::default()
        };
        fits((self.weight).forward_rows(doubled, &x, strip, rows, epilogue, &mut out));
        picture(out, dims, &device)
    }
}
