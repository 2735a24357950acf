use std::sync::Arc;

use burn::tensor::{DType, Device, FloatDType};
use sd_core::{AbsentPrompt, Extensions, Prompt, TextEmbedding, TextEncoder, WeightBytes};

use super::lines::Line;
use super::{ClipReading, ClipTextConfig, ClipTextModel};
use crate::layer_changes::changed;
use crate::lora::{LoraFile, LoraStrength, Matches, Names, Target};
use crate::textual_inversion::{Extended, TextualInversion};
use crate::{
    BesideLayers, ClipTokenizer, ConfigFile, Error, Files, LayerChanges, LoadOptions, Result,
    Weights,
};

/// A text encoder's files, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct ClipTextFiles {
    tokenizer: Arc<ClipTokenizer>,
    config: ClipTextConfig,
    weights: Weights,
    reading: ClipReading,
    absent: AbsentPrompt,
    options: LoadOptions,
}

impl ClipTextFiles {
    /// The device to load it to.
    pub fn device(&self) -> &Device {
        &self.options.device
    }

    /// Opens a model folder's text encoder, `text_encoder` and `tokenizer` being the names of the
    /// two sub-folders.
    ///
    /// # Errors
    /// Those of [`ClipTokenizer::open`], [`ClipTextConfig::read`] and [`Files::weights`];
    /// [`Error::Tensors`] when the tensors are not the model's; [`Error::Config`] when prompts of
    /// the tokenizer's length are longer than the model's.
    pub fn open(
        files: &Files,
        text_encoder: &str,
        tokenizer: &str,
        options: &LoadOptions,
    ) -> Result<Self> {
        let file = ConfigFile::read(&files.folder(text_encoder), "config.json")?;
        Self::open_configured(files, text_encoder, tokenizer, file, options)
    }

