use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::layers::Input;
use crate::memory;

/// The numbers of `x`, row by row.
pub(super) fn values<const D: usize>(x: Tensor<D>) -> Values {
    let data = x.try_into_data();
    Values(data.unwrap_or_else(|_| unreachable!("a tensor in this process's memory can be read")))
}

/// The numbers of a picture, channels-last.
pub(super) fn pixels(x: Tensor<4>) -> Values {
    values(x.permute([0, 2, 3, 1]))
}

/// The numbers of a tensor in f32. Their memory will be a later layer's output.
pub(super) struct Values(TensorData);

impl std::ops::Deref for Values {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        let values = self.0.as_slice();
        values.unwrap_or_else(|_| unreachable!("the kernels are given f32 only"))
    }
}

impl std::ops::DerefMut for Values {
    fn deref_mut(&mut self) -> &mut [f32] {
        let values = self.0.as_mut_slice();
        values.unwrap_or_else(|_| unreachable!("the kernels are given f32 only"))
    }
}

impl Drop for Values {
    fn drop(&mut self) {
        let (bytes, _, _) = self.take().into_parts();
        if let Ok(values) = bytes.try_into_vec::<f32>() {
            sd_kernels::recycle_output(values);
        }
    }
}

impl Values {
    fn take(&mut self) -> TensorData {
        std::mem::replace(&mut self.0, TensorData::new(Vec::<f32>::new(), [0]))
    }

    /// The tensor whose [`values`] these are.
    pub(super) fn into_tensor<const D: usize>(mut self, device: &Device) -> Tensor<D> {
        Tensor::from_data(self.take(), (device, DType::F32))
    }

    /// The picture whose [`pixels`] these are.
    pub(super) fn into_picture(self, device: &Device) -> Tensor<4> {
        self.into_tensor(device).permute([0, 3, 1, 2])
    }
}

/// Calls `read` with the numbers of `x`, which is whole again afterwards. Numbers can be read
/// without a copy only from a tensor that nobody else holds.
fn lend<const D: usize, R>(x: &mut Tensor<D>, read: impl FnOnce(&[f32]) -> R) -> R {
    let device = x.device();
    let held = values(std::mem::replace(x, Tensor::empty([1; D], &device)));
    let result = read(&held);
    *x = held.into_tensor(&device);
    result
}

/// [`lend`], of a picture's numbers channels-last.
pub(super) fn lend_pixels<R>(x: &mut Tensor<4>, read: impl FnOnce(&[f32]) -> R) -> R {
    let device = x.device();
    let held = pixels(std::mem::replace(x, Tensor::empty([1; 4], &device)));
    let result = read(&held);
    *x = held.into_picture(&device);
    result
}

impl<const D: usize> Input<'_, D> {
    /// Calls `read` with the numbers.
    pub(super) fn read<R>(self, read: impl FnOnce(&[f32]) -> R) -> R {
        match self {
            Self::Given(x) => read(&values(x)),
            Self::Lent(x) => lend(x, read),
        }
    }
}

impl Input<'_, 4> {
    /// [`read`](Self::read), of a picture's numbers channels-last.
    pub(super) fn read_pixels<R>(self, read: impl FnOnce(&[f32]) -> R) -> R {
        match self {
            Self::Given(x) => read(&pixels(x)),
            Self::Lent(x) => lend_pixels(x, read),
        }
    }
}

/// A tensor of `values` on the device whose kernels made them.
pub(super) fn tensor<const D: usize>(
    values: Vec<f32>,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    // Here what went in and what came out are in memory side by side.
    memory::sample();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// A picture of channels-last `values`; `shape` is `[n, h, w, channels]`.
pub(super) fn picture(values: Vec<f32>, shape: [usize; 4], device: &Device) -> Tensor<4> {
    tensor(values, shape, device).permute([0, 3, 1, 2])
}
