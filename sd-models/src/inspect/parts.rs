//! The parts of a file: which of a model's components its tensors belong to.

use std::collections::BTreeMap;

use super::{Kind, Naming};
use crate::weights::TensorInfo;

/// A component of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Unet,
    Transformer,
    Vae,
    /// The text encoder of this number.
    Text(usize),
    SafetyChecker,
    Depth,
    /// The averaged copy of a U-Net that training leaves.
    Ema,
    Unknown,
}

/// A component's tensors by their names within it.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) role: Role,
    pub(crate) layout: Naming,
    pub(crate) prefix: &'static str,
    pub(crate) tensors: BTreeMap<&'a str, &'a TensorInfo>,
}

impl Part<'_> {
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Side `axis` of a tensor.
    pub(crate) fn side(&self, name: &str, axis: usize) -> Option<usize> {
        self.tensors.get(name)?.shape.get(axis).copied()
    }

    pub(crate) fn any(&self, start: &str) -> bool {
        self.tensors
            .range(start..)
            .next()
            .is_some_and(|(name, _)| name.starts_with(start))
    }

    /// Those of `expected` that are not there, by their names in the file.
    pub(crate) fn absent(&self, expected: impl IntoIterator<Item = String>) -> Vec<String> {
        let absent = expected.into_iter().filter(|name| !self.has(name));
        absent
            .map(|name| format!("{}{name}", self.prefix))
            .collect()
    }
}

/// Prefixes of the parts in files that hold several, longer ones first. Those of a denoiser and of
/// an autoencoder say nothing of which kind.
const PREFIXES: &[(&str, Role)] = &[
    ("model.diffusion_model.", Role::Unet),
    ("diffusion_model.", Role::Unet),
    ("model.model.", Role::Unet),
    ("unet.", Role::Unet),
    ("net.", Role::Unet),
    ("first_stage_model.", Role::Vae),
    ("vae.", Role::Vae),
    ("cond_stage_model.transformer.text_model.", Role::Text(0)),
    ("cond_stage_model.transformer.", Role::Text(0)),
    ("cond_stage_model.model.", Role::Text(0)),
    // A second encoder as stable-diffusion.cpp names it.
    ("cond_stage_model.1.transformer.text_model.", Role::Text(1)),
    ("cond_stage_model.1.transformer.", Role::Text(1)),
    ("cond_stage_model.1.model.", Role::Text(1)),
    (
        "conditioner.embedders.0.transformer.text_model.",
        Role::Text(0),
    ),
    ("conditioner.embedders.0.transformer.", Role::Text(0)),
    ("conditioner.embedders.0.model.", Role::Text(0)),
    ("conditioner.embedders.1.model.", Role::Text(1)),
    ("text_encoders.clip_l.transformer.", Role::Text(0)),
    ("text_encoders.clip_g.transformer.", Role::Text(1)),
    ("text_encoders.clip_h.transformer.", Role::Text(0)),
    ("text_encoders.t5xxl.transformer.", Role::Text(2)),
    ("clip_l.transformer.", Role::Text(0)),
    ("clip_g.transformer.", Role::Text(1)),
    ("t5xxl.transformer.", Role::Text(2)),
    ("te.2.", Role::Text(2)),
    ("te.1.", Role::Text(1)),
    ("te.", Role::Text(0)),
    ("te1.", Role::Text(0)),
    ("te2.", Role::Text(1)),
    ("text_encoder.", Role::Text(0)),
    ("text_encoder_2.", Role::Text(1)),
    ("depth_model.", Role::Depth),
    ("model_ema.", Role::Ema),
    ("safety_checker.", Role::SafetyChecker),
];

/// Beginnings of tensors that are nobody's weights: buffers, marks, a trainer's state.
const IGNORED: &[&str] = &[
    "alphas_cumprod",
    "betas",
    "sqrt_",
    "log_one_minus_",
    "posterior_",
    "logvar",
    "lvlb_weights",
    "scale_factor",
    "denoiser.",
    "model_sampling.",
    "embedding_manager.",
    "loss.",
    "edm_",
    "v_pred",
    "ztsnr",
    "optimizer",
    "lr_schedulers",
    "scaled_fp8",
];

