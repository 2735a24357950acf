use burn::tensor::{Device, Tensor};
use sd_core::{AbsentPrompt, Extensions, Prompt, TextEmbedding, TextEncoder, WeightBytes};

use super::encoder::warn_of_cuts;
use super::lines::Line;
use super::{ClipTextEncoder, ClipTextFiles};
use crate::lora::{LoraFile, LoraStrength, Matches};
use crate::{BesideLayers, Error, LayerChanges, Result, TextualInversion};

/// Files of two text encoders side by side, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct ClipPairFiles {
    first: ClipTextFiles,
    second: ClipTextFiles,
    absent: AbsentPrompt,
}

impl ClipPairFiles {
    /// Two encoders' files.
    ///
    /// # Errors
    /// [`Error::Config`] when their tokenizers make prompts of different lengths.
    pub fn new(first: ClipTextFiles, second: ClipTextFiles) -> Result<Self> {
        let [expected, found] = [&first, &second].map(|files| files.tokenizer().max_length());
        if found != expected {
            let expected = format!("expected the first tokenizer's, {expected}");
            let file = second.tokenizer().path();
            return Err(Error::config(file, "model_max_length", found, expected));
        }
        Ok(Self {
            first,
            second,
            absent: AbsentPrompt::default(),
        })
    }

    /// The same with `absent` in place of a negative prompt that is not given.
    #[must_use]
    pub fn with_absent(self, absent: AbsentPrompt) -> Self {
        Self { absent, ..self }
    }

