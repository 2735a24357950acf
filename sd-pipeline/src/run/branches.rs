use std::sync::Arc;

use burn::tensor::{DType, Tensor, TensorData};
use sd_core::{
    AbsentPrompt, Conditioning, DenoiserSpec, Error, Extensions, Guidance, Prompt, SecondNetwork,
    SizeConditioning, Syntax, Text, TextEmbedding, TextEncoder,
};

use super::images::ImagesOver;
use super::script::{Part, Script, Steps, of_one_length, script, scripts};
use super::varying::Varying;

use crate::beside;
use crate::finite::Witness;
use crate::guard::guard;
use crate::memory::{Phases, TEXT};
use crate::stages::{Staged, Stages};
use crate::synchronized::synchronized;
use crate::{Pipeline, Request, Result, regions};

/// The texts that `guidance` wants, encoded, for a pass behind one of `behind` steps or none.
pub(super) fn texts(
    pipeline: &Pipeline,
    request: &Request,
    behind: usize,
    guidance: &dyn Guidance,
    phases: &Phases,
) -> Result<Vec<Script<TextEmbedding>>> {
    let spec = pipeline.denoiser.spec();
    phases.watch(TEXT, || {
        let encoder = pipeline.text_encoder.get()?;
        let told = told(pipeline, &*encoder)?;
        let encoder: &dyn TextEncoder = told.as_deref().unwrap_or(&*encoder);
        let steps = Steps {
            own: request.steps,
            behind,
        };
        Ok(encoded(encoder, request, steps, &guidance.texts(), spec)?)
    })
}

/// The encoder with what `pipeline` tells it; `None` where that is nothing.
fn told(pipeline: &Pipeline, encoder: &dyn TextEncoder) -> Result<Option<Box<dyn TextEncoder>>> {
    let Some(changes) = beside::of_text(&pipeline.beside) else {
        return Ok(None);
    };
    let mut told = Extensions::new();
    told.insert(changes);
    let changed = encoder.told(&mut told)?;
    if told.is_empty() {
        return Ok(changed);
    }
    let (reader, parts) = ("the text encoder", told.names().collect());
    Err(Error::Unread { reader, parts }.into())
}

/// The branches with what `pipeline` tells the denoiser: once, or for each stage of the run's `steps`
/// in which that is something else.
pub(super) fn staged(
    pipeline: &Pipeline,
    inner: Arc<dyn Guidance>,
    branches: Vec<Conditioning>,
    steps: usize,
) -> (Arc<dyn Guidance>, Vec<Conditioning>) {
    if pipeline.beside.is_empty() {
        return (inner, branches);
    }
    let of_step = |step| beside::of_denoiser(&pipeline.beside, step, steps);
    let (stages, all_told) = Stages::new(steps, of_step);
    let mut all = Vec::new();
    for branch in branches {
        // A second network is not the one that changes, nor is it when weights are merged.
        let is_seconds = branch.extensions.get::<SecondNetwork>().is_some();
        for told in &all_told {
            let mut branch = branch.clone();
            if let Some(told) = told.as_ref().filter(|_| !is_seconds) {
                branch.extensions.insert(told.clone());
            }
            all.push(branch);
        }
    }
    (Arc::new(Staged { inner, stages }), all)
}

/// The text that was cut.
pub(super) fn truncated(texts: &[Script<TextEmbedding>]) -> Vec<String> {
    let texts = texts.iter().flatten().flat_map(|part| &part.texts);
    let truncated = texts.flat_map(|(_, text)| &text.truncated);
    truncated.flatten().cloned().collect()
}

