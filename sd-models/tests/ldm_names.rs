//! The table of the single-file layout, both ways: against names that the original code gives
//! (`fixtures/gen/micro_keys.py`; a micro model has the published one's tensors), and against pairs
//! that diffusers' own converters make.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use burn::tensor::Device;
use sd_models::ldm::{self, Layout, Numbering, Storage};
use sd_models::unet::UNetConfig;
use sd_models::vae::VaeConfig;
use sd_models::{ClipTextConfig, ClipTextModel, ConfigFile, parameter_shapes};
use serde_json::{Value, json};

type Shapes = BTreeMap<String, Vec<usize>>;

/// Configuration, names and shapes of a list in `fixtures/data/keys`.
fn list(name: &str) -> (ConfigFile, Shapes) {
    let (config, shapes) = sd_fixtures::keys(name);
    (ConfigFile::new("config.json", config), shapes)
}

fn settings(value: Value) -> ConfigFile {
    let Value::Object(settings) = value else {
        panic!("{value}");
    };
    ConfigFile::new("config.json", settings)
}

fn unet(file: &ConfigFile, numbering: Numbering) -> Layout {
    Layout::unet(&UNetConfig::new(file).unwrap(), numbering)
}

/// Stable Diffusion 1's U-Net with one layer at each resolution, as small-sd's.
fn one_layer(mut more: Value) -> ConfigFile {
    more["layers_per_block"] = 1.into();
    settings(more)
}

/// OpenCLIP's settings, as wide as the micro models.
fn open_clip(layers: usize) -> ClipTextConfig {
    let settings = settings(json!({
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_size": 16,
        "intermediate_size": 32,
        "max_position_embeddings": 77,
        "num_attention_heads": 2,
        "num_hidden_layers": layers,
        "projection_dim": 16,
        "vocab_size": 514,
    }));
    ClipTextConfig::from_file(&settings).unwrap()
}

/// Both ways lead from one to the other, and nowhere else.
#[track_caller]
fn assert_bijective<'a>(layout: &Layout, names: impl IntoIterator<Item = &'a String>) {
    let mut places = HashSet::new();
    for name in names {
        let place = layout.in_file(name).unwrap_or_else(|| panic!("{name}"));
        let back = layout.in_diffusers(&place.name);
        let same = back
            .iter()
            .filter(|(n, s)| n == name && *s == place.storage);
        assert_eq!(
            same.count(),
            1,
            "{name} lies in {place:?}, which is {back:?}"
        );
        let parts = match place.storage {
            Storage::Rows { of, .. } => of,
            _ => 1,
        };
        assert_eq!(back.len(), parts, "{place:?} is {back:?}");
        assert!(places.insert(place.clone()), "two tensors lie in {place:?}");
    }
}

/// The tensors of a component lie in all of the original code's under `prefix`, and in no other.
#[track_caller]
fn assert_original(original: &str, layout: &Layout, prefix: &str, names: &Shapes) {
    let (_, file) = list(original);
    let unused = |name: &&String| !name.ends_with("position_ids") && !name.ends_with("logit_scale");
    let under = |name: &&String| name.starts_with(&format!("{prefix}."));
    let expected: BTreeSet<String> = file.keys().filter(under).filter(unused).cloned().collect();
    let found = names.keys().map(|name| layout.in_file(name).unwrap().name);
    assert_eq!(found.collect::<BTreeSet<_>>(), expected);
    assert_bijective(layout, names.keys());
}

#[test]
fn unets_have_the_original_codes_names() {
    for (ours, original) in [("sd15_unet", "ldm_sd1"), ("sd21_unet", "ldm_sd2")] {
        let (config, names) = list(ours);
        let layout = unet(&config, Numbering::Contiguous).under(ldm::UNET);
        assert_original(original, &layout, ldm::UNET, &names);
    }
}

#[test]
fn autoencoders_have_the_original_codes_names() {
    let (config, names) = list("sd_vae");
    let layout = Layout::vae(&VaeConfig::new(&config).unwrap()).under(ldm::VAE);
    for original in ["ldm_sd1", "ldm_sd2"] {
        assert_original(original, &layout, ldm::VAE, &names);
    }
}

#[test]
fn text_encoders_have_the_original_codes_names_and_shapes() {
    let clip = |config| parameter_shapes(&ClipTextModel::new(config, &Device::flex()));
    let mut first = open_clip(12);
    first.projection = None;
    let layout = Layout::clip().under(ldm::TEXT);
    assert_original("ldm_sd1", &layout, ldm::TEXT, &clip(first));

    let config = open_clip(24);
    let layout = Layout::open_clip(&config).under(ldm::TEXT);
    let names = clip(config);
    assert_original("ldm_sd2", &layout, ldm::TEXT, &names);
    let (_, file) = list("ldm_sd2");
    for (name, shape) in &names {
        let place = layout.in_file(name).unwrap();
        assert_eq!(place.storage.file_shape(shape), file[&place.name], "{name}");
    }
}

