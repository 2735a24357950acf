//! Launches of a transformer block and convolutions in half precision, on Mesa's software Vulkan.

use std::convert::Infallible;
use std::sync::{LazyLock, Mutex, PoisonError};

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{DType, Device, DeviceKind, Distribution, Tensor};
use sd_gpu::{Gemm, Launches};

use super::stored_dtype;
use super::trial::convolution::{self, CASES};
use super::trial::{Kernel, Place, Verdict, gemms, verdict};
use crate::layers::transformer::{BasicTransformerBlock, TransformerConfig};
use crate::layers::{Linear, Pack};

/// A normalisation that finishes what came before, self-attention 6, attention to the prompt 6, the
/// feed-forward network 3, and twice the normalisation behind an attention. Where attention is one
/// kernel it is three fewer each.
const BLOCK: usize = 18;

/// Runs `test` on the software adapter, where there is one. A process opens it once, and one test
/// counts the launches of all.
fn on_software_adapter(test: impl FnOnce(&Device)) {
    static SOFTWARE: LazyLock<Mutex<Option<Device>>> = LazyLock::new(|| {
        let options = Device::wgpu_options().device_kind(DeviceKind::Cpu);
        Mutex::new(options.init().ok())
    });
    let device = SOFTWARE.lock().unwrap_or_else(PoisonError::into_inner);
    match &*device {
        Some(device) => test(device),
        None => println!("SKIPPED: there is no software adapter"),
    }
}

#[test]
fn a_transformer_block_is_few_launches() {
    on_software_adapter(|device| {
        let config = TransformerConfig {
            channels: 64,
            context_width: 48,
            layers: 1,
            heads: 4,
            groups: 32,
            only_cross_attention: false,
        };
        let mut block = BasicTransformerBlock::new(config, device);
        block.loaded();
        let random = |shape| Tensor::<3>::random(shape, Distribution::Default, device);
        let context = block.prepare(&random([2, 77, 48]));
        let proj_in = Linear::with(Tensor::random([64, 64], Distribution::Default, device));
        let forward = || {
            let tokens = proj_in.stream(random([2, 64, 64]), None);
            let launches = Launches::new();
            block.forward(tokens, [8, 8], &context);
            launches.by_kernel()
        };
        // What is made once is made at the first time.
        forward();
        let launches = forward();
        let all: usize = launches.values().sum();
        println!("{all} launches: {launches:#?}");
        assert!(all <= BLOCK, "{all} launches");
    });
}

/// Half of the distance of two numbers of f16, beside the larger one.
const ROUNDED: f64 = 4.9e-4;

#[test]
fn a_half_convolution_that_no_gemm_takes_is_rounded_once() {
    on_software_adapter(|device| {
        let dtype = DType::F16;
        for case in &CASES {
            for gemms in [&[], Gemm::ALL] {
                let off = case.off_by(&Place { device, dtype }, |x, weight| {
                    let padding = case.padding();
                    let y = sd_gpu::convolution(x, weight, case.stride, padding, gemms);
                    assert_eq!(y.dtype(), dtype);
                    Ok::<_, Infallible>(y)
                });
                let Ok(off) = off;
                assert!(off <= ROUNDED, "{case:?} by one of {gemms:?} is {off} off");
            }
        }
    });
}

#[test]
fn a_sum_in_f16_fails_the_trial() {
    on_software_adapter(|device| {
        let dtype = DType::F16;
        let (place, kernel) = (Place { device, dtype }, Kernel::Convolution(Gemm::ALL[0]));
        for case in &CASES[..2] {
            let verdict = verdict(&place, kernel, || {
                case.off_by(&place, |x, weight| {
                    let options = ConvOptions::new([case.stride; 2], case.padding(), [1, 1], 1);
                    Ok(conv2d(x, weight, None, options))
                })
            });
            assert!(matches!(verdict, Verdict::Wrong(_)), "{verdict:?}");
        }
    });
}

#[test]
fn where_no_gemm_can_be_launched_convolutions_weights_are_f32() {
    on_software_adapter(|device| {
        let dtype = DType::F16;
        let place = Place { device, dtype };
        for &gemm in Gemm::ALL {
            let kernel = Kernel::Convolution(gemm);
            let verdict = verdict(&place, kernel, || convolution::off_of(&place, gemm));
            assert!(matches!(verdict, Verdict::Unavailable(_)), "{verdict:?}");
        }
        assert_eq!(gemms(device, dtype), []);
        assert_eq!(stored_dtype(4, device, dtype), DType::F32);
        assert_eq!(stored_dtype(2, device, dtype), dtype);
    });
}

/// The widths of heads that the U-Nets have, and tokens that no tile divides.
#[test]
fn attention_in_one_kernel_gathers_what_three_do() {
    on_software_adapter(|device| {
        for (width, queries, keys) in [(8, 37, 77), (40, 64, 33), (64, 19, 19), (160, 16, 77)] {
            let random =
                |tokens| Tensor::<3>::random([2, tokens, 3 * width], Distribution::Default, device);
            let [query, key, value] = [queries, keys, keys].map(random);
            let attention = || sd_gpu::Attention {
                query: query.clone(),
                key: key.clone(),
                value: value.clone(),
                heads: 3,
                causal: false,
                scores: 1 << 20,
            };
            let at_once = attention().at_once().expect("a kernel on plain units");
            let separately = attention().separately();
            let off = (at_once - separately).abs().max();
            let off = off.try_into_vec_as::<f32>().expect("a number")[0];
            assert!(off < 2e-6, "width {width}: {off:e} off");
        }
    });
}
