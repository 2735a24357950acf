//! A micro model in one file draws what it draws as a folder, to the bit: of every family, in every
//! layout and every kind of file.
#![cfg(feature = "micro")]

mod containers;

use std::fs;
use std::path::{Path, PathBuf};

use containers::{Stored, Tensors, checkpoint, gguf, gguf_file, read, safetensors};
use half::f16;
use image::Rgb;
use sd_fixtures::Fixture;
use sd_pipeline::burn::tensor::Tensor;
use sd_pipeline::models::unet::UNetConfig;
use sd_pipeline::models::{Blocks, ConfigFile, EmbeddedFile, Files};
use sd_pipeline::{
    Error, OpenOptions, PictureStart, Pipeline, PredictionType, Request, RgbImage, Start,
    WeightStorage, device,
};
use sd_tiny::micro::{Family, GROUPS, Layout, Micro};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A micro model's settings in a folder without its weights, and a place for files beside it.
struct Place {
    folder: TempDir,
    micro: Micro,
}

impl Place {
    fn new(family: Family) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let micro = Micro::new(family, Layout::Diffusers, 3).unwrap();
        for (name, bytes) in micro
            .iter()
            .filter(|(name, _)| !name.ends_with(".safetensors"))
        {
            let path = folder.path().join("config").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        Self { folder, micro }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// The single file's settings are not those of a published model, so they are said.
    fn options(&self) -> OpenOptions {
        OpenOptions {
            config: Some(self.folder.path().join("config")),
            ..options()
        }
    }

    fn file(&self, path: &Path) -> Pipeline {
        Pipeline::open(path, &self.options()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// What the folder draws.
    fn expected(&self) -> Vec<f32> {
        draw(&Pipeline::from_files(&self.micro.files(), &options()).unwrap())
    }
}

fn options() -> OpenOptions {
    OpenOptions::new(&device("flex").unwrap())
}

/// The tensors of a family's single file.
fn tensors(family: Family) -> Tensors {
    let micro = Micro::new(family, Layout::Ldm, 3).unwrap();
    let (_, file) = micro
        .iter()
        .find(|(name, _)| *name == "model.safetensors")
        .unwrap();
    read(file)
}

/// Two drawings are the same, bit for bit.
#[track_caller]
fn assert_same(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differ = |at: &usize| found[*at].to_bits() != expected[*at].to_bits();
    let first = (0..found.len()).find(differ);
    let shown = first.map(|at| (at, found[at], expected[at]));
    assert_eq!(
        shown,
        None,
        "{what}: {} differ",
        (0..found.len()).filter(differ).count()
    );
}

/// Latents and pixels after two steps, all components' work.
fn draw(pipeline: &Pipeline) -> Vec<f32> {
    let spec = pipeline.denoiser.spec();
    let concat = spec.concat_channels;
    let concat = (concat > 0).then(|| Tensor::ones([1, concat, 8, 8], &spec.device));
    let start = match spec.embeds_aesthetic_score {
        // A refiner goes on from a picture.
        true => Start::Picture(PictureStart::new(
            RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8, y as u8, 90])),
            0.9,
        )),
        false => Start::Noise,
    };
    let request = Request {
        start,
        negative_prompt: (!spec.embeds_guidance).then(|| "fog".into()),
        guidance_scale: 2.0,
        steps: 2,
        width: Some(64),
        height: Some(64),
        seed: 5,
        concat,
        ..Request::new("Ünïcode & a photo")
    };
    let mut run = pipeline.start(&request).unwrap();
    for step in &mut run {
        step.unwrap();
    }
    let mut drawn: Vec<f32> = run.latents().try_to_vec_as().unwrap();
    let picture = run.images().unwrap().remove(0).image.into_raw();
    drawn.extend(picture.into_iter().map(f32::from));
    drawn
}

