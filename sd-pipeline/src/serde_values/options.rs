//! Options as they are written: devices and precisions by name.

use std::path::PathBuf;

use burn::tensor::{Device, FloatDType};
use sd_models::vae::Tiling;
use sd_models::{PredictionType, TextualInversion, UnknownSettings, WeightStorage};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::absent;
use crate::{
    ComponentFolders, Components, Lora, OnFlagged, OpenOptions, Placement, Residency, devices,
};

#[derive(Serialize, Deserialize)]
struct Options {
    device: String,
    #[serde(default)]
    dtype: Precision,
    #[serde(default)]
    text_encoder: Option<Place>,
    #[serde(default)]
    autoencoder: Option<Place>,
    #[serde(default)]
    scheduler: Option<String>,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default)]
    weight_storage: Storage,
    #[serde(default)]
    int8: bool,
    #[serde(default)]
    residency: Residency,
    #[serde(default)]
    tiling: Tiling,
    #[serde(default)]
    memory_budget: Option<u64>,
    #[serde(default)]
    memory_limit: Option<u64>,
    #[serde(default)]
    unknown_settings: UnknownSettings,
    #[serde(default)]
    prediction: Option<PredictionType>,
    #[serde(default)]
    family: Option<String>,
    #[serde(default)]
    config: Option<PathBuf>,
    #[serde(default)]
    folders: ComponentFolders,
    #[serde(default)]
    loras: Vec<Look>,
    #[serde(default)]
    words: Vec<Word>,
    #[serde(default = "checked")]
    safety: Option<OnFlagged>,
    #[serde(default, with = "absent")]
    components: Components,
}

/// What is not said is safe.
fn checked() -> Option<OnFlagged> {
    Some(OnFlagged::default())
}

#[derive(Serialize, Deserialize)]
struct Place {
    device: String,
    #[serde(default)]
    dtype: Precision,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Precision {
    #[default]
    F32,
    F16,
    Bf16,
}

#[derive(Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Storage {
    #[default]
    F32,
    AsStored,
    Q8,
    Q4,
}

/// A [`Lora`] by its file, which is opened again.
#[derive(Serialize, Deserialize)]
struct Look {
    file: PathBuf,
    strength: f32,
    lenient: bool,
}

impl Look {
    fn of(lora: &Lora) -> Self {
        Self {
            file: lora.file.path().into(),
            strength: lora.strength,
            lenient: lora.lenient,
        }
    }

    fn open(&self) -> crate::Result<Lora> {
        Ok(Lora {
            strength: self.strength,
            lenient: self.lenient,
            ..Lora::open(&self.file)?
        })
    }
}

/// A [`TextualInversion`] by its file, likewise.
#[derive(Serialize, Deserialize)]
struct Word {
    file: PathBuf,
    word: String,
}

impl Word {
    fn of(word: &TextualInversion) -> Self {
        Self {
            file: word.path().into(),
            word: word.word().into(),
        }
    }

    fn open(&self) -> crate::Result<TextualInversion> {
        Ok(TextualInversion::open(&self.file)?.called(&self.word))
    }
}

impl Precision {
    fn of<E: ser::Error>(dtype: FloatDType) -> Result<Self, E> {
        match dtype {
            FloatDType::F32 => Ok(Self::F32),
            FloatDType::F16 => Ok(Self::F16),
            FloatDType::BF16 => Ok(Self::Bf16),
            other => Err(E::custom(format!("{other:?} has no name to be written"))),
        }
    }

    fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::F16 => FloatDType::F16,
            Self::Bf16 => FloatDType::BF16,
        }
    }
}

fn name<E: ser::Error>(device: &Device) -> Result<String, E> {
    let name = devices::name_of(device);
    name.ok_or_else(|| E::custom("a device that was not opened by name cannot be written"))
}

impl Place {
    fn of<E: ser::Error>(placement: &Placement) -> Result<Self, E> {
        Ok(Self {
            device: name(&placement.device)?,
            dtype: Precision::of(placement.dtype)?,
        })
    }

    fn placement<E: de::Error>(self) -> Result<Placement, E> {
        Ok(Placement {
            device: devices::open(&self.device).map_err(E::custom)?,
            dtype: self.dtype.dtype(),
        })
    }
}

impl Serialize for OpenOptions {
    /// Devices are written by the name they were opened by.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let place = |place: &Option<Placement>| place.as_ref().map(Place::of).transpose();
        let options = Options {
            device: name(&self.device)?,
            dtype: Precision::of(self.dtype)?,
            text_encoder: place(&self.text_encoder)?,
            autoencoder: place(&self.autoencoder)?,
            scheduler: self.scheduler.clone(),
            variant: self.variant.clone(),
            weight_storage: match self.weight_storage {
                WeightStorage::F32 => Storage::F32,
                WeightStorage::AsStored => Storage::AsStored,
                WeightStorage::Q8 => Storage::Q8,
                WeightStorage::Q4 => Storage::Q4,
            },
            int8: self.int8,
            residency: self.residency,
            tiling: self.tiling,
            memory_budget: self.memory_budget,
            memory_limit: self.memory_limit,
            unknown_settings: self.unknown_settings,
            prediction: self.prediction,
            family: self.family.clone(),
            config: self.config.clone(),
            folders: self.folders.clone(),
            loras: self.loras.iter().map(Look::of).collect(),
            words: self.words.iter().map(Word::of).collect(),
            safety: self.safety,
            components: self.components.clone(),
        };
        options.serialize(to)
    }
}

impl<'a> Deserialize<'a> for OpenOptions {
    /// Devices are opened here.
    fn deserialize<D: Deserializer<'a>>(from: D) -> Result<Self, D::Error> {
        let options = Options::deserialize(from)?;
        let place = |place: Option<Place>| place.map(Place::placement).transpose();
        Ok(Self {
            device: devices::open(&options.device).map_err(de::Error::custom)?,
            dtype: options.dtype.dtype(),
            text_encoder: place(options.text_encoder)?,
            autoencoder: place(options.autoencoder)?,
            scheduler: options.scheduler,
            variant: options.variant,
            weight_storage: match options.weight_storage {
                Storage::F32 => WeightStorage::F32,
                Storage::AsStored => WeightStorage::AsStored,
                Storage::Q8 => WeightStorage::Q8,
                Storage::Q4 => WeightStorage::Q4,
            },
            int8: options.int8,
            residency: options.residency,
            tiling: options.tiling,
            memory_budget: options.memory_budget,
            memory_limit: options.memory_limit,
            unknown_settings: options.unknown_settings,
            prediction: options.prediction,
            family: options.family,
            config: options.config,
            folders: options.folders,
            loras: (options.loras.iter().map(Look::open))
                .collect::<crate::Result<_>>()
                .map_err(de::Error::custom)?,
            words: (options.words.iter().map(Word::open))
                .collect::<crate::Result<_>>()
                .map_err(de::Error::custom)?,
            safety: options.safety,
            components: options.components,
        })
    }
}
