use std::any::{Any, TypeId};

use burn::backend::cubecl::dtype_to_elem_type;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Cube, DispatchDevice};
use burn::tensor::{DType, Device, Shape, Tensor};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::ir::ElemType;
use cubecl::prelude::{CubeCount, CubeDim};

/// What Burn's dispatch holds for a tensor of these devices: a [`CubeTensor`], unless another crate of
/// the program has turned on Burn's fusion, which keeps operations that are still to be run.
type Primitive = FloatTensor<Cube>;

/// True where the kernels can be launched for tensors on `device`.
pub fn runs_on(device: &Device) -> bool {
    let unfused = TypeId::of::<Primitive>() == TypeId::of::<CubeTensor>();
    unfused && matches!(device.as_dispatch(), DispatchDevice::Cube(_))
}

/// The buffer and layout behind a tensor.
///
/// # Panics
/// When [`runs_on`] is false for the tensor's device.
pub(crate) fn cube<const D: usize>(x: Tensor<D>) -> CubeTensor {
    let primitive = x.try_into_primitive::<Cube>();
    let primitive = primitive.unwrap_or_else(|error| panic!("a tensor elsewhere: {error:?}"));
    retyped(primitive)
}

/// `x` in precision `dtype`: itself, nearly always.
pub(crate) fn in_precision<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    match x.dtype() == dtype {
        true => x,
        false => x.cast(dtype),
    }
}

/// The tensor of a buffer and its layout.
pub(crate) fn tensor<const D: usize>(x: CubeTensor) -> Tensor<D> {
    Tensor::from_primitive::<Cube>(retyped(x))
}

/// `x`, which is a `B` under another name.
fn retyped<A: 'static, B: 'static>(x: A) -> B {
    let mut x = Some(x);
    let there = (&mut x as &mut dyn Any).downcast_mut::<Option<B>>();
    there
        .and_then(Option::take)
        .expect("a device whose operations are fused")
}

/// A tensor of `shape` beside `like`, one row behind the other.
pub(crate) fn empty(like: &CubeTensor, shape: impl Into<Shape>, dtype: DType) -> CubeTensor {
    let (client, device) = (like.client.clone(), like.device.clone());
    empty_device_contiguous_dtype(client, device, shape.into(), dtype)
}

/// A picture with its channels last, in any memory layout.
pub(crate) fn channels_last(mut x: CubeTensor) -> CubeTensor {
    x.meta.permute(&[0, 2, 3, 1]).expect("four dimensions");
    x
}

/// A picture whose channels are last as `[n, channels, h, w]` again.
pub(crate) fn channels_second(mut x: CubeTensor) -> CubeTensor {
    x.meta.permute(&[0, 3, 1, 2]).expect("four dimensions");
    x
}

/// `x` with its dimensions but the last one as one, its rows one behind the other in memory.
pub(crate) fn rows(x: CubeTensor) -> CubeTensor {
    let x = into_contiguous(x);
    let shape = x.meta.shape();
    let width = shape[shape.num_dims() - 1];
    let rows = shape.num_elements() / width.max(1);
    reshaped(x, [rows, width])
}

/// A contiguous `x` in another shape of as many elements.
pub(crate) fn reshaped(x: CubeTensor, shape: impl Into<Shape>) -> CubeTensor {
    CubeTensor::new_contiguous(x.client, x.device, shape.into(), x.handle, x.dtype)
}

/// A kernel's name for a precision.
pub(crate) fn elem(x: &CubeTensor) -> ElemType {
    dtype_to_elem_type(x.dtype)
}

/// Units of a cube that add up `width` numbers together: a power of two.
pub(crate) fn units_for(client: &Client, width: usize) -> u32 {
    let limit = client.properties().hardware.max_units_per_cube.min(256);
    let wanted = (width as u32).next_power_of_two().clamp(32, 256);
    wanted.min(1 << limit.max(1).ilog2())
}

/// At least `cubes` cubes, of which some may be too many.
pub(crate) fn cubes(client: &Client, cubes: usize, units: u32) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new_1d(units);
    let units = cubes * units as usize;
    (
        cubecl::calculate_cube_count_elemwise(client, units, dim),
        dim,
    )
}

/// A unit for each of `elements`, and some may be too many.
pub(crate) fn units(client: &Client, elements: usize) -> (CubeCount, CubeDim) {
    let dim = CubeDim::new_1d(units_for(client, 256));
    (
        cubecl::calculate_cube_count_elemwise(client, elements, dim),
        dim,
    )
}
