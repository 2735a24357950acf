use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Tensor};
use burn_cubecl::kernel::cast;
use burn_cubecl::kernel::conv::{ConvStrategy, conv_forward_nhwc};
use burn_cubecl::tensor::CubeTensor;
use cubek::convolution::{
    AcceleratedTileKind, ConvAlgorithm, ConvolutionArgs, ConvolutionInputs, Strategy, launch_ref,
};
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::std::InputBinding;

use crate::tensor::{channels_last, channels_second, cube, elem, empty, tensor};
use crate::unavailable::Unavailable;

/// A way to multiply a picture's patches with a convolution's weights on matrix units, without
/// writing the patches down: it reads half precision and adds up in f32.
///
/// The names say how numbers come into shared memory (by the units, by the units without waiting, by
/// the hardware that copies tensors), and which instructions multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gemm {
    /// Warp matrices; each unit copies.
    SyncCmma,
    /// Matrix instructions; each unit copies.
    SyncMma,
    /// Warp matrices; units copy ahead.
    AsyncCmma,
    /// Matrix instructions; units copy ahead.
    AsyncMma,
    /// Warp matrices; the tensor memory accelerator copies.
    TmaCmma,
    /// Matrix instructions; the tensor memory accelerator copies.
    TmaMma,
}

impl Gemm {
    /// Those that are worth trying: where nothing measures them, the one that most devices have.
    pub const ALL: &[Self] = if cfg!(feature = "autotune") {
        &[
            Self::SyncCmma,
            Self::SyncMma,
            Self::AsyncCmma,
            Self::AsyncMma,
            Self::TmaCmma,
            Self::TmaMma,
        ]
    } else {
        &[Self::SyncCmma]
    };

    fn strategy(self) -> Strategy {
        use AcceleratedTileKind::{Cmma, Mma};
        use ConvAlgorithm::*;
        let (algorithm, tile_kind) = match self {
            Self::SyncCmma => (SimpleSyncCyclic, Cmma),
            Self::SyncMma => (SimpleSyncStrided, Mma),
            Self::AsyncCmma => (SimpleAsyncCyclic, Cmma),
            Self::AsyncMma => (SimpleAsyncStrided, Mma),
            Self::TmaCmma => (SimpleAsyncTma, Cmma),
            Self::TmaMma => (SimpleAsyncTma, Mma),
        };
        Strategy::Inferred {
            algorithm,
            tile_kind,
        }
    }
}

/// The convolution of a picture `[n, in, h, w]` with `padding` zeros around it and a weight
/// `[out, in, kernel, kernel]`, both in the same half precision, in which the result is; added up in
/// f32.
///
/// By whichever of `gemms` is the fastest for the shape, or without the feature `autotune` by the
/// first that takes it; where none does, by Burn's convolution of both in f32.
pub fn convolution(
    x: Tensor<4>,
    weight: Tensor<4>,
    stride: usize,
    padding: [usize; 2],
    gemms: &[Gemm],
) -> Tensor<4> {
    let (x, weight) = (channels_last(cube(x)), channels_last(cube(weight)));
    let options = ConvOptions::new([stride; 2], padding, [1, 1], 1);
    #[cfg(feature = "autotune")]
    let made = match gemms {
        [] => wide(x, weight, options, ConvStrategy::default()),
        _ => fastest::of(gemms, x, weight, options),
    };
    #[cfg(not(feature = "autotune"))]
    let made = {
        let launch = |gemm: &Gemm| launched(*gemm, &x, &weight, &options).ok();
        match gemms.iter().find_map(launch) {
            Some(made) => made,
            None => wide(x, weight, options, ConvStrategy::default()),
        }
    };
    tensor(channels_second(made))
}

/// [`convolution`] by `gemm` and nothing else.
///
/// # Errors
/// [`Unavailable`] where it does not take the device, the precision or the shape.
pub fn convolution_by(
    gemm: Gemm,
    x: Tensor<4>,
    weight: Tensor<4>,
    stride: usize,
    padding: [usize; 2],
) -> Result<Tensor<4>, Unavailable> {
    let (x, weight) = (channels_last(cube(x)), channels_last(cube(weight)));
    let options = ConvOptions::new([stride; 2], padding, [1, 1], 1);
    let made = launched(gemm, &x, &weight, &options)?;
    Ok(tensor(channels_second(made)))
}

