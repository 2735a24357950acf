use burn::tensor::Tensor;
use sd_core::{
    AbsentPrompt, Conditioning, DenoiserSpec, Error, Guidance, Prompt, SizeConditioning, Text,
    TextEmbedding, TextEncoder,
};

use crate::finite::Witness;
use crate::guard::guard;
use crate::memory::{Phases, TEXT};
use crate::synchronized::synchronized;
use crate::{Pipeline, Request, Result};

/// The texts that `guidance` wants, encoded.
pub(super) fn texts(
    pipeline: &Pipeline,
    request: &Request,
    guidance: &dyn Guidance,
    phases: &Phases,
) -> Result<Vec<TextEmbedding>> {
    let spec = pipeline.denoiser.spec();
    phases.watch(TEXT, || {
        let encoder = pipeline.text_encoder.get()?;
        Ok(encoded(&*encoder, request, &guidance.texts(), spec)?)
    })
}

/// The text that was cut.
pub(super) fn truncated(texts: &[TextEmbedding]) -> Vec<String> {
    let truncated = texts.iter().flat_map(|text| &text.truncated);
    truncated.flatten().cloned().collect()
}

/// The run's conditioning, one entry for each branch that `guidance` makes of `texts`, on the
/// denoiser's device, for `request.count` samples of `size` pixels with `concat` beside the latent.
pub(super) fn branches(
    pipeline: &Pipeline,
    request: &Request,
    guidance: &dyn Guidance,
    size: [usize; 2],
    concat: Option<Tensor<4>>,
    texts: Vec<TextEmbedding>,
) -> Result<Vec<Conditioning>> {
    let spec = pipeline.denoiser.spec();
    let kinds = guidance.texts();
    let conditioning = kinds.iter().zip(texts).map(|(kind, text)| {
        let mut conditioning = Conditioning::from(text);
        conditioning.size = sizes(request, spec, *kind, size);
        conditioning.concat.clone_from(&concat);
        conditioning.extensions = request.extensions.clone();
        let own = conditioning.text.tokens.device();
        synchronized(&[&own, &spec.device], "moving the conditioning", || {
            Ok(conditioning.to(&spec.device, spec.dtype)?)
        })?
        .repeat(request.count)
        .map_err(Into::into)
    });
    let conditioning = conditioning.collect::<Result<Vec<_>>>()?;
    let conditioning = guidance.branches(conditioning)?;
    if conditioning.is_empty() {
        let expected = "expected at least one";
        return Err(Error::invalid("guidance's branches", 0, expected).into());
    }
    let channels = spec.concat_channels;
    if channels > 0 && conditioning.iter().any(|branch| branch.concat.is_none()) {
        let beside = pipeline.kind.beside;
        let name = match spec.takes_picture() {
            true => "picture",
            false => "concat",
        };
        let expected =
            format!("this network takes {channels} channels beside the latent: {beside}");
        return Err(Error::invalid(name, "absent", expected).into());
    }
    Ok(conditioning)
}

/// Aesthetic scores of the prompt's branch and of the others (diffusers'
/// `StableDiffusionXLImg2ImgPipeline`).
const AESTHETIC_SCORES: [f64; 2] = [6.0, 2.5];

/// Sizes and crops of the branch of a text, for pictures of `drawn` pixels: those the request says,
/// else the pictures' own where the denoiser embeds some. A refiner gets the aesthetic scores that
/// are missing.
fn sizes(
    request: &Request,
    spec: &DenoiserSpec,
    text: Text,
    drawn: [usize; 2],
) -> Option<SizeConditioning> {
    let size = request.size;
    let size = size.or_else(|| spec.embeds_size.then(|| SizeConditioning::of(drawn)));
    let [good, bad] = AESTHETIC_SCORES;
    let score = |size: SizeConditioning, score: f64| SizeConditioning {
        aesthetic_score: size.aesthetic_score.or(Some(score)),
        ..size
    };
    match (text, spec.embeds_aesthetic_score) {
        (Text::Prompt, true) => size.map(|size| score(size, good)),
        (Text::Prompt, false) => size,
        (_, false) => request.negative_size.or(size),
        (_, true) => match request.negative_size {
            Some(size) => Some(score(size, bad)),
            // As there, the prompt's crop is not the negative one's.
            None => size.map(|size| SizeConditioning {
                crop: [0, 0],
                aesthetic_score: Some(bad),
                ..size
            }),
        },
    }
}

/// One row for each of `texts`.
fn encoded(
    encoder: &dyn TextEncoder,
    request: &Request,
    texts: &[Text],
    spec: &DenoiserSpec,
) -> sd_core::Result<Vec<TextEmbedding>> {
    let empty = || Some(Prompt::default());
    // Of a text that is `None` all is zero.
    let prompt = |text: &Text| match text {
        Text::Prompt => Some(request.prompt.clone()),
        Text::Negative => match (&request.negative_prompt, encoder.absent()) {
            (Some(negative), _) => Some(negative.clone()),
            (None, AbsentPrompt::Zeros) => None,
            (None, _) => empty(),
        },
        _ => empty(),
    };
    let prompts: Vec<Option<Prompt>> = texts.iter().map(prompt).collect();
    let mut given: Vec<Prompt> = prompts.iter().flatten().cloned().collect();
    if given.is_empty() {
        given.push(request.prompt.clone());
    }
    let span = tracing::info_span!("encode_text", prompts = given.len());
    let all = span.in_scope(|| guard("the text encoder", || encoder.encode(&given)))?;
    let found = all.tokens.dims();
    if found[0] != given.len() || found[2] != spec.context_width {
        let (rows, width) = (given.len(), spec.context_width);
        let expected = format!("[{rows}, tokens, {width}], what the denoiser takes");
        return Err(Error::shape("the text embedding", &found, expected));
    }
    let parts = [Witness::of(&all.tokens)].into_iter();
    let parts = parts.chain(all.pooled.as_ref().map(Witness::of));
    if guard("the text encoder", || Witness::first_bad(parts))?.is_some() {
        return Err(Error::NotFinite {
            component: "the text encoder",
            step: None,
            dtype: all.tokens.dtype(),
        });
    }
    let mut rows = 0..;
    let row = |prompt: &Option<Prompt>| match prompt {
        Some(_) => all.row(rows.next().unwrap_or_default()),
        None => all.row(0).zeros_like(),
    };
    Ok(prompts.iter().map(row).collect())
}

/// Words on what the request asks for in vain, or against the model's nature.
pub(super) fn warnings(
    pipeline: &Pipeline,
    request: &Request,
    guidance: &dyn Guidance,
) -> Vec<String> {
    let negative = request.negative_prompt.as_ref();
    let negative = negative.filter(|negative| **negative != Prompt::default());
    let unheard = negative.filter(|_| !guidance.texts().contains(&Text::Negative));
    let warnings = unheard.map(|_| {
        format!("the negative prompt has no effect: {guidance:?} evaluates the prompt alone")
    });
    let guided = guidance.texts().len() > 1;
    let off = request.image_guidance_scale.filter(|scale| {
        let asked = request.guidance.is_none() && request.guidance_scale > 1.0;
        asked && !guided && *scale < 1.0
    });
    let off = off.map(|scale| {
        format!("image_guidance_scale is {scale}: below 1 there is no guidance at all")
    });
    let distilled = pipeline
        .kind
        .distilled
        .filter(|distilled| request.steps > distilled.most_steps || (distilled.unguided && guided));
    let warnings = warnings
        .into_iter()
        .chain(off)
        .chain(distilled.map(|distilled| distilled.advice()));
    let warnings: Vec<String> = warnings.collect();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    warnings
}
