//! Files that change a model and are none: LoRA, textual inversion, ControlNet, T2I-Adapter,
//! IP-Adapter; and
//! upscalers.

use std::collections::BTreeMap;

use super::{Inspection, Kind, Naming};
use crate::controlnet::CONTROL_LORA;
use crate::ip_adapter::{family_of, is_face_id};
use crate::weights::TensorInfo;

/// Parts of names that only changes to weights have.
const LORA: &[&str] = &[
    "lora_up.",
    "lora_down.",
    "lora_A.",
    "lora_B.",
    ".lora.up.",
    ".lora.down.",
    "_lora.up.",
    "_lora.down.",
    "lora_linear_layer.",
    "hada_w1",
    "lokr_w",
    "oft_blocks",
    "oft_diag",
];

const CONTROLNET: &[&str] = &[
    "control_model.",
    "controlnet_cond_embedding.",
    "zero_convs.",
    "input_hint_block.",
    "controlnet_down_blocks.",
    "lllite_",
];

/// Beginnings of names of what is known and is nothing that opens, and its name.
const OTHERS: &[(&str, &str)] = &[("motion_modules.", "a motion module (AnimateDiff)")];

/// What the file is, if it is an adapter or an upscaler.
pub(super) fn recognise(
    tensors: &[TensorInfo],
    metadata: &BTreeMap<String, String>,
) -> Option<Inspection> {
    let any = |parts: &[&str]| {
        tensors
            .iter()
            .any(|t| parts.iter().any(|part| t.name.contains(part)))
    };
    let starts = |start: &str| tensors.iter().any(|t| t.name.starts_with(start));
    if starts("ip_adapter.") || starts("image_proj.") {
        return Some(image_prompts(tensors));
    }
    if any(LORA) {
        let mut found = Inspection::new(Kind::Lora, tensors);
        found.layout = Some(lora_naming(tensors));
        found.family = lora_family(tensors, metadata).map(String::from);
        if found.family.is_none() {
            found
                .ambiguous
                .push("family: the changes' shapes do not say for which model they are".into());
        }
        return Some(found);
    }
    let is_control_lora = tensors.iter().any(|t| t.name == CONTROL_LORA);
    if is_control_lora || any(CONTROLNET) {
        let kind = match is_control_lora {
            true => Kind::ControlLora,
            false => Kind::Controlnet,
        };
        let mut found = Inspection::new(kind, tensors);
        let is_original = any(&["input_hint_block.", "zero_convs."]);
        found.layout = Some(if is_original {
            Naming::Ldm
        } else {
            Naming::Diffusers
        });
        let width = tensors
            .iter()
            .find(|t| t.name.ends_with("attn2.to_k.weight") || t.name.ends_with("attn2.to_k.down"));
        let width = width.and_then(|t| t.shape.get(1).copied());
        // Without transformers it is told by what it is told: sizes and crops are SDXL's.
        let is_xl = any(&["label_emb.", "add_embedding."]);
        let family = width.and_then(by_width).or(is_xl.then_some("sdxl"));
        found.family = family.map(String::from);
        if found.family.is_none() {
            found
                .ambiguous
                .push("family: its shapes do not say for which model it is".into());
        }
        return Some(found);
    }
    if starts("adapter.body.") || starts("body.0.block1.") || starts("body.0.body.0.block1.") {
        let mut found = Inspection::new(Kind::T2iAdapter, tensors);
        found.layout = Some(match starts("adapter.") {
            true => Naming::Diffusers,
            false => Naming::Ldm,
        });
        let first = ["conv_in.weight", "body.0.in_conv.weight"];
        let first = tensors
            .iter()
            .find(|t| first.iter().any(|name| t.name.ends_with(name)));
        // Squares of 8 by 8 pixels, or of 16 by 16, grey or coloured.
        let family = match first.and_then(|t| t.shape.get(1).copied()) {
            Some(64 | 192) => Some("sd1"),
            Some(256 | 768) => Some("sdxl"),
            _ => None,
        };
        found.family = family.map(String::from);
        return Some(found);
    }
    if let Some((_, words)) = OTHERS.iter().find(|(start, _)| starts(start)) {
        let mut found = Inspection::new(Kind::Unknown, tensors);
        found
            .ambiguous
            .push(format!("kind: {words}, which does not open"));
        return Some(found);
    }
    embedding(tensors).or_else(|| upscaler(tensors))
}

/// An adapter for image prompts, by the names of its original code.
fn image_prompts(tensors: &[TensorInfo]) -> Inspection {
    let mut found = Inspection::new(Kind::IpAdapter, tensors);
    let keys = tensors
        .iter()
        .filter(|t| t.name.ends_with(".to_k_ip.weight"));
    let width = keys.clone().find_map(|t| t.shape.get(1).copied());
    let family = width.and_then(|width| family_of(width, keys.count()));
    found.family = family.map(String::from);
    if found.family.is_none() {
        found
            .ambiguous
            .push("family: its shapes do not say for which model it is".into());
    }
    for part in ["image_proj.", "ip_adapter."] {
        if !tensors.iter().any(|t| t.name.starts_with(part)) {
            found.missing.push(format!("{part}…"));
        }
    }
    let has = |name: &str| tensors.iter().any(|t| t.name == name);
    if is_face_id(tensors.iter().map(|t| &*t.name)) {
        let words = "use: FaceID takes the vectors of a face network, which is not supported";
        found.ambiguous.push(words.into());
    } else {
        let kinds = [
            ("image_proj.proj.weight", "plain"),
            ("image_proj.latents", "Plus"),
            ("image_proj.proj.3.weight", "full-face"),
        ];
        let kind = kinds.iter().find(|(name, _)| has(name));
        found
            .components
            .extend(kind.map(|(_, kind)| (*kind).into()));
    }
    found
}