#[test]
fn every_row_is_read_both_ways() {
    let unets = [
        "sd15_unet",
        "inpaint_unet",
        "pix2pix_unet",
        "sd21_unet",
        "sdxl_unet",
        "refiner_unet",
        "ssd_1b_unet",
        "vega_unet",
        "koala_700m_unet",
        "koala_1b_unet",
        "small_sd_unet",
        "tiny_sd_unet",
        "sdxs_512_ds_unet",
        "lcm_unet",
        "upscaler_unet",
    ];
    for name in unets {
        let (config, names) = list(name);
        assert_bijective(&unet(&config, Numbering::Contiguous), names.keys());
    }
    let device = Device::flex();
    for config in [
        one_layer(json!({})),
        one_layer(json!({"mid_block_type": null})),
        one_layer(json!({"mid_block_type": "UNetMidBlock2D"})),
    ] {
        let config = UNetConfig::new(&config).unwrap();
        let network = sd_models::unet::UNet2DConditionModel::new(&config, &device);
        for numbering in [Numbering::Contiguous, Numbering::ThreePerResolution] {
            let layout = Layout::unet(&config, numbering);
            assert_bijective(&layout, parameter_shapes(&network).keys());
        }
    }
}

#[track_caller]
fn assert_pairs(layout: &Layout, pairs: &[(&str, &str)]) {
    for (file, diffusers) in pairs {
        let place = layout.in_file(diffusers);
        assert_eq!(place.map(|place| place.name).as_deref(), Some(*file));
        let back = layout.in_diffusers(file);
        assert!(back.iter().any(|(name, _)| name == diffusers), "{back:?}");
    }
}

#[test]
fn sdxl_is_as_diffusers_converts_it() {
    let (config, _) = list("sdxl_unet");
    let pairs = [
        ("input_blocks.0.0.bias", "conv_in.bias"),
        (
            "input_blocks.3.0.op.weight",
            "down_blocks.0.downsamplers.0.conv.weight",
        ),
        (
            "input_blocks.4.0.skip_connection.bias",
            "down_blocks.1.resnets.0.conv_shortcut.bias",
        ),
        (
            "input_blocks.8.1.transformer_blocks.8.attn2.to_out.0.bias",
            "down_blocks.2.attentions.1.transformer_blocks.8.attn2.to_out.0.bias",
        ),
        ("label_emb.0.0.weight", "add_embedding.linear_1.weight"),
        ("label_emb.0.2.bias", "add_embedding.linear_2.bias"),
        (
            "middle_block.0.emb_layers.1.weight",
            "mid_block.resnets.0.time_emb_proj.weight",
        ),
        (
            "middle_block.1.proj_in.weight",
            "mid_block.attentions.0.proj_in.weight",
        ),
        (
            "middle_block.2.out_layers.3.bias",
            "mid_block.resnets.1.conv2.bias",
        ),
        ("out.0.bias", "conv_norm_out.bias"),
        ("out.2.bias", "conv_out.bias"),
        (
            "output_blocks.2.2.conv.bias",
            "up_blocks.0.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.5.2.conv.bias",
            "up_blocks.1.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.8.0.in_layers.2.weight",
            "up_blocks.2.resnets.2.conv1.weight",
        ),
        ("time_embed.2.weight", "time_embedding.linear_2.weight"),
    ];
    assert_pairs(&unet(&config, Numbering::Contiguous), &pairs);
    // Without attention in its coarsest block, the refiner has the upsampler one part earlier.
    let (config, _) = list("refiner_unet");
    let pairs = [
        (
            "output_blocks.2.1.conv.bias",
            "up_blocks.0.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.5.2.conv.bias",
            "up_blocks.1.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.11.0.out_layers.0.bias",
            "up_blocks.3.resnets.2.norm2.bias",
        ),
    ];
    assert_pairs(&unet(&config, Numbering::Contiguous), &pairs);
    let (config, _) = list("upscaler_unet");
    let pair = ("label_emb.weight", "class_embedding.weight");
    assert_pairs(&unet(&config, Numbering::Contiguous), &[pair]);
    let (config, _) = list("lcm_unet");
    let name = "time_embedding.cond_proj.weight";
    assert_pairs(&unet(&config, Numbering::Contiguous), &[(name, name)]);
}

