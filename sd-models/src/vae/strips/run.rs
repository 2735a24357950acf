use std::ops::Range;

use burn::tensor::Tensor;
use sd_core::Result;
use sd_kernels::Activation;

use super::{Output, Strips, ranges};
use crate::layers::{Attention, Epilogue, KeyValue, Measured, to_picture, to_tokens};
use crate::vae::StripRows;
use crate::vae::description::{Convolution, Layer, Operation, Residual};
use crate::vae::whole::shortened;

/// One picture `x` through all `layers`, whose outputs are made in strips of the rows `strips` says.
pub(in crate::vae) fn run(
    layers: &[Layer<'_>],
    x: Tensor<4>,
    strips: &StripRows,
) -> Result<Tensor<4>> {
    let is_normed = |index: usize| layers.get(index).is_some_and(Layer::is_normed);
    let (mut x, mut kept) = (Strips::whole(x, is_normed(0))?, None);
    for (index, layer) in layers.iter().enumerate() {
        let measured = is_normed(index + 1);
        x = match layer.operation {
            Operation::Convolution(convolution) => {
                let rows = strips.rows[layer.to.level];
                let output = Output { rows, measured };
                convolve(convolution, x, output, &mut kept)?
            }
            Operation::Attention(attention) => {
                let rows = strips.attention;
                attend(attention, x, Output { rows, measured })?
            }
        };
    }
    Ok(x.join())
}

fn convolve(
    layer: Convolution<'_>,
    mut x: Strips,
    output: Output,
    kept: &mut Option<Strips>,
) -> Result<Strips> {
    let (from, height) = (x.height(), layer.conv.output_height(x.height()));
    if let Residual::Keep = layer.residual {
        let x = kept.insert(x);
        return Strips::build(height, output, |rows| strip(layer, x, rows, None, output));
    }
    let (shortcut, mut added) = match layer.residual {
        Residual::Add(shortcut) => (shortcut, kept.take()),
        Residual::None | Residual::Keep => (None, None),
    };
    Strips::build(height, output, |rows| {
        let residual = added.as_mut().map(|kept| kept.take(rows.clone()));
        let residual = residual.map(|kept| shortened(shortcut, kept));
        let strip = strip(layer, &mut x, rows.clone(), residual, output);
        // What no later strip reaches is freed on the way.
        let next = rows.end..(rows.end + 1).min(height);
        let done = match next.is_empty() {
            true => from,
            false => layer.conv.reach(next, from).start,
        };
        x.forget_before(done);
        strip
    })
}

/// Some rows of a convolution's output.
fn strip(
    layer: Convolution<'_>,
    x: &mut Strips,
    rows: Range<usize>,
    residual: Option<Tensor<4>>,
    output: Output,
) -> (Tensor<4>, Option<Measured>) {
    let epilogue = layer.epilogue(residual);
    x.convolve((layer.norm, layer.conv), rows, epilogue, output.measured)
}

/// Keys and values of all pixels are held, the queries come strip by strip, so that no backend needs
/// the scores of more than one.
fn attend(layer: &Attention, mut x: Strips, output: Output) -> Result<Strips> {
    let normed = |x: &mut Strips, rows| match &layer.group_norm {
        Some(norm) => x.normed(rows, norm, Activation::None),
        None => x.rows(rows),
    };
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for rows in ranges(x.height(), output.rows) {
        let of_strip = layer.key_value(to_tokens(normed(&mut x, rows)));
        keys.push(of_strip.key);
        values.push(of_strip.value);
    }
    let key_value = KeyValue {
        key: Tensor::cat(keys, 1),
        value: Tensor::cat(values, 1),
    };
    Strips::build(x.height(), output, |rows| {
        let query = to_tokens(normed(&mut x, rows.clone()));
        let strip = x.take(rows);
        let [_, _, h, w] = strip.dims();
        let strip = Epilogue::residual(to_tokens(strip));
        let gathered = layer.forward(query, Some(&key_value), strip);
        (to_picture(gathered, h, w), None)
    })
}
