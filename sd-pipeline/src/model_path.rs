//! The path that a caller names as a model: what it is, where it is no model's folder.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use sd_models::{FileKind, Files, SingleComponent, SingleFile};
use serde::Deserialize;

use crate::{Error, Result};

/// The file that makes a folder a model in diffusers layout.
pub(crate) const INDEX: &str = "model_index.json";

/// The folders of components that every kind of pipeline has some of.
const COMPONENTS: [&str; 8] = [
    "scheduler",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "transformer",
    "unet",
    "vae",
];

/// Something else than a model's folder in diffusers layout.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotAModel {
    /// Nothing of that name, neither file nor folder.
    Absent,
    /// Nothing of that name, which looks like a repository's on a hub.
    HubName,
    /// An address on the net.
    Address,
    /// A link that leads nowhere.
    BrokenLink {
        /// The path it leads to, as it is written in the link.
        target: PathBuf,
    },
    /// A file.
    File {
        /// Its kind.
        kind: FileKind,
        /// The model's folder that it lies in.
        model: Option<PathBuf>,
    },
    /// A folder with nothing in it.
    Empty,
    /// A folder of a model's components, without `model_index.json`.
    NoIndex {
        /// The components' folders.
        components: Vec<String>,
    },
    /// A folder that is one component of a model.
    Component {
        /// Its class, as its files name it.
        class: String,
        /// The model's folder that it lies in.
        model: Option<PathBuf>,
    },
    /// A repository in a hub's cache of which no single snapshot is the current one.
    Snapshots(
        /// The folders of the snapshots that there are.
        Vec<PathBuf>,
    ),
    /// A folder that holds models' folders.
    Models(
        /// The models' folders, and repositories of a hub's cache.
        Vec<PathBuf>,
    ),
    /// A folder that holds weights in single files.
    SingleFiles(
        /// The files' names.
        Vec<String>,
    ),
    /// Another folder.
    Other,
}

/// `true` for a file of a kind that holds weights.
pub(crate) fn is_weights(path: &Path) -> bool {
    use FileKind::{Gguf, Safetensors, Torch};
    let kind = || FileKind::of_file(path).unwrap_or(FileKind::Unknown);
    path.is_file() && matches!(kind(), Safetensors | Torch | Gguf)
}

/// Name of the model whose folder or file is `path`: OWNER/NAME of a repository in a hub's cache,
/// else the folder's, or the file's without its ending.
pub(crate) fn name(path: &Path) -> Option<String> {
    if path.is_file() {
        // What a link is called, not the hash that a cache has for a name.
        return Some(path.file_stem()?.to_string_lossy().into_owned());
    }
    let path = path.canonicalize().ok()?;
    let names = path.iter().rev().filter_map(|name| name.to_str());
    let repository = names
        .filter_map(|name| name.strip_prefix("models--"))
        .next();
    match repository {
        Some(repository) => Some(repository.replacen("--", "/", 1)),
        None => Some(path.file_name()?.to_string_lossy().into_owned()),
    }
}

/// Files of the model at `path`: a folder, or a repository in a hub's cache, of which the snapshot
/// that its `main` names is meant, or the only one there is.
pub(crate) fn files(path: &Path) -> Files {
    let snapshot = Snapshots::of(path).and_then(|snapshots| snapshots.current);
    Files::directory(snapshot.unwrap_or_else(|| path.into()))
}

/// Files of the folder `path`.
///
/// # Errors
/// [`Error::NotAModel`] where it is none.
pub(crate) fn folder(path: &Path) -> Result<Files> {
    let files = files(path);
    match files.on_disk() {
        Some(path) if !path.is_dir() => Err(Error::NotAModel {
            path: path.into(),
            there: NotAModel::of_path(path),
        }),
        _ => Ok(files),
    }
}

