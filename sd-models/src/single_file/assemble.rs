//! The folder in diffusers' layout that a file stands for.

use serde_json::{Value, json};

use super::components::{Components, Folder, Settings, with_config};
use super::families::{By, CLASSES, Heads, SIGNS};
use super::names::Numbers;
use super::{
    Family, Opened, SingleComponent, SingleFile, SingleFileOptions, prediction, text_encoders,
    unet, vocabulary,
};
use crate::error::TensorMismatch;
use crate::inspect::parts::{Part, Parts, Role};
use crate::{Error, Files, Result};

/// The family of a file: the caller's word, what the tensors and signs in the file say, or the class
/// of the pipeline that the caller's files name.
fn family(opened: &Opened, parts: &Parts<'_>, options: &SingleFileOptions) -> Result<Family> {
    if let Some(name) = &options.family {
        let known = || Family::names().join(", ");
        return Family::named(name).ok_or_else(|| Error::Unsupported {
            path: opened.path.clone(),
            what: format!(
                "the family {name} is not known here; expected one of {}",
                known()
            ),
        });
    }
    let index = with_config(
        Settings::new(),
        options.config.as_ref(),
        "",
        "model_index.json",
    )?;
    let class = index.get("_class_name").and_then(Value::as_str);
    let found = opened.inspection.family.as_deref();
    let told = found.and_then(Family::named);
    let told = told.or_else(|| class.and_then(Family::of_class));
    let Some(family) = told else {
        let mut expected = format!(
            "a model of one of the families {}",
            Family::names().join(", ")
        );
        if found.is_none() {
            expected.push_str(", or a word of the caller on which of them it is (family)");
        }
        return Err(opened.error(&expected));
    };
    Ok(member(opened, parts, family, options))
}

/// The member of a family that the signs in a file say it is.
fn member(
    opened: &Opened,
    parts: &Parts<'_>,
    family: Family,
    options: &SingleFileOptions,
) -> Family {
    let marks = parts.marks();
    let name = opened.name();
    let width = parts.denoiser().and_then(unet::cross_width);
    let says_epsilon = prediction::said(opened, options) == Some(crate::PredictionType::Epsilon);
    let is_there = |by: &By| match by {
        By::Mark(mark) => marks.contains(mark),
        By::Name(word) => name.contains(word),
        By::Epsilon => says_epsilon,
        By::Width(tokens) => width == Some(*tokens),
    };
    let mut signs = SIGNS.iter().filter(|sign| sign.family == family.name);
    let Some(sign) = signs.find(|sign| is_there(&sign.by)) else {
        return family;
    };
    if let By::Name(word) = sign.by {
        tracing::warn!(
            "{}: taken for one of the family {} by its name ({word}); say the family {} if it is not",
            opened.path.display(),
            sign.is,
            sign.family,
        );
    }
    Family::named(sign.is).unwrap_or(family)
}