    /// As [`open`](Self::open) with the configuration `file` in place of `config.json`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_configured(
        files: &Files,
        text_encoder: &str,
        tokenizer: &str,
        file: ConfigFile,
        options: &LoadOptions,
    ) -> Result<Self> {
        let folder = files.folder(text_encoder);
        Self::open_in(&folder, &files.folder(tokenizer), file, options)
    }

    /// As [`open_configured`](Self::open_configured), from the folders `folder` and `tokenizer`
    /// themselves, wherever they lie.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(
        folder: &Files,
        tokenizer: &Files,
        file: ConfigFile,
        options: &LoadOptions,
    ) -> Result<Self> {
        let config = ClipTextConfig::from_file(&file.on_unknown(options.unknown_settings))?;
        let tokenizer = ClipTokenizer::open(tokenizer)?;
        let (positions, length) = (config.max_position_embeddings, tokenizer.max_length());
        if length > positions {
            let field = "max_position_embeddings";
            let expected = format!("expected at least the tokenizer's length, {length}");
            return Err(Error::config(
                folder.path("config.json"),
                field,
                positions,
                expected,
            ));
        }
        let weights = folder.weights("model", options.variant.as_deref())?;
        let projects = config.projection.is_some();
        let weights = weights.only(|name| !is_of_whole_clip(name, projects));
        weights.check(&ClipTextModel::new(config.clone(), &options.device))?;
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            config,
            weights,
            reading: ClipReading::default(),
            absent: AbsentPrompt::default(),
            options: options.clone(),
        })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// The same with `reading` as the choice of what becomes the embedding.
    ///
    /// # Errors
    /// [`Error::Config`] when the model has no more layers than are left out.
    pub fn with_reading(self, reading: ClipReading) -> Result<Self> {
        let layers = self.config.num_hidden_layers;
        if reading.skipped >= layers {
            let expected = format!(
                "expected more than {}: the last are left out",
                reading.skipped
            );
            let (file, field) = (self.weights.path(), "num_hidden_layers");
            return Err(Error::config(file, field, layers, expected));
        }
        Ok(Self { reading, ..self })
    }

    /// The same with `absent` in place of a negative prompt that is not given.
    #[must_use]
    pub fn with_absent(self, absent: AbsentPrompt) -> Self {
        Self { absent, ..self }
    }

    /// The same with the changes of `lora` for the text encoder of number `index`, `strength` times
    /// each, merged while weights are read. `matches` gets what was found.
    ///
    /// # Errors
    /// [`Error::Adapter`] when two of its modules change the same; [`Error::Unsupported`] when
    /// weights are no floating-point numbers.
    pub fn with_lora(
        &self,
        index: usize,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<Self> {
        let mut changed = self.clone();
        lora.merge_into(
            &mut changed.weights,
            Target::TextEncoder(index),
            &self.names(),
            self.options.weight_storage,
            strength,
            matches,
        )?;
        Ok(changed)
    }

    /// The changes of `lora` for the text encoder of number `index` as what acts beside the layers of
    /// an encoder of these files, `strength` times each, as
    /// [`UNetFiles::lora_beside`](crate::unet::UNetFiles::lora_beside).
    ///
    /// # Errors
    /// As there.
    pub fn lora_beside(
        &self,
        index: usize,
        lora: &LoraFile,
        strength: &LoraStrength,
        matches: &mut Matches,
    ) -> Result<LayerChanges> {
        let model = ClipTextModel::new(self.config.clone(), &self.options.device);
        lora.beside(
            (&self.weights, model),
            Target::TextEncoder(index),
            &self.names(),
            &self.options,
            strength,
            matches,
        )
    }

    fn names(&self) -> Names {
        Names::of_text(self.weights.shapes().map(|(name, _)| name))
    }

    /// The bytes that the weights take once they are loaded, told from the files' headers.
    ///
    /// # Errors
    /// [`Error::Unsupported`](crate::Error::Unsupported) for tensors that are no network's.
    pub fn weight_bytes(&self) -> Result<WeightBytes> {
        let model = ClipTextModel::new(self.config.clone(), &self.options.device);
        self.weights.packed_bytes(model, &self.options)
    }

    /// The bytes that encoding so many prompts takes besides the weights.
    pub fn work_bytes(&self, prompts: usize) -> u64 {
        let config = &self.config;
        let tokens = prompts * self.tokenizer.max_length();
        // Every layer's output is kept; within one there are its input, queries, keys, values, what
        // they gather, and the inner layer.
        let maps = config.num_hidden_layers + 6;
        let numbers = tokens * (maps * config.hidden_size + config.intermediate_size);
        (numbers * DType::from(self.options.dtype).size()) as u64
    }

    /// The same with a word more in its vocabulary, as the encoder of number `index` of `count`.
    ///
    /// # Errors
    /// [`Error::Adapter`] when the word's vectors are not as wide as the encoder's tokens;
    /// [`Error::Tokenizer`] when it is in the vocabulary already.
    pub fn with_word(&self, word: &TextualInversion, index: usize, count: usize) -> Result<Self> {
        const TABLE: &str = "embeddings.token_embedding.weight";
        let vectors = word.vectors(index, count, self.config.hidden_size)?;
        let added = self.tokenizer.with_word(word.word(), vectors.count);
        let (tokenizer, first) = added.map_err(|e| word.error(e))?;
        let mut changed = self.clone();
        changed.tokenizer = Arc::new(tokenizer);
        if let Some(table) = self.weights.get(TABLE) {
            let (table, rows) = Extended::stored(table.clone(), vectors.clone(), first)?;
            changed.weights.replace(TABLE, table);
            changed.config.vocab_size = rows;
        }
        Ok(changed)
    }

    /// Reads the weights.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read, [`Error::Packing`] when there is not memory enough.
    pub fn load(&self) -> Result<ClipTextEncoder> {
        let (model, bytes) =
            ClipTextModel::load(self.config.clone(), &self.weights, &self.options)?;
        Ok(ClipTextEncoder {
            tokenizer: self.tokenizer.clone(),
            model,
            reading: self.reading,
            absent: self.absent,
            bytes,
        })
    }
}

/// CLIP text encoder with its tokenizer: what Stable Diffusion 1 and 2 understand prompts with, and
/// SDXL with a [pair](super::ClipPair) of them.
#[derive(Debug, Clone)]
pub struct ClipTextEncoder {
    tokenizer: Arc<ClipTokenizer>,
    model: ClipTextModel,
    reading: ClipReading,
    absent: AbsentPrompt,
    bytes: WeightBytes,
}