fn lora_naming(tensors: &[TensorInfo]) -> Naming {
    let starts = |start: &str| tensors.iter().any(|t| t.name.starts_with(start));
    if starts("base_model.model.") {
        Naming::Peft
    } else if ["lora_unet_", "lora_te", "lora_prior_", "lycoris_"]
        .iter()
        .any(|start| starts(start))
    {
        Naming::Kohya
    } else {
        Naming::Diffusers
    }
}

/// The family by the width of the prompt that cross-attention sees, by the encoders it changes, or
/// by what the trainer noted.
pub(crate) fn lora_family(
    tensors: &[TensorInfo],
    metadata: &BTreeMap<String, String>,
) -> Option<&'static str> {
    let any = |part: &str| tensors.iter().any(|t| t.name.contains(part));
    if any("double_blocks") || any("single_transformer_blocks") || any("single_blocks") {
        return Some("flux");
    }
    if any("joint_blocks") || any("add_k_proj") {
        return Some("sd3");
    }
    let keys = tensors
        .iter()
        .filter(|t| t.name.contains("attn2") && t.name.contains("to_k"));
    let mut down = keys.filter(|t| t.name.contains("down") || t.name.contains("lora_A"));
    let width = down.find_map(|t| match t.name.contains("lora") && t.shape.len() >= 2 {
        true => by_width(t.shape[1]),
        false => None,
    });
    if width.is_some() {
        return width;
    }
    if any("lora_te2_") || any("text_encoder_2.") {
        return Some("sdxl");
    }
    let note = metadata
        .get("ss_base_model_version")
        .or(metadata.get("modelspec.architecture"));
    let note = note.map(|note| note.to_lowercase())?;
    let rows = [
        ("sdxl", "sdxl"),
        ("xl-v1", "sdxl"),
        ("sd_v1", "sd1"),
        ("diffusion-v1", "sd1"),
        ("sd_v2", "sd2"),
        ("diffusion-v2", "sd2"),
        ("sd3", "sd3"),
        ("diffusion-3", "sd3"),
        ("flux", "flux"),
    ];
    rows.iter()
        .find(|(part, _)| note.contains(part))
        .map(|(_, family)| *family)
}

fn by_width(width: usize) -> Option<&'static str> {
    Some(match width {
        768 => "sd1",
        1024 => "sd2",
        1280 => "sdxl_refiner",
        2048 => "sdxl",
        _ => return None,
    })
}

/// Vectors for words: in the form of AUTOMATIC1111's, of SDXL's, and of diffusers', which has the
/// word for a name.
fn embedding(tensors: &[TensorInfo]) -> Option<Inspection> {
    let vectors: Vec<&TensorInfo> = tensors
        .iter()
        .filter(|t| !t.name.starts_with("string_to_token"))
        .collect();
    let is_vector = |t: &TensorInfo| (1..=2).contains(&t.shape.len());
    if vectors.is_empty() || vectors.len() > 4 || !vectors.iter().all(|t| is_vector(t)) {
        return None;
    }
    let width = |t: &&TensorInfo| t.shape.last().copied().unwrap_or(0);
    let known = |name: &str| {
        name == "emb_params"
            || name == "clip_l"
            || name == "clip_g"
            || name.starts_with("string_to_param.")
    };
    let is_token = |t: &&TensorInfo| [768, 1024, 1280].contains(&width(t)) && !t.name.contains('.');
    if !vectors.iter().all(|t| known(&t.name) || is_token(t)) {
        return None;
    }
    let mut found = Inspection::new(Kind::TextualInversion, tensors);
    let is_xl = vectors.iter().any(|t| t.name == "clip_g")
        || vectors.len() > 1 && vectors.iter().any(|t| width(t) == 1280);
    found.family = match (is_xl, width(&vectors[0])) {
        (true, _) => Some("sdxl".into()),
        (_, 768) => Some("sd1".into()),
        (_, 1024) => Some("sd2".into()),
        (_, 1280) => Some("sdxl".into()),
        _ => None,
    };
    if found.family.is_none() {
        found
            .ambiguous
            .push("family: no known text encoder has vectors so wide".into());
    }
    Some(found)
}

/// ESRGAN in its old and new names, its compact form, SwinIR and its kin.
fn upscaler(tensors: &[TensorInfo]) -> Option<Inspection> {
    let shape = |name: &str| {
        tensors
            .iter()
            .find(|t| t.name == name)
            .map(|t| &t.shape[..])
    };
    let takes_pictures = |name: &str| matches!(shape(name), Some([_, 1 | 3 | 12 | 48, 3, 3]));
    let any = |part: &str| tensors.iter().any(|t| t.name.contains(part));
    let is_esrgan =
        takes_pictures("conv_first.weight") || takes_pictures("model.0.weight") && any(".RDB1.");
    let is_compact =
        takes_pictures("body.0.weight") && shape("body.1.weight").is_some_and(|s| s.len() == 1);
    let is_swin = any("residual_group.blocks.");
    (is_esrgan || is_compact || is_swin).then(|| Inspection::new(Kind::Upscaler, tensors))
}