/// The model in a file.
pub(super) fn model(opened: Opened, options: &SingleFileOptions) -> Result<SingleFile> {
    let source = opened.source.clone();
    let parts = Parts::of(source.tensors());
    let family = family(&opened, &parts, options)?;
    prediction::warn_if_ambiguous(&opened, &family, options);
    let config = options.config.as_ref();
    let encoders: Vec<&str> = family.text_encoders().collect();
    let found = text_encoders(&parts);
    check_all_read(&opened, &parts, found.len().min(encoders.len()))?;

    let mut folder = Folder::default();
    let mut missing = Vec::new();
    let part_files = Components {
        opened: &opened,
        numbers: Numbers::new(source.tensors()),
        config,
    };
    let mut channels = None;
    match parts.of_role(Role::Unet) {
        None => missing.push("unet".to_string()),
        Some(part) => {
            let settings = part_files.unet(
                &mut folder,
                &parts,
                part,
                family.heads,
                family.settings("unet"),
            )?;
            channels = settings.get("in_channels").and_then(Value::as_u64);
        }
    }
    let vae_class = match part_files.vae(&mut folder, &parts, family.settings("vae"))? {
        Some(class) => class,
        None => {
            missing.push("vae".into());
            // Another autoencoder in its place has this one's scaling factor.
            let settings = with_config(family.settings("vae"), config, "vae", "config.json")?;
            folder.json("vae/config.json".into(), &Value::Object(settings));
            "AutoencoderKL".into()
        }
    };
    // Where a file has fewer than the family, those that it has keep their numbers.
    let by_order = found.len() == encoders.len();
    let mut built_in = None;
    let mut index = with_config(family.settings("index"), config, "", "model_index.json")?;
    for (k, name) in encoders.iter().enumerate() {
        let parts = match by_order {
            true => found.get(k),
            false => found.iter().find(|parts| has_number(parts, name)),
        };
        let mut settings = family.settings(name);
        match parts {
            None => missing.push((*name).into()),
            Some(parts) => {
                settings = part_files.text(&mut folder, parts, name, family.layers, settings)?;
            }
        }
        let class = settings.get("architectures").and_then(|names| names.get(0));
        index.insert((*name).into(), json!(["transformers", class]));
        let tokenizer = name.replace("text_encoder", "tokenizer");
        index.insert(tokenizer.clone(), json!(["transformers", "CLIPTokenizer"]));
        add_tokenizer(&mut folder, &family, &tokenizer, config, &mut built_in)?;
    }
    index.insert("unet".into(), json!(["diffusers", "UNet2DConditionModel"]));
    index.insert("vae".into(), json!(["diffusers", vae_class]));
    let scheduler = scheduler(&opened, &family, options)?;
    let class = scheduler.get("_class_name");
    index.insert("scheduler".into(), json!(["diffusers", class]));
    folder.json(
        "scheduler/scheduler_config.json".into(),
        &Value::Object(scheduler),
    );
    if let Some(channels) = channels {
        set_class(&opened, &mut index, channels as usize)?;
    }
    folder.json("model_index.json".into(), &Value::Object(index));
    Ok(SingleFile {
        files: folder.files(),
        family: family.name,
        missing,
        inspection: opened.inspection,
        path: opened.path,
    })
}