impl ClipTextEncoder {
    /// [`ClipTextFiles::open`] and [`ClipTextFiles::load`] in one, the fastest way, to compute on
    /// `device` in precision `dtype`.
    ///
    /// # Errors
    /// Those of both.
    pub fn open(
        files: &Files,
        text_encoder: &str,
        tokenizer: &str,
        device: &Device,
        dtype: FloatDType,
    ) -> Result<Self> {
        let options = LoadOptions::new(device).in_precision(dtype);
        ClipTextFiles::open(files, text_encoder, tokenizer, &options)?.load()
    }

    /// An encoder from parts already loaded.
    pub fn new(tokenizer: ClipTokenizer, model: ClipTextModel) -> Self {
        Self {
            tokenizer: Arc::new(tokenizer),
            model,
            reading: ClipReading::default(),
            absent: AbsentPrompt::default(),
            bytes: WeightBytes::default(),
        }
    }

    /// Leaves out the last `layers` of the layers that are read, as diffusers' `clip_skip` does
    /// (A1111's "clip skip 2" is 1 here). Where there is a final layer norm it stays, and so does
    /// the pooled embedding.
    ///
    /// # Errors
    /// [`sd_core::Error::InvalidArgument`] when no more layers are read than that.
    pub fn with_clip_skip(mut self, layers: usize) -> sd_core::Result<Self> {
        let most = self.model.config().num_hidden_layers - 1 - self.reading.skipped;
        if layers > most {
            let expected = format!("expected at most {most}");
            return Err(sd_core::Error::invalid("clip_skip", layers, expected));
        }
        self.reading.skipped += layers;
        Ok(self)
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &ClipTokenizer {
        &self.tokenizer
    }

    /// The model.
    pub fn model(&self) -> &ClipTextModel {
        &self.model
    }

    /// Memory that its weights take.
    pub fn weights(&self) -> WeightBytes {
        self.bytes
    }

    /// The same with `changes` beside its layers.
    pub(super) fn changed(&self, changes: &[LayerChanges]) -> sd_core::Result<Self> {
        Ok(Self {
            model: changed(&self.model, changes, &self.model.place())?,
            ..self.clone()
        })
    }

    pub(super) fn reading(&self) -> ClipReading {
        self.reading
    }
}

/// Warns of what was cut, by encoders for `length` tokens.
pub(super) fn warn_of_cuts(embedding: &TextEmbedding, length: usize) {
    for cut in embedding.truncated.iter().flatten() {
        let room = length - 2;
        tracing::warn!(
            cut = beginning(cut),
            "the prompt is longer than {room} tokens, its end is cut"
        );
    }
}

/// `true` of a tensor that a whole CLIP has and its text half has not. People put a whole one's
/// weights into a text encoder's folder, and transformers takes of them what the class has.
fn is_of_whole_clip(name: &str, projects: bool) -> bool {
    let [vision, image, text] = ["vision_model", "visual_projection", "text_projection"];
    match name.split('.').next() {
        Some("logit_scale") => true,
        Some(part) => part == vision || part == image || (part == text && !projects),
        None => false,
    }
}

/// The first hundred characters of `text`: a log is no place for a whole book.
fn beginning(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

impl TextEncoder for ClipTextEncoder {
    /// The vectors of [`ClipTokenizer::max_length`] tokens per prompt, or of each of its chunks of as
    /// many; pooled ones when the model has a projection for them.
    fn encode(&self, prompts: &[Prompt]) -> sd_core::Result<TextEmbedding> {
        if prompts.iter().any(|prompt| prompt.second.is_some()) {
            return Err(sd_core::Error::Unread {
                reader: "a single CLIP text encoder",
                parts: vec!["a second encoder's text"],
            });
        }
        let lines: Vec<Line<'_>> = prompts.iter().map(Line::first).collect();
        let embedding = self.embed(&lines)?;
        warn_of_cuts(&embedding, self.tokenizer.max_length());
        Ok(embedding)
    }

    fn absent(&self) -> AbsentPrompt {
        self.absent
    }

    /// Reads [`BesideLayers`] of one network.
    fn told(&self, told: &mut Extensions) -> sd_core::Result<Option<Box<dyn TextEncoder>>> {
        let Some(beside) = told.take::<BesideLayers>() else {
            return Ok(None);
        };
        let [changes] = beside.of()?;
        Ok(Some(Box::new(self.changed(&changes)?)))
    }
}
