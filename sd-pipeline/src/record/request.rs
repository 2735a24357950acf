//! Requests to records and back.

use std::sync::Arc;

use burn::tensor::FloatDType;
use image::RgbImage;
use sd_core::{BranchEvaluation, Prompt, Syntax};

use super::{OriginalRecord, Record, RecordError, RecordedHiRes, SOFTWARE, fingerprint};
use crate::{HiRes, Marking, PictureStart, Pipeline, Request, Start};

impl RecordedHiRes {
    fn of(hires: &HiRes) -> Self {
        Self {
            factor: hires.factor,
            strength: hires.strength,
            steps: hires.steps,
            upscaler: hires.upscaler.to_string(),
        }
    }

    fn order(&self) -> Result<HiRes, RecordError> {
        let unknown = |_| RecordError::Unrecorded(vec!["hires".into()]);
        Ok(HiRes {
            factor: self.factor,
            strength: self.strength,
            steps: self.steps,
            upscaler: self.upscaler.parse().map_err(unknown)?,
        })
    }
}

impl Record {
    /// The record of what `request` draws on `pipeline`, at `height` and `width`, all but the seed
    /// of each picture.
    pub(crate) fn begin(
        pipeline: &Pipeline,
        request: &Request,
        [height, width]: [usize; 2],
    ) -> Self {
        let spec = pipeline.denoiser.spec();
        let named = pipeline.scheduler_name.as_ref();
        let scheduler = named.filter(|(_, scheduler)| Arc::ptr_eq(scheduler, &pipeline.scheduler));
        let (picture, strength) = match &request.start {
            Start::Picture(start) => (Some(start), Some(start.strength)),
            Start::Latents { strength, .. } => (None, Some(*strength)),
            _ => (None, None),
        };
        let unrecorded = [
            ("scheduler", scheduler.is_none()),
            (
                "start",
                !matches!(request.start, Start::Noise | Start::Picture(_)),
            ),
            ("mask", picture.is_some_and(|start| start.inpaint.is_some())),
            ("guidance", request.guidance.is_some()),
            ("size", request.size.is_some()),
            ("negative_size", request.negative_size.is_some()),
            (
                "hires",
                request
                    .hires
                    .as_ref()
                    .is_some_and(|hires| hires.upscaler.name().is_none()),
            ),
            ("end", request.end.is_some()),
            ("picture", request.picture.is_some()),
            ("image_prompts", !request.image_prompts.is_empty()),
            ("controls", !request.controls.is_empty()),
            ("concat", request.concat.is_some()),
            ("extensions", !request.extensions.is_empty()),
            ("layers", !request.layers.is_empty()),
            (
                "evaluation",
                request.evaluation != BranchEvaluation::Together,
            ),
        ];
        let unrecorded = unrecorded.into_iter().filter(|(_, is)| *is);
        let negative = request.negative_prompt.as_ref();
        Self {
            software: Some(SOFTWARE.into()),
            model: pipeline.name.clone(),
            model_hash: pipeline.fingerprint.get(),
            adapters: pipeline.adapters.clone(),
            prompt: request.prompt.text.clone(),
            second_prompt: request.prompt.second.clone(),
            negative_prompt: negative.map(|prompt| prompt.text.clone()),
            second_negative_prompt: negative.and_then(|prompt| prompt.second.clone()),
            syntax: syntax(Some(&request.prompt)),
            negative_syntax: syntax(negative),
            clip_skip: clip_skip(Some(&request.prompt)),
            negative_clip_skip: clip_skip(negative),
            seed: None,
            steps: Some(request.steps),
            scheduler: scheduler.map(|(name, _)| name.clone()),
            guidance_scale: Some(request.guidance_scale),
            image_guidance_scale: request.image_guidance_scale,
            width: Some(width),
            height: Some(height),
            strength,
            hires: request.hires.as_ref().map(RecordedHiRes::of),
            original: picture.map(|start| OriginalRecord {
                hash: fingerprint::of_picture(&start.image),
                resize: start.resize,
                sample_mode: start.sample_mode,
            }),
            count: (request.count > 1).then_some(request.count),
            precision: Some(format!("{:?}", spec.products.unwrap_or(spec.dtype))),
            watermark: request
                .watermark
                .as_ref()
                .map(|marking| marking.watermark.clone()),
            unrecorded: unrecorded.map(|(name, _)| name.into()).collect(),
            ..Self::default()
        }
    }

