//! Random values, the same on every machine, and the file that holds them.

use std::collections::{BTreeMap, HashMap};

use half::f16;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use sd_pipeline::core::TorchRng;

/// A tensor of f16 or, for the little else that a checkpoint holds, of another type.
#[derive(Debug, Clone)]
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    pub(super) bytes: Vec<u8>,
}

/// Values for every shape, in the order of the names, from one generator per `seed` and `stream`.
///
/// They are uniform rather than normal: whole numbers, one product and one rounding give the same
/// bits everywhere, logarithms do not.
pub(super) fn random(
    shapes: BTreeMap<String, Vec<usize>>,
    seed: u64,
    stream: u64,
) -> BTreeMap<String, Tensor> {
    // The generator knows 32 bits of a seed, as torch's does; neighbours must not share weights.
    let mut rng = TorchRng::new((seed << 2) | stream);
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let [mean, deviation] = distribution(&name, &shape);
        let count = shape.iter().product();
        let values = (0..count).map(|_| f16::from_f32(mean + deviation * uniform(&mut rng)));
        let tensor = Tensor {
            dtype: Dtype::F16,
            bytes: values.flat_map(f16::to_le_bytes).collect(),
            shape,
        };
        (name, tensor)
    });
    tensors.collect()
}

/// Mean and standard deviation such that activations keep their size from layer to layer and every
/// parameter matters.
fn distribution(name: &str, shape: &[usize]) -> [f32; 2] {
    let fan_in: usize = shape[1..].iter().product();
    match shape {
        [_] if name.ends_with(".bias") => [0.0, 0.1],
        // The factors of a normalisation.
        [_] => [1.0, 0.1],
        _ if name.contains("embedding.weight") => [0.0, 0.5],
        _ => [0.0, (1.0 / fan_in as f32).sqrt()],
    }
}

/// Of mean 0 and variance 1: 24 bits of the generator, scaled to ±√3.
fn uniform(rng: &mut TorchRng) -> f32 {
    let bits = (rng.next_u32() >> 8) as f32;
    (bits - 8_388_607.5) * (3_f32.sqrt() / 8_388_608.0)
}

/// A safetensors file of the tensors.
pub(super) fn safetensors(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, t)| {
        let view = TensorView::new(t.dtype, t.shape.clone(), &t.bytes);
        (name, view.expect("a tensor has the bytes of its shape"))
    });
    let note = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(note)).expect("names and sizes are in range")
}
