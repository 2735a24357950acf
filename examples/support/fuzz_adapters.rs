//! Readers of what people put beside a model: LoRAs, words, networks that steer.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use sd_fixtures::mutate;
use sd_pipeline::models::controlnet::ControlNetFiles;
use sd_pipeline::models::t2i_adapter::T2IAdapterFiles;
use sd_pipeline::models::{Files, LoadOptions, open_source};
use sd_pipeline::{
    Control, Device, IpAdapterFiles, Lora, OpenOptions, Pipeline, Residency, TextualInversion,
};

use super::{Mutate, Outcome, Reader, anew};

macro_rules! fixture {
    ($name:literal) => {
        &include_bytes!(concat!("../../fixtures/data/", $name))[..]
    };
}

/// All of them. `model` are the files of a micro Stable Diffusion 1.
pub(super) fn readers(
    folder: &Path,
    model: &Files,
    flex: &Device,
) -> Result<Vec<Reader>, Box<dyn Error>> {
    let options = OpenOptions {
        residency: Residency::OnDemand,
        ..OpenOptions::new(flex)
    };
    let pipeline = Pipeline::from_files(model, &options)?;
    let mut readers = vec![
        lora(folder, model, &pipeline)?,
        peft(folder),
        word(
            "word",
            "sketchy.safetensors",
            mutate::safetensors,
            folder,
            &pipeline,
        ),
        word("word-pt", "sketchy.pt", mutate::binary, folder, &pipeline),
        control_lora(folder, pipeline, options),
    ];
    readers.extend(networks(flex));
    readers.extend(image_prompts(folder, flex));
    Ok(readers)
}

/// A file with a change of each form, of a layer of its own.
fn changes(model: &Files) -> Result<Vec<u8>, Box<dyn Error>> {
    const ATTENTION: &str = "down_blocks.0.attentions.0.transformer_blocks.0";
    let mut tensors: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let attention = |layer: &str| format!("{ATTENTION}.{layer}");
    let unet =
        |module: String, form| ("unet", "diffusion_pytorch_model", "lora_unet", module, form);
    for (network, stem, prefix, module, form) in [
        unet("conv_in".into(), "tucker"),
        unet("down_blocks.0.resnets.0.conv1".into(), "dora"),
        unet(attention("attn1.to_q"), "loha"),
        unet(attention("attn1.to_k"), "lokr"),
        unet(attention("attn1.to_v"), "oft"),
        unet(attention("ff.net.2"), "full"),
        (
            "text_encoder",
            "model",
            "lora_te_text_model",
            "encoder.layers.0.mlp.fc1".into(),
            "lora",
        ),
    ] {
        let weights = model.folder(network).weights(stem, None)?;
        let name = format!("{module}.weight");
        let shape = weights.shapes().find(|(other, _)| *other == name);
        let (_, shape) = shape.ok_or_else(|| format!("the micro model has no {name}"))?;
        let (outputs, inputs, kernel) = (shape[0], shape[1], &shape[2..]);
        let spelt = format!("{prefix}_{}", module.replace('.', "_"));
        let ones = vec![1; kernel.len()];
        let beside = |sides: [usize; 2], rest: &[usize]| [&sides[..], rest].concat();
        let parts: Vec<(&str, Vec<usize>)> = match form {
            "tucker" => vec![
                ("lora_down.weight", beside([2, inputs], &ones)),
                ("lora_mid.weight", beside([2, 2], kernel)),
                ("lora_up.weight", beside([outputs, 2], &ones)),
                ("alpha", vec![]),
            ],
            "loha" => vec![
                ("hada_w1_a", vec![outputs, 2]),
                ("hada_w1_b", vec![2, inputs]),
                ("hada_w2_a", vec![outputs, 2]),
                ("hada_w2_b", vec![2, inputs]),
                ("alpha", vec![]),
            ],
            "lokr" => vec![
                ("lokr_w1", vec![2, 2]),
                ("lokr_w2_a", vec![outputs / 2, 2]),
                ("lokr_w2_b", vec![2, inputs / 2]),
                ("alpha", vec![]),
            ],
            "oft" => vec![("oft_blocks", vec![2, outputs / 2, outputs / 2])],
            "full" => vec![("diff", shape.to_vec()), ("diff_b", vec![outputs])],
            _ => vec![
                ("lora_down.weight", beside([2, inputs], kernel)),
                ("lora_up.weight", beside([outputs, 2], &ones)),
                ("alpha", vec![]),
            ],
        };
        let named = |part: &str| format!("{spelt}.{part}");
        tensors.extend(parts.into_iter().map(|(part, shape)| (named(part), shape)));
        if form == "dora" {
            tensors.insert(named("dora_scale"), beside([outputs, 1], &ones));
        }
    }
    let bytes = |shape: &[usize]| 0.1f32.to_le_bytes().repeat(shape.iter().product());
    let values: Vec<_> = tensors.values().map(|shape| bytes(shape)).collect();
    let views = tensors.iter().zip(&values);
    let views = views.map(|((name, shape), values)| {
        let view = TensorView::new(Dtype::F32, shape.clone(), values)?;
        Ok::<_, safetensors::SafeTensorError>((name, view))
    });
    let views = views.collect::<Result<Vec<_>, _>>()?;
    Ok(safetensors::serialize(views, None)?)
}

