//! The full-size networks have exactly the parameters of diffusers' classes: names and shapes, from
//! the published configurations alone. Nothing of them is allocated.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use sd_models::ConfigFile;
use sd_models::unet::{UNet2DConditionModel, UNetConfig};
use sd_models::vae::{AutoencoderKL, VaeConfig};

type Shapes = BTreeMap<String, Vec<usize>>;

/// Collects a module's parameters without touching them.
#[derive(Default)]
struct Collector {
    path: Vec<String>,
    shapes: Shapes,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let name = self.path.join(".");
        assert!(!param.is_initialized(), "{name} is allocated");
        let before = self.shapes.insert(name, param.lazy_shape().to_vec());
        assert_eq!(before, None);
    }
}

fn shapes(module: &impl Module) -> Shapes {
    let mut collector = Collector::default();
    module.visit(&mut collector);
    collector.shapes
}

/// The configuration and the parameters of a file of `fixtures/gen/unet_keys.py`.
fn read(name: &str) -> (ConfigFile, Shapes) {
    let (config, shapes) = sd_fixtures::keys(name);
    (ConfigFile::new("config.json", config), shapes)
}

#[track_caller]
fn check_unet(name: &str, tensors: usize, numbers: usize) {
    let (config, mut expected) = read(name);
    let config = UNetConfig::new(&config).expect("a good configuration");
    let found = shapes(&UNet2DConditionModel::new(&config, &Device::flex()));
    // The one exception: a 1×1 convolution into or out of a transformer is a linear layer here.
    for (name, shape) in &mut expected {
        let projection = name.ends_with("proj_in.weight") || name.ends_with("proj_out.weight");
        if projection && shape.ends_with(&[1, 1]) {
            shape.truncate(2);
        }
    }
    compare(&found, &expected, tensors, numbers);
}

#[track_caller]
fn compare(found: &Shapes, expected: &Shapes, tensors: usize, numbers: usize) {
    let difference = |a: &Shapes, b: &Shapes| -> Vec<String> {
        let only = a.iter().filter(|(name, shape)| b.get(*name) != Some(shape));
        only.map(|(name, shape)| format!("{name} {shape:?}"))
            .collect()
    };
    let (extra, missing) = (difference(found, expected), difference(expected, found));
    assert!(
        extra.is_empty() && missing.is_empty(),
        "only here: {extra:?}; only in diffusers: {missing:?}"
    );
    assert_eq!(found.len(), tensors);
    let count: usize = found.values().map(|s| s.iter().product::<usize>()).sum();
    assert_eq!(count, numbers);
}

#[test]
fn stable_diffusion_1_5() {
    check_unet("sd15_unet", 686, 859_520_964);
}

#[test]
fn stable_diffusion_1_5_inpainting() {
    check_unet("inpaint_unet", 686, 859_535_364);
}

#[test]
fn stable_diffusion_2_1() {
    check_unet("sd21_unet", 686, 865_910_724);
}

#[test]
fn stable_diffusion_xl() {
    check_unet("sdxl_unet", 1680, 2_567_463_684);
}

#[test]
fn stable_diffusion_xl_refiner() {
    check_unet("refiner_unet", 1220, 2_259_526_660);
}

#[test]
fn latent_consistency_model() {
    check_unet("lcm_unet", 687, 859_602_884);
}

#[test]
fn autoencoder() {
    let (config, expected) = read("sd_vae");
    let config = VaeConfig::new(&config).expect("a good configuration");
    assert_eq!(config.scaling_factor, 0.18215);
    let found = shapes(&AutoencoderKL::new(&config, &Device::flex()));
    compare(&found, &expected, 248, 83_653_863);
}
