//! Layers that run on whole pictures.

use burn::tensor::Tensor;
use sd_kernels::Activation;

use super::description::{Convolution, Layer, Operation, Residual};
use crate::layers::{Attention, Conv2d, Epilogue, Input, to_picture, to_tokens};

/// `x` through all `layers`.
pub(super) fn run(layers: &[Layer<'_>], mut x: Tensor<4>) -> Tensor<4> {
    let mut kept = None;
    for layer in layers {
        x = match layer.operation {
            Operation::Convolution(convolution) => convolve(convolution, x, &mut kept),
            Operation::Attention(attention) => attend(attention, x),
        };
    }
    x
}

fn convolve(layer: Convolution<'_>, x: Tensor<4>, kept: &mut Option<Tensor<4>>) -> Tensor<4> {
    let input: Input<'_, 4> = match layer.residual {
        Residual::Keep => kept.insert(x).into(),
        Residual::None | Residual::Add(_) => x.into(),
    };
    let input = match layer.norm {
        Some(norm) => norm.forward(input, Activation::Silu),
        None => input.into_tensor(),
    };
    let residual = match layer.residual {
        Residual::Add(shortcut) => kept.take().map(|kept| shortened(shortcut, kept)),
        Residual::None | Residual::Keep => None,
    };
    layer.conv.forward(input, layer.epilogue(residual))
}

/// The picture that was kept, as it is added.
pub(super) fn shortened(shortcut: Option<&Conv2d>, kept: Tensor<4>) -> Tensor<4> {
    match shortcut {
        Some(conv) => conv.forward(kept, Epilogue::NONE),
        None => kept,
    }
}

fn attend(layer: &Attention, mut x: Tensor<4>) -> Tensor<4> {
    let [_, _, h, w] = x.dims();
    let normed = match &layer.group_norm {
        Some(norm) => norm.forward(&mut x, Activation::None),
        None => x.clone(),
    };
    let x = Epilogue::residual(to_tokens(x));
    to_picture(layer.forward(to_tokens(normed), None, x), h, w)
}
