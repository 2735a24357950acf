//! Words that a text encoder is taught by vectors alone (Gal et al. 2022, arXiv:2208.01618).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::tensor::DType;

use crate::weights::{Stored, TensorInfo, TensorSource, open_source, values};
use crate::{Error, Result};

/// No word has more vectors: a prompt has room for 75.
const MAX_VECTORS: usize = 75;

/// A word and the vectors it stands for, one or more for each text encoder.
///
/// The files are those of the original code and AUTOMATIC1111 (`.pt`, with `string_to_param`),
/// diffusers (`.bin` and safetensors, with the word for a name), kohya (`emb_params`) and of SDXL
/// (`clip_l` and `clip_g`). Nothing is written to a model's files.
#[derive(Debug, Clone)]
pub struct TextualInversion {
    path: PathBuf,
    word: String,
    /// By the encoder's number, or for the only one there is.
    vectors: Vec<(Option<usize>, Arc<Vectors>)>,
}

/// Vectors of one width, one after the other.
#[derive(Debug, PartialEq)]
pub(crate) struct Vectors {
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) values: Vec<f32>,
}

impl TextualInversion {
    /// Reads a file; its word is the file's name without the ending, as in AUTOMATIC1111 and
    /// ComfyUI.
    ///
    /// # Errors
    /// As [`open_source`]; [`Error::Adapter`] when there are no vectors in it, or more than a prompt
    /// has room for, or values that are not finite.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let stem = path.file_stem().unwrap_or_default();
        let word = stem.to_string_lossy().trim().to_string();
        Self::from_source(&*open_source(path)?, word)
    }

    fn from_source(source: &dyn TensorSource, word: String) -> Result<Self> {
        let path = source.path();
        let fault = |reason: String| Error::Adapter {
            path: path.into(),
            reason,
        };
        let all = source.tensors().iter().enumerate();
        let read = all.filter(|(_, tensor)| !tensor.name.starts_with("string_to_token"));
        let read: Vec<_> = read.filter(|(_, tensor)| tensor.dtype.is_some()).collect();
        let encoder = |name: &str| match name {
            "clip_l" => Some(0),
            "clip_g" => Some(1),
            _ => None,
        };
        let of_several = read
            .iter()
            .all(|(_, tensor)| encoder(&tensor.name).is_some());
        if read.is_empty() || read.len() > if of_several { 2 } else { 1 } {
            let names: Vec<&str> = read.iter().take(4).map(|(_, t)| t.name.as_str()).collect();
            let names = names.join(", ");
            return Err(fault(format!(
                "its tensors are {names:?}; expected one of a word's vectors, or clip_l and clip_g"
            )));
        }
        let mut vectors = Vec::new();
        for (index, tensor) in read {
            let [count, width] = match tensor.shape[..] {
                [width] => [1, width],
                [count, width] => [count, width],
                _ => [0, 0],
            };
            if !(1..=MAX_VECTORS).contains(&count) || width == 0 {
                let (name, shape) = (&tensor.name, &tensor.shape);
                return Err(fault(format!(
                    "{name} is {shape:?}; expected [width] or [1 to {MAX_VECTORS}, width]"
                )));
            }
            let values = values(source, index)?;
            let own = Vectors {
                count,
                width,
                values,
            };
            vectors.push((encoder(&tensor.name), Arc::new(own)));
        }
        if vectors
            .windows(2)
            .any(|pair| pair[0].1.count != pair[1].1.count)
        {
            return Err(fault(
                "clip_l and clip_g have different numbers of vectors".into(),
            ));
        }
        Ok(Self {
            path: path.into(),
            word,
            vectors,
        })
    }

    /// The same under another word.
    #[must_use]
    pub fn called(self, word: impl Into<String>) -> Self {
        let word = word.into();
        Self { word, ..self }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The word, as it is written in a prompt.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// Number of tokens that the word takes of a prompt.
    pub fn tokens(&self) -> usize {
        self.vectors.first().map_or(0, |(_, vectors)| vectors.count)
    }

    /// Family of models that the vectors are for, where their widths tell.
    pub fn family(&self) -> Option<&'static str> {
        let widths: Vec<usize> = self.vectors.iter().map(|(_, v)| v.width).collect();
        match widths[..] {
            [768] => Some("sd1"),
            [1024] => Some("sd2"),
            [_, _] => Some("sdxl"),
            _ => None,
        }
    }

    /// Vectors for the encoder of number `index` of `count`, whose tokens are `width` wide.
    pub(crate) fn vectors(
        &self,
        index: usize,
        count: usize,
        width: usize,
    ) -> Result<&Arc<Vectors>> {
        let own = self
            .vectors
            .iter()
            .find(|(encoder, vectors)| match encoder {
                Some(encoder) => *encoder == index && count > 1,
                None => count == 1 || vectors.width == width,
            });
        match own {
            Some((_, vectors)) if vectors.width == width => Ok(vectors),
            found => {
                let widths = match found {
                    Some((_, vectors)) => vec![vectors.width],
                    None => self
                        .vectors
                        .iter()
                        .map(|(_, vectors)| vectors.width)
                        .collect(),
                };
                let widths: Vec<String> = widths.iter().map(usize::to_string).collect();
                Err(self.error(format!(
                    "its vectors are {} wide, the model's text encoder {width}",
                    widths.join(" and ")
                )))
            }
        }
    }

    pub(crate) fn error(&self, reason: impl std::fmt::Display) -> Error {
        Error::Adapter {
            path: self.path.clone(),
            reason: format!("the word {:?}: {reason}", self.word),
        }
    }
}