#[test]
fn distilled_unets_are_numbered_both_ways() {
    // small-sd's shape: as ComfyUI numbers it, and as diffusers' export script does.
    let config = one_layer(json!({}));
    let pairs = [
        (
            "input_blocks.2.0.op.bias",
            "down_blocks.0.downsamplers.0.conv.bias",
        ),
        (
            "input_blocks.3.1.norm.bias",
            "down_blocks.1.attentions.0.norm.bias",
        ),
        (
            "output_blocks.1.1.conv.bias",
            "up_blocks.0.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.3.2.conv.bias",
            "up_blocks.1.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.7.0.in_layers.0.bias",
            "up_blocks.3.resnets.1.norm1.bias",
        ),
    ];
    assert_pairs(&unet(&config, Numbering::Contiguous), &pairs);
    let pairs = [
        (
            "input_blocks.3.0.op.bias",
            "down_blocks.0.downsamplers.0.conv.bias",
        ),
        (
            "input_blocks.4.1.norm.bias",
            "down_blocks.1.attentions.0.norm.bias",
        ),
        (
            "output_blocks.2.1.conv.bias",
            "up_blocks.0.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.5.2.conv.bias",
            "up_blocks.1.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.10.0.in_layers.0.bias",
            "up_blocks.3.resnets.1.norm1.bias",
        ),
    ];
    assert_pairs(&unet(&config, Numbering::ThreePerResolution), &pairs);

    // tiny-sd's: attention at the coarsest resolution too, which the script does not know.
    let config = one_layer(json!({
        "block_out_channels": [320, 640, 1280],
        "down_block_types": (["CrossAttnDownBlock2D"; 3]),
        "mid_block_type": null,
        "up_block_types": (["CrossAttnUpBlock2D"; 3]),
    }));
    let pairs = [
        (
            "input_blocks.7.1.norm.bias",
            "down_blocks.2.attentions.0.norm.bias",
        ),
        (
            "up_blocks.0.attentions.1.norm.bias",
            "up_blocks.0.attentions.1.norm.bias",
        ),
        (
            "output_blocks.2.1.conv.bias",
            "up_blocks.0.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.5.2.conv.bias",
            "up_blocks.1.upsamplers.0.conv.bias",
        ),
        (
            "output_blocks.7.1.norm.bias",
            "up_blocks.2.attentions.1.norm.bias",
        ),
    ];
    assert_pairs(&unet(&config, Numbering::ThreePerResolution), &pairs);
}

#[test]
fn autoencoders_are_as_diffusers_converts_them() {
    let (config, _) = list("sd_vae");
    let layout = Layout::vae(&VaeConfig::new(&config).unwrap());
    let pairs = [
        (
            "decoder.mid.attn_1.norm.bias",
            "decoder.mid_block.attentions.0.group_norm.bias",
        ),
        (
            "decoder.mid.attn_1.proj_out.bias",
            "decoder.mid_block.attentions.0.to_out.0.bias",
        ),
        (
            "decoder.mid.block_2.conv1.bias",
            "decoder.mid_block.resnets.1.conv1.bias",
        ),
        ("decoder.norm_out.weight", "decoder.conv_norm_out.weight"),
        (
            "decoder.up.0.block.0.nin_shortcut.bias",
            "decoder.up_blocks.3.resnets.0.conv_shortcut.bias",
        ),
        (
            "decoder.up.3.upsample.conv.bias",
            "decoder.up_blocks.0.upsamplers.0.conv.bias",
        ),
        (
            "encoder.down.0.downsample.conv.bias",
            "encoder.down_blocks.0.downsamplers.0.conv.bias",
        ),
        (
            "encoder.down.3.block.1.norm2.bias",
            "encoder.down_blocks.3.resnets.1.norm2.bias",
        ),
        ("post_quant_conv.bias", "post_quant_conv.bias"),
        ("quant_conv.weight", "quant_conv.weight"),
    ];
    assert_pairs(&layout, &pairs);
    let place = layout
        .in_file("encoder.mid_block.attentions.0.to_q.weight")
        .unwrap();
    assert_eq!(place.name, "encoder.mid.attn_1.q.weight");
    assert_eq!(place.storage.file_shape(&[512, 512]), [512, 512, 1, 1]);
}

