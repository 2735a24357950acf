//! Families of models: what a single file does not say and the published models of its family do.
//!
//! The settings are those of the files that diffusers takes for such a model, from the published
//! folders (`StableDiffusionPipeline.from_single_file`).

use serde_json::{Map, Value, json};

/// A family's row.
pub(super) struct Row {
    /// The family's name, by which a caller asks for it.
    pub(super) name: &'static str,
    /// The family that it descends from.
    parent: Option<&'static str>,
    /// Attention heads of the U-Net.
    heads: Option<Heads>,
    /// Most layers of each text encoder that are used.
    layers: Option<usize>,
    /// Settings that its files say otherwise than its parent's, by component; null for a component
    /// that it has not.
    says: fn() -> Value,
}

/// Attention heads of a U-Net, which no tensor tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heads {
    /// So many at each resolution.
    Count(usize),
    /// As many as have this width.
    Width(usize),
}

/// What the rows of a family and of all it descends from say.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) heads: Heads,
    pub(super) layers: Option<usize>,
    /// Settings by component: `index`, `scheduler`, and the folders.
    pub(super) says: Map<String, Value>,
}

/// A sign in a file by which a member of a family is told, and its row.
pub(super) struct Sign {
    pub(super) family: &'static str,
    pub(super) by: By,
    pub(super) is: &'static str,
}

