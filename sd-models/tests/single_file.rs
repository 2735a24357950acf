//! Single files as the folders that they stand for: each real header gives the configuration of its
//! family's published folder, whose networks then take every tensor; what is no model is told.

mod support;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::Device;
use sd_core::{NoiseSchedule, Parameterization};
use sd_fixtures::Fixture;
use sd_models::unet::{MidBlockConfig, UNetConfig, UNetFiles};
use sd_models::vae::{TinyVaeConfig, TinyVaeFiles, VaeConfig, VaeFiles};
use sd_models::{
    ClipTextConfig, ClipTextFiles, ClipTokenizer, ConfigFile, Error, Files, LoadOptions,
    PredictionType, SingleComponent, SingleFile, SingleFileOptions,
};
use serde_json::{Map, Value, json};
use support::{Tensors, write};

/// A folder of files with real headers.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, tensors: &Tensors) -> PathBuf {
        self.noted(name, tensors, json!({}))
    }

    fn noted(&self, name: &str, tensors: &Tensors, notes: Value) -> PathBuf {
        let path = self.0.path().join(name);
        write(&path, tensors, notes);
        path
    }

    /// The file of the list `name`, as that of a single file.
    fn list(&self, name: &str) -> PathBuf {
        let tensors = sd_fixtures::tensors(&format!("ldm/{name}"));
        self.write(&format!("{name}.safetensors"), &tensors)
    }
}

fn open(path: &Path) -> Result<SingleFile, Error> {
    SingleFile::open(path, &SingleFileOptions::default())
}

fn settings(files: &Files, component: &str) -> ConfigFile {
    ConfigFile::read(&files.folder(component), "config.json").unwrap()
}

fn json_file(files: &Files, folder: &str, name: &str) -> Map<String, Value> {
    files.folder(folder).json(name).unwrap()
}

fn options() -> LoadOptions {
    LoadOptions::new(&Device::flex())
}

/// The U-Net's configuration, of whose tensors each is there, and no other.
fn unet(files: &Files) -> UNetConfig {
    let schedule = Arc::new(NoiseSchedule::stable_diffusion());
    UNetFiles::open(
        files,
        "unet",
        schedule,
        Parameterization::Epsilon,
        &options(),
    )
    .unwrap();
    UNetConfig::new(&settings(files, "unet")).unwrap()
}

fn vae(files: &Files) -> VaeConfig {
    VaeFiles::open(files, "vae", &options()).unwrap();
    VaeConfig::new(&settings(files, "vae")).unwrap()
}

fn text(files: &Files, number: &str) -> ClipTextConfig {
    let folder = files.folder(&format!("text_encoder{number}"));
    let file = ConfigFile::read(&folder, "config.json").unwrap();
    // A small one: the built-in vocabulary is compared by itself.
    let tokenizer = Files::directory(sd_fixtures::path("tokenizer/new"));
    ClipTextFiles::open_in(&folder, &tokenizer, file, &options()).unwrap();
    ClipTextConfig::read(&folder).unwrap()
}

fn published(list: &str) -> ConfigFile {
    ConfigFile::new("published", sd_fixtures::keys(list).0)
}

/// Depths where there is no transformer say nothing, and trainers' files differ in them.
fn without_idle_depths(mut config: UNetConfig) -> UNetConfig {
    for block in &mut config.blocks {
        if !block.down_attention {
            block.down_depths.fill(0);
        }
        if !block.up_attention {
            block.up_depths.fill(0);
        }
    }
    config
}

/// The published text encoder's configuration, whose files say by an old number that the last token
/// ends a prompt.
fn published_text(list: &str) -> ClipTextConfig {
    let mut config = ClipTextConfig::from_file(&published(list)).unwrap();
    config.eos_token_id = 49407;
    config
}

/// A single file's list, its family's row, its U-Net's published list, the text encoders, the class
/// of its pipeline, and of its scheduler with the meaning of an output.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static str,
    [&'static str; 2],
);

