use std::path::Path;
use std::sync::Arc;

use burn::tensor::Device;
use sd_core::WeightBytes;

use super::{IpAdapterConfig, IpAdapterModel, ProjectionConfig, family_of};
use crate::{
    ClipVisionConfig, ClipVisionModelWithProjection, ConfigFile, Error, Files, LoadOptions, Result,
    TensorSource, Weights, open_source,
};

/// The folder of the image encoder.
const ENCODER: &str = "image_encoder";
/// Endings of the adapter's own file, those of one row as good as each other.
const ENDINGS: [&[&str]; 2] = [&["safetensors"], &["bin", "pt", "pth", "ckpt"]];

/// Files of an IP-Adapter and its image encoder, found sound; the weights are still in them.
#[derive(Debug, Clone)]
pub struct IpAdapterFiles {
    config: IpAdapterConfig,
    weights: Weights,
    vision: ClipVisionConfig,
    encoder: Weights,
    encoder_folder: Files,
    options: LoadOptions,
}

impl IpAdapterFiles {
    /// Opens the adapter at `path`: a folder with one file of tensors, safetensors or a PyTorch
    /// checkpoint, and `image_encoder`, transformers' `CLIPVisionModelWithProjection`; or such a file
    /// beside that folder.
    ///
    /// # Errors
    /// As [`of_source`](Self::of_source) and [`open_source`]; [`Error::Adapter`] for a folder with
    /// no such file or several, [`Error::Io`] for one that is not there.
    pub fn open(path: impl AsRef<Path>, options: &LoadOptions) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            let files = Files::directory(path);
            let name = own_file(&files)?;
            return Self::of_source(
                open_source(files.path(&name))?,
                &files.folder(ENCODER),
                options,
            );
        }
        let source = open_source(path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::of_source(source, &Files::directory(folder.join(ENCODER)), options)
    }

    /// The adapter of these tensors, with the image encoder in the folder `encoder`.
    ///
    /// # Errors
    /// [`Error::Contents`] for a file that is no IP-Adapter, [`Error::Unsupported`] for one that takes
    /// a face network's vectors (FaceID), [`Error::Tensors`] for one whose tensors are not all its
    /// own; those of the encoder's configuration and weights; [`Error::Adapter`] where it was trained
    /// with another encoder.
    pub fn of_source(
        source: Arc<dyn TensorSource>,
        encoder: &Files,
        options: &LoadOptions,
    ) -> Result<Self> {
        let weights = Weights::from_source(source)?;
        let config = IpAdapterConfig::of(&weights)?;
        weights.check(&IpAdapterModel::new(&config, &options.device))?;
        let file = ConfigFile::read(encoder, "config.json")?;
        let file = file.on_unknown(options.unknown_settings);
        let vision = ClipVisionConfig::from_file(&file)?;
        let expected = match config.projection {
            ProjectionConfig::Linear => vision.projection_dim,
            _ => vision.hidden_size,
        };
        if config.image_width != expected {
            let (kind, width) = (config.projection.name(), config.image_width);
            let folder = encoder.path("");
            let folder = folder.display();
            return Err(Error::Adapter {
                path: weights.path().into(),
                reason: format!(
                    "this {kind} IP-Adapter takes vectors {width} wide of its image encoder, those \
                     of {folder} are {expected} wide; expected the encoder it was trained with"
                ),
            });
        }
        let encoder_weights = encoder.weights("model", None)?;
        encoder_weights.check(&ClipVisionModelWithProjection::new(
            vision.clone(),
            &options.device,
        ))?;
        Ok(Self {
            config,
            weights,
            vision,
            encoder: encoder_weights,
            encoder_folder: encoder.clone(),
            options: options.clone(),
        })
    }

    /// The adapter's file.
    pub fn path(&self) -> &Path {
        self.weights.path()
    }

    /// The shape of the adapter.
    pub fn config(&self) -> &IpAdapterConfig {
        &self.config
    }

    /// The shape of the image encoder.
    pub fn vision(&self) -> &ClipVisionConfig {
        &self.vision
    }

    /// The folder of the image encoder.
    pub fn encoder_folder(&self) -> &Files {
        &self.encoder_folder
    }

    /// The device to load it to.
    pub fn device(&self) -> &Device {
        &self.options.device
    }

    /// The bytes that the weights of both take once they are loaded, told from the files' headers.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for tensors that are no network's.
    pub fn weight_bytes(&self) -> Result<WeightBytes> {
        let device = &self.options.device;
        let model = IpAdapterModel::new(&self.config, device);
        let own = self.weights.packed_bytes(model, &self.options)?;
        let encoder = ClipVisionModelWithProjection::new(self.vision.clone(), device);
        Ok(own + self.encoder.packed_bytes(encoder, &self.options)?)
    }

    /// Reads the weights; also gives the memory they take.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read, [`Error::Packing`] when there is not memory enough.
    pub fn load(&self) -> Result<(IpAdapterModel, ClipVisionModelWithProjection, WeightBytes)> {
        let model = IpAdapterModel::new(&self.config, &self.options.device);
        let (model, own) = self.weights.load_packed(model, &self.options)?;
        let (encoder, bytes) =
            ClipVisionModelWithProjection::load(self.vision.clone(), &self.encoder, &self.options)?;
        Ok((model, encoder, own + bytes))
    }

    /// A check that a network's layers of cross-attention are those that the adapter was made for:
    /// `layers` their widths, in the adapter's order, `context_width` that of a prompt's tokens.
    ///
    /// # Errors
    /// [`Error::Adapter`] that names both families.
    pub fn check_layers(&self, context_width: usize, layers: &[usize]) -> Result<()> {
        let own = &self.config;
        if own.context_width == context_width && (layers.is_empty() || own.layers == layers) {
            return Ok(());
        }
        let named = |family: Option<&'static str>| family.unwrap_or("unknown");
        let family = named(own.family());
        let other = named(family_of(context_width, layers.len()));
        let (kind, width, count) = (own.projection.name(), own.context_width, own.layers.len());
        let found = layers.len();
        let widths = match found == count && width == context_width {
            true => ", of other widths",
            false => "",
        };
        Err(Error::Adapter {
            path: self.path().into(),
            reason: format!(
                "this {kind} IP-Adapter is for the family {family}, {count} layers of \
                 cross-attention to tokens {width} wide; the model is of the family {other} and has \
                 {found} to tokens {context_width} wide{widths}"
            ),
        })
    }
}

/// Name of the one file in the folder that holds an adapter.
fn own_file(files: &Files) -> Result<String> {
    let names = files.names();
    for endings in ENDINGS {
        let ends = |name: &&String| {
            let ending = Path::new(name).extension();
            ending.is_some_and(|ending| endings.iter().any(|end| ending == *end))
        };
        let found: Vec<&String> = names.iter().filter(ends).filter(|n| files.has(n)).collect();
        match found[..] {
            [] => {}
            [one] => return Ok(one.clone()),
            [first, second, ..] => {
                let count = found.len();
                return Err(Error::Adapter {
                    path: files.path(""),
                    reason: format!(
                        "there are {count} files of tensors, {first}, {second} …; expected one, or \
                         the file's own path"
                    ),
                });
            }
        }
    }
    Err(Error::Adapter {
        path: files.path(""),
        reason: "no IP-Adapter is there, expected one .safetensors or .bin beside image_encoder"
            .into(),
    })
}