/// `true` of the parts of the text encoder whose folder is `name`.
fn has_number(parts: &[&Part<'_>], name: &str) -> bool {
    let number = usize::from(name == "text_encoder_2");
    parts.iter().any(|part| part.role == Role::Text(number))
}

/// A check that every part of the file is one that is read: a U-Net, an autoencoder and `texts` text
/// encoders, each once.
fn check_all_read(opened: &Opened, parts: &Parts<'_>, texts: usize) -> Result<()> {
    let mut seen = Vec::new();
    let mut numbers = Vec::new();
    let mut unused = Vec::new();
    for part in parts.iter() {
        let is_read = match part.role {
            Role::Unet | Role::Vae => !seen.contains(&part.role),
            Role::Text(number) => {
                if !numbers.contains(&number) {
                    numbers.push(number);
                }
                numbers.len() <= texts
            }
            Role::Ema | Role::SafetyChecker => true,
            Role::Transformer | Role::Depth | Role::Unknown => false,
        };
        seen.push(part.role);
        if !is_read {
            unused.extend(part.tensors.values().map(|tensor| tensor.name.clone()));
        }
    }
    if unused.is_empty() {
        return Ok(());
    }
    let mismatch = TensorMismatch {
        unused,
        ..TensorMismatch::default()
    };
    Err(Error::Tensors {
        path: opened.path.clone(),
        mismatch: Box::new(mismatch),
    })
}

/// The pipeline's class where the U-Net sees more than the latent.
fn set_class(opened: &Opened, index: &mut Settings, channels: usize) -> Result<()> {
    let class = index.get("_class_name").and_then(Value::as_str);
    let class = class.unwrap_or_default().to_string();
    let special = CLASSES.iter().any(|(base, ..)| *base == class);
    if channels == 4 || !special {
        return Ok(());
    }
    let found = CLASSES
        .iter()
        .find(|(base, count, _)| *base == class && *count == channels);
    let is_open = opened
        .inspection
        .ambiguous
        .iter()
        .any(|what| what.starts_with("task"));
    match found {
        Some((.., special)) if !is_open => {
            index.insert("_class_name".into(), (*special).into());
            Ok(())
        }
        _ => Err(opened.error(
            "a U-Net that sees 4 channels, 9 (inpainting) or, of Stable Diffusion 1 and XL, 8 (editing)",
        )),
    }
}

/// The scheduler's file.
fn scheduler(opened: &Opened, family: &Family, options: &SingleFileOptions) -> Result<Settings> {
    let mut settings = family.settings("scheduler");
    if let Some(said) = prediction::said(opened, options) {
        settings.insert("prediction_type".into(), said.name().into());
    }
    if opened.inspection.zero_terminal_snr {
        settings.insert("rescale_betas_zero_snr".into(), true.into());
        // From the last timestep on, which is pure noise (Lin et al. 2023, arXiv:2305.08891).
        settings.insert("timestep_spacing".into(), "trailing".into());
    }
    let config = options.config.as_ref();
    let mut settings = with_config(settings, config, "scheduler", "scheduler_config.json")?;
    if let Some(said) = options.prediction {
        settings.insert("prediction_type".into(), said.name().into());
    }
    Ok(settings)
}

/// The files of a tokenizer: the caller's, or those that are built in.
fn add_tokenizer(
    folder: &mut Folder,
    family: &Family,
    name: &str,
    config: Option<&Files>,
    built_in: &mut Option<vocabulary::Files>,
) -> Result<()> {
    let own = config.map(|config| config.folder(name));
    let own = own.filter(|files| files.has("vocab.json") || files.has("tokenizer.json"));
    if let Some(files) = own {
        for file in files.without_weights() {
            folder.bytes(format!("{name}/{file}"), files.read(&file)?);
        }
        return Ok(());
    }
    let files = match built_in {
        Some(files) => files,
        None => built_in.insert(vocabulary::files().map_err(|error| Error::io(name, error))?),
    };
    for (file, bytes) in files {
        folder.bytes(format!("{name}/{file}"), bytes.clone());
    }
    let settings = vocabulary::settings(family.settings(name));
    folder.json(format!("{name}/tokenizer_config.json"), &settings);
    Ok(())
}

/// The components of one kind in a file.
pub(super) fn component(
    opened: &Opened,
    which: SingleComponent,
    options: &SingleFileOptions,
) -> Result<Files> {
    let parts = Parts::of(opened.source.tensors());
    let components = Components {
        opened,
        numbers: Numbers::new(opened.source.tensors()),
        config: options.config.as_ref(),
    };
    let family = opened.inspection.family.as_deref().and_then(Family::named);
    let family = family.map(|family| member(opened, &parts, family, options));
    let says = |name: &str| {
        family
            .as_ref()
            .map(|f| f.settings(name))
            .unwrap_or_default()
    };
    let mut folder = Folder::default();
    let expected = match which {
        SingleComponent::Denoiser => "a U-Net",
        SingleComponent::Autoencoder => "an autoencoder",
        SingleComponent::TextEncoder => "a text encoder",
    };
    let is_there = match which {
        SingleComponent::Denoiser => match parts.of_role(Role::Unet) {
            None => false,
            Some(part) => {
                let width = unet::cross_width(part);
                let heads = family.as_ref().map(|family| family.heads);
                let heads = heads.unwrap_or(match width {
                    Some(1024..) => Heads::Width(64),
                    _ => Heads::Count(8),
                });
                components.unet(&mut folder, &parts, part, heads, says("unet"))?;
                true
            }
        },
        SingleComponent::Autoencoder => components.vae(&mut folder, &parts, says("vae"))?.is_some(),
        SingleComponent::TextEncoder => {
            let found = text_encoders(&parts);
            let layers = family.as_ref().and_then(|family| family.layers);
            for parts in &found {
                let name = match (&found[..], parts[0].role) {
                    // One alone takes the place of the one of its class.
                    ([_], _) => "",
                    (_, Role::Text(0)) => "text_encoder",
                    _ => "text_encoder_2",
                };
                components.text(&mut folder, parts, name, layers, Settings::new())?;
            }
            !found.is_empty()
        }
    };
    match is_there {
        true => Ok(folder.files()),
        false => Err(opened.error(expected)),
    }
}