const L: &[&str] = &["clip_l"];
const H: &[&str] = &["clip_h"];
const XL: &[&str] = &["clip_l", "clip_g_projection"];
const SD: &str = "StableDiffusionPipeline";
const SDXL: &str = "StableDiffusionXLPipeline";
const PNDM: [&str; 2] = ["PNDMScheduler", "epsilon"];
const EULER: [&str; 2] = ["EulerDiscreteScheduler", "epsilon"];
const DDIM_V: [&str; 2] = ["DDIMScheduler", "v_prediction"];
const DPM: [&str; 2] = ["DPMSolverMultistepScheduler", "epsilon"];

#[rustfmt::skip]
const CASES: &[Case] = &[
    ("sd15-pruned-emaonly", "sd1", "sd15_unet", L, SD, PNDM),
    ("sd15-pruned-with-ema", "sd1", "sd15_unet", L, SD, PNDM),
    ("sd15-fp16-nai-text-names", "sd1", "sd15_unet", L, SD, PNDM),
    ("sd15-inpainting", "sd1", "inpaint_unet", L, "StableDiffusionInpaintPipeline", PNDM),
    ("sd15-instruct-pix2pix", "sd1", "pix2pix_unet", L, "StableDiffusionInstructPix2PixPipeline", PNDM),
    ("sd21", "sd2", "sd21_unet", H, SD, DDIM_V),
    ("sd2-short-text-encoder", "sd2", "sd21_unet", H, SD, DDIM_V),
    ("sd2-inpainting", "sd2_base", "sd2_inpaint_unet", H, "StableDiffusionInpaintPipeline", PNDM),
    ("sd-turbo", "sd_turbo", "sd21_unet", H, SD, EULER),
    ("sdxl-base", "sdxl", "sdxl_unet", XL, SDXL, EULER),
    ("sdxl-vpred-ztsnr-markers", "sdxl", "sdxl_unet", XL, SDXL, ["EulerDiscreteScheduler", "v_prediction"]),
    ("sdxl-inpainting", "sdxl", "sdxl_inpaint_unet", XL, "StableDiffusionXLInpaintPipeline", EULER),
    ("sdxl-refiner", "sdxl_refiner", "refiner_unet", &["", "clip_g_projection"],
        "StableDiffusionXLImg2ImgPipeline", EULER),
    ("ssd-1b", "ssd_1b", "ssd_1b_unet", XL, SDXL, EULER),
    ("segmind-vega", "vega", "vega_unet", XL, SDXL, EULER),
    ("small-sd-gap-numbering", "small_sd", "small_sd_unet", L, SD, DPM),
    ("tiny-sd-gap-numbering", "tiny_sd", "tiny_sd_unet", L, SD, DPM),
    ("lcm-sd15-unet", "lcm", "lcm_unet", &[], "LatentConsistencyModelPipeline", ["LCMScheduler", "epsilon"]),
    ("koala-700m-unet-compact", "koala", "koala_700m_unet", &[], SDXL, EULER),
];

