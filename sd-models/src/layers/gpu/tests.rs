//! Launches of a transformer block, on Mesa's software Vulkan.

use burn::tensor::{Device, DeviceKind, Distribution, Tensor};
use sd_gpu::Launches;

use crate::layers::Pack;
use crate::layers::transformer::{BasicTransformerBlock, TransformerConfig};

/// Self-attention 7, attention to the prompt 7, the feed-forward network 4, and 3 normalisations.
const BLOCK: usize = 21;

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
    block.forward(random([2, 64, 64]), [8, 8], &context);
    let x = random([2, 64, 64]);
    let launches = Launches::new();
    block.forward(x, [8, 8], &context);
    println!("{} launches: {:#?}", launches.all(), launches.by_kernel());
    assert!(launches.all() <= BLOCK, "{} launches", launches.all());
}