#[test]
fn a_single_file_draws_what_diffusers_draws_from_it() {
    let fixture = Fixture::open("single_file");
    let settings = fixture.settings();
    let families = [
        (Family::Sd1, "sd1"),
        (Family::Sd2, "sd2"),
        (Family::SdTurbo, "sdturbo"),
        (Family::Sdxl, "sdxl"),
    ];
    for (family, name) in families {
        let place = Place::new(family);
        let micro = Micro::new(family, Layout::Ldm, 0).unwrap();
        let (_, file) = micro
            .iter()
            .find(|(name, _)| *name == "model.safetensors")
            .unwrap();
        let pipeline = place.file(&place.write("model.safetensors", file));
        let text = |key: &str| settings[key].as_str().unwrap().to_string();
        let number = |key: &str| settings[key].as_u64().unwrap() as usize;
        let request = Request {
            negative_prompt: Some(text("negative").into()),
            guidance_scale: settings["guidance"].as_f64().unwrap(),
            steps: number("steps"),
            width: Some(number("side")),
            height: Some(number("side")),
            seed: number("seed") as u64,
            ..Request::new(text("prompt"))
        };
        let mut run = pipeline.start(&request).unwrap();
        for step in &mut run {
            step.unwrap();
        }
        fixture.assert_tensor(name, run.latents().clone(), 5e-4);
    }
}

/// Names changed from one beginning to another; the first that fits.
fn renamed(tensors: Tensors, rows: &[(&str, &str)]) -> Tensors {
    let name = |name: String| {
        let row = rows
            .iter()
            .find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
        row.unwrap_or(name)
    };
    tensors.into_iter().map(|(n, t)| (name(n), t)).collect()
}

#[test]
fn every_familys_single_file_draws_what_its_folder_draws() {
    for family in Family::ALL {
        if !family.layouts().contains(&Layout::Ldm) {
            continue;
        }
        let place = Place::new(family);
        let path = place.write("model.safetensors", &safetensors(&tensors(family)));
        let pipeline = place.file(&path);
        assert_same(&draw(&pipeline), &place.expected(), &format!("{family:?}"));
        assert_eq!(pipeline.name.as_deref(), Some("model"));
    }
}

/// The weights of the autoencoder's attention by the names of diffusers, and of this rank.
fn attention(tensors: Tensors, rank: usize) -> Tensors {
    let rows = [
        (".q.", ".to_q."),
        (".k.", ".to_k."),
        (".v.", ".to_v."),
        (".proj_out.", ".to_out.0."),
    ];
    let change = |(name, mut tensor): (String, Stored)| {
        let Some((start, end)) = name.split_once("attn_1") else {
            return (name, tensor);
        };
        if tensor.shape.len() == 4 {
            tensor.shape.truncate(rank);
        }
        let end = rows
            .iter()
            .fold(end.to_string(), |end, (from, to)| end.replace(from, to));
        (format!("{start}attn_1{end}"), tensor)
    };
    tensors.into_iter().map(change).collect()
}

/// f16 values in f32, of every third tensor.
fn mixed(tensors: Tensors) -> Tensors {
    let wide = |(number, (name, mut tensor)): (usize, (String, Stored))| {
        if number % 3 == 0 && tensor.dtype == safetensors::Dtype::F16 {
            let (halves, _) = tensor.bytes.as_chunks::<2>();
            let values = halves.iter().map(|b| half_to_f32(u16::from_le_bytes(*b)));
            tensor.bytes = values.flat_map(f32::to_le_bytes).collect();
            tensor.dtype = safetensors::Dtype::F32;
        }
        (name, tensor)
    };
    tensors.into_iter().enumerate().map(wide).collect()
}

/// A normal or zero half-precision number.
fn half_to_f32(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, (bits >> 10) & 31, bits & 1023);
    let value = match exponent {
        0 => f32::from(fraction) * 2_f32.powi(-24),
        exponent => (1.0 + f32::from(fraction) / 1024.0) * 2_f32.powi(i32::from(exponent) - 15),
    };
    if sign == 1 { -value } else { value }
}

