//! The full-size networks have exactly the parameters of diffusers' and transformers' classes: names
//! and shapes, from the published configurations alone. Nothing of them is allocated.
//!
//! The lists are `fixtures/gen/unet_keys.py`'s; those of published files (`key_lists.py`) are the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use sd_models::unet::{UNet2DConditionModel, UNetConfig};
use sd_models::vae::{AutoencoderKL, AutoencoderTiny, TinyVaeConfig, VaeConfig};
use sd_models::{ClipTextConfig, ClipTextModel, ConfigFile, Weights};
use serde_json::{Map, json};

type Shapes = BTreeMap<String, Vec<usize>>;

/// Collects a module's parameters without touching them.
#[derive(Default)]
struct Collector {
    path: Vec<String>,
    shapes: Shapes,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.push(name.into());
        }
    }

    fn exit_module(&mut self, _name: &str, container: &str) {
        if !container.starts_with("Enum:") {
            self.path.pop();
        }
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
fn check_vae(name: &str, tensors: usize, numbers: usize) -> VaeConfig {
    let (config, expected) = read(name);
    let config = VaeConfig::new(&config).expect("a good configuration");
    let found = shapes(&AutoencoderKL::new(&config, &Device::flex()));
    compare(&found, &expected, tensors, numbers);
    config
}

#[track_caller]
fn check_clip(name: &str, tensors: usize, numbers: usize) {
    let (config, expected) = read(name);
    let config = ClipTextConfig::from_file(&config).expect("a good configuration");
    let found = shapes(&ClipTextModel::new(config, &Device::flex()));
    // A text encoder with a projection is wrapped, as all were before transformers 5.
    let unwrap = |name: String| {
        name.strip_prefix("text_model.")
            .map_or(name.clone(), Into::into)
    };
    let expected = expected
        .into_iter()
        .map(|(name, shape)| (unwrap(name), shape));
    compare(&found, &expected.collect(), tensors, numbers);
}

#[track_caller]
fn check_difference(found: &Shapes, expected: &Shapes) {
    let difference = |a: &Shapes, b: &Shapes| -> Vec<String> {
        let only = a.iter().filter(|(name, shape)| b.get(*name) != Some(shape));
        only.map(|(name, shape)| format!("{name} {shape:?}"))
            .collect()
    };
    let (extra, missing) = (difference(found, expected), difference(expected, found));
    assert!(
        extra.is_empty() && missing.is_empty(),
        "only here: {extra:?}; only there: {missing:?}"
    );
}

#[track_caller]
fn compare(found: &Shapes, expected: &Shapes, tensors: usize, numbers: usize) {
    check_difference(found, expected);
    assert_eq!(found.len(), tensors);
    let count: usize = found.values().map(|s| s.iter().product::<usize>()).sum();
    assert_eq!(count, numbers);
}

#[test]
fn stable_diffusion_1() {
    check_unet("sd15_unet", 686, 859_520_964);
    check_unet("inpaint_unet", 686, 859_535_364);
    check_unet("pix2pix_unet", 686, 859_532_484);
}

#[test]
fn stable_diffusion_2() {
    check_unet("sd21_unet", 686, 865_910_724);
    check_unet("sd2_inpaint_unet", 686, 865_925_124);
}

#[test]
fn stable_diffusion_xl() {
    check_unet("sdxl_unet", 1680, 2_567_463_684);
    check_unet("sdxl_inpaint_unet", 1680, 2_567_478_084);
    check_unet("refiner_unet", 1220, 2_259_526_660);
}

#[test]
fn latent_consistency_models() {
    check_unet("lcm_unet", 687, 859_602_884);
    check_unet("lcm_xl_unet", 1681, 2_567_545_604);
}

#[test]
fn distilled_from_stable_diffusion_xl() {
    check_unet("ssd_1b_unet", 944, 1_331_334_404);
    check_unet("vega_unet", 564, 745_225_604);
    check_unet("koala_700m_unet", 584, 782_822_724);
    check_unet("koala_1b_unet", 790, 1_161_184_324);
}

#[test]
fn distilled_from_stable_diffusion_1_and_2() {
    check_unet("small_sd_unet", 442, 579_384_964);
    check_unet("bk_small_unet", 396, 482_346_884);
    check_unet("tiny_sd_unet", 358, 323_384_964);
    check_unet("bk_v2_tiny_unet", 358, 326_825_604);
    check_unet("sdxs_512_ds_unet", 280, 315_746_244);
    check_unet("sdxs_512_09_unet", 358, 328_177_284);
}

#[test]
fn upscaler() {
    check_unet("upscaler_unet", 687, 473_398_020);
    let config = check_vae("upscaler_vae", 204, 55_325_927);
    assert_eq!((config.factor(), config.scaling_factor), (4, 0.08333));
}

#[test]
fn autoencoders() {
    let config = check_vae("sd_vae", 248, 83_653_863);
    assert_eq!((config.factor(), config.scaling_factor), (8, 0.18215));
    let config = check_vae("flux_vae", 244, 83_819_683);
    let scale = (config.scaling_factor, config.shift_factor);
    assert_eq!((config.latent_channels, scale), (16, (0.3611, 0.1159)));
}

#[test]
fn tiny_autoencoders() {
    for (name, channels, numbers) in [("taesd", 4, 2_445_063), ("taesd3", 16, 2_458_899)] {
        let (config, expected) = read(name);
        let config = TinyVaeConfig::new(&config).expect("a good configuration");
        assert_eq!((config.factor(), config.latent_channels), (8, channels));
        let found = shapes(&AutoencoderTiny::new(&config, &Device::flex()));
        compare(&found, &expected, 134, numbers);
    }
}

#[test]
fn text_encoders() {
    check_clip("clip_l", 196, 123_060_480);
    check_clip("clip_h", 372, 340_387_840);
    check_clip("clip_l_projection", 197, 123_650_304);
    check_clip("clip_g_projection", 517, 694_659_840);
}

/// Lists of `unet_keys.py`, and the published files' that are the same. Two have none: SDXS-0.9's
/// U-Net and the upscaler's are from diffusers' class alone.
const PUBLISHED: &[(&str, &str)] = &[
    ("sd15_unet", "unet-sd15"),
    ("sd21_unet", "unet-sd21"),
    ("sdxl_unet", "unet-sdxl-base"),
    ("refiner_unet", "unet-sdxl-refiner"),
    ("inpaint_unet", "unet-sd15-inpaint"),
    ("sd2_inpaint_unet", "unet-sd2-inpaint"),
    ("sdxl_inpaint_unet", "unet-sdxl-inpaint"),
    ("pix2pix_unet", "unet-sd15-pix2pix"),
    ("ssd_1b_unet", "unet-ssd-1b"),
    ("vega_unet", "unet-segmind-vega"),
    ("small_sd_unet", "unet-small-sd"),
    ("bk_small_unet", "unet-bk-small"),
    ("tiny_sd_unet", "unet-tiny-sd"),
    ("bk_v2_tiny_unet", "unet-bk-v2-tiny"),
    ("koala_700m_unet", "unet-koala-700m"),
    ("koala_1b_unet", "unet-koala-1b"),
    ("sdxs_512_ds_unet", "unet-sdxs-512"),
    ("lcm_unet", "unet-lcm-sd15"),
    ("lcm_xl_unet", "unet-lcm-sdxl"),
    ("sd_vae", "vae-sd"),
    ("flux_vae", "vae-sd3-flux"),
    ("upscaler_vae", "vae-x4-upscaler"),
    ("taesd", "taesd"),
    ("taesd3", "taesd3-taef1"),
    ("clip_l", "clip-l-transformers5"),
    ("clip_h", "clip-h-transformers5"),
    ("clip_l_projection", "clip-l-projection"),
    ("clip_g_projection", "clip-g-projection"),
];

#[test]
fn published_files_have_the_same_tensors() {
    for (ours, published) in PUBLISHED {
        let published = sd_fixtures::tensors(&format!("diffusers/{published}"));
        let published = published.into_iter().map(|(name, _, shape)| (name, shape));
        check_difference(&read(ours).1, &published.collect());
    }
}

/// The names of an older generation: a file of that size and header, in which nothing is written.
#[track_caller]
fn check_older(list: &str, change: impl Fn(&str) -> String, more: Option<(&str, Vec<usize>)>) {
    let (_, expected) = read(list);
    let renamed = expected
        .iter()
        .map(|(name, shape)| (change(name), shape.clone()));
    let more = more.map(|(name, shape)| (name.to_string(), shape));
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in renamed.chain(more) {
        let first = end;
        end += 2 * shape.iter().product::<usize>();
        let entry = json!({"dtype": "F16", "shape": shape, "data_offsets": [first, end]});
        assert!(header.insert(name, entry).is_none());
    }
    let header = serde_json::to_vec(&header).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(&header).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
    let weights = Weights::open(&path).unwrap();
    let found = weights
        .shapes()
        .map(|(name, shape)| (name.into(), shape.into()));
    check_difference(&found.collect(), &expected);
}

#[test]
fn older_names_are_todays() {
    let attention = |name: &str| {
        let layers = [
            ("to_q", "query"),
            ("to_k", "key"),
            ("to_v", "value"),
            ("to_out.0", "proj_attn"),
        ];
        layers.iter().fold(name.to_string(), |name, (new, old)| {
            name.replace(&format!(".{new}."), &format!(".{old}."))
        })
    };
    check_older("sd_vae", attention, None);
    let ids = "text_model.embeddings.position_ids";
    let wrapped = |name: &str| format!("text_model.{name}");
    check_older("clip_l", wrapped, Some((ids, vec![1, 77])));
}