#[test]
fn sdxls_text_encoders_are_as_diffusers_converts_them() {
    let layout = Layout::open_clip(&open_clip(32)).under(&ldm::embedder(1));
    let prefix = "conditioner.embedders.1.model";
    let place = |name: &str| {
        let place = layout.in_file(name).unwrap();
        let name = place.name.strip_prefix(prefix).unwrap().to_string();
        (name, place.storage)
    };
    let layer = "encoder.layers.31.self_attn";
    for (projection, rows) in [("q", 0..1280), ("k", 1280..2560), ("v", 2560..3840)] {
        for tensor in ["weight", "bias"] {
            let (name, storage) = place(&format!("{layer}.{projection}_proj.{tensor}"));
            let expected = format!(".transformer.resblocks.31.attn.in_proj_{tensor}");
            assert_eq!(name, expected);
            assert_eq!(storage.rows(3840), rows);
        }
    }
    let (name, storage) = place("text_projection.weight");
    assert_eq!(
        (name.as_str(), storage),
        (".text_projection", Storage::Transposed)
    );
    assert_eq!(storage.file_shape(&[1280, 768]), [768, 1280]);
    let (name, storage) = place("embeddings.position_embedding.weight");
    assert_eq!(
        (name.as_str(), storage),
        (".positional_embedding", Storage::Whole)
    );
    // The layer behind the last one used, and what only pictures need.
    for unused in ["transformer.resblocks.32.ln_1.bias", "logit_scale"] {
        let name = format!("{prefix}.{unused}");
        assert!(layout.in_diffusers(&name).is_empty(), "{name}");
    }
    let first = Layout::clip().under(&ldm::embedder(0));
    let name = "encoder.layers.11.mlp.fc2.bias";
    let expected = "conditioner.embedders.0.transformer.text_model.encoder.layers.11.mlp.fc2.bias";
    assert_eq!(first.in_file(name).unwrap().name, expected);
    assert_eq!(
        first.in_diffusers(expected),
        [(name.to_string(), Storage::Whole)]
    );
}

/// The pairs are those of all tensors of `ours`, a list's; every pair is a row's, in both
/// directions, with the operation that makes the one of the other.
#[track_caller]
fn assert_all_pairs(list: &str, layout: &Layout, ours: &Shapes) {
    // A text encoder with a projection is wrapped, as all were before transformers 5.
    let bare = |name: &str| name.strip_prefix("text_model.").unwrap_or(name).to_string();
    let mut others: BTreeSet<String> = ours.keys().map(|name| bare(name)).collect();
    for [file, diffusers, operation] in sd_fixtures::pairs(list) {
        // These are of the encoder itself, which single files have within `model`.
        let file = match list.starts_with("clip-") {
            true => format!("model.{file}"),
            false => file,
        };
        let diffusers = bare(&diffusers);
        assert!(others.remove(&diffusers), "{list}: {diffusers} is not ours");
        let place = layout.in_file(&diffusers);
        let place = place.unwrap_or_else(|| panic!("{list}: {diffusers}"));
        assert_eq!(place.name, file, "{list}: {diffusers}");
        let found = match place.storage {
            Storage::Whole | Storage::Pointwise => "-".into(),
            Storage::Transposed => "transpose".into(),
            Storage::Rows { of, .. } => {
                let width = if list.ends_with("-g") { 1280 } else { 1024 };
                let rows = place.storage.rows(of * width);
                format!("rows_{}:{}", rows.start, rows.end)
            }
        };
        assert_eq!(found, operation, "{list}: {diffusers}");
        let back = layout.in_diffusers(&file);
        assert!(
            back.contains(&(diffusers, place.storage)),
            "{list}: {file} is {back:?}"
        );
    }
    assert!(others.is_empty(), "{list} has no pair of {others:?}");
}

#[test]
fn every_pair_of_diffusers_own_converters_is_a_rows() {
    use Numbering::{Contiguous, ThreePerResolution};
    let unets = [
        ("unet-sd1-sd2", "sd15_unet", Contiguous),
        ("unet-sd1-sd2", "sd21_unet", Contiguous),
        ("unet-sdxl", "sdxl_unet", Contiguous),
        ("unet-sdxl-refiner", "refiner_unet", Contiguous),
        ("unet-ssd-1b", "ssd_1b_unet", Contiguous),
        ("unet-segmind-vega", "vega_unet", Contiguous),
        ("unet-koala-700m-compact", "koala_700m_unet", Contiguous),
        ("unet-small-sd-gap", "small_sd_unet", ThreePerResolution),
        ("unet-tiny-sd-gap", "tiny_sd_unet", ThreePerResolution),
    ];
    for (pairs, ours, numbering) in unets {
        let (config, names) = list(ours);
        let layout = unet(&config, numbering);
        assert_all_pairs(pairs, &layout, &names);
        assert_bijective(&layout, names.keys());
    }
    let (config, names) = list("sd_vae");
    let layout = Layout::vae(&VaeConfig::new(&config).unwrap());
    assert_all_pairs("vae", &layout, &names);
    assert_bijective(&layout, names.keys());
    for (pairs, ours) in [
        ("clip-openclip-g", "clip_g_projection"),
        ("clip-openclip-h-23-layers", "clip_h"),
    ] {
        let (config, names) = list(ours);
        let config = ClipTextConfig::from_file(&config).unwrap();
        assert_all_pairs(pairs, &Layout::open_clip(&config), &names);
    }
}