/// Changes, which are merged into a model's weights.
fn lora(folder: &Path, model: &Files, pipeline: &Pipeline) -> Result<Reader, Box<dyn Error>> {
    let (path, pipeline) = (folder.join("lora.safetensors"), pipeline.clone());
    Ok(Reader {
        name: "lora",
        file: changes(model)?,
        mutate: mutate::safetensors,
        read: Box::new(move |file| {
            anew(&path, file)?;
            let lora = Lora {
                lenient: true,
                ..Lora::open(&path)?
            };
            let changed = pipeline.with_loras(&[lora])?;
            changed.text_encoder.get()?;
            changed.denoiser.get()?;
            Ok(())
        }),
    })
}

/// peft's settings beside a sound file.
fn peft(folder: &Path) -> Reader {
    let folder = folder.join("peft");
    Reader {
        name: "peft",
        file: fixture!("lora/peft/adapter_config.json").to_vec(),
        mutate: mutate::json,
        read: Box::new(move |file| {
            std::fs::create_dir_all(&folder)?;
            let weights = fixture!("lora/peft/adapter_model.safetensors");
            anew(folder.join("adapter_model.safetensors"), weights)?;
            anew(folder.join("adapter_config.json"), file)?;
            Lora::open(&folder)?;
            Ok(())
        }),
    }
}

/// A word's vectors, in a model's vocabulary.
fn word(
    name: &'static str,
    file: &str,
    mutate: Mutate,
    folder: &Path,
    pipeline: &Pipeline,
) -> Reader {
    let (path, pipeline) = (folder.join(file), pipeline.clone());
    let is_pickle = file.ends_with(".pt");
    Reader {
        name,
        file: match is_pickle {
            true => fixture!("checkpoints/embedding.pt").to_vec(),
            false => fixture!("adapters/sd1-sketchy.safetensors").to_vec(),
        },
        mutate,
        read: Box::new(move |file| {
            anew(&path, file)?;
            let word = TextualInversion::open(&path)?;
            // That of the checkpoint is as wide as a real model's.
            if !is_pickle {
                pipeline.with_words(&[word])?.text_encoder.get()?;
            }
            Ok(())
        }),
    }
}

/// Changes to a model's U-Net that make a ControlNet of it.
fn control_lora(folder: &Path, pipeline: Pipeline, options: OpenOptions) -> Reader {
    let path = folder.join("control.safetensors");
    Reader {
        name: "control-lora",
        file: fixture!("control_lora/sd1.safetensors").to_vec(),
        mutate: mutate::safetensors,
        read: Box::new(move |file| {
            anew(&path, file)?;
            Control::open_beside(&path, &pipeline, &options)?;
            Ok(())
        }),
    }
}