/// Kinds of signs.
pub(super) enum By {
    /// A tensor of this name.
    Mark(&'static str),
    /// A part of the file's name.
    Name(&'static str),
    /// An output that is the noise.
    Epsilon,
    /// Width of the prompt's tokens.
    Width(usize),
}

/// Signs in the order in which they count.
#[rustfmt::skip]
pub(super) static SIGNS: &[Sign] = &[
    Sign { family: "sdxl", by: By::Mark("edm_mean"), is: "playground" },
    Sign { family: "sdxl", by: By::Mark("edm_vpred.sigma_max"), is: "cosxl" },
    Sign { family: "sdxl", by: By::Name("turbo"), is: "sdxl_turbo" },
    Sign { family: "sdxl", by: By::Name("lightning"), is: "sdxl_lightning" },
    Sign { family: "sd2", by: By::Name("turbo"), is: "sd_turbo" },
    Sign { family: "sd2", by: By::Epsilon, is: "sd2_base" },
    Sign { family: "sdxs", by: By::Width(1024), is: "sdxs_09" },
];

const fn row(name: &'static str, parent: &'static str, says: fn() -> Value) -> Row {
    Row {
        name,
        parent: Some(parent),
        heads: None,
        layers: None,
        says,
    }
}

#[rustfmt::skip]
static ROWS: &[Row] = &[
    Row { name: "sd1", parent: None, heads: Some(Heads::Count(8)), layers: None, says: sd1 },
    row("lcm", "sd1", || json!({
        "index": { "_class_name": "LatentConsistencyModelPipeline" },
        "scheduler": lcm(),
    })),
    row("small_sd", "sd1", || json!({ "scheduler": dpm_solver() })),
    row("tiny_sd", "small_sd", nothing),
    row("bk_small", "sd1", nothing),
    row("sdxs", "sd1", || json!({ "scheduler": { "_class_name": "DEISMultistepScheduler",
        "algorithm_type": "deis", "solver_order": 2, "solver_type": "logrho" } })),
    Row { name: "sd2", parent: Some("sd1"), heads: Some(Heads::Width(64)), layers: Some(23), says: sd2 },
    row("sd2_base", "sd2", || json!({
        "scheduler": { "_class_name": "PNDMScheduler", "prediction_type": "epsilon" },
        "unet": { "sample_size": 64, "upcast_attention": false },
        "vae": { "sample_size": 768 },
    })),
    row("bk_v2_base", "sd2_base", nothing),
    row("bk_v2_small", "sd2_base", nothing),
    row("bk_v2_tiny", "sd2_base", nothing),
    row("sdxs_09", "sd2_base", || json!({
        "scheduler": euler("leading"),
        "unet": { "attention_head_dim": [1, 10, 20] },
    })),
    row("sd_turbo", "sd2_base", || json!({ "scheduler": euler("trailing") })),
    Row { name: "sdxl", parent: None, heads: Some(Heads::Width(64)), layers: None, says: sdxl },
    row("sdxl_turbo", "sdxl", || json!({
        "scheduler": ancestral(),
        "unet": { "sample_size": 64 },
    })),
    row("sdxl_lightning", "sdxl", || json!({ "scheduler": euler("trailing") })),
    row("lcm_sdxl", "sdxl", || json!({ "scheduler": lcm() })),
    row("ssd_1b", "sdxl", nothing),
    row("vega", "sdxl", nothing),
    row("koala", "sdxl", nothing),
    row("sdxl_refiner", "sdxl", || json!({
        "index": {
            "_class_name": "StableDiffusionXLImg2ImgPipeline",
            "force_zeros_for_empty_prompt": false,
            "requires_aesthetics_score": true,
        },
        "text_encoder": null,
    })),
    row("playground", "sdxl", playground),
    row("cosxl", "sdxl", || json!({
        "scheduler": {
            "_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction",
            "sigma_data": 1.0, "sigma_max": 120.0, "sigma_min": 0.002,
            "sigma_schedule": "exponential", "num_train_timesteps": 1000,
        },
    })),
];

/// Classes of pipelines for U-Nets that see more than the latent: that of the family, the channels,
/// and the class.
pub(super) static CLASSES: &[(&str, usize, &str)] = &[
    (
        "StableDiffusionPipeline",
        9,
        "StableDiffusionInpaintPipeline",
    ),
    (
        "StableDiffusionPipeline",
        8,
        "StableDiffusionInstructPix2PixPipeline",
    ),
    (
        "StableDiffusionXLPipeline",
        9,
        "StableDiffusionXLInpaintPipeline",
    ),
    (
        "StableDiffusionXLPipeline",
        8,
        "StableDiffusionXLInstructPix2PixPipeline",
    ),
];

impl Family {
    /// The family of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        let row = ROWS.iter().find(|row| row.name == name)?;
        let mut family = match row.parent {
            Some(parent) => Self::named(parent)?,
            None => Self {
                name: row.name,
                heads: Heads::Count(8),
                layers: None,
                says: Map::new(),
            },
        };
        family.name = row.name;
        family.heads = row.heads.unwrap_or(family.heads);
        family.layers = row.layers.or(family.layers);
        let Value::Object(says) = (row.says)() else {
            return Some(family);
        };
        for (component, settings) in says {
            merge(&mut family.says, component, settings);
        }
        Some(family)
    }

    /// The first family whose pipeline is of the class `class`.
    pub(super) fn of_class(class: &str) -> Option<Self> {
        let base = CLASSES.iter().find(|(.., special)| *special == class);
        let class = base.map_or(class, |(base, ..)| base);
        let families = ROWS.iter().filter_map(|row| Self::named(row.name));
        let mut of_class = families.filter(|f| f.says["index"]["_class_name"] == class);
        of_class.next()
    }

    /// Every family's name.
    pub(super) fn names() -> Vec<&'static str> {
        ROWS.iter().map(|row| row.name).collect()
    }

    /// Settings of a component; none where nothing is said of it.
    pub(super) fn settings(&self, component: &str) -> Map<String, Value> {
        let said = self.says.get(component).and_then(Value::as_object);
        said.cloned().unwrap_or_default()
    }

    /// Folders of the text encoders, in their order.
    pub(super) fn text_encoders(&self) -> impl Iterator<Item = &'static str> {
        let folders = ["text_encoder", "text_encoder_2"].into_iter();
        folders.filter(|folder| self.says.get(*folder).is_some_and(Value::is_object))
    }
}

