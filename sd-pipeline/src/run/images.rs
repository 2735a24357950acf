//! What a run's image prompts say to each of its branches.

use std::sync::Arc;

use sd_core::{Extensions, Guidance, Text};
use sd_models::unet::{DecoupledAttention, DecoupledTokens, KeyValue, LayerScale, TokenMask};

use crate::memory::{ENCODE, Phases};
use crate::{ImagePrompt, IpAdapter, Pipeline, Request, Result};

/// Image prompts of a request as the denoiser's layers see them. They do not change over a run.
#[derive(Clone, Default)]
pub(super) struct Images(Arc<Vec<Image>>);

/// Keys and values of one image prompt.
struct Image {
    /// Of its pictures.
    shown: Vec<KeyValue>,
    /// Of what stands beside a negative prompt, where one is evaluated.
    beside_negative: Vec<KeyValue>,
}

impl Images {
    /// The image prompts of `request` for the texts that `guidance` wants.
    pub(super) fn of(
        pipeline: &Pipeline,
        request: &Request,
        guidance: &dyn Guidance,
        phases: &Phases,
    ) -> Result<Self> {
        if request.image_prompts.is_empty() {
            return Ok(Self::default());
        }
        let has_negative = guidance.texts().iter().any(|text| *text != Text::Prompt);
        let image = |prompt: &ImagePrompt| {
            let adapter = pipeline.image_adapters[prompt.adapter].get()?;
            let tokens = adapter.tokens(&prompt.pictures)?;
            let beside_negative = match has_negative {
                true => beside_negative(&adapter, prompt)?,
                false => Vec::new(),
            };
            Ok(Image {
                shown: adapter.key_values(tokens)?,
                beside_negative,
            })
        };
        phases.watch(ENCODE, || {
            let span = tracing::info_span!("encode_images", prompts = request.image_prompts.len());
            let _span = span.entered();
            let images = request.image_prompts.iter().map(image);
            Ok(Self(Arc::new(images.collect::<Result<_>>()?)))
        })
    }

    /// The image prompts of `request` for pictures of `size`, height and width, over a run of `steps`
    /// steps of which the first has the number `first`.
    pub(super) fn over(
        &self,
        request: &Request,
        size: [usize; 2],
        first: usize,
        steps: usize,
    ) -> Result<ImagesOver> {
        let prompts = self.0.iter().enumerate().zip(&request.image_prompts);
        let prompts = prompts.map(|((number, _), prompt)| {
            let counts = prompt.steps(steps);
            Ok(Placed {
                number,
                scale: prompt.scale.clone(),
                mask: prompt.token_mask(size)?.map(Arc::new),
                start: match counts.start {
                    0 => 0,
                    start => first + start,
                },
                // The last step may be one that was not foreseen.
                end: match counts.end < steps {
                    true => Some(first + counts.end),
                    false => None,
                },
            })
        });
        Ok(ImagesOver {
            images: self.clone(),
            prompts: prompts.collect::<Result<_>>()?,
        })
    }
}

/// Keys and values beside the negative prompt, of as many tokens as the pictures have where that can
/// be, so that both are evaluated together: a token that is there twice counts as once.
fn beside_negative(adapter: &IpAdapter, prompt: &ImagePrompt) -> Result<Vec<KeyValue>> {
    let tokens = match prompt.negative.is_empty() {
        true => adapter.absent_tokens()?,
        false => adapter.tokens(&prompt.negative)?,
    };
    let (count, own) = (prompt.pictures.len(), tokens.dims()[0]);
    let times = match count.is_multiple_of(own) {
        true => count / own,
        false => 1,
    };
    adapter.key_values(tokens.repeat_dim(0, times))
}

/// Image prompts with the steps in which they count and the places at which they do.
pub(super) struct ImagesOver {
    images: Images,
    prompts: Vec<Placed>,
}

struct Placed {
    number: usize,
    scale: LayerScale,
    mask: Option<Arc<TokenMask>>,
    /// The first step in which it counts.
    start: usize,
    /// The first step behind these; none where it counts to the end.
    end: Option<usize>,
}

impl ImagesOver {
    /// The last steps before something changes.
    pub(super) fn ends(&self) -> impl Iterator<Item = usize> {
        let prompts = self.prompts.iter();
        let changes = prompts.flat_map(|prompt| [Some(prompt.start), prompt.end]);
        changes.flatten().filter_map(|step| step.checked_sub(1))
    }

    /// Puts what counts in the step number `step` beside a text of the kind `text`.
    pub(super) fn put(&self, extensions: &mut Extensions, text: Text, step: usize) {
        let counting = self.prompts.iter();
        let counting = counting
            .filter(|prompt| step >= prompt.start && prompt.end.is_none_or(|end| step < end));
        let tokens = counting.map(|prompt| {
            let image = &self.images.0[prompt.number];
            let layers = match text {
                Text::Prompt => &image.shown,
                _ => &image.beside_negative,
            };
            DecoupledTokens {
                layers: layers.clone(),
                scale: prompt.scale.clone(),
                mask: prompt.mask.clone(),
            }
        });
        let tokens: Vec<_> = tokens.collect();
        if !tokens.is_empty() {
            // Beside what the request itself has of the kind.
            let mut all = extensions.take::<DecoupledAttention>().unwrap_or_default();
            all.0.extend(tokens);
            extensions.insert(all);
        }
    }
}
