//! The micro models have the original checkpoints' tensors, open, and draw what diffusers draws.
#![cfg(feature = "micro")]

use std::collections::BTreeMap;

use sd_fixtures::Fixture;
use sd_pipeline::models::{Files, Weights};
use sd_pipeline::{OpenOptions, Pipeline, Request, Result, device};
use sd_tiny::micro::{Family, Layout, Micro};
use serde_json::Value;

/// The families that are in both layouts, and their names in the fixtures.
const BOTH: [(Family, &str); 2] = [(Family::Sd1, "sd1"), (Family::Sd2, "sd2")];

fn open(files: &Files) -> Result<Pipeline> {
    Pipeline::from_files(files, &OpenOptions::new(&device("flex")?))
}

/// Names and shapes of a safetensors file, whatever its tensors' types.
fn found(bytes: &[u8]) -> BTreeMap<String, Vec<usize>> {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: BTreeMap<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header
        .into_iter()
        .filter(|(name, _)| name != "__metadata__");
    let shape = |value: Value| serde_json::from_value(value["shape"].clone()).unwrap();
    tensors.map(|(name, value)| (name, shape(value))).collect()
}

fn file<'a>(micro: &'a Micro, name: &str) -> &'a [u8] {
    let mut files = micro.iter();
    files.find(|(n, _)| *n == name).expect("the file").1
}

#[test]
fn one_file_has_the_original_codes_names_and_shapes() {
    for (family, name) in BOTH {
        let micro = Micro::new(family, Layout::Ldm, 0).unwrap();
        // Made by `fixtures/gen/micro_keys.py` from the original code.
        let (_, expected) = sd_fixtures::keys(&format!("ldm_{name}"));
        assert_eq!(found(file(&micro, "model.safetensors")), expected);
    }
}

/// The published networks, by the lists of their tensors, and the families that have them.
const PUBLISHED: &[(&str, &str, &[Family])] = &[
    ("sd15_unet", "unet", &[Family::Sd1]),
    ("sd21_unet", "unet", &[Family::Sd2, Family::SdTurbo]),
    ("inpaint_unet", "unet", &[Family::Sd1Inpaint]),
    ("sd2_inpaint_unet", "unet", &[Family::Sd2Inpaint]),
    ("sdxl_inpaint_unet", "unet", &[Family::SdxlInpaint]),
    ("pix2pix_unet", "unet", &[Family::InstructPix2Pix]),
    ("lcm_unet", "unet", &[Family::Lcm]),
    ("small_sd_unet", "unet", &[Family::SmallSd]),
    ("tiny_sd_unet", "unet", &[Family::TinySd]),
    ("sdxs_512_ds_unet", "unet", &[Family::Sdxs]),
    ("sdxs_512_09_unet", "unet", &[Family::Sdxs09]),
    (
        "sdxl_unet",
        "unet",
        &[
            Family::Sdxl,
            Family::SdxlTurbo,
            Family::SdxlLightning,
            // No list of its own is published: conv_in is wider.
            Family::SdxlInstructPix2Pix,
        ],
    ),
    ("refiner_unet", "unet", &[Family::SdxlRefiner]),
    ("lcm_xl_unet", "unet", &[Family::LcmXl]),
    ("ssd_1b_unet", "unet", &[Family::Ssd1b]),
    ("vega_unet", "unet", &[Family::Vega]),
    ("koala_700m_unet", "unet", &[Family::Koala700m]),
    ("koala_1b_unet", "unet", &[Family::Koala1b]),
    ("clip_l", "text_encoder", &[Family::Sd1, Family::Sdxl]),
    ("clip_h", "text_encoder", &[Family::Sd2, Family::Sdxs09]),
    (
        "clip_g_projection",
        "text_encoder_2",
        &[Family::Sdxl, Family::SdxlRefiner],
    ),
    ("sd_vae", "vae", &[Family::Sd1, Family::Sdxl]),
    ("taesd", "vae", &[Family::Sdxs, Family::Sdxs09]),
];

#[test]
fn every_network_has_the_published_ones_names_and_ranks() {
    for (list, component, families) in PUBLISHED {
        let (_, published) = sd_fixtures::keys(list);
        let ranks = |shapes: BTreeMap<String, Vec<usize>>| -> BTreeMap<String, usize> {
            let shapes = shapes.into_iter();
            let read = shapes.filter(|(name, _)| !name.ends_with("position_ids"));
            read.map(|(name, shape)| (name.replace("text_model.", ""), shape.len()))
                .collect()
        };
        let published = ranks(published);
        for family in *families {
            let micro = Micro::new(*family, Layout::Diffusers, 0).unwrap();
            let weights = |name: &str| {
                name.starts_with(&format!("{component}/")) && name.ends_with(".safetensors")
            };
            let bytes = micro.iter().find(|(name, _)| weights(name)).unwrap().1;
            assert_eq!(ranks(found(bytes)), published, "{family:?} {list}");
        }
    }
}