/// Adds settings to a component's, or takes it away with null. A scheduler of another class leaves
/// those of its parent's that it does not know.
fn merge(says: &mut Map<String, Value>, component: String, settings: Value) {
    let (Value::Object(new), Some(Value::Object(old))) = (&settings, says.get_mut(&component))
    else {
        says.insert(component, settings);
        return;
    };
    old.extend(new.clone());
}

fn nothing() -> Value {
    json!({})
}

fn sd1() -> Value {
    json!({
        "index": {
            "_class_name": "StableDiffusionPipeline",
            "feature_extractor": [null, null],
            "requires_safety_checker": false,
            "safety_checker": [null, null],
        },
        "scheduler": {
            "_class_name": "PNDMScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": false,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "set_alpha_to_one": false,
            "skip_prk_steps": true,
            "steps_offset": 1,
        },
        "text_encoder": { "architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu" },
        "tokenizer": { "pad_token": "<|endoftext|>" },
        "unet": { "sample_size": 64 },
        "vae": { "sample_size": 512, "scaling_factor": 0.18215 },
    })
}

fn sd2() -> Value {
    json!({
        "scheduler": { "_class_name": "DDIMScheduler", "prediction_type": "v_prediction" },
        "text_encoder": { "hidden_act": "gelu" },
        "tokenizer": { "pad_token": "!" },
        "unet": { "sample_size": 96, "upcast_attention": true },
        "vae": { "sample_size": 768 },
    })
}

fn sdxl() -> Value {
    json!({
        "index": {
            "_class_name": "StableDiffusionXLPipeline",
            "feature_extractor": [null, null],
            "force_zeros_for_empty_prompt": true,
            "image_encoder": [null, null],
        },
        "scheduler": {
            "_class_name": "EulerDiscreteScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "clip_sample": false,
            "interpolation_type": "linear",
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "sample_max_value": 1.0,
            "set_alpha_to_one": false,
            "skip_prk_steps": true,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "use_karras_sigmas": false,
        },
        "text_encoder": { "architectures": ["CLIPTextModel"], "hidden_act": "quick_gelu" },
        "text_encoder_2": {
            "architectures": ["CLIPTextModelWithProjection"],
            "hidden_act": "gelu",
        },
        "tokenizer": { "pad_token": "<|endoftext|>" },
        "tokenizer_2": { "pad_token": "!" },
        "unet": { "addition_time_embed_dim": 256, "sample_size": 128 },
        "vae": { "force_upcast": true, "sample_size": 1024, "scaling_factor": 0.13025 },
    })
}

/// Karras' preconditioning, and latents with a mean and a deviation for each channel (Li et al.
/// 2024, arXiv:2402.17245).
fn playground() -> Value {
    json!({
        "scheduler": {
            "_class_name": "EDMDPMSolverMultistepScheduler",
            "algorithm_type": "dpmsolver++",
            "dynamic_thresholding_ratio": 0.995,
            "euler_at_final": false,
            "final_sigmas_type": "zero",
            "lower_order_final": true,
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "rho": 7.0,
            "sample_max_value": 1.0,
            "sigma_data": 0.5,
            "sigma_max": 80.0,
            "sigma_min": 0.002,
            "solver_order": 2,
            "solver_type": "midpoint",
            "thresholding": false,
        },
        "vae": {
            "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
            "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
            "scaling_factor": 0.5,
        },
    })
}

fn euler(spacing: &str) -> Value {
    json!({
        "_class_name": "EulerDiscreteScheduler",
        "interpolation_type": "linear",
        "timestep_spacing": spacing,
        "use_karras_sigmas": false,
    })
}

fn ancestral() -> Value {
    json!({
        "_class_name": "EulerAncestralDiscreteScheduler",
        "timestep_spacing": "trailing",
    })
}

fn lcm() -> Value {
    json!({
        "_class_name": "LCMScheduler",
        "original_inference_steps": 50,
        "set_alpha_to_one": true,
        "timestep_scaling": 10.0,
        "timestep_spacing": "leading",
    })
}

fn dpm_solver() -> Value {
    json!({
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
    })
}