#[test]
fn a_real_files_header_gives_its_familys_published_configuration() {
    let folder = Folder::new();
    for (name, family, unet_list, texts, class, [scheduler, prediction]) in CASES {
        let path = folder.list(name);
        let single = open(&path).unwrap();
        assert_eq!(single.family(), *family, "{name}");
        let files = single.files();
        let mut expected = UNetConfig::new(&published(unet_list)).unwrap();
        // 512 pixels of those that share the list of a model of 768.
        if matches!(*family, "sd2_base" | "sd_turbo") {
            expected.sample_size = [64, 64];
            expected.upcast_attention = false;
        }
        let found = unet(files);
        assert_eq!(
            without_idle_depths(found),
            without_idle_depths(expected),
            "{name}"
        );

        let index: Map<String, Value> = files.json("model_index.json").unwrap();
        assert_eq!(index["_class_name"], *class, "{name}");
        assert_eq!(index["scheduler"][1], *scheduler, "{name}");
        let file = json_file(files, "scheduler", "scheduler_config.json");
        assert_eq!(file["_class_name"], *scheduler, "{name}");
        assert_eq!(file["prediction_type"], *prediction, "{name}");
        let is_zero = file
            .get("rescale_betas_zero_snr")
            .is_some_and(|v| v == true);
        assert_eq!(is_zero, name.contains("ztsnr"));

        // The averaged copy, where training left one, is a variant of its own.
        let averaged = files
            .folder("unet")
            .weights("diffusion_pytorch_model", Some("ema"));
        let has_copy = matches!(*name, "sd15-pruned-with-ema" | "sd15-instruct-pix2pix");
        assert_eq!(averaged.is_ok(), has_copy, "{name}");
        if let Ok(averaged) = averaged {
            let plain = files
                .folder("unet")
                .weights("diffusion_pytorch_model", None);
            assert!(averaged.shapes().eq(plain.unwrap().shapes()), "{name}");
            assert_eq!(files.folder("unet").variants(), ["ema"]);
        }

        let has_vae = !texts.is_empty();
        let missing: &[&str] = match (has_vae, *class) {
            (true, _) => &[],
            (_, SDXL) => &["vae", "text_encoder", "text_encoder_2"],
            _ => &["vae", "text_encoder"],
        };
        assert_eq!(single.missing(), missing, "{name}");
        if has_vae {
            let mut expected = VaeConfig::new(&published("sd_vae")).unwrap();
            let is_xl = class.contains("XL");
            expected.scaling_factor = if is_xl { 0.13025 } else { 0.18215 };
            expected.sample_size = match (is_xl, family.starts_with("sd2") || *family == "sd_turbo")
            {
                (true, _) => 1024,
                (_, true) => 768,
                _ => 512,
            };
            assert_eq!(vae(files), expected, "{name}");
        }
        for (number, list) in ["", "_2"].iter().zip(*texts) {
            let named = format!("text_encoder{number}");
            if list.is_empty() {
                assert!(!index.contains_key(&named), "{name}");
                continue;
            }
            assert_eq!(text(files, number), published_text(list), "{name} {named}");
        }
        if class.contains("XL") {
            let is_refiner = index
                .get("requires_aesthetics_score")
                .is_some_and(|v| v == true);
            assert_eq!(is_refiner, *family == "sdxl_refiner");
            assert_eq!(index["force_zeros_for_empty_prompt"], !is_refiner);
        }
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn the_lists_that_are_no_models_are_told_from_those_that_are() {
    let folder = Folder::new();
    let others = [
        ("clip-openclip-g", "a text encoder alone"),
        ("clip-openclip-h", "a text encoder alone (sd2)"),
        ("flux-dev-all-in-one", "a model (flux)"),
        ("sd3-medium-incl-clips-t5", "a model (sd3)"),
        ("taesd-decoder-pth", "an autoencoder alone"),
        ("taesd-encoder-pth", "an autoencoder alone"),
        ("taef1-decoder-pth", "an autoencoder alone (flux)"),
        ("taef1-encoder-pth", "an autoencoder alone (flux)"),
        ("vae", "an autoencoder alone"),
    ];
    for (name, found) in others {
        let error = open(&folder.list(name)).unwrap_err();
        let message = error.to_string();
        assert!(matches!(error, Error::Contents { .. }), "{error:?}");
        assert!(message.contains(found), "{name}: {message}");
        assert!(
            message.contains(&format!("{name}.safetensors")),
            "{message}"
        );
    }
    // What a depth model is told besides is what nothing here reads.
    let error = open(&folder.list("sd2-depth")).unwrap_err();
    let Error::Tensors { mismatch, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(mismatch.unused.len(), 368);
    assert!(
        mismatch
            .unused
            .iter()
            .all(|name| name.starts_with("depth_model."))
    );
    let lists = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/data/keys/ldm");
    let lists = std::fs::read_dir(lists).unwrap().count();
    assert_eq!(CASES.len() + others.len() + 1, lists);
}

#[test]
fn parts_alone_are_configured_as_in_the_published_folders() {
    let folder = Folder::new();
    let component = |path: &PathBuf, which| SingleFile::component(path, which, None).unwrap();
    let expected = VaeConfig::new(&published("sd_vae")).unwrap();
    for list in ["ldm/vae", "diffusers/vae-sd", "diffusers/vae-sd-old-names"] {
        let path = folder.write("any.safetensors", &sd_fixtures::tensors(list));
        let files = component(&path, SingleComponent::Autoencoder);
        let file = settings(&files, "vae");
        // Which family's it is no tensor says, so it has the scaling factor of the model's own.
        assert!(
            !file.has("scaling_factor") && !file.has("sample_size"),
            "{list}"
        );
        let mut found = vae(&files);
        found.sample_size = expected.sample_size;
        assert_eq!(found, expected, "{list}");
    }
    let path = folder.write(
        "ae.safetensors",
        &sd_fixtures::tensors("diffusers/vae-sd3-flux"),
    );
    let found = vae(&component(&path, SingleComponent::Autoencoder));
    assert_eq!(found.latent_channels, 16);
    assert!(!found.use_quant_conv && !found.use_post_quant_conv);
    let path = folder.write(
        "x4.safetensors",
        &sd_fixtures::tensors("diffusers/vae-x4-upscaler"),
    );
    let found = vae(&component(&path, SingleComponent::Autoencoder));
    assert_eq!(found.block_out_channels, [128, 256, 512]);
    assert_eq!(found.layers_per_block, 2);

    let lists = [
        ("sd15", "sd15_unet"),
        ("sd21", "sd21_unet"),
        ("sdxl-base", "sdxl_unet"),
        ("sdxl-refiner", "refiner_unet"),
        ("ssd-1b", "ssd_1b_unet"),
        ("segmind-vega", "vega_unet"),
        ("koala-1b", "koala_1b_unet"),
        ("lcm-sdxl", "lcm_xl_unet"),
        ("bk-small", "bk_small_unet"),
        ("bk-v2-tiny", "bk_v2_tiny_unet"),
        ("small-sd", "small_sd_unet"),
        ("tiny-sd", "tiny_sd_unet"),
        ("sdxs-512", "sdxs_512_ds_unet"),
    ];
    let lists = lists.map(|(list, published)| {
        let tensors = sd_fixtures::tensors(&format!("diffusers/unet-{list}"));
        (list, published, tensors)
    });
    // Of another member of its family, which a sign in it tells.
    let (_, shapes) = sd_fixtures::keys("sdxs_512_09_unet");
    let tensor = |(name, shape)| (name, "F16".into(), shape);
    let sdxs_09 = shapes.into_iter().map(tensor).collect();
    let sdxs_09 = ("sdxs-512-0.9", "sdxs_512_09_unet", sdxs_09);
    for (list, published_list, tensors) in lists.into_iter().chain([sdxs_09]) {
        let path = folder.write("unet.safetensors", &tensors);
        let found = unet(&component(&path, SingleComponent::Denoiser));
        let mut expected = UNetConfig::new(&published(published_list)).unwrap();
        // No tensor says at which size it was trained, nor in which precision it computes.
        expected.sample_size = found.sample_size;
        expected.upcast_attention = found.upcast_attention;
        let shown = [found, expected].map(without_idle_depths);
        assert_eq!(shown[0], shown[1], "{list}");
    }

    let texts = [
        ("ldm/clip-openclip-h", "clip_h"),
        ("diffusers/clip-h", "clip_h"),
        ("diffusers/clip-l", "clip_l"),
        ("diffusers/clip-l-transformers5", "clip_l"),
        ("ldm/clip-openclip-g", "clip_g_projection"),
        ("diffusers/clip-g-projection", "clip_g_projection"),
        ("diffusers/clip-l-projection", "clip_l"),
    ];
    let tokenizer = Files::directory(sd_fixtures::path("tokenizer/new"));
    for (list, published_list) in texts {
        let path = folder.write("text.safetensors", &sd_fixtures::tensors(list));
        let files = component(&path, SingleComponent::TextEncoder);
        let file = ConfigFile::read(&files, "config.json").unwrap();
        ClipTextFiles::open_in(&files, &tokenizer, file.clone(), &options()).unwrap();
        let found = ClipTextConfig::from_file(&file).unwrap();
        let mut expected = published_text(published_list);
        // Of a whole encoder alone all layers are OpenCLIP's; which is the last, its model says.
        expected.num_hidden_layers = found.num_hidden_layers.min(expected.num_hidden_layers);
        assert_eq!(found, expected, "{list}");
    }
    let error =
        SingleFile::component(folder.list("vae"), SingleComponent::Denoiser, None).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("an autoencoder alone; expected a U-Net"),
        "{error}"
    );
    let model = folder.list("sdxl-base");
    let files = component(&model, SingleComponent::Autoencoder);
    assert_eq!(vae(&files).scaling_factor, 0.13025);
    assert!(matches!(
        unet(&component(&model, SingleComponent::Denoiser)).mid,
        MidBlockConfig::Attention { depth: 10 }
    ));
}

#[test]
fn a_tiny_autoencoders_halves_are_one() {
    let folder = Folder::new();
    let list = |name: &str, half: &str| sd_fixtures::tensors(&format!("ldm/{name}-{half}-pth"));
    for (name, latent) in [("taesd", 4), ("taef1", 16)] {
        let [encoder, decoder] = ["encoder", "decoder"]
            .map(|half| folder.write(&format!("{name}_{half}.safetensors"), &list(name, half)));
        for half in [&encoder, &decoder] {
            let files = SingleFile::component(half, SingleComponent::Autoencoder, None).unwrap();
            TinyVaeFiles::open(&files, "vae", &options()).unwrap();
            let config = TinyVaeConfig::new(&settings(&files, "vae")).unwrap();
            assert_eq!(config.latent_channels, latent);
            assert_eq!((config.encoder_channels, config.decoder_channels), (64, 64));
            assert_eq!(config.encoder_blocks, [1, 3, 3, 3]);
            assert_eq!(config.decoder_blocks, [3, 3, 3, 1]);
        }
        std::fs::remove_file(&encoder).unwrap();
        let error =
            SingleFile::component(&decoder, SingleComponent::Autoencoder, None).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains("the decoder of a tiny autoencoder alone"),
            "{message}"
        );
        // A file of that name that is no other half is not taken for one.
        folder.write(
            &format!("{name}_encoder.safetensors"),
            &list(name, "decoder"),
        );
        assert!(SingleFile::component(&decoder, SingleComponent::Autoencoder, None).is_err());
    }
    // Both in one file, as ComfyUI has them, and by diffusers' names.
    let half = |half: &'static str| {
        let tensors = list("taesd", half).into_iter();
        tensors.map(move |(name, dtype, shape)| (format!("taesd_{half}.{name}"), dtype, shape))
    };
    let both = half("encoder").chain(half("decoder")).collect();
    let one = folder.write("both.safetensors", &both);
    let other = folder.write(
        "taesdxl.safetensors",
        &sd_fixtures::tensors("diffusers/taesd"),
    );
    for path in [one, other] {
        let files = SingleFile::component(path, SingleComponent::Autoencoder, None).unwrap();
        TinyVaeFiles::open(&files, "vae", &options()).unwrap();
    }
}

