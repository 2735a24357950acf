//! An autoencoder as a list of layers. Whatever runs it, [whole](super::whole) or in
//! [strips](super::strips), and whatever [plans](super::tiling) its memory reads the same list, in
//! which a residual block is its convolutions: the first keeps the picture that the last adds.

use burn::tensor::Tensor;

use crate::layers::{Attention, Conv2d, Epilogue, GroupNorm, ResnetBlock2D, Scale};

/// A picture between two layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FeatureMap {
    /// Its resolution is the latent's times 2^level.
    pub(super) level: usize,
    pub(super) channels: usize,
}

/// A layer, and the pictures it reads and writes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layer<'a> {
    pub(super) operation: Operation<'a>,
    pub(super) from: FeatureMap,
    pub(super) to: FeatureMap,
}

/// The work of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation<'a> {
    Convolution(Convolution<'a>),
    /// All pixels attend to each other, and are added to what they gather.
    Attention(&'a Attention),
}

/// A convolution with what is before and behind it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Convolution<'a> {
    /// A normalisation before it, with a SiLU.
    pub(super) norm: Option<&'a GroupNorm>,
    pub(super) conv: &'a Conv2d,
    pub(super) residual: Residual<'a>,
    /// A ReLU behind all of that.
    pub(super) rectified: bool,
}

/// The part that a convolution has in a residual block.
#[derive(Debug, Clone, Copy)]
pub(super) enum Residual<'a> {
    /// None.
    None,
    /// The one before which the picture is kept.
    Keep,
    /// The one to which the kept picture is added, through a convolution of 1×1 where it has other
    /// channels.
    Add(Option<&'a Conv2d>),
}

impl Convolution<'_> {
    /// What is behind the product, with the picture that is added to it.
    pub(super) fn epilogue(&self, residual: Option<Tensor<4>>) -> Epilogue<4> {
        Epilogue {
            residual,
            rectified: self.rectified,
            ..Epilogue::NONE
        }
    }
}

impl<'a> Operation<'a> {
    /// A convolution by itself.
    pub(super) fn conv(conv: &'a Conv2d) -> Self {
        Self::Convolution(Convolution {
            norm: None,
            conv,
            residual: Residual::None,
            rectified: false,
        })
    }

    /// A convolution with a normalisation and SiLU before it.
    pub(super) fn normed(norm: &'a GroupNorm, conv: &'a Conv2d) -> Self {
        Self::Convolution(Convolution {
            norm: Some(norm),
            conv,
            residual: Residual::None,
            rectified: false,
        })
    }

    /// The two convolutions of a residual block without a timestep.
    pub(super) fn resnet(block: &'a ResnetBlock2D) -> [Self; 2] {
        let first = Convolution {
            norm: Some(&block.norm1),
            conv: &block.conv1,
            residual: Residual::Keep,
            rectified: false,
        };
        let second = Convolution {
            norm: Some(&block.norm2),
            conv: &block.conv2,
            residual: Residual::Add(block.conv_shortcut.as_ref()),
            rectified: false,
        };
        [first, second].map(Self::Convolution)
    }

    /// The picture that the layer makes of one like `from`.
    fn output(&self, from: FeatureMap) -> FeatureMap {
        match self {
            Self::Attention(_) => from,
            Self::Convolution(Convolution { conv, .. }) => FeatureMap {
                level: match conv.scale() {
                    Scale::Halved => from.level - 1,
                    Scale::Same => from.level,
                    Scale::Doubled => from.level + 1,
                },
                channels: conv.channels()[1],
            },
        }
    }
}

impl<'a> Layer<'a> {
    /// The layers that do `operations` one after the other, beginning with a picture like `from`.
    pub(super) fn list(
        mut from: FeatureMap,
        operations: impl IntoIterator<Item = Operation<'a>>,
    ) -> Vec<Self> {
        let layer = |operation: Operation<'a>| {
            let to = operation.output(from);
            let before = std::mem::replace(&mut from, to);
            Self {
                operation,
                from: before,
                to,
            }
        };
        operations.into_iter().map(layer).collect()
    }

    /// True where it needs its input's mean and deviation.
    pub(super) fn is_normed(&self) -> bool {
        match self.operation {
            Operation::Convolution(convolution) => convolution.norm.is_some(),
            Operation::Attention(attention) => attention.group_norm.is_some(),
        }
    }
}