/// SDXL's second encoder as stable-diffusion.cpp names it: after transformers', with OpenCLIP's
/// fused projections.
fn sd_cpp(tensors: Tensors) -> Tensors {
    let rows = [
        ("model.ln_final.", "final_layer_norm."),
        (
            "model.positional_embedding",
            "embeddings.position_embedding.weight",
        ),
        ("model.token_embedding.", "embeddings.token_embedding."),
        ("model.text_projection", "text_projection"),
        ("model.transformer.resblocks.", "encoder.layers."),
    ];
    let inner = [
        (".attn.in_proj_", ".self_attn.in_proj."),
        (".attn.out_proj.", ".self_attn.out_proj."),
        (".ln_1.", ".layer_norm1."),
        (".ln_2.", ".layer_norm2."),
        (".mlp.c_fc.", ".mlp.fc1."),
        (".mlp.c_proj.", ".mlp.fc2."),
    ];
    let change = |(name, tensor): (String, Stored)| {
        let Some(name) = name.strip_prefix("conditioner.embedders.1.") else {
            return (
                name.replace("conditioner.embedders.0.", "cond_stage_model."),
                tensor,
            );
        };
        let row = rows
            .iter()
            .find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
        let name = row.unwrap_or(name.into());
        let name = inner
            .iter()
            .fold(name, |name, (from, to)| name.replace(from, to));
        (
            format!("cond_stage_model.1.transformer.text_model.{name}"),
            tensor,
        )
    };
    tensors.into_iter().map(change).collect()
}

#[test]
fn every_spelling_and_kind_of_file_holds_the_same_model() {
    let place = Place::new(Family::Sd1);
    let expected = place.expected();
    let sd1 = || tensors(Family::Sd1);
    let ours = place
        .micro
        .iter()
        .filter(|(name, _)| name.ends_with(".safetensors"));
    let ours = ours.flat_map(|(name, bytes)| {
        let component = name.split('/').next().unwrap().to_string();
        let tensors = read(bytes).into_iter();
        tensors.map(move |(name, tensor)| (format!("{component}.{name}"), tensor))
    });
    let short = [(
        "cond_stage_model.transformer.text_model.",
        "cond_stage_model.transformer.",
    )];
    let other = [
        ("model.diffusion_model.", "unet."),
        ("first_stage_model.", "vae."),
        ("cond_stage_model.transformer.text_model.", "te.text_model."),
    ];
    let bare = [("model.diffusion_model.", "")];
    let files = [
        ("short.safetensors", safetensors(&renamed(sd1(), &short))),
        ("other.safetensors", safetensors(&renamed(sd1(), &other))),
        ("bare.safetensors", safetensors(&renamed(sd1(), &bare))),
        ("diffusers.safetensors", safetensors(&ours.collect())),
        ("named.safetensors", safetensors(&attention(sd1(), 2))),
        ("three.safetensors", safetensors(&attention(sd1(), 3))),
        ("mixed.safetensors", safetensors(&mixed(sd1()))),
        ("torch.ckpt", checkpoint(&sd1())),
        // A checkpoint by any other name.
        ("torch.safetensors", checkpoint(&mixed(sd1()))),
        ("ggml.gguf", gguf(&sd1())),
    ];
    for (name, bytes) in files {
        let path = place.write(name, &bytes);
        assert_same(&draw(&place.file(&path)), &expected, name);
    }

    let place = Place::new(Family::Sdxl);
    let expected = place.expected();
    let xl = || tensors(Family::Sdxl);
    let files = [
        ("xl.ckpt", checkpoint(&xl())),
        ("xl.gguf", gguf(&xl())),
        ("cpp.gguf", gguf(&sd_cpp(xl()))),
    ];
    for (name, bytes) in files {
        let path = place.write(name, &bytes);
        assert_same(&draw(&place.file(&path)), &expected, name);
    }
}