#[test]
fn every_model_is_smaller_than_a_megabyte() {
    for family in Family::ALL {
        for &layout in family.layouts() {
            let micro = Micro::new(family, layout, u64::MAX).unwrap();
            let size: usize = micro.iter().map(|(_, bytes)| bytes.len()).sum();
            // The longest names alone, in one file's header, take a third of it.
            assert!(size < 1 << 20, "{family:?} {layout:?}: {size} bytes");
        }
    }
}

#[test]
fn a_seed_decides_every_byte() {
    // FNV-1a over names and bytes: what is promised to stay within a minor version.
    let hash = |family, layout, seed| {
        let micro = Micro::new(family, layout, seed).unwrap();
        let bytes = micro
            .iter()
            .flat_map(|(name, bytes)| name.bytes().chain(bytes.iter().copied()));
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
    };
    let hashes = [
        hash(Family::Sd1, Layout::Diffusers, 0),
        hash(Family::Sd1, Layout::Ldm, 0),
        hash(Family::Sd2, Layout::Diffusers, 0),
        hash(Family::Sd2, Layout::Ldm, 0),
    ];
    let expected = [
        0x16c2_ea0a_3f31_1f31,
        0xd70e_ab6b_b178_1ecd,
        0x3b92_2f0a_206e_e1ba,
        0xe88a_6dfe_1cfb_1963,
    ];
    assert_eq!(hashes, expected, "{hashes:#x?}");
    assert_ne!(hash(Family::Sd1, Layout::Diffusers, 1), hashes[0]);
}

#[test]
fn pictures_equal_diffusers() {
    let fixture = Fixture::open("micro");
    let settings = fixture.settings();
    for (family, name) in BOTH {
        let case = &settings[name];
        let text = |key: &str| case[key].as_str().unwrap().to_string();
        let request = Request {
            negative_prompt: Some(text("negative").into()),
            guidance_scale: case["guidance"].as_f64().unwrap(),
            steps: case["steps"].as_u64().unwrap() as usize,
            seed: case["seed"].as_u64().unwrap(),
            ..Request::new(text("prompt"))
        };
        let pipeline = open(&Micro::new(family, Layout::Diffusers, 0).unwrap().files()).unwrap();
        let mut run = pipeline.start(&request).unwrap();
        for step in &mut run {
            step.unwrap();
        }
        fixture.assert_tensor(&format!("{name}.latents"), run.latents().clone(), 5e-4);
        let picture = run.images().unwrap().remove(0).image.into_raw();
        let expected = fixture.values(&format!("{name}.pictures"));
        assert_eq!(picture.len(), expected.len());
        let differ = |(f, e): &(&u8, &f64)| (f64::from(**f) - **e).abs() > 1.0;
        let off = picture.iter().zip(&expected).filter(differ).count();
        assert!(off <= picture.len() / 1000, "{name}: {off} bytes are off");
    }
}

#[test]
fn a_written_folder_is_the_model_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let micro = Micro::new(Family::Sd2, Layout::Diffusers, 9).unwrap();
    micro.write_to(folder.path()).unwrap();
    let request = Request {
        steps: 2,
        ..Request::new("a")
    };
    let draw = |files: &Files| {
        let pictures = open(files).unwrap().generate(&request).unwrap();
        pictures[0].image.clone()
    };
    assert_eq!(draw(&Files::directory(folder.path())), draw(&micro.files()));
}

#[test]
fn both_layouts_hold_the_same_weights() {
    let [folder, single] =
        [Layout::Diffusers, Layout::Ldm].map(|layout| Micro::new(Family::Sd1, layout, 5).unwrap());
    let unet = file(&folder, "unet/diffusion_pytorch_model.safetensors");
    let unet = Weights::from_bytes("unet", unet.to_vec()).unwrap();
    assert_eq!(unet.len(), 686);
    // Of the tensors' bytes, sorted: all of the U-Net's are in the single file.
    let tensors = |bytes: &[u8]| {
        let file = safetensors::SafeTensors::deserialize(bytes).unwrap();
        let mut list: Vec<Vec<u8>> = file.iter().map(|(_, t)| t.data().to_vec()).collect();
        list.sort();
        list
    };
    let all = tensors(file(&single, "model.safetensors"));
    let part = tensors(file(&folder, "unet/diffusion_pytorch_model.safetensors"));
    assert!(part.iter().all(|tensor| all.binary_search(tensor).is_ok()));
}