/// A check that there is a model in diffusers layout.
///
/// # Errors
/// [`Error::NotAModel`], saying what there is instead.
pub(crate) fn check(files: &Files) -> Result<()> {
    if files.has(INDEX) {
        return Ok(());
    }
    let there = match files.on_disk() {
        // Those on their way have names before there is a folder.
        Some(path) if !path.is_dir() && files.names().is_empty() => NotAModel::of_path(path),
        Some(path) if !path.is_dir() => NotAModel::of_folder(files),
        // A folder that may not be read is not an empty one.
        Some(path) => {
            path.read_dir().map_err(Error::io(path))?;
            NotAModel::of_folder(files)
        }
        None => NotAModel::of_folder(files),
    };
    let path = files.on_disk().unwrap_or(Path::new("files in memory"));
    Err(Error::NotAModel {
        path: path.into(),
        there,
    })
}

/// Files at `path`, which is that of a component or of a model that has one: a folder, a repository
/// in a hub's cache, or a file, of which `config` says what its tensors do not.
///
/// # Errors
/// [`Error::NotAModel`] where it is neither; those of [`SingleFile::component`].
pub(crate) fn component_files(
    path: &Path,
    component: SingleComponent,
    config: Option<&Files>,
) -> Result<Files> {
    match is_weights(path) {
        true => Ok(SingleFile::component(path, component, config)?),
        false => folder(path),
    }
}

impl NotAModel {
    /// A path that is no folder.
    fn of_path(path: &Path) -> Self {
        if path.is_file() {
            let kind = FileKind::of_file(path).unwrap_or(FileKind::Unknown);
            let model = model_around(path);
            return Self::File { kind, model };
        }
        if let Ok(target) = path.read_link() {
            return Self::BrokenLink { target };
        }
        match path.to_str() {
            Some(name) if name.contains("://") => Self::Address,
            Some(name) if is_hub_name(name) => Self::HubName,
            _ => Self::Absent,
        }
    }

    fn of_folder(files: &Files) -> Self {
        let names = files.names();
        if names.is_empty() {
            return Self::Empty;
        }
        if let Some(snapshots) = files.on_disk().and_then(Snapshots::of) {
            return Self::Snapshots(snapshots.all);
        }
        // Before the folder's own `config.json`: some repositories have one beside the components.
        let is_component = |name: &&String| COMPONENTS.contains(&name.as_str());
        let components: Vec<String> = names.iter().filter(is_component).cloned().collect();
        if !components.is_empty() {
            return Self::NoIndex { components };
        }
        if let Some(class) = component(files) {
            let model = files.on_disk().and_then(model_around);
            return Self::Component { class, model };
        }
        let is_model = |name: &&String| {
            let is_cached = name.starts_with("models--");
            is_cached || files.folder(name).has(INDEX)
        };
        let models: Vec<&String> = names.iter().filter(is_model).collect();
        if !models.is_empty() {
            return Self::Models(models.into_iter().map(|name| files.path(name)).collect());
        }
        let is_checkpoint = |name: &&String| {
            let ending = name.rsplit('.').next();
            ending.is_some_and(|e| ["safetensors", "ckpt", "gguf"].contains(&e)) && files.has(name)
        };
        let checkpoints: Vec<String> = names.iter().filter(is_checkpoint).cloned().collect();
        match checkpoints.is_empty() {
            true => Self::Other,
            false => Self::SingleFiles(checkpoints),
        }
    }
}

/// The repository's folder in a hub's cache: links by commit to files by hash.
struct Snapshots {
    all: Vec<PathBuf>,
    current: Option<PathBuf>,
}

impl Snapshots {
    /// The snapshots of `path`, which is the repository's folder or the `snapshots` in it; `None`
    /// where it is neither.
    fn of(path: &Path) -> Option<Self> {
        let path = match path.file_name() {
            Some(name) if name == "snapshots" => path.parent()?,
            _ => path,
        };
        let is_repository = path.join("refs").is_dir() || path.join("blobs").is_dir();
        let folder = path.join("snapshots");
        if !is_repository || !folder.is_dir() {
            return None;
        }
        let names = Files::directory(&folder).names();
        let main = Files::directory(path.join("refs")).text("main");
        let main = main.unwrap_or_default();
        let named = names.iter().find(|name| *name == main.trim());
        let current = match &names[..] {
            [only] => Some(only),
            _ => named,
        };
        Some(Self {
            current: current.map(|name| folder.join(name)),
            all: names.iter().map(|name| folder.join(name)).collect(),
        })
    }
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "_class_name")]
    class_name: Option<String>,
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
}