#[test]
fn what_shapes_tell_is_the_families_own_configuration() {
    // By family: the name of its row, and what only the published widths tell otherwise.
    let families = [
        (Family::Sd1, "sd1"),
        (Family::SmallSd, "small_sd"),
        (Family::TinySd, "tiny_sd"),
        (Family::Lcm, "lcm"),
        (Family::Sdxl, "sdxl"),
        (Family::SdxlRefiner, "sdxl_refiner"),
        (Family::Ssd1b, "ssd_1b"),
        (Family::Vega, "vega"),
        (Family::Koala1b, "koala"),
    ];
    for (family, name) in families {
        let place = Place::new(family);
        let path = place.write("model.safetensors", &safetensors(&tensors(family)));
        let config = place.folder.path().join("config");
        let own: Map<String, Value> = Files::directory(config.join("unet"))
            .json("config.json")
            .unwrap();
        // Groups and heads no tensor tells, nor how many sines make a size.
        let mut told = Map::new();
        for key in [
            "norm_num_groups",
            "attention_head_dim",
            "addition_time_embed_dim",
            "sample_size",
        ] {
            told.extend(own.get(key).map(|value| (key.to_string(), value.clone())));
        }
        fs::write(
            config.join("unet/config.json"),
            Value::Object(told).to_string(),
        )
        .unwrap();
        fs::write(
            config.join("vae/config.json"),
            json!({ "norm_num_groups": GROUPS }).to_string(),
        )
        .unwrap();
        let options = sd_pipeline::models::SingleFileOptions {
            family: Some(name.into()),
            prediction: None,
            config: Some(Files::directory(&config)),
        };
        let single = sd_pipeline::SingleFile::open(&path, &options).unwrap();
        let read = |settings| UNetConfig::new(&ConfigFile::new(name, settings)).unwrap();
        let mut configs = [
            read(own),
            read(single.files().folder("unet").json("config.json").unwrap()),
        ];
        for config in &mut configs {
            for block in config
                .blocks
                .iter_mut()
                .filter(|block| !block.down_attention)
            {
                block.down_depths.fill(0);
            }
            for block in config.blocks.iter_mut().filter(|block| !block.up_attention) {
                block.up_depths.fill(0);
            }
        }
        assert_eq!(configs[1], configs[0], "{family:?}");
    }
}