/// Endings of the same.
const IGNORED_ENDINGS: &[&str] = &[
    "position_ids",
    "logit_scale",
    "attn_mask",
    ".scale_weight",
    ".scale_input",
    ".comfy_quant",
    "num_batches_tracked",
];

fn is_ignored(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    // ComfyUI's marks within a network: `__index_timestep_zero__`.
    last.len() > 4 && last.starts_with("__") && last.ends_with("__")
        || IGNORED.iter().any(|start| name.starts_with(start))
        || IGNORED_ENDINGS.iter().any(|end| name.ends_with(end))
}

/// The parts of a file.
pub(crate) struct Parts<'a> {
    parts: Vec<Part<'a>>,
    marks: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    pub(crate) fn of(tensors: &'a [TensorInfo]) -> Self {
        let mut parts: BTreeMap<(Role, &'static str), BTreeMap<&str, &TensorInfo>> =
            BTreeMap::new();
        let mut marks = Vec::new();
        for tensor in tensors {
            let name = tensor.name.as_str();
            if is_ignored(name) {
                marks.push(name);
                continue;
            }
            let found = PREFIXES
                .iter()
                .find_map(|(prefix, role)| Some((*role, *prefix, name.strip_prefix(prefix)?)));
            let (role, prefix, inner) = found.unwrap_or((Role::Unknown, "", name));
            parts
                .entry((role, prefix))
                .or_default()
                .insert(inner, tensor);
        }
        // An averaged copy is more than the two numbers that many files keep of it.
        let parts = parts
            .into_iter()
            .filter(|((role, _), tensors)| *role != Role::Ema || tensors.len() > 100);
        let parts = parts.map(|((role, prefix), tensors)| Part {
            role: by_content(role, &tensors),
            layout: layout(&tensors),
            prefix,
            tensors,
        });
        let mut parts: Vec<Part<'_>> = parts.collect();
        number_text_encoders(&mut parts);
        parts.sort_by_key(|part| part.role);
        Self { parts, marks }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Part<'a>> {
        self.parts.iter()
    }

    pub(crate) fn of_role(&self, role: Role) -> Option<&Part<'a>> {
        self.parts.iter().find(|part| part.role == role)
    }

    pub(crate) fn denoiser(&self) -> Option<&Part<'a>> {
        self.of_role(Role::Unet)
            .or_else(|| self.of_role(Role::Transformer))
    }

    /// Names of tensors that are marks or buffers.
    pub(crate) fn marks(&self) -> &[&'a str] {
        &self.marks
    }

    fn texts(&self) -> impl Iterator<Item = &Part<'a>> {
        self.parts
            .iter()
            .filter(|part| matches!(part.role, Role::Text(_)))
    }

    pub(crate) fn kind(&self) -> Kind {
        let has = |role| self.of_role(role).is_some();
        let text = self.texts().next().is_some();
        match (
            has(Role::Unet),
            has(Role::Transformer),
            has(Role::Vae),
            text,
        ) {
            (true, _, false, false) => Kind::Unet,
            (_, true, false, false) => Kind::Transformer,
            (true, ..) | (_, true, ..) | (_, _, true, true) => Kind::Model,
            (_, _, true, false) => Kind::Vae,
            (_, _, _, true) => Kind::TextEncoder,
            _ if has(Role::SafetyChecker) => Kind::SafetyChecker,
            _ => Kind::Unknown,
        }
    }

    /// Names of the components, as the family's folders have them.
    pub(crate) fn names(&self, family: Option<&str>) -> Vec<String> {
        let mut names: Vec<String> = self
            .parts
            .iter()
            .filter_map(|part| name(part.role, family))
            .collect();
        names.dedup();
        names
    }

    /// Components that a whole model of the family has and this file has not.
    pub(crate) fn missing_components(&self, family: Option<&str>) -> Vec<String> {
        let (denoiser, texts): (_, &[usize]) = match family {
            Some("sd3") => (Role::Transformer, &[0, 1]),
            Some("flux") => (Role::Transformer, &[0, 2]),
            Some("sdxl" | "ssd_1b" | "vega" | "koala" | "lcm_sdxl") => (Role::Unet, &[0, 1]),
            Some("sdxl_refiner") => (Role::Unet, &[1]),
            _ => (Role::Unet, &[0]),
        };
        let roles = [denoiser, Role::Vae].into_iter();
        let roles = roles.chain(texts.iter().map(|number| Role::Text(*number)));
        roles
            .filter(|role| self.of_role(*role).is_none())
            .filter_map(|role| name(role, family))
            .collect()
    }

    /// The family of text encoders alone, or what they may belong to.
    pub(crate) fn text_family(&self) -> Result<&'static str, String> {
        let widths: Vec<_> = self.texts().filter_map(super::text::width).collect();
        match widths[..] {
            [768] => Err("family: sd1, sdxl, sd3 and flux have this text encoder".into()),
            [1024] => Ok("sd2"),
            [1280] => Err("family: sdxl, sdxl_refiner and sd3 have this text encoder".into()),
            [768, 1280] => Ok("sdxl"),
            [4096] => Err("family: sd3 and flux have this text encoder".into()),
            _ => Err("family: no known one has this text encoder".into()),
        }
    }
}