/// The class of the component that a folder is.
fn component(files: &Files) -> Option<String> {
    let class = |name| -> Option<String> {
        let config: Config = files.json(name).ok()?;
        let architecture = config.architectures.and_then(|all| all.into_iter().next());
        config.class_name.or(architecture).or(config.model_type)
    };
    if files.has("config.json") {
        return Some(class("config.json").unwrap_or("a component of no class".into()));
    }
    if files.has("scheduler_config.json") {
        return Some(class("scheduler_config.json").unwrap_or("a scheduler".into()));
    }
    let tokenizer = ["tokenizer.json", "vocab.json", "tokenizer_config.json"];
    (tokenizer.iter().any(|name| files.has(name))).then(|| "a tokenizer".into())
}

/// The model's folder that `path` lies in, directly or in a component of it.
pub(crate) fn model_around(path: &Path) -> Option<PathBuf> {
    let mut above = path.ancestors().skip(1).take(2);
    let model = above.find(|folder| folder.join(INDEX).is_file())?;
    // The parent of a relative name is "", which names nothing.
    Some(if model.as_os_str().is_empty() {
        ".".into()
    } else {
        model.into()
    })
}

/// `true` for `owner/name`, unless there is a folder `owner`.
fn is_hub_name(name: &str) -> bool {
    let parts: Vec<Component<'_>> = Path::new(name).components().collect();
    let [Component::Normal(owner), Component::Normal(_)] = parts[..] else {
        return false;
    };
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    name.chars().all(is_allowed) && !Path::new(owner).exists()
}

impl fmt::Display for NotAModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |paths: &[PathBuf]| {
            let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
            names.join(", ")
        };
        match self {
            Self::Absent => f.write_str("there is no such file or folder; ")?,
            Self::HubName => {
                return write!(
                    f,
                    "there is no such folder, and a path is not fetched from the hub; Pipeline::from_hub does \
                     (feature hub; in the example --model hf:OWNER/NAME), or download it (hf download \
                     REPOSITORY --local-dir FOLDER) and give that folder"
                );
            }
            Self::Address => {
                return f.write_str("an address; download the model and give its folder");
            }
            Self::BrokenLink { target } => {
                write!(f, "a link to {}, which is not there; ", target.display())?;
            }
            Self::File { kind, model: None } => write!(f, "{kind}; ")?,
            Self::File {
                kind,
                model: Some(model),
            } => {
                let model = model.display();
                return write!(f, "{kind} of the model in {model}; give that folder");
            }
            Self::Empty => f.write_str("an empty folder; ")?,
            Self::NoIndex { components } => {
                let components = components.join(", ");
                return write!(
                    f,
                    "a folder with {components} but without {INDEX}, which says what kind of model \
                     they make; the download is incomplete, add that file"
                );
            }
            Self::Component { class, model } => {
                write!(f, "one component alone ({class}) and not a whole model; ")?;
                if let Some(model) = model {
                    return write!(f, "give the folder {}", model.display());
                }
            }
            Self::Snapshots(all) if all.is_empty() => {
                return f.write_str("a hub's cache without a snapshot; download the model again");
            }
            Self::Snapshots(all) => {
                let all = list(all);
                return write!(f, "a hub's cache of several snapshots; give one of {all}");
            }
            Self::Models(models) => {
                let models = list(models);
                return write!(f, "a folder of models; give one of {models}");
            }
            Self::SingleFiles(names) => {
                let names = names.join(", ");
                return write!(f, "a folder with {names}; give that file itself");
            }
            Self::Other => f.write_str("a folder that holds no model; ")?,
        }
        f.write_str(EXPECTED)
    }
}

const EXPECTED: &str = "expected a model's folder in diffusers layout, with model_index.json, or a file of its weights";
