//! What a U-Net's output means: from marks, notes, a configuration beside the file, its name, and
//! the family.

use std::collections::BTreeMap;

use super::unet::Facts;
use super::{Inspection, PredictionType};

/// What is known of a file beside its tensors.
pub(super) struct Beside<'a> {
    /// Its name without the ending, in small letters.
    pub(super) name: String,
    /// The `.yaml` of the same name.
    pub(super) config: Option<String>,
    pub(super) metadata: &'a BTreeMap<String, String>,
}

/// Sets what the output means, with the reason, or says why it is ambiguous.
pub(super) fn decide(found: &mut Inspection, facts: &Facts, beside: &Beside<'_>, marks: &[&str]) {
    use PredictionType::{Epsilon, Sample, VPrediction};
    let marked = |name: &str| marks.contains(&name);
    found.zero_terminal_snr = marked("ztsnr");
    let say = |found: &mut Inspection, prediction, reason: String| {
        found.prediction = Some(prediction);
        found.prediction_reason = Some(reason);
    };
    if let Some(config) = &beside.config {
        let quoteless = config.replace(['"', '\''], "");
        let is_v = quoteless.contains("parameterization: v") || config.contains("VScaling");
        let prediction = if is_v { VPrediction } else { Epsilon };
        found.prediction_is_marked = true;
        return say(found, prediction, "the .yaml beside the file".into());
    }
    if let Some((key, prediction)) = noted(beside.metadata) {
        found.prediction_is_marked = true;
        return say(found, prediction, format!("the file's note {key}"));
    }
    if marked("v_pred") {
        found.prediction_is_marked = true;
        return say(found, VPrediction, "the file's mark v_pred".into());
    }
    if marked("edm_vpred.sigma_max") {
        found.prediction_is_marked = true;
        let reason = "the file's marks edm_vpred (σ as Karras et al. have it)";
        return say(found, VPrediction, reason.into());
    }
    if marked("edm_mean") {
        let words = "prediction: the marks edm_mean and edm_std mean EDM's preconditioning";
        return found.ambiguous.push(words.into());
    }
    let named = |words: &[&'static str]| -> Option<&'static str> {
        words
            .iter()
            .find(|word| beside.name.contains(**word))
            .copied()
    };
    if let Some(word) = named(&["1step", "1_step"]).filter(|_| beside.name.contains("lightning")) {
        return say(
            found,
            Sample,
            format!("the file's name, which has {word:?}"),
        );
    }
    if let Some(word) = named(&["vpred", "v-pred", "v_pred"]) {
        return say(
            found,
            VPrediction,
            format!("the file's name, which has {word:?}"),
        );
    }
    match (facts.family, facts.in_channels) {
        (Some("x4_upscaler"), _) => say(found, VPrediction, "the family's".into()),
        // Three models of one shape; inpainting's is known, and a trainer's steps tell the others.
        (Some("sd2"), Some(4)) => {
            let step = beside.metadata.get("global_step").map(String::as_str);
            if let Some(step @ ("875000" | "220000")) = step {
                say(
                    found,
                    Epsilon,
                    format!("trained for {step} steps, as Stable Diffusion 2.0 or 2.1 base"),
                );
            } else if step == Some("110000") {
                say(
                    found,
                    VPrediction,
                    "trained for 110000 steps, as Stable Diffusion 2.1".into(),
                );
            } else if let Some(word) = named(&["turbo", "base", "512"]) {
                say(
                    found,
                    Epsilon,
                    format!("the file's name, which has {word:?}"),
                );
            } else if let Some(word) = named(&["768"]) {
                say(
                    found,
                    VPrediction,
                    format!("the file's name, which has {word:?}"),
                );
            } else {
                found.ambiguous.push(
                    "prediction: epsilon (512-base, Turbo) and v_prediction (768) have the same \
                     tensors"
                        .into(),
                );
            }
        }
        (Some("bk_v2_base" | "bk_v2_small" | "bk_v2_tiny"), _) => {
            say(
                found,
                Epsilon,
                "the family's: distilled from 2.1 base".into(),
            );
        }
        (Some("svd"), _) => say(found, VPrediction, "the family's".into()),
        (Some(_), _) => say(found, Epsilon, "the family's".into()),
        (None, _) => found
            .ambiguous
            .push("prediction: the family is not known".into()),
    }
}

/// What a note says, and its name.
fn noted(metadata: &BTreeMap<String, String>) -> Option<(&'static str, PredictionType)> {
    let note = |key: &str| metadata.get(key).map(|note| note.to_lowercase());
    let by_name = |key: &'static str| {
        let prediction = match note(key)?.as_str() {
            "epsilon" | "eps" => PredictionType::Epsilon,
            "v" | "v_prediction" | "v-prediction" | "vpred" | "v_pred" => {
                PredictionType::VPrediction
            }
            "sample" | "x0" => PredictionType::Sample,
            _ => return None,
        };
        Some((key, prediction))
    };
    by_name("modelspec.prediction_type")
        .or_else(|| {
            let key = "ss_v_parameterization";
            let is_true = note(key)? == "true";
            is_true.then_some((key, PredictionType::VPrediction))
        })
        .or_else(|| {
            let key = "modelspec.architecture";
            match note(key)?.as_str() {
                "stable-diffusion-v2-768-v" => Some((key, PredictionType::VPrediction)),
                "stable-diffusion-v2-512" => Some((key, PredictionType::Epsilon)),
                _ => None,
            }
        })
}
