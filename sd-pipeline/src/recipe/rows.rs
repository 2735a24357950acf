//! Kinds of pipelines, as rows: diffusers' pipeline classes, each read in its own source.

use sd_models::ClipReading;
use serde_json::Value;

use crate::{Defaults, LatentRgb};

/// Facts that the kind of pipeline says of a folder and its files do not.
#[derive(Debug)]
pub(super) struct Recipe {
    /// `_class_name` of `model_index.json`.
    pub(super) class: &'static str,
    /// Folders of each text encoder and its tokenizer.
    pub(super) text_encoders: &'static [[&'static str; 2]],
    /// Choice of the hidden state that is read of each.
    pub(super) reading: ClipReading,
    /// `force_zeros_for_empty_prompt` where the index does not say it; `None` where it has no say: an
    /// absent negative prompt is then an empty one.
    pub(super) zeros: Option<bool>,
    /// `true` where the index says whether the denoiser embeds an aesthetic score
    /// (`requires_aesthetics_score`): it is a refiner then.
    pub(super) scores: bool,
    /// Settings of the scheduler's file that diffusers' pipeline corrects or decides, and their right
    /// values.
    pub(super) corrections: fn() -> Vec<(&'static str, Value)>,
    /// `true` when diffusers does not believe a denoiser that was written in its first months that
    /// it was trained at less than 64 latent pixels.
    pub(super) corrects_sample_size: bool,
    /// The things that go into the channels beside the latent, where there are such.
    pub(super) beside: &'static str,
    /// Colours of the latents, for previews.
    pub(super) latent_rgb: fn() -> LatentRgb,
    /// Arguments of the pipeline that a caller need not give.
    pub(super) defaults: Defaults,
}

const ONE: &[[&str; 2]] = &[["text_encoder", "tokenizer"]];
const TWO: &[[&str; 2]] = &[
    ["text_encoder", "tokenizer"],
    ["text_encoder_2", "tokenizer_2"],
];

const STABLE_DIFFUSION: Recipe = Recipe {
    class: "StableDiffusionPipeline",
    text_encoders: ONE,
    reading: ClipReading::LAST,
    zeros: None,
    scores: false,
    corrections: || vec![("steps_offset", 1.into()), ("clip_sample", false.into())],
    corrects_sample_size: true,
    beside: "a mask and a picture",
    latent_rgb: || LatentRgb::STABLE_DIFFUSION,
    defaults: Defaults::STABLE_DIFFUSION,
};

const XL: Recipe = Recipe {
    class: "StableDiffusionXLPipeline",
    text_encoders: TWO,
    reading: ClipReading::PENULTIMATE,
    zeros: Some(true),
    corrections: Vec::new,
    corrects_sample_size: false,
    latent_rgb: || LatentRgb::SDXL,
    defaults: Defaults {
        guidance_scale: 5.0,
        strength: 0.3,
        ..Defaults::STABLE_DIFFUSION
    },
    ..STABLE_DIFFUSION
};

const CONSISTENCY: Recipe = Recipe {
    class: "LatentConsistencyModelPipeline",
    // As its pipeline for pictures has it.
    corrections: || vec![("spreads_strength", true.into())],
    corrects_sample_size: false,
    defaults: Defaults {
        steps: 4,
        guidance_scale: 8.5,
        ..Defaults::STABLE_DIFFUSION
    },
    ..STABLE_DIFFUSION
};

/// The kinds of pipelines whose parts are the ones opened here.
pub(super) static RECIPES: &[Recipe] = &[
    STABLE_DIFFUSION,
    Recipe {
        class: "StableDiffusionImg2ImgPipeline",
        ..STABLE_DIFFUSION
    },
    Recipe {
        class: "StableDiffusionInpaintPipeline",
        corrections: || vec![("steps_offset", 1.into()), ("skip_prk_steps", true.into())],
        beside: "a mask of the area to draw and the picture without it",
        defaults: Defaults {
            strength: 1.0,
            ..Defaults::STABLE_DIFFUSION
        },
        ..STABLE_DIFFUSION
    },
    Recipe {
        class: "StableDiffusionInstructPix2PixPipeline",
        corrections: Vec::new,
        corrects_sample_size: false,
        beside: "the picture to change",
        defaults: Defaults {
            steps: 100,
            ..Defaults::STABLE_DIFFUSION
        },
        ..STABLE_DIFFUSION
    },
    CONSISTENCY,
    Recipe {
        class: "LatentConsistencyModelImg2ImgPipeline",
        ..CONSISTENCY
    },
    XL,
    Recipe {
        class: "StableDiffusionXLImg2ImgPipeline",
        scores: true,
        ..XL
    },
    Recipe {
        class: "StableDiffusionXLInpaintPipeline",
        scores: true,
        beside: "a mask of the area to draw and the picture without it",
        defaults: Defaults {
            guidance_scale: 7.5,
            strength: 0.9999,
            ..XL.defaults
        },
        ..XL
    },
    Recipe {
        class: "StableDiffusionXLInstructPix2PixPipeline",
        beside: "the picture to change",
        defaults: Defaults {
            steps: 100,
            ..XL.defaults
        },
        ..XL
    },
];
