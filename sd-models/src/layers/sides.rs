//! Products beside a layer's own: changes that act without the layer's weight being touched.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, TensorData};
use sd_core::WeightBytes;
use sd_kernels::Activation;

use super::plain::{activate, rectify};
use super::{Conv2d, Epilogue, Input, Linear};

/// Numbers of what is added to a layer's weight and bias, in row-major order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Addition {
    /// What is added to the weight.
    pub(crate) product: Option<Factors>,
    /// What is added to the bias, `[out]`.
    pub(crate) bias: Option<Vec<f32>>,
}

/// A matrix `[out, in·k·k]`, or two whose product it is.
#[derive(Debug, Clone)]
pub(crate) struct Factors {
    /// Number of rows of [`low`](Self::low).
    pub(crate) rank: usize,
    /// `[rank, in·k·k]`; `None` where [`high`](Self::high) is the whole.
    pub(crate) low: Option<Vec<f32>>,
    /// `[out, rank]`, or `[out, in·k·k]`.
    pub(crate) high: Vec<f32>,
}

/// An [`Addition`] as layers of the kind that it lies beside.
#[derive(Debug)]
pub(crate) struct Side<L> {
    /// Into the rank, where there are two; and out of it.
    product: Option<(Option<L>, L)>,
    bias: Option<Tensor<1>>,
}

/// A [`Side`] of a layer of any kind, shared by all that draw with it.
#[derive(Debug, Clone)]
pub(crate) enum AnySide {
    Linear(Arc<Side<Linear>>),
    Conv2d(Arc<Side<Conv2d>>),
}

impl AnySide {
    /// The place of its factors in memory, by which one is told from another.
    pub(crate) fn address(&self) -> *const () {
        match self {
            Self::Linear(side) => Arc::as_ptr(side).cast(),
            Self::Conv2d(side) => Arc::as_ptr(side).cast(),
        }
    }

    /// The bytes of its factors.
    pub(crate) fn bytes(&self) -> WeightBytes {
        match self {
            Self::Linear(side) => side.bytes(Linear::bytes),
            Self::Conv2d(side) => side.bytes(Conv2d::bytes),
        }
    }
}

/// What lies beside one layer, each with its factor.
#[derive(Debug, Clone)]
pub(crate) struct Sides<L>(Vec<(Arc<Side<L>>, f32)>);

impl<L> Default for Sides<L> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// A layer that can have others of its kind beside it.
pub(super) trait Product<const D: usize> {
    /// The layer's own product.
    fn product(&self, x: Input<'_, D>, epilogue: Epilogue<D>) -> Tensor<D>;

    /// One number per output channel as a shift of all samples.
    fn shift(bias: Tensor<1>) -> Tensor<D>;

    /// `x` times `factor`.
    fn scaled(x: Tensor<D>, factor: f32) -> Tensor<D>;
}

impl<L> Side<L> {
    /// Of `addition`, made of `layer`s of a number of rows and their weights: the first of two, and
    /// the last.
    pub(super) fn new(
        addition: Addition,
        device: &Device,
        dtype: DType,
        low: impl FnOnce(usize, Vec<f32>) -> crate::Result<L>,
        high: impl FnOnce(Option<usize>, Vec<f32>) -> crate::Result<L>,
    ) -> crate::Result<Self> {
        let product = addition.product.map(|factors| {
            let Factors {
                rank,
                low: first,
                high: last,
            } = factors;
            let inner = first.is_some().then_some(rank);
            let first = first.map(|values| low(rank, values)).transpose()?;
            Ok::<_, crate::Error>((first, high(inner, last)?))
        });
        let bias = addition.bias.map(|bias| {
            let shape = [bias.len()];
            Tensor::from_data(TensorData::new(bias, shape), (device, dtype))
        });
        Ok(Self {
            product: product.transpose()?,
            bias,
        })
    }

