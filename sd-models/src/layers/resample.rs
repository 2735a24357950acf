use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::conv::resize_nearest;
use super::{Conv2d, Padding, pack_fields};

/// Half the height and width, by a 3×3 convolution of stride 2.
#[derive(Module, Debug)]
pub struct Downsample2D {
    /// The convolution.
    pub conv: Conv2d,
}

impl Downsample2D {
    /// A layer for `channels` whose weights are still to be loaded.
    pub fn new(channels: usize, padding: Padding, device: &Device) -> Self {
        Self {
            conv: Conv2d::new([channels, channels], 3, 2, padding, device),
        }
    }

    /// `[n, channels, h, w]` to `[n, channels, h/2, w/2]`. An odd side is rounded up with
    /// [`Padding::Even`] of 1 and down with [`Padding::BottomRight`].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x)
    }
}

/// Twice the height and width by repeating pixels, then a 3×3 convolution.
#[derive(Module, Debug)]
pub struct Upsample2D {
    /// The convolution.
    pub conv: Conv2d,
}

impl Upsample2D {
    /// A layer for `channels` whose weights are still to be loaded.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self {
            conv: Conv2d::same(channels, channels, 3, device),
        }
    }

    /// `[n, channels, h, w]` to `[n, channels, 2h, 2w]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        self.forward_to(x, [2 * h, 2 * w])
    }

    /// `[n, channels, h, w]` to the height and width `size`, about twice as large: a side that was
    /// odd before it was halved is not exactly doubled.
    pub fn forward_to(&self, x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
        let [_, _, h, w] = x.dims();
        if size == [2 * h, 2 * w] {
            return self.conv.forward_doubled(x);
        }
        self.conv.forward(resize_nearest(x, size))
    }
}

pack_fields!(Downsample2D: conv);
pack_fields!(Upsample2D: conv);