/// The scheduler's file of a model opened so.
fn scheduler(path: &Path, options: &SingleFileOptions) -> Map<String, Value> {
    let single = SingleFile::open(path, options).unwrap();
    json_file(single.files(), "scheduler", "scheduler_config.json")
}

#[test]
fn what_the_tensors_do_not_tell_is_told_by_signs_and_the_callers_word_beats_all() {
    let folder = Folder::new();
    let sd2 = sd_fixtures::tensors("ldm/sd21");
    let xl = sd_fixtures::tensors("ldm/sdxl-base");
    let none = SingleFileOptions::default();
    let v = |file: &Map<String, Value>| file["prediction_type"] == "v_prediction";
    let family = |name: &str| SingleFileOptions {
        family: Some(name.into()),
        ..none.clone()
    };
    let prediction = |prediction| SingleFileOptions {
        prediction: Some(prediction),
        ..none.clone()
    };

    let plain = folder.write("model.safetensors", &sd2);
    assert!(
        v(&scheduler(&plain, &none)),
        "diffusers takes 2.1 of 768 pixels"
    );
    assert!(!v(&scheduler(&plain, &prediction(PredictionType::Epsilon))));
    let base = SingleFile::open(&plain, &family("sd2_base")).unwrap();
    assert_eq!(
        json_file(base.files(), "unet", "config.json")["sample_size"],
        64
    );
    assert!(!v(&json_file(
        base.files(),
        "scheduler",
        "scheduler_config.json"
    )));
    let file = scheduler(&plain, &family("sd_turbo"));
    assert_eq!(file["timestep_spacing"], "trailing");

    let named = folder.write("v2-1_512-base.safetensors", &sd2);
    assert!(!v(&scheduler(&named, &none)));
    assert!(v(&scheduler(&named, &family("sd2"))), "a word beats a name");
    assert!(v(&scheduler(
        &named,
        &prediction(PredictionType::VPrediction)
    )));
    let noted = folder.noted(
        "a.safetensors",
        &sd2,
        json!({"modelspec.prediction_type": "epsilon"}),
    );
    assert!(!v(&scheduler(&noted, &none)));
    assert!(
        !v(&scheduler(&noted, &family("sd2"))),
        "the file's own note is no guess"
    );
    std::fs::write(
        folder.0.path().join("model.yaml"),
        "parameterization: eps\n",
    )
    .unwrap();
    assert!(!v(&scheduler(&plain, &none)), "of the .yaml beside it");
    assert!(v(&scheduler(
        &plain,
        &prediction(PredictionType::VPrediction)
    )));

    let turbo = folder.write("sd_xl_turbo_1.0_fp16.safetensors", &xl);
    let file = scheduler(&turbo, &none);
    assert_eq!(file["_class_name"], "EulerAncestralDiscreteScheduler");
    assert_eq!(
        scheduler(&turbo, &family("sdxl"))["_class_name"],
        "EulerDiscreteScheduler"
    );
    let lightning = folder.write("sdxl_lightning_1step_x0.safetensors", &xl);
    let file = scheduler(&lightning, &none);
    assert_eq!(
        (&file["prediction_type"], &file["timestep_spacing"]),
        (&json!("sample"), &json!("trailing"))
    );

    let marked = |marks: &[&str]| {
        let marks = marks
            .iter()
            .map(|name| ((*name).to_string(), "F32".to_string(), vec![4]));
        let tensors: Tensors = xl.iter().cloned().chain(marks).collect();
        open(&folder.write("marked.safetensors", &tensors)).unwrap()
    };
    let playground = marked(&["edm_mean", "edm_std"]);
    assert_eq!(playground.family(), "playground");
    assert!(vae(playground.files()).latents.is_some());
    assert_eq!(
        marked(&["edm_vpred.sigma_max", "edm_vpred.sigma_min"]).family(),
        "cosxl"
    );

    // The caller's files beat what the shapes and the family say, setting by setting.
    let config = Files::memory([
        ("unet/config.json", r#"{"sample_size": 96}"#),
        (
            "model_index.json",
            r#"{"force_zeros_for_empty_prompt": false}"#,
        ),
        (
            "scheduler/scheduler_config.json",
            r#"{"timestep_spacing": "trailing"}"#,
        ),
    ]);
    let said = SingleFileOptions {
        config: Some(config),
        ..none.clone()
    };
    let single = SingleFile::open(&turbo, &said).unwrap();
    assert_eq!(unet(single.files()).sample_size, [96, 96]);
    assert_eq!(unet(single.files()).in_channels, 4);
    let index: Map<String, Value> = single.files().json("model_index.json").unwrap();
    assert_eq!(index["force_zeros_for_empty_prompt"], false);

    let error = SingleFile::open(&plain, &family("sd9"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("sd9 is not known") && error.contains("sdxl_refiner"),
        "{error}"
    );
}

#[test]
fn what_is_not_a_components_is_an_error_unless_it_is_nobodys() {
    let folder = Folder::new();
    let sd1 = || sd_fixtures::tensors("ldm/sd15-fp16-nai-text-names");
    let with = |more: &[(&str, &str, &[usize])]| {
        let more = more
            .iter()
            .map(|(name, dtype, shape)| ((*name).into(), (*dtype).into(), shape.to_vec()));
        let tensors: Tensors = sd1().into_iter().chain(more).collect();
        open(&folder.write("more.safetensors", &tensors))
    };
    let tolerated = with(&[
        ("alphas_cumprod", "F64", &[1000]),
        ("model_ema.decay", "F32", &[]),
        ("model_ema.num_updates", "I32", &[]),
        (
            "cond_stage_model.transformer.text_model.embeddings.position_ids",
            "F16",
            &[1, 77],
        ),
        ("cond_stage_model.logit_scale", "F32", &[]),
        ("scaled_fp8", "F8_E4M3", &[0]),
        ("loss.discriminator.main.0.weight", "U8", &[3]),
        ("model.diffusion_model.__index_timestep_zero__", "F32", &[0]),
        ("denoiser.sigmas", "F32", &[1000]),
    ])
    .unwrap();
    unet(tolerated.files());
    vae(tolerated.files());
    text(tolerated.files(), "");

    let error = with(&[("model.diffusion_model.time_embed.9.weight", "F16", &[4])]).unwrap();
    let schedule = Arc::new(NoiseSchedule::stable_diffusion());
    let error = UNetFiles::open(
        error.files(),
        "unet",
        schedule,
        Parameterization::Epsilon,
        &options(),
    );
    let message = error.unwrap_err().to_string();
    assert!(
        message.contains("1 unused: model.diffusion_model.time_embed.9.weight"),
        "{message}"
    );
    for name in [
        "strange.weight",
        "conditioner.embedders.1.model.ln_final.bias",
        "diffusion_model.out.2.bias",
        "vae.decoder.conv_out.bias",
    ] {
        let error = with(&[(name, "F16", &[4])]).unwrap_err();
        let Error::Tensors { mismatch, .. } = &error else {
            panic!("{name}: {error}");
        };
        assert_eq!(mismatch.unused, [name]);
    }

    let missing: Tensors = sd1()
        .into_iter()
        .filter(|t| t.0 != "first_stage_model.decoder.conv_out.bias")
        .collect();
    let single = open(&folder.write("missing.safetensors", &missing)).unwrap();
    let error = VaeFiles::open(single.files(), "vae", &options())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("missing.safetensors") && error.contains("1 missing: decoder.conv_out.bias"),
        "{error}"
    );

    // A fused tensor whose rows are no three parts fits nothing.
    let mut odd = sd_fixtures::tensors("ldm/sd21");
    for tensor in &mut odd {
        if tensor.0.ends_with("resblocks.0.attn.in_proj_bias") {
            tensor.2 = vec![3073];
        }
    }
    let single = open(&folder.write("odd.safetensors", &odd)).unwrap();
    let error = ClipTextFiles::open(single.files(), "text_encoder", "tokenizer", &options());
    assert!(error.unwrap_err().to_string().contains("3 misshapen"));

    let lora = vec![(
        "lora_unet_down_blocks_0_attentions_0.lora_up.weight".into(),
        "F16".into(),
        vec![320, 4],
    )];
    let error = open(&folder.write("lora.safetensors", &lora))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("a LoRA, which changes a model's weights and is none"),
        "{error}"
    );
    let path = folder.write("cut.safetensors", &sd1());
    let length = path.metadata().unwrap().len();
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(length - 7)
        .unwrap();
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("the file ends 7 bytes before"), "{error}");
    assert!(matches!(
        open(&folder.0.path().join("no.safetensors")),
        Err(Error::Io { .. })
    ));
}

