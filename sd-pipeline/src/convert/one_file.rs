//! A model's folder as one file under the original code's names.

use sd_core::Parameterization;
use sd_models::ldm::{self, Layout};
use sd_models::unet::UNetConfig;
use sd_models::{ComponentClass, ConfigFile, Error, Files, TensorFile};

use super::ConvertOptions;
use crate::Result;
use crate::recipe::{ModelFolder, Part};
use crate::variants::Variants;

/// Scaling factors that readers take for an autoencoder's latents: the original one, and that of
/// networks that embed sizes (SDXL).
const SCALING: [f64; 2] = [0.18215, 0.13025];

/// The file of the model in `folder`, and what it does not say.
pub(super) fn of_folder(
    files: &Files,
    folder: &ModelFolder<'_>,
    options: &ConvertOptions,
) -> Result<(TensorFile, Vec<String>)> {
    let texts = folder.text_parts()?;
    let [denoiser, autoencoder] = [folder.denoiser_part()?, folder.autoencoder_part()?];
    let all = texts.iter().map(|text| &text.encoder);
    let all = all.chain([&denoiser, &autoencoder]);
    let read: Vec<_> = all.map(|part| (part.name.clone(), part.files())).collect();
    let variants = Variants::find(files, &read, options.variant.as_deref())?;

    let config = |part: &Part| -> Result<ConfigFile> {
        Ok(part.config()?.on_unknown(options.unknown_settings))
    };
    let network = config(&denoiser)?;
    // The code of models that embed sizes has its text encoders in a list, with the sizes.
    let embeds_sizes = UNetConfig::new(&network)?.text_time.is_some();
    let mut tensors = TensorFile::new();
    let mut add = |part: &Part, default, prefix: &str| {
        let variant = variants.of(&part.name);
        add(
            &mut tensors,
            part,
            &config(part)?,
            default,
            prefix,
            variant.as_deref(),
        )
    };
    for (index, text) in texts.iter().enumerate() {
        let prefix = match embeds_sizes {
            true => ldm::embedder(index),
            false => ldm::TEXT.into(),
        };
        add(&text.encoder, "CLIPTextModel", &prefix)?;
    }
    add(&denoiser, "UNet2DConditionModel", ldm::UNET)?;
    add(&autoencoder, "AutoencoderKL", ldm::VAE)?;
    say_training(&mut tensors, folder)?;
    let unsaid = unsaid(
        folder,
        &config(&autoencoder)?,
        SCALING[usize::from(embeds_sizes)],
    )?;
    Ok((tensors, unsaid))
}

/// Adds a component's tensors under `prefix`. Its class is the index's, its own file's, or else
/// `default`.
fn add(
    tensors: &mut TensorFile,
    part: &Part,
    file: &ConfigFile,
    default: &str,
    prefix: &str,
    variant: Option<&str>,
) -> Result<()> {
    let name = match &part.class {
        Some(class) => class.clone(),
        None => file.text("_class_name")?.unwrap_or(default.into()),
    };
    let class = ComponentClass::named(&name);
    let layout = class.map(|class| class.layout(file)).transpose()?.flatten();
    let (Some(class), Some(layout)) = (class, layout) else {
        let what = format!("a single file has no names for the tensors of {name}");
        let path = file.path().into();
        return Err(Error::Unsupported { path, what }.into());
    };
    let layout: Layout = layout.under(prefix);
    let weights = part.files().weights(class.stem(), variant)?;
    tensors.add(&weights, &class.shapes(file)?, |name| layout.in_file(name))?;
    Ok(())
}

/// Says what the network's output means, which its tensors do not: as a note (Stability AI's
/// ModelSpec), and by the marks that programs look for.
fn say_training(tensors: &mut TensorFile, folder: &ModelFolder<'_>) -> Result<()> {
    let scheduler = folder.scheduler()?;
    let prediction = match scheduler.parameterization()? {
        Parameterization::Epsilon => "epsilon",
        Parameterization::VPrediction => "v",
        Parameterization::Sample => "sample",
        other => {
            let what = format!("a single file has no mark for a network trained as {other:?}");
            let path = folder.scheduler_path();
            return Err(Error::Unsupported { path, what }.into());
        }
    };
    tensors.note("modelspec.prediction_type", prediction);
    if prediction == "v" {
        tensors.mark("v_pred");
    }
    if folder.zero_terminal_snr()? {
        tensors.mark("ztsnr");
    }
    Ok(())
}

/// What is lost with the configurations.
fn unsaid(folder: &ModelFolder<'_>, vae: &ConfigFile, scaling: f64) -> Result<Vec<String>> {
    let mut unsaid = Vec::new();
    let factor = vae.positive("scaling_factor", SCALING[0])?;
    if factor != scaling {
        unsaid.push(format!(
            "the autoencoder's scaling_factor is {factor}, and readers take {scaling}"
        ));
    }
    for field in ["latents_mean", "latents_std", "shift_factor"] {
        if vae.has(field) {
            unsaid.push(format!("the autoencoder's {field} is left out"));
        }
    }
    if folder.has_safety_checker()? {
        unsaid.push("the safety checker is left out".into());
    }
    Ok(unsaid)
}