/// A table of tokens with a word's vectors behind what is used of it.
pub(crate) struct Extended {
    table: Stored,
    info: [TensorInfo; 1],
    vectors: Arc<Vectors>,
    /// Number of the word's first token.
    first: usize,
}

impl Extended {
    /// The table of a tokenizer with `first` tokens, and the number of rows it has then.
    pub(crate) fn stored(
        table: Stored,
        vectors: Arc<Vectors>,
        first: usize,
    ) -> Result<(Stored, usize)> {
        table.check_floats()?;
        // A file may keep its table in a shape of its own, with unit sides around it.
        let held = table.elements() / vectors.width;
        let rows = held.max(first + vectors.count);
        let info = TensorInfo {
            name: table.info().name.clone(),
            shape: vec![rows, vectors.width],
            stored: "F32",
            dtype: Some(DType::F32),
        };
        let shape = info.shape.clone();
        let source = Self {
            table,
            info: [info],
            vectors,
            first,
        };
        let stored = Stored {
            shape,
            dtype: Some(DType::F32),
            source: Arc::new(source),
            index: 0,
        };
        Ok((stored, rows))
    }
}

impl TensorSource for Extended {
    fn path(&self) -> &Path {
        self.table.path()
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.info
    }

    fn metadata(&self) -> &BTreeMap<String, String> {
        const NONE: &BTreeMap<String, String> = &BTreeMap::new();
        NONE
    }

    fn read(&self, _tensor: usize, first: usize, to: &mut [u8]) -> Result<()> {
        let last = first + to.len() / 4;
        let width = self.vectors.width;
        let mut new = vec![0.0; last - first];
        // What the table has, zeros behind it, and the word's own over both.
        let old = self.table.elements();
        if first < old {
            let count = last.min(old) - first;
            new[..count].copy_from_slice(&self.table.f32s(first, count)?);
        }
        let own = self.first * width..(self.first + self.vectors.count) * width;
        for at in first.max(own.start)..last.min(own.end) {
            new[at - first] = self.vectors.values[at - own.start];
        }
        for (to, value) in to.chunks_exact_mut(4).zip(new) {
            to.copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }
}
