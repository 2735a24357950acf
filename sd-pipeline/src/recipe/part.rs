//! Files of a model's components, wherever they lie.

use sd_models::{ConfigFile, Files};

use crate::Result;

/// Files of one component: the folder `folder` of `files`, or `files` itself.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// Its folder's name in a model.
    pub(crate) name: String,
    pub(super) files: Files,
    pub(super) folder: String,
    /// Its class, which is an index's whatever its own file says; `None` where none names one.
    pub(crate) class: Option<String>,
    /// `true` of one that is not the model's own.
    pub(super) is_elsewhere: bool,
}

/// Files of one text encoder and its tokenizer.
#[derive(Debug, Clone)]
pub(crate) struct TextPart {
    pub(crate) encoder: Part,
    pub(super) tokenizer: Tokenizer,
}

/// Files of a tokenizer, and its folder's name in a model.
#[derive(Debug, Clone)]
pub(super) struct Tokenizer {
    pub(super) files: Files,
    pub(super) name: &'static str,
}

impl Tokenizer {
    /// Takes `files` where a tokenizer is among them.
    pub(super) fn replace(&mut self, files: Files) {
        if files.has("tokenizer.json") || files.has("vocab.json") {
            self.files = files;
        }
    }
}

impl Part {
    /// The component's own folder.
    pub(crate) fn files(&self) -> Files {
        match self.folder.as_str() {
            "" => self.files.clone(),
            folder => self.files.folder(folder),
        }
    }

    /// Its configuration.
    pub(crate) fn config(&self) -> Result<ConfigFile> {
        Ok(ConfigFile::read(&self.files(), "config.json")?)
    }
}

/// The one of `own` whose class is that of the text encoder in the folder `files`.
pub(super) fn of_its_class(own: &[TextPart], files: &Files) -> Result<usize> {
    if own.len() == 1 {
        return Ok(0);
    }
    let file = ConfigFile::read(files, "config.json")?;
    let expected = "a list of class names";
    let classes: Vec<String> = file.get("architectures", expected)?.unwrap_or_default();
    let is_of = |part: &TextPart| part.encoder.class.as_ref() == classes.first();
    let mut found = (0..own.len()).filter(|k| is_of(&own[*k]));
    match (found.next(), found.next()) {
        (Some(index), None) => Ok(index),
        _ => {
            let known = own.iter().filter_map(|part| part.encoder.class.as_deref());
            let known: Vec<&str> = known.collect();
            let expected = format!(
                "the class of one of the model's encoders: {}",
                known.join(", ")
            );
            Err(file.error("architectures", &expected).into())
        }
    }
}
