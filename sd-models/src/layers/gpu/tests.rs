//! Launches of a transformer block, on Mesa's software Vulkan.

use burn::tensor::{Device, DeviceKind, Distribution, Tensor};
use sd_gpu::Launches;

use crate::layers::transformer::{BasicTransformerBlock, TransformerConfig};
use crate::layers::{Linear, Pack};

/// A normalisation that finishes what came before, self-attention 6, attention to the prompt 6, the
/// feed-forward network 3, and twice the normalisation behind an attention. Where attention is one
/// kernel it is three fewer each.
const BLOCK: usize = 18;

#[test]
fn a_transformer_block_is_few_launches() {
    let options = Device::wgpu_options().device_kind(DeviceKind::Cpu);
    let Ok(device) = options.init() else {
        println!("SKIPPED: there is no software adapter");
        return;
    };
    let config = TransformerConfig {
        channels: 64,
        context_width: 48,
        layers: 1,
        heads: 4,
        groups: 32,
        only_cross_attention: false,
    };
    let mut block = BasicTransformerBlock::new(config, &device);
    block.loaded();
    let random = |shape| Tensor::<3>::random(shape, Distribution::Default, &device);
    let context = block.prepare(&random([2, 77, 48]));
    // What is made once is made here.
    let forward = || {
        let x = random([2, 64, 64]);
        let proj_in = Linear::with(Tensor::random([64, 64], Distribution::Default, &device));
        let tokens = proj_in.stream(x, None);
        let launches = Launches::new();
        block.forward(tokens, [8, 8], &context);
        launches.by_kernel()
    };
    forward();
    let launches = forward();
    let all: usize = launches.values().sum();
    println!("{all} launches: {launches:#?}");
    assert!(all <= BLOCK, "{all} launches");
}