/// The run's conditioning, one entry for each branch that `guidance` makes of `texts`, on the
/// denoiser's device, for `request.count` samples of `size` pixels with `concat` beside the latent; and
/// the guidance to follow, from the step number `first` on. `images` are beside all of it.
#[expect(
    clippy::too_many_arguments,
    reason = "what a run is made of, each once"
)]
pub(super) fn branches(
    pipeline: &Pipeline,
    request: &Request,
    guidance: Arc<dyn Guidance>,
    size: [usize; 2],
    first: usize,
    concat: Option<Tensor<4>>,
    texts: Vec<Script<TextEmbedding>>,
    images: &ImagesOver,
) -> Result<(Arc<dyn Guidance>, Vec<Conditioning>)> {
    let spec = pipeline.denoiser.spec();
    let kinds = guidance.texts();
    let conditioning = |kind: &Text, text: TextEmbedding, step: usize| -> Result<Conditioning> {
        let mut conditioning = Conditioning::from(text);
        conditioning.size = sizes(request, spec, *kind, size);
        conditioning.concat.clone_from(&concat);
        conditioning.extensions = request.extensions.clone();
        images.put(&mut conditioning.extensions, *kind, step);
        let own = conditioning.text.tokens.device();
        let conditioning = synchronized(&[&own, &spec.device], "moving the conditioning", || {
            Ok(conditioning.to(&spec.device, spec.dtype)?)
        })?;
        Ok(conditioning.repeat(request.count)?)
    };
    let scripts = kinds.iter().zip(texts).map(|(kind, script)| {
        let part = |part: Part<TextEmbedding>| {
            let part = part.ending_at(images.ends());
            let texts = part.texts.into_iter();
            let texts = texts.map(|(end, text)| Ok((end, conditioning(kind, text, end)?)));
            Ok(Part {
                region: part.region,
                weight: part.weight,
                texts: texts.collect::<Result<_>>()?,
            })
        };
        script.into_iter().map(part).collect::<Result<Script<_>>>()
    });
    let mut scripts = scripts.collect::<Result<Vec<_>>>()?;
    let constant = |part: &Part<Conditioning>| part.weight == 1.0 && part.texts.len() == 1;
    let (guidance, conditioning) = match scripts.iter().all(|s| s.len() == 1 && constant(&s[0])) {
        true => {
            let texts = scripts
                .iter_mut()
                .flatten()
                .flat_map(|part| part.texts.pop());
            let texts = texts.map(|(_, text)| text).collect();
            let branches = guidance.branches(texts)?;
            (guidance, branches)
        }
        false => {
            let factor = pipeline.autoencoder.spec().factor;
            let shares = shares(request, spec, size.map(|side| side / factor))?;
            // A prompt for which the regions leave no room is not evaluated.
            let prompts = kinds.iter().zip(&mut scripts);
            for (_, script) in prompts.filter(|(kind, _)| **kind == Text::Prompt) {
                script.retain(|part| shares.get(part.region).is_none_or(Option::is_some));
            }
            let steps = request.steps;
            let (varying, branches) = Varying::new(guidance, &scripts, shares, first, steps)?;
            (Arc::new(varying) as Arc<dyn Guidance>, branches)
        }
    };
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
    Ok((guidance, conditioning))
}