/// Configurations and weights of networks that steer, each beside what is right.
fn networks(flex: &Device) -> Vec<Reader> {
    type Load = fn(&Files, &LoadOptions) -> Outcome;
    const CONFIG: &str = "config.json";
    const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";
    let controlnet: Load = |files, options| {
        ControlNetFiles::open(files, options)?.load()?;
        Ok(())
    };
    let t2i: Load = |files, options| {
        T2IAdapterFiles::open(files, options)?.load()?;
        Ok(())
    };
    let controlnet_files = [
        (CONFIG, fixture!("control/sd1_edges/config.json")),
        (
            WEIGHTS,
            fixture!("control/sd1_edges/diffusion_pytorch_model.safetensors"),
        ),
    ];
    let union_files = [
        (CONFIG, fixture!("control/sdxl_union/config.json")),
        (
            WEIGHTS,
            fixture!("control/sdxl_union/diffusion_pytorch_model.safetensors"),
        ),
    ];
    let t2i_files = [
        (CONFIG, fixture!("control/sd1_light/config.json")),
        (
            WEIGHTS,
            fixture!("control/sd1_light/diffusion_pytorch_model.safetensors"),
        ),
    ];
    let all = [
        ("controlnet", CONFIG, controlnet_files, controlnet),
        ("control-file", WEIGHTS, controlnet_files, controlnet),
        ("union", CONFIG, union_files, controlnet),
        ("t2i", CONFIG, t2i_files, t2i),
        ("t2i-file", WEIGHTS, t2i_files, t2i),
    ];
    let readers = all.into_iter().map(|(name, damaged, files, load)| {
        let options = LoadOptions::new(flex);
        let load = move |files| load(&Files::memory(files), &options);
        damage(name, damaged, &files, load)
    });
    readers.collect()
}

/// Reader of `files`, of which one is damaged and the others are right.
fn damage<const N: usize>(
    name: &'static str,
    damaged: &'static str,
    files: &[(&'static str, &'static [u8]); N],
    read: impl Fn(BTreeMap<&'static str, Vec<u8>>) -> Outcome + 'static,
) -> Reader {
    let files: BTreeMap<_, _> = files
        .iter()
        .map(|(name, file)| (*name, file.to_vec()))
        .collect();
    Reader {
        name,
        file: files[damaged].clone(),
        mutate: match damaged.ends_with(".json") {
            true => mutate::json,
            false => mutate::safetensors,
        },
        read: Box::new(move |file| {
            let mut all = files.clone();
            all.insert(damaged, file);
            read(all)
        }),
    }
}

/// The parts of an IP-Adapter, each beside what is right.
fn image_prompts(folder: &Path, flex: &Device) -> Vec<Reader> {
    const CONFIG: &str = "config.json";
    const ADAPTER: &str = "adapter.safetensors";
    let all = [
        (
            ADAPTER,
            fixture!("image_prompts/sd1_plus/adapter.safetensors"),
        ),
        (
            CONFIG,
            fixture!("image_prompts/sd1_plus/image_encoder/config.json"),
        ),
        (
            "model.safetensors",
            fixture!("image_prompts/sd1_plus/image_encoder/model.safetensors"),
        ),
    ];
    let readers = [("image-prompts", ADAPTER), ("image-config", CONFIG)].map(|(name, damaged)| {
        let (path, options) = (folder.join(ADAPTER), LoadOptions::new(flex));
        damage(name, damaged, &all, move |mut files| {
            anew(&path, files.remove(ADAPTER).unwrap_or_default())?;
            let source = open_source(&path)?;
            IpAdapterFiles::of_source(source, &Files::memory(files), &options)?.load()?;
            Ok(())
        })
    });
    readers.into()
}