    /// The sum of its layers' bytes and those of its bias.
    fn bytes(&self, of: impl Fn(&L) -> WeightBytes) -> WeightBytes {
        let bias = self.bias.as_ref();
        let plain = bias.map_or(0, |bias| bias.shape().num_elements() * bias.dtype().size());
        let none = WeightBytes {
            plain: plain as u64,
            packed: 0,
        };
        let layers = self.product.iter();
        let layers = layers.flat_map(|(low, high)| low.iter().chain([high]));
        layers.map(of).fold(none, |sum, own| sum + own)
    }

    /// `true` where it is of a layer of `[inputs, outputs]`.
    pub(super) fn fits(
        &self,
        [inputs, outputs]: [usize; 2],
        sees: impl Fn(&L) -> usize,
        makes: impl Fn(&L) -> usize,
    ) -> bool {
        let bias = self
            .bias
            .as_ref()
            .is_none_or(|bias| bias.dims() == [outputs]);
        let last = self.product.as_ref().map(|(_, high)| high);
        bias && self.first().is_none_or(|first| sees(first) == inputs)
            && last.is_none_or(|last| makes(last) == outputs)
    }

    /// The layer that sees the input.
    pub(super) fn first(&self) -> Option<&L> {
        let (low, high) = self.product.as_ref()?;
        Some(low.as_ref().unwrap_or(high))
    }
}

impl<L> Sides<L> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, side: Arc<Side<L>>, factor: f32) {
        self.0.push((side, factor));
    }

    /// `own`, a layer's product of `x`, with all that lies beside it in it, before the epilogue's
    /// activation. `enter` is the way of a layer that sees the input.
    pub(super) fn around<const D: usize>(
        &self,
        mut x: Input<'_, D>,
        epilogue: Epilogue<D>,
        enter: impl Fn(&L, Input<'_, D>, Epilogue<D>) -> Tensor<D>,
        own: impl FnOnce(Input<'_, D>, Epilogue<D>) -> Tensor<D>,
    ) -> Tensor<D>
    where
        L: Product<D>,
    {
        let Epilogue {
            shift,
            activation,
            residual,
            rectified,
        } = epilogue;
        // A residual is added on the way unless an activation comes before it.
        let is_sum = activation == Activation::None;
        let (residual, behind) = match is_sum {
            true => (residual, None),
            false => (None, residual),
        };
        let residual = self.sum(&mut x, residual, enter);
        let epilogue = Epilogue {
            shift: self.shift(shift),
            activation: Activation::None,
            residual,
            rectified: rectified && is_sum,
        };
        let y = own(x, epilogue);
        if is_sum {
            return y;
        }
        let y = activate(y, activation);
        let y = match behind {
            Some(residual) => residual + y,
            None => y,
        };
        if rectified { rectify(y) } else { y }
    }

    /// The products of `x`, added to `sum`.
    pub(super) fn sum<const D: usize>(
        &self,
        x: &mut Input<'_, D>,
        mut sum: Option<Tensor<D>>,
        enter: impl Fn(&L, Input<'_, D>, Epilogue<D>) -> Tensor<D>,
    ) -> Option<Tensor<D>>
    where
        L: Product<D>,
    {
        for (side, factor) in &self.0 {
            match &side.product {
                None => {}
                Some((Some(low), high)) => {
                    let inner = L::scaled(enter(low, x.lend(), Epilogue::NONE), *factor);
                    let residual = sum.take();
                    let epilogue = Epilogue {
                        residual,
                        ..Epilogue::NONE
                    };
                    sum = Some(high.product(inner.into(), epilogue));
                }
                Some((None, whole)) => {
                    let y = L::scaled(enter(whole, x.lend(), Epilogue::NONE), *factor);
                    sum = Some(match sum.take() {
                        Some(sum) => sum + y,
                        None => y,
                    });
                }
            }
        }
        sum
    }

    /// `shift` and what is added to the bias.
    pub(super) fn shift<const D: usize>(&self, mut shift: Option<Tensor<D>>) -> Option<Tensor<D>>
    where
        L: Product<D>,
    {
        for (side, factor) in &self.0 {
            let Some(bias) = &side.bias else {
                continue;
            };
            let bias = L::shift(bias.clone() * *factor);
            shift = Some(match shift.take() {
                Some(shift) => shift + bias,
                None => bias,
            });
        }
        shift
    }
}