/// Shares of the request's own prompt and of its regions in a latent of that size, `[1, 1, h, w]`,
/// f32; none of those that have no share, and nothing at all without regions.
fn shares(
    request: &Request,
    spec: &DenoiserSpec,
    size: [usize; 2],
) -> Result<Vec<Option<Tensor<4>>>> {
    if request.regions.is_empty() {
        return Ok(Vec::new());
    }
    let [height, width] = size;
    let tensor = |shares: Vec<f64>| {
        let any = shares.iter().any(|share| *share > 0.0);
        let shares: Vec<f32> = shares.into_iter().map(|share| share as f32).collect();
        let data = TensorData::new(shares, [1, 1, height, width]);
        any.then(|| Tensor::from_data(data, (&spec.device, DType::F32)))
    };
    let shares = regions::shares(&request.regions, size)?.into_iter();
    Ok(shares.map(tensor).collect())
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

/// The script of each of `texts`, of one row each.
fn encoded(
    encoder: &dyn TextEncoder,
    request: &Request,
    steps: Steps,
    texts: &[Text],
    spec: &DenoiserSpec,
) -> sd_core::Result<Vec<Script<TextEmbedding>>> {
    let zeros = encoder.absent() == AbsentPrompt::Zeros;
    // Of a text that is `None` all is zero.
    let script = |text: &Text| {
        let prompt = match (text, &request.negative_prompt) {
            (Text::Prompt, _) => return scripts(request, steps).map(Some),
            (Text::Negative, Some(negative)) => {
                Some(negative.clone()).filter(|negative| !(zeros && is_absent(negative)))
            }
            (Text::Negative, None) if zeros => None,
            _ => Some(Prompt::default()),
        };
        prompt
            .map(|prompt| script(&prompt, steps, false))
            .transpose()
    };
    let scripts = texts
        .iter()
        .map(script)
        .collect::<sd_core::Result<Vec<_>>>()?;
    // Prompts that come back equally long are one call, the texts of another part one each.
    let is_together = |part: &Part<Prompt>| {
        let mut texts = part.texts.iter();
        texts.all(|(_, prompt)| prompt.syntax.encodes_together())
    };
    let parts = || scripts.iter().flatten().flatten();
    let mut together: Vec<Prompt> = parts()
        .filter(|part| is_together(part))
        .flat_map(prompts)
        .collect();
    if parts().next().is_none() {
        together.push(request.prompt.clone());
    }
    let together = match together.is_empty() {
        true => None,
        false => Some(rows(encoder, &together, spec)?),
    };
    let mut taken = 0..;
    let mut embed = |part: Part<Prompt>| -> sd_core::Result<Part<TextEmbedding>> {
        let (own, mut numbers) = match (&together, is_together(&part)) {
            (Some(all), true) => (all.clone(), taken.by_ref().take(part.texts.len()).collect()),
            _ => {
                let own: Vec<Prompt> = prompts(&part).collect();
                (
                    rows(encoder, &own, spec)?,
                    (0..own.len()).collect::<Vec<usize>>(),
                )
            }
        };
        numbers.reverse();
        Ok(part.map(|(end, _)| (end, own.row(numbers.pop().unwrap_or_default()))))
    };
    let mut embedded = Vec::new();
    for script in scripts {
        let script = script.map(|parts| {
            let parts = parts.into_iter().map(&mut embed);
            Ok::<_, Error>(of_one_length(parts.collect::<sd_core::Result<_>>()?))
        });
        embedded.push(script.transpose()?);
    }
    let given = embedded
        .iter()
        .flatten()
        .flatten()
        .flat_map(|part| &part.texts);
    let given = given.map(|(_, text)| text).next().or(together.as_ref());
    let absent = given.map(|text| text.row(0).zeros_like());
    let or_absent = |script: Option<Script<TextEmbedding>>| {
        script.or_else(|| Some(vec![Part::constant(absent.clone()?)]))
    };
    Ok(embedded.into_iter().filter_map(or_absent).collect())
}

/// `true` of a negative prompt that A1111 takes for none: an empty one.
fn is_absent(negative: &Prompt) -> bool {
    let second = negative.second.as_deref().unwrap_or_default();
    matches!(negative.syntax, Syntax::A1111(_)) && negative.text.is_empty() && second.is_empty()
}

fn prompts(part: &Part<Prompt>) -> impl Iterator<Item = Prompt> {
    part.texts.iter().map(|(_, prompt)| prompt.clone())
}

/// One row for each of `prompts`.
fn rows(
    encoder: &dyn TextEncoder,
    prompts: &[Prompt],
    spec: &DenoiserSpec,
) -> sd_core::Result<TextEmbedding> {
    let span = tracing::info_span!("encode_text", prompts = prompts.len());
    let all = span.in_scope(|| guard("the text encoder", || encoder.encode(prompts)))?;
    let found = all.tokens.dims();
    if found[0] != prompts.len() || found[2] != spec.context_width {
        let (rows, width) = (prompts.len(), spec.context_width);
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
    Ok(all)
}

/// Words on what the request asks for in vain, or against the model's nature.
pub(super) fn warnings(
    pipeline: &Pipeline,
    request: &Request,
    guidance: &dyn Guidance,
) -> Vec<String> {
    let negative = request.negative_prompt.as_ref();
    let negative = negative.filter(|negative| {
        let second = negative
            .second
            .as_ref()
            .is_some_and(|text| !text.is_empty());
        second || !negative.text.is_empty()
    });
    let unheard = negative.filter(|_| !guidance.texts().contains(&Text::Negative));
    let warnings = unheard.map(|_| {
        format!("the negative prompt has no effect: {guidance:?} evaluates the prompt alone")
    });
    let is_negative = |prompt: &crate::ImagePrompt| !prompt.negative.is_empty();
    let alone = guidance.texts().iter().all(|text| *text == Text::Prompt);
    let unseen = (alone && request.image_prompts.iter().any(is_negative)).then(|| {
        format!("negative pictures have no effect: {guidance:?} evaluates the prompt alone")
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
        .chain(unseen)
        .chain(off)
        .chain(distilled.map(|distilled| distilled.advice()));
    let warnings: Vec<String> = warnings.collect();
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    warnings
}