    /// The request that draws this picture again, on the same model with the same
    /// [adapters](Self::adapters), [scheduler](Self::scheduler) and [precision](Self::dtype). Of a picture that was drawn with
    /// others it draws these too, for the same bytes: it is that of number [`index`](Self::index).
    /// Alone, with `seed` and a `count` of 1, it may differ by a grey level here and there.
    ///
    /// # Errors
    /// [`RecordError::Lacks`] without seed, steps, guidance scale or a place among the pictures it
    /// was drawn with, [`RecordError::Unrecorded`] for a picture into which more went than the
    /// record holds, and [`RecordError::NeedsOriginal`] for one that was made from another.
    pub fn request(&self) -> Result<Request, RecordError> {
        let request = self.begun_with(Start::Noise)?;
        let is_edited = self.strength.is_some_and(|strength| strength < 1.0);
        match self.original.is_some() || is_edited {
            true => Err(RecordError::NeedsOriginal),
            false => Ok(request),
        }
    }

    /// As [`request`](Self::request), of a picture that was made from `original`.
    ///
    /// # Errors
    /// Those of [`request`](Self::request), but for [`RecordError::NeedsOriginal`];
    /// [`RecordError::NoOriginal`] and [`RecordError::OtherOriginal`] for a picture that was made from
    /// no other, or not from this one.
    pub fn request_from(&self, original: RgbImage) -> Result<Request, RecordError> {
        let strength = match (&self.original, self.strength) {
            (Some(_), Some(strength)) => strength,
            // Another program's, of which it is not said what the picture was.
            (None, Some(strength)) if strength < 1.0 => strength,
            _ => return Err(RecordError::NoOriginal),
        };
        let (resize, sample_mode) = match &self.original {
            Some(record) => {
                let (expected, found) = (&record.hash, fingerprint::of_picture(&original));
                if *expected != found {
                    let expected = expected.clone();
                    return Err(RecordError::OtherOriginal { expected, found });
                }
                (record.resize, record.sample_mode)
            }
            None => Default::default(),
        };
        self.begun_with(Start::Picture(PictureStart {
            resize,
            sample_mode,
            ..PictureStart::new(original, strength)
        }))
    }

    fn begun_with(&self, start: Start) -> Result<Request, RecordError> {
        if !self.unrecorded.is_empty() {
            return Err(RecordError::Unrecorded(self.unrecorded.clone()));
        }
        let prompt = |text: &str, second: &Option<String>| match second {
            Some(second) => Prompt::from(text).with_second(second),
            None => Prompt::from(text),
        };
        let read = |prompt: Prompt, syntax: &Option<String>, skip: Option<usize>| {
            let syntax = syntax
                .as_ref()
                .map_or(Ok(Syntax::Plain), |name| name.parse());
            let syntax =
                syntax.map_err(|_| RecordError::Lacks("syntax of the prompt that is known"))?;
            Ok(prompt
                .in_syntax(syntax)
                .with_clip_skip(skip.unwrap_or_default()))
        };
        let negative = self.negative_prompt.as_ref();
        let negative = negative.map(|text| {
            let prompt = prompt(text, &self.second_negative_prompt);
            read(prompt, &self.negative_syntax, self.negative_clip_skip)
        });
        let positive = prompt(&self.prompt, &self.second_prompt);
        let (count, index) = (self.count.unwrap_or(1), self.index);
        if index >= count {
            return Err(RecordError::Lacks(
                "place of its own among those drawn with it",
            ));
        }
        let seed = self.seed.ok_or(RecordError::Lacks("seed"))?;
        Ok(Request {
            negative_prompt: negative.transpose()?,
            guidance_scale: self
                .guidance_scale
                .ok_or(RecordError::Lacks("guidance scale"))?,
            image_guidance_scale: self.image_guidance_scale,
            steps: self.steps.ok_or(RecordError::Lacks("number of steps"))?,
            width: self.width,
            height: self.height,
            hires: self.hires.as_ref().map(RecordedHiRes::order).transpose()?,
            seed: seed.wrapping_sub(index as u64),
            count,
            start,
            watermark: self.watermark.clone().map(Marking::from),
            ..Request::new(read(positive, &self.syntax, self.clip_skip)?)
        })
    }

    /// The precision that the denoiser computed in, where the record says it.
    pub fn dtype(&self) -> Option<FloatDType> {
        match self.precision.as_deref()? {
            "F32" => Some(FloatDType::F32),
            "F16" => Some(FloatDType::F16),
            "BF16" => Some(FloatDType::BF16),
            _ => None,
        }
    }
}

/// Name of the syntax, where it is not plain.
fn syntax(prompt: Option<&Prompt>) -> Option<String> {
    let syntax = prompt.map(|prompt| prompt.syntax)?;
    (syntax != Syntax::Plain).then(|| syntax.to_string())
}

/// Layers left out, where there are some.
fn clip_skip(prompt: Option<&Prompt>) -> Option<usize> {
    prompt
        .map(|prompt| prompt.clip_skip)
        .filter(|layers| *layers > 0)
}