#[test]
fn parts_in_files_take_the_place_of_a_models_own() {
    let place = Place::new(Family::Sd1);
    let expected = place.expected();
    // Another model, of which all but the scheduler is then replaced.
    let other = Micro::new(Family::Sd1, Layout::Diffusers, 8).unwrap();
    let folder = place.folder.path().join("other");
    other.write_to(&folder).unwrap();
    let part = |prefix: &str, to: &str| -> Tensors {
        let all = tensors(Family::Sd1).into_iter();
        all.filter_map(|(name, t)| Some((format!("{to}{}", name.strip_prefix(prefix)?), t)))
            .collect()
    };
    let unet = place.write(
        "unet.safetensors",
        &safetensors(&part("model.diffusion_model.", "")),
    );
    let vae = place.write("any.vae.pt", &checkpoint(&part("first_stage_model.", "")));
    let text = part("cond_stage_model.transformer.", "");
    let text = place.write("clip.gguf", &gguf(&text));
    let with = |unet: &Path, vae: &Path, text: &Path| {
        let mut options = place.options();
        options.folders.denoiser = Some(unet.into());
        options.folders.autoencoder = Some(vae.into());
        options.folders.text_encoder = Some(text.into());
        options
    };
    let pipeline = Pipeline::open(&folder, &with(&unet, &vae, &text)).unwrap();
    assert_same(&draw(&pipeline), &expected, "parts");
    // A whole model's file gives the one that is asked for.
    let whole = place.write("whole.safetensors", &safetensors(&tensors(Family::Sd1)));
    let pipeline = Pipeline::open(&folder, &with(&whole, &whole, &whole)).unwrap();
    assert_same(&draw(&pipeline), &expected, "parts");
    let own = draw(&Pipeline::open(&folder, &options()).unwrap());
    assert!(own != expected);

    // A file that lacks what others give.
    let pipeline = Pipeline::open(&unet, &with(&whole, &vae, &text)).unwrap();
    assert_same(&draw(&pipeline), &expected, "parts");
    let error = Pipeline::open(&unet, &place.options()).unwrap_err();
    let message = error.to_string();
    let Error::MissingComponents { missing, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(missing, ["vae", "text_encoder"]);
    assert!(
        message.contains("there is no vae, no text_encoder in it; give a file"),
        "{message}"
    );
    assert!(
        message.contains("--vae") && message.contains("--text-encoder"),
        "{message}"
    );
    let mut options = place.options();
    options.folders.autoencoder = Some(vae.clone());
    let error = Pipeline::open(&unet, &options).unwrap_err();
    assert!(
        matches!(&error, Error::MissingComponents { missing, .. } if *missing == ["text_encoder"])
    );
    // One beside it is not taken unasked.
    fs::copy(&vae, place.folder.path().join("unet.vae.pt")).unwrap();
    assert!(matches!(
        Pipeline::open(&unet, &place.options()),
        Err(Error::MissingComponents { .. })
    ));
    let error = Pipeline::open(&vae, &place.options())
        .unwrap_err()
        .to_string();
    assert!(error.contains("an autoencoder alone"), "{error}");

    // What a folder's own files say is not asked twice.
    let error = Pipeline::open(&folder, &place.options())
        .unwrap_err()
        .to_string();
    assert!(error.contains("config"), "{error}");
    let said = OpenOptions {
        prediction: Some(PredictionType::VPrediction),
        ..self::options()
    };
    assert!(draw(&Pipeline::open(&folder, &said).unwrap()) != own);
}

#[test]
fn the_halves_of_a_tiny_autoencoder_are_one_in_a_models_place() {
    let place = Place::new(Family::Sdxs);
    let expected = place.expected();
    let (_, vae) = place
        .micro
        .iter()
        .find(|(name, _)| name.starts_with("vae/") && name.ends_with(".safetensors"))
        .unwrap();
    let half = |side: &str, more: usize| -> Tensors {
        let start = format!("{side}.layers.");
        let all = read(vae).into_iter();
        all.filter_map(|(name, tensor)| {
            let (number, rest) = name.strip_prefix(&start)?.split_once('.')?;
            let number = number.parse::<usize>().unwrap() + more;
            Some((format!("{number}.{rest}"), tensor))
        })
        .collect()
    };
    place.write("taesd_encoder.pth", &checkpoint(&half("encoder", 0)));
    let decoder = place.write("taesd_decoder.pth", &checkpoint(&half("decoder", 1)));
    let folder = place.folder.path().join("other");
    let other = Micro::new(Family::Sdxs, Layout::Diffusers, 3).unwrap();
    other.write_to(&folder).unwrap();
    fs::remove_file(folder.join("vae/diffusion_pytorch_model.safetensors")).unwrap();
    // Its scaling factor is not that of the published ones.
    let mut options = place.options();
    options.folders.autoencoder = Some(decoder);
    let found = draw(&Pipeline::open(&folder, &options).unwrap());
    assert_same(&found, &expected, "halves");
}

/// A GGUF file as ComfyUI-GGUF writes it, of rows of 256 with a note of the tensor's shape: in such
/// `blocks`, of any bits, whatever makes whole rows, the rest in f32. Also the bytes that these take
/// less than f32 in layers whose inputs make parts of 32.
fn in_blocks(tensors: Tensors, blocks: Blocks) -> (Vec<u8>, usize) {
    let (kind, halves): (u32, &[usize]) = match blocks {
        Blocks::Q4_0 => (2, &[0]),
        Blocks::Q4_1 => (3, &[0, 2]),
        Blocks::Q5_0 => (6, &[0]),
        Blocks::Q5_1 => (7, &[0, 2]),
        Blocks::Q8_0 => (8, &[0]),
        Blocks::Q2K => (10, &[80, 82]),
        Blocks::Q3K => (11, &[108]),
        Blocks::Q4K => (12, &[0, 2]),
        Blocks::Q5K => (13, &[0, 2]),
        Blocks::Q6K => (14, &[208]),
    };
    let mut state = 1_u32;
    let mut random = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let mut block = || {
        let mut block: Vec<u8> = (0..blocks.bytes()).map(|_| random()).collect();
        let mut numbers = vec![0.0; blocks.elements()];
        // A weight's usual size, whatever the bits are.
        let mut scale = 1.0;
        for _ in 0..2 {
            for at in halves {
                block[*at..at + 2].copy_from_slice(&f16::from_f32(scale).to_le_bytes());
            }
            blocks.decode(&block, &mut numbers).unwrap();
            let largest = numbers.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
            scale *= 0.2 / largest;
        }
        block
    };
    let (mut shapes, mut entries, mut saved) = (Vec::new(), Vec::new(), 0);
    for (name, tensor) in tensors {
        let elements: usize = tensor.shape.iter().product();
        if tensor.shape.len() > 1 && elements.is_multiple_of(256) {
            let count = elements / blocks.elements();
            let bytes: Vec<u8> = (0..count).flat_map(|_| block()).collect();
            if tensor.shape[1].is_multiple_of(32) {
                saved += 4 * elements - bytes.len();
            }
            entries.push((name.clone(), vec![elements / 256, 256], kind, bytes));
            shapes.push((name, tensor.shape));
        } else {
            let (halves, _) = tensor.bytes.as_chunks::<2>();
            let values = halves.iter().map(|b| half_to_f32(u16::from_le_bytes(*b)));
            let bytes = values.flat_map(f32::to_le_bytes).collect();
            entries.push((name, tensor.shape, 0, bytes));
        }
    }
    (gguf_file(&shapes, &entries), saved)
}

/// Of the embedded model, whose layers are wide enough.
#[test]
fn blocks_that_stay_draw_what_their_numbers_draw() {
    const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
    let is_unet = |file: &&EmbeddedFile| file.0 == UNET;
    let (_, unet) = sd_tiny::FILES.iter().find(is_unet).unwrap();
    let tensors = read(unet);
    for blocks in Blocks::ALL {
        let (file, saved) = in_blocks(tensors.clone(), blocks);
        // What a file is, is told from its content.
        let others = sd_tiny::FILES.iter().filter(|file| !is_unet(file));
        let files = others.map(|(name, bytes)| (*name, bytes.to_vec()));
        let files = Files::memory(files.chain([(UNET, file)]));
        let drawn = [WeightStorage::F32, WeightStorage::AsStored].map(|weight_storage| {
            let options = OpenOptions {
                weight_storage,
                ..options()
            };
            let pipeline = Pipeline::from_files(&files, &options).unwrap();
            let request = Request {
                steps: 2,
                ..sd_tiny::request(sd_tiny::PROMPT)
            };
            let mut run = pipeline.start(&request).unwrap();
            for step in &mut run {
                step.unwrap();
            }
            let latents: Vec<f32> = run.latents().try_to_vec_as().unwrap();
            let picture = run.images().unwrap().remove(0).image.into_raw();
            (latents, picture, pipeline.memory().denoiser)
        });
        let [plain, kept] = drawn;
        assert_same(&kept.0, &plain.0, &format!("{blocks:?}"));
        assert!(kept.1 == plain.1, "{blocks:?}");
        // Rows of 96 begin in the middle of blocks of 256: some of these have their scales thrice.
        let less = (plain.2.packed - kept.2.packed) as f64;
        assert!(less >= 0.9 * saved as f64, "{blocks:?}: {less} of {saved}");
        assert_eq!(plain.2.plain, kept.2.plain);
    }
}
