//! Requests to records and back.

use std::sync::Arc;

use burn::tensor::FloatDType;
use image::{GrayImage, RgbImage};
use sd_core::{BranchEvaluation, Extensions, Prompt, Syntax};

use super::{
    OriginalRecord, Record, RecordError, RecordedGuidance, RecordedHiRes, RecordedInpaint,
    RecordedRegion, SOFTWARE, fingerprint,
};
use crate::{
    Area, HiRes, Inpaint, Marking, PictureStart, PictureToChange, Pipeline, Region, Request, Start,
    WeightStorage,
};

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

impl RecordedInpaint {
    fn of(inpaint: &Inpaint) -> Self {
        Self {
            mask: fingerprint::of_picture(&inpaint.mask),
            rule: inpaint.rule,
            grow: inpaint.grow,
            blur: inpaint.blur,
            masked_only: inpaint.masked_only,
            keep_unmasked: inpaint.keep_unmasked,
            feather: inpaint.feather,
        }
    }

    fn inpaint(&self, mask: GrayImage) -> Result<Inpaint, RecordError> {
        let (expected, found) = (self.mask.clone(), fingerprint::of_picture(&mask));
        if expected != found {
            return Err(RecordError::OtherMask { expected, found });
        }
        Ok(Inpaint {
            mask,
            rule: self.rule,
            grow: self.grow,
            blur: self.blur,
            masked_only: self.masked_only,
            keep_unmasked: self.keep_unmasked,
            feather: self.feather,
        })
    }
}

impl RecordedRegion {
    /// `None` of a mask, which no record holds.
    fn of(region: &Region) -> Option<Self> {
        match region.area {
            Area::Rectangle(area) => Some(Self {
                prompt: region.prompt.clone(),
                area,
                weight: region.weight,
            }),
            Area::Mask(_) => None,
        }
    }

    fn region(&self) -> Region {
        Region {
            weight: self.weight,
            ..Region::new(self.prompt.clone(), Area::Rectangle(self.area))
        }
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
        let guidance = request.guidance.as_deref().and_then(RecordedGuidance::of);
        let mut extensions = request.extensions.clone();
        let (freeu, cache) = (extensions.take(), extensions.take());
        let unrecorded = [
            ("scheduler", scheduler.is_none()),
            (
                "start",
                !matches!(request.start, Start::Noise | Start::Picture(_)),
            ),
            (
                "regions",
                (request.regions.iter()).any(|region| RecordedRegion::of(region).is_none()),
            ),
            ("guidance", request.guidance.is_some() && guidance.is_none()),
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
            ("picture", request.picture.is_some() && picture.is_some()),
            ("image_prompts", !request.image_prompts.is_empty()),
            ("controls", !request.controls.is_empty()),
            ("concat", request.concat.is_some()),
            ("extensions", !extensions.is_empty()),
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
            regions: request
                .regions
                .iter()
                .filter_map(RecordedRegion::of)
                .collect(),
            guidance,
            freeu,
            cache,
            tiles: request.tiles,
            image_guidance_scale: request.image_guidance_scale,
            width: Some(width),
            height: Some(height),
            strength,
            hires: request.hires.as_ref().map(RecordedHiRes::of),
            original: match (picture, &request.picture) {
                (Some(start), _) => Some(OriginalRecord {
                    hash: fingerprint::of_picture(&start.image),
                    resize: start.resize,
                    sample_mode: start.sample_mode,
                    inpaint: start.inpaint.as_ref().map(RecordedInpaint::of),
                    beside: false,
                }),
                (None, Some(beside)) => Some(OriginalRecord {
                    hash: fingerprint::of_picture(&beside.image),
                    resize: beside.resize,
                    beside: true,
                    ..OriginalRecord::default()
                }),
                (None, None) => None,
            },
            count: (request.count > 1).then_some(request.count),
            precision: Some(format!("{:?}", spec.products.unwrap_or(spec.dtype))),
            int8: spec.int8,
            rounding: spec.rounding.map(Into::into),
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

    /// As [`request`](Self::request), of a picture that was made from `original`, all of it.
    ///
    /// # Errors
    /// Those of [`request`](Self::request), but for [`RecordError::NeedsOriginal`];
    /// [`RecordError::NoOriginal`] and [`RecordError::OtherOriginal`] for a picture that was made from
    /// no other, or not from this one; [`RecordError::NeedsMask`].
    pub fn request_from(&self, original: RgbImage) -> Result<Request, RecordError> {
        self.request_with(original, None)
    }

    /// As [`request_from`](Self::request_from), of a picture of which `mask`'s white was drawn anew.
    /// Of an expanded picture both are what [`Expand`](crate::Expand) made.
    ///
    /// # Errors
    /// Those of [`request_from`](Self::request_from), but for [`RecordError::NeedsMask`];
    /// [`RecordError::NoMask`] and [`RecordError::OtherMask`] for a picture that was drawn by no
    /// mask, or not by this one.
    pub fn request_masked(
        &self,
        original: RgbImage,
        mask: GrayImage,
    ) -> Result<Request, RecordError> {
        self.request_with(original, Some(mask))
    }

    fn request_with(
        &self,
        original: RgbImage,
        mask: Option<GrayImage>,
    ) -> Result<Request, RecordError> {
        let is_beside = self.original.as_ref().is_some_and(|record| record.beside);
        let strength = match (&self.original, self.strength) {
            (Some(_), _) if is_beside => 1.0,
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
        let inpaint = match (
            self.original.as_ref().and_then(|o| o.inpaint.as_ref()),
            mask,
        ) {
            (Some(record), Some(mask)) => Some(record.inpaint(mask)?),
            (Some(_), None) => return Err(RecordError::NeedsMask),
            (None, Some(_)) => return Err(RecordError::NoMask),
            (None, None) => None,
        };
        if is_beside {
            return Ok(Request {
                picture: Some(PictureToChange {
                    image: original,
                    resize,
                }),
                ..self.begun_with(Start::Noise)?
            });
        }
        self.begun_with(Start::Picture(PictureStart {
            resize,
            sample_mode,
            inpaint,
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
        let mut extensions = Extensions::new();
        if let Some(freeu) = self.freeu {
            extensions.insert(freeu);
        }
        if let Some(cache) = self.cache {
            extensions.insert(cache);
        }
        Ok(Request {
            regions: self.regions.iter().map(RecordedRegion::region).collect(),
            guidance: self.guidance.as_ref().map(RecordedGuidance::guidance),
            extensions,
            tiles: self.tiles,
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

impl Record {
    /// The storage that rounded the weights, where the record says one that is known here.
    pub fn weight_storage(&self) -> Option<WeightStorage> {
        let name = self.rounding.as_deref()?;
        let found = WeightStorage::ROUNDING.iter().find(|(own, _)| *own == name);
        found.map(|(_, storage)| *storage)
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