#[test]
fn the_built_in_vocabulary_is_clips() {
    let folder = Folder::new();
    let single = open(&folder.list("sdxl-base")).unwrap();
    let fixture = Fixture::open("clip_vocabulary");
    let settings = fixture.settings();
    let texts: Vec<String> = serde_json::from_value(settings["texts"].clone()).unwrap();
    for name in ["tokenizer", "tokenizer_2"] {
        let tokenizer = ClipTokenizer::open(&single.files().folder(name)).unwrap();
        let expected = fixture.f32(name);
        assert!(expected.len() >= 20 * 77);
        for (text, ids) in texts.iter().zip(expected.chunks(77)) {
            let found: Vec<f32> = tokenizer
                .encode(text)
                .unwrap()
                .ids
                .iter()
                .map(|id| *id as f32)
                .collect();
            assert_eq!(found, ids, "{name}: {text:?}");
        }
    }
}

#[test]
fn a_renamed_tensor_is_read_in_the_form_that_it_has() {
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;
    use sd_models::ldm::Storage;
    use sd_models::{Renamed, TensorSource, open_source};

    let folder = Folder::new();
    let bytes: Vec<u8> = (0..24_u8)
        .flat_map(|n| f32::from(n).to_le_bytes())
        .collect();
    let views = [("a", vec![6, 4]), ("b", vec![4, 6]), ("c", vec![24])]
        .map(|(name, shape)| (name, TensorView::new(Dtype::F32, shape, &bytes).unwrap()));
    let path = folder.0.path().join("few.safetensors");
    std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
    let source = open_source(&path).unwrap();
    let index = |name: &str| {
        source
            .tensors()
            .iter()
            .position(|t| t.name == name)
            .unwrap()
    };
    let rows = |part, of| Storage::Rows { part, of };
    let renamed = Renamed::new(
        source.clone(),
        [
            (index("a"), "second".to_string(), rows(1, 3)),
            (index("b"), "turned".to_string(), Storage::Transposed),
            (index("c"), "whole".to_string(), Storage::Whole),
            (index("a"), "uneven".to_string(), rows(0, 4)),
            (index("c"), "no matrix".to_string(), Storage::Transposed),
            (99, "nothing".to_string(), Storage::Whole),
        ],
    );
    let all: Vec<f32> = (0..24_u8).map(f32::from).collect();
    let turned: Vec<f32> = (0..24).map(|at| all[at % 4 * 6 + at / 4]).collect();
    let expected: [(&str, &[usize], &[f32]); 5] = [
        ("second", &[2, 4], &all[8..16]),
        ("turned", &[6, 4], &turned),
        ("whole", &[24], &all),
        // What the form does not fit keeps a shape that fits no network.
        ("uneven", &[6, 4], &all),
        ("no matrix", &[24], &all),
    ];
    assert_eq!(renamed.tensors().len(), expected.len());
    for (tensor, (name, shape, values)) in expected.into_iter().enumerate() {
        let info = &renamed.tensors()[tensor];
        assert_eq!((info.name.as_str(), &info.shape[..]), (name, shape));
        for first in 0..values.len() {
            for count in 0..=values.len() - first {
                let mut bytes = vec![0; 4 * count];
                renamed.read(tensor, first, &mut bytes).unwrap();
                let (found, _) = bytes.as_chunks::<4>();
                let found: Vec<f32> = found.iter().map(|b| f32::from_le_bytes(*b)).collect();
                assert_eq!(found, &values[first..first + count], "{name} from {first}");
            }
        }
    }
}