fn name(role: Role, family: Option<&str>) -> Option<String> {
    Some(match role {
        // T5 is the third of three, or the second of two.
        Role::Text(2) if family == Some("flux") => "text_encoder_2".into(),
        Role::Unet => "unet".into(),
        Role::Transformer => "transformer".into(),
        Role::Vae => "vae".into(),
        Role::Text(0) => "text_encoder".into(),
        Role::Text(number) => format!("text_encoder_{}", number + 1),
        Role::SafetyChecker => "safety_checker".into(),
        Role::Depth => "depth_estimator".into(),
        Role::Ema => "unet_ema".into(),
        Role::Unknown => return None,
    })
}

type Tensors<'a> = BTreeMap<&'a str, &'a TensorInfo>;

fn any(tensors: &Tensors<'_>, start: &str) -> bool {
    tensors
        .range(start..)
        .next()
        .is_some_and(|(name, _)| name.starts_with(start))
}

/// The role of tensors whose prefix says `role`: a denoiser may be a U-Net or a transformer, and
/// what has no prefix is alone in its file.
fn by_content(role: Role, tensors: &Tensors<'_>) -> Role {
    if !matches!(role, Role::Unet | Role::Unknown) {
        return role;
    }
    let unet = ["input_blocks.", "output_blocks.", "middle_block."];
    if unet.iter().any(|start| any(tensors, start))
        || any(tensors, "time_embedding.")
            && (any(tensors, "down_blocks.") || any(tensors, "up_blocks."))
    {
        return Role::Unet;
    }
    let transformer = [
        "joint_blocks.",
        "double_blocks.",
        "transformer_blocks.",
        "single_blocks.",
        "single_transformer_blocks.",
    ];
    if transformer.iter().any(|start| any(tensors, start)) {
        return Role::Transformer;
    }
    if any(tensors, "concept_embeds") || any(tensors, "special_care_embeds") {
        return Role::SafetyChecker;
    }
    if super::text::is_text(tensors) {
        return Role::Text(0);
    }
    if super::vae::is_vae(tensors) {
        return Role::Vae;
    }
    Role::Unknown
}

fn layout(tensors: &Tensors<'_>) -> Naming {
    let ldm = [
        "input_blocks.",
        "output_blocks.",
        "middle_block.",
        "joint_blocks.",
        "double_blocks.",
        "single_blocks.",
        "transformer.resblocks.",
        "encoder.down.",
        "decoder.up.",
        "encoder.mid.",
        "decoder.mid.",
    ];
    if ldm.iter().any(|start| any(tensors, start)) {
        return Naming::Ldm;
    }
    match tensors
        .keys()
        .all(|name| name.starts_with(|c: char| c.is_ascii_digit()))
    {
        true => Naming::Taesd,
        false => Naming::Diffusers,
    }
}

/// The refiner's only text encoder is the second of two; one alone is told by its width.
fn number_text_encoders(parts: &mut [Part<'_>]) {
    let alone = parts
        .iter()
        .filter(|part| matches!(part.role, Role::Text(_)))
        .count()
        == 1;
    for part in parts {
        if part.role == Role::Text(0) && alone {
            match super::text::width(part) {
                Some(1280) => part.role = Role::Text(1),
                Some(4096) => part.role = Role::Text(2),
                _ => {}
            }
        }
    }
}
