use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::plain::resize_nearest;
use super::{Conv2d, Epilogue, Padding, pack_fields};

/// Half the height and width, by a 3×3 convolution of stride 2.
#[derive(Module, Debug)]
pub(crate) struct Downsample2D {
    /// The convolution.
    pub(crate) conv: Conv2d,
}

impl Downsample2D {
    /// A layer for `channels` whose weights are still to be loaded.
    pub(crate) fn new(channels: usize, padding: Padding, device: &Device) -> Self {
        Self {
            conv: Conv2d::new([channels, channels], 3, 2, padding, device),
        }
    }

    /// `[n, channels, h, w]` to `[n, channels, h/2, w/2]`. An odd side is rounded up with
    /// [`Padding::Even`] of 1 and down with [`Padding::BottomRight`].
    pub(crate) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x, Epilogue::NONE)
    }
}

/// Twice the height and width by repeating pixels, then a 3×3 convolution.
#[derive(Module, Debug)]
pub(crate) struct Upsample2D {
    /// The convolution.
    pub(crate) conv: Conv2d,
}

impl Upsample2D {
    /// A layer for `channels` whose weights are still to be loaded.
    pub(crate) fn new(channels: usize, device: &Device) -> Self {
        Self {
            conv: Conv2d::same(channels, channels, 3, device).doubling(),
        }
    }

    /// `[n, channels, h, w]` to the height and width `size`, exactly twice as large where there is
    /// none: a side that was odd before it was halved must be odd again.
    pub(crate) fn forward(&self, x: Tensor<4>, size: Option<[usize; 2]>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        match size.filter(|size| *size != [2 * h, 2 * w]) {
            None => self.conv.forward(x, Epilogue::NONE),
            Some(size) => (self.conv).forward_as(false, resize_nearest(x, size), Epilogue::NONE),
        }
    }
}

pack_fields!(Downsample2D: conv);
pack_fields!(Upsample2D: conv);