/// `gemm` of a picture and a weight whose channels are last.
fn launched(
    gemm: Gemm,
    x: &CubeTensor,
    weight: &CubeTensor,
    options: &ConvOptions<2>,
) -> Result<CubeTensor, Unavailable> {
    let [n, h, w, _] = x.meta.shape().dims();
    let [outputs, kernel, _, _] = weight.meta.shape().dims();
    let side = |i: usize, side: usize| {
        let (before, behind) = options.padding[i];
        (side + before + behind - kernel) / options.stride[i] + 1
    };
    let out = empty(x, [n, side(0, h), side(1, w), outputs], x.dtype);
    // Of a half precision's products the sum is f32.
    let elems = MatmulElems::from_globals(&MatmulGlobalElems {
        lhs: elem(x),
        rhs: elem(weight),
        out: elem(&out),
    });
    let bound = |tensor: &CubeTensor| InputBinding::new(tensor.clone().binding(), elem(tensor));
    let tensors = ConvolutionInputs::Forward {
        input: bound(x),
        weight: bound(weight),
        bias: None,
        out: out.clone().binding(),
    };
    let args = ConvolutionArgs {
        stride: options.stride,
        padding: options.padding.map(|(before, _)| before),
        dilation: options.dilation,
    };
    let launched = launch_ref::<2>(&gemm.strategy(), &x.client, tensors, args, elems);
    launched.map_err(Unavailable::new)?;
    Ok(out)
}

/// Burn's convolution of both in f32, in the precision of `x`.
fn wide(
    x: CubeTensor,
    weight: CubeTensor,
    options: ConvOptions<2>,
    strategy: ConvStrategy,
) -> CubeTensor {
    let dtype = x.dtype;
    let [x, weight] = [x, weight].map(|x| cast(x, DType::F32));
    let made = conv_forward_nhwc(x, weight, None, options, strategy);
    let made = made.unwrap_or_else(|e| panic!("a convolution that cannot be launched: {e:?}"));
    cast(made, dtype)
}

#[cfg(feature = "autotune")]
mod fastest {
    use cubecl::CubeTuneId;
    use cubecl::tune::{LocalTuner, Tunable, TunableSet, anchor, local_tuner};

    use super::*;

    /// A picture, a weight, and how they meet.
    type Given = (CubeTensor, CubeTensor, ConvOptions<2>);

    /// The fastest of f32 and `gemms` for the shape, measured when it first occurs.
    pub(super) fn of(
        gemms: &[Gemm],
        x: CubeTensor,
        weight: CubeTensor,
        options: ConvOptions<2>,
    ) -> CubeTensor {
        static TUNER: LocalTuner<String, String> = local_tuner!();
        let client = x.client.clone();
        // What was kept of another choice says nothing of this one.
        let device = CubeTuneId::new(&client, &x.device);
        let id = format!("{device}-{:?}-{gemms:?}", x.dtype);
        let gemms = gemms.to_vec();
        let set = TUNER.init(&id, move || set(&gemms));
        TUNER.execute(&id, &client, set, (x, weight, options))
    }

    /// Each runs whatever the shape, for what was measured serves all shapes of its key.
    fn set(gemms: &[Gemm]) -> TunableSet<String, Given, CubeTensor> {
        let given = |_: &String, given: &Given| given.clone();
        let f32 = Tunable::new("f32", |(x, weight, options): Given| {
            // Burn's own choice would be measured within this measurement.
            Ok::<_, String>(wide(x, weight, options, ConvStrategy::Direct))
        });
        let set = TunableSet::new(key, given).with(f32);
        gemms.iter().fold(set, |set, &gemm| {
            let name = format!("{gemm:?}");
            set.with(Tunable::new(&name, move |(x, weight, options): Given| {
                Ok::<_, String>(match launched(gemm, &x, &weight, &options) {
                    Ok(made) => made,
                    Err(_) => wide(x, weight, options, ConvStrategy::Direct),
                })
            }))
        })
    }

    /// Shapes of one key share what was measured.
    fn key((x, weight, options): &Given) -> String {
        let [n, h, w, inputs] = x.meta.shape().dims();
        let [outputs, kernel, _, _] = weight.meta.shape().dims();
        let [n, h, w] = [n, h, w].map(|size| anchor(size, None, None, None));
        let (stride, padding) = (options.stride, options.padding);
        let last = [x, weight].map(|x| x.meta.strides()[3] == 1);
        format!("{n}x{h}x{w} {inputs}>{outputs} k{kernel} s{stride:?} p{padding:?} {last:?}")
    }
}