    /// The same with the changes of `lora` for either encoder, as
    /// [`ClipTextFiles::with_lora`].
    ///
    /// # Errors
    /// As there.
    pub fn with_lora(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Self> {
        Ok(Self {
            first: self.first.with_lora(0, lora, strength, matches)?,
            second: self.second.with_lora(1, lora, strength, matches)?,
            absent: self.absent,
        })
    }

    /// The changes of `lora` for either encoder, as [`ClipTextFiles::lora_beside`].
    ///
    /// # Errors
    /// As there.
    pub fn lora_beside(
        &self,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<[LayerChanges; 2]> {
        Ok([
            self.first.lora_beside(0, lora, strength, matches)?,
            self.second.lora_beside(1, lora, strength, matches)?,
        ])
    }

    /// The same with a word more in the vocabulary of both.
    ///
    /// # Errors
    /// As [`ClipTextFiles::with_word`].
    pub fn with_word(&self, word: &TextualInversion) -> Result<Self> {
        Ok(Self {
            first: self.first.with_word(word, 0, 2)?,
            second: self.second.with_word(word, 1, 2)?,
            absent: self.absent,
        })
    }

    /// The device to load them to.
    pub fn device(&self) -> &Device {
        self.first.device()
    }

    /// As [`ClipTextFiles::weight_bytes`], of both.
    ///
    /// # Errors
    /// Likewise.
    pub fn weight_bytes(&self) -> Result<WeightBytes> {
        Ok(self.first.weight_bytes()? + self.second.weight_bytes()?)
    }

    /// As [`ClipTextFiles::work_bytes`]: the one encodes after the other.
    pub fn work_bytes(&self, prompts: usize) -> u64 {
        let all = [&self.first, &self.second].map(|files| files.work_bytes(prompts));
        all[0].max(all[1])
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// As [`ClipTextFiles::load`].
    pub fn load(&self) -> Result<ClipPair> {
        Ok(ClipPair {
            first: self.first.load()?,
            second: self.second.load()?,
            absent: self.absent,
        })
    }
}

/// Two CLIP text encoders side by side, as SDXL has them (Podell et al. 2023, arXiv:2307.01952,
/// section 2.1).
///
/// Each token's vectors are put one behind the other. The pooled vector is that of the first
/// encoder with a projection, which is SDXL's second one.
#[derive(Debug)]
pub struct ClipPair {
    first: ClipTextEncoder,
    second: ClipTextEncoder,
    absent: AbsentPrompt,
}

impl ClipPair {
    /// Two encoders.
    ///
    /// # Errors
    /// [`sd_core::Error::InvalidArgument`] when their tokenizers make prompts of different lengths.
    pub fn new(first: ClipTextEncoder, second: ClipTextEncoder) -> sd_core::Result<Self> {
        let [expected, found] = [&first, &second].map(|one| one.tokenizer().max_length());
        if found != expected {
            let expected = format!("expected the first tokenizer's, {expected}");
            let name = "length of the second tokenizer's prompts";
            return Err(sd_core::Error::invalid(name, found, expected));
        }
        Ok(Self {
            first,
            second,
            absent: AbsentPrompt::default(),
        })
    }

    /// Leaves out the last `layers` of the layers that each reads, as diffusers' `clip_skip` does.
    ///
    /// # Errors
    /// As [`ClipTextEncoder::with_clip_skip`].
    pub fn with_clip_skip(self, layers: usize) -> sd_core::Result<Self> {
        Ok(Self {
            first: self.first.with_clip_skip(layers)?,
            second: self.second.with_clip_skip(layers)?,
            ..self
        })
    }

    /// The encoders.
    pub fn encoders(&self) -> [&ClipTextEncoder; 2] {
        [&self.first, &self.second]
    }

    /// Memory that the weights of both take.
    pub fn weights(&self) -> WeightBytes {
        self.first.weights() + self.second.weights()
    }
}

impl TextEncoder for ClipPair {
    /// The vectors of [`ClipTokenizer::max_length`](crate::ClipTokenizer::max_length) tokens per
    /// prompt, or of each of its chunks of as many, as wide as those of both encoders together. The second encoder reads the prompt's
    /// second text; where there is none, or an empty one, the first, as in diffusers.
    fn encode(&self, prompts: &[Prompt]) -> sd_core::Result<TextEmbedding> {
        let texts: Vec<Line<'_>> = prompts.iter().map(Line::first).collect();
        let seconds: Vec<Line<'_>> = prompts.iter().map(Line::second).collect();
        let first = self.first.embed(&texts)?;
        let other = self.second.embed(&seconds)?;
        // A text of its own may take other chunks than the first one.
        let tokens = |one: &TextEmbedding| one.tokens.dims()[1];
        let most = tokens(&first).max(tokens(&other));
        let first = self.first.lengthened(first, &texts, most)?;
        let mut other = self.second.lengthened(other, &seconds, most)?;
        // Of a text that both read both cut the same.
        for (cut, same) in other.truncated.iter_mut().zip(&first.truncated) {
            if cut == same {
                *cut = None;
            }
        }
        let length = self.first.tokenizer().max_length();
        warn_of_cuts(&first, length);
        warn_of_cuts(&other, length);
        let truncated = first.truncated.into_iter().zip(other.truncated);
        let truncated = truncated.map(|cuts| match cuts {
            (Some(first), Some(second)) => Some(format!("{first} {second}")),
            (first, second) => first.or(second),
        });
        let tokens = Tensor::cat(vec![first.tokens, other.tokens], 2);
        let embedding = TextEmbedding::new(tokens).with_truncated(truncated.collect());
        Ok(match first.pooled.or(other.pooled) {
            Some(pooled) => embedding.with_pooled(pooled),
            None => embedding,
        })
    }

    fn absent(&self) -> AbsentPrompt {
        self.absent
    }

    /// Reads [`BesideLayers`] of two networks.
    fn told(&self, told: &mut Extensions) -> sd_core::Result<Option<Box<dyn TextEncoder>>> {
        let Some(beside) = told.take::<BesideLayers>() else {
            return Ok(None);
        };
        let [first, second] = beside.of()?;
        Ok(Some(Box::new(Self {
            first: self.first.changed(&first)?,
            second: self.second.changed(&second)?,
            absent: self.absent,
        })))
    }
}