/// Every tensor of a real file that a component has is of a row.
#[test]
fn every_tensor_of_the_files_that_people_have_is_a_rows() {
    use Numbering::{Contiguous, ThreePerResolution};
    let of = |name: &str| list(name).0;
    let first = || Layout::clip().under(ldm::TEXT);
    let second = |layers| Layout::open_clip(&open_clip(layers));
    let xl = || {
        let [one, two] = [0, 1].map(ldm::embedder);
        vec![Layout::clip().under(&one), second(32).under(&two)]
    };
    let files = [
        (
            "sd15-pruned-emaonly",
            of("sd15_unet"),
            Contiguous,
            vec![first()],
        ),
        (
            "sd15-pruned-with-ema",
            of("sd15_unet"),
            Contiguous,
            vec![first()],
        ),
        (
            "sd15-inpainting",
            of("inpaint_unet"),
            Contiguous,
            vec![first()],
        ),
        (
            "sd15-instruct-pix2pix",
            of("sd15_unet"),
            Contiguous,
            vec![first()],
        ),
        (
            "sd21",
            of("sd21_unet"),
            Contiguous,
            vec![second(24).under(ldm::TEXT)],
        ),
        (
            "sd2-inpainting",
            of("sd21_unet"),
            Contiguous,
            vec![second(24).under(ldm::TEXT)],
        ),
        (
            "sd2-depth",
            of("sd21_unet"),
            Contiguous,
            vec![second(24).under(ldm::TEXT)],
        ),
        (
            "sd2-short-text-encoder",
            of("sd21_unet"),
            Contiguous,
            vec![second(23).under(ldm::TEXT)],
        ),
        (
            "sd-turbo",
            of("sd21_unet"),
            Contiguous,
            vec![second(24).under(&ldm::embedder(0))],
        ),
        ("sdxl-base", of("sdxl_unet"), Contiguous, xl()),
        (
            "sdxl-vpred-ztsnr-markers",
            of("sdxl_unet"),
            Contiguous,
            xl(),
        ),
        ("sdxl-inpainting", of("sdxl_unet"), Contiguous, xl()),
        (
            "sdxl-refiner",
            of("refiner_unet"),
            Contiguous,
            vec![second(32).under(&ldm::embedder(0))],
        ),
        ("ssd-1b", of("ssd_1b_unet"), Contiguous, xl()),
        ("segmind-vega", of("vega_unet"), Contiguous, xl()),
        ("lcm-sd15-unet", of("lcm_unet"), Contiguous, vec![]),
        (
            "koala-700m-unet-compact",
            of("koala_700m_unet"),
            Contiguous,
            vec![],
        ),
        (
            "small-sd-gap-numbering",
            of("small_sd_unet"),
            ThreePerResolution,
            vec![first()],
        ),
        (
            "tiny-sd-gap-numbering",
            of("tiny_sd_unet"),
            ThreePerResolution,
            vec![first()],
        ),
    ];
    let vae = VaeConfig::new(&of("sd_vae")).unwrap();
    for (name, config, numbering, texts) in files {
        let mut layouts = vec![
            unet(&config, numbering).under(ldm::UNET),
            Layout::vae(&vae).under(ldm::VAE),
        ];
        layouts.extend(texts);
        let mut mapped = HashSet::new();
        for (tensor, ..) in sd_fixtures::tensors(&format!("ldm/{name}")) {
            let is_ours = [ldm::UNET, ldm::VAE, ldm::TEXT, "conditioner"]
                .iter()
                .any(|p| tensor.starts_with(&format!("{p}.")));
            if !is_ours || tensor.ends_with("position_ids") || tensor.ends_with("logit_scale") {
                continue;
            }
            let count = layouts
                .iter()
                .filter(|layout| !layout.in_diffusers(&tensor).is_empty())
                .count();
            assert_eq!(count, 1, "{name}: {tensor}");
            mapped.insert(tensor);
        }
        assert!(mapped.len() > 500, "{name}");
    }
}
