//! A single file's components, each as a folder in diffusers' layout would hold it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::families::Heads;
use super::names::{Entries, Numbers};
use super::{Opened, text, tiny, unet, vae};
use crate::files::Entry;
use crate::inspect::parts::{Part, Parts, Role};
use crate::inspect::vae::is_half;
use crate::ldm::Storage;
use crate::weights::{Renamed, TensorSource};
use crate::{ConfigFile, Files, Result};

pub(super) type Settings = Map<String, Value>;

/// Files by their names within a model.
#[derive(Default)]
pub(super) struct Folder(BTreeMap<String, Entry>);

impl Folder {
    pub(super) fn bytes(&mut self, name: String, bytes: impl Into<bytes::Bytes>) {
        self.0.insert(name, Entry::Bytes(bytes.into()));
    }

    pub(super) fn json(&mut self, name: String, value: &Value) {
        self.bytes(name, value.to_string().into_bytes());
    }

    /// A component's configuration and weights, in the folder `name`.
    fn component(
        &mut self,
        name: &str,
        stem: &str,
        settings: Settings,
        source: Arc<dyn TensorSource>,
    ) {
        let within = |file: &str| match name {
            "" => file.to_string(),
            name => format!("{name}/{file}"),
        };
        self.json(within("config.json"), &Value::Object(settings));
        let weights = within(&format!("{stem}.safetensors"));
        self.0.insert(weights, Entry::Tensors(source));
    }

    pub(super) fn files(self) -> Files {
        Files::entries(self.0)
    }
}

/// The caller's settings for the file `name` of a component, laid over `settings`.
pub(super) fn with_config(
    mut settings: Settings,
    config: Option<&Files>,
    folder: &str,
    name: &str,
) -> Result<Settings> {
    let files = config.map(|config| match folder {
        "" => config.clone(),
        folder => config.folder(folder),
    });
    if let Some(files) = files.filter(|files| files.has(name)) {
        settings.extend(files.json::<Settings>(name)?);
    }
    Ok(settings)
}

/// The caller's settings for the component in the folder `folder` laid over `settings`, unless they
/// are those of another class.
fn with_component(
    mut settings: Settings,
    config: Option<&Files>,
    folder: &str,
) -> Result<Settings> {
    let said = with_config(Settings::new(), config, folder, "config.json")?;
    let class = |settings: &Settings| settings.get("_class_name").cloned();
    if let (Some(own), Some(other)) = (class(&settings), class(&said))
        && own != other
    {
        return Ok(settings);
    }
    settings.extend(said);
    Ok(settings)
}

/// A file's components, made one by one.
pub(super) struct Components<'a> {
    pub(super) opened: &'a Opened,
    pub(super) numbers: Numbers<'a>,
    pub(super) config: Option<&'a Files>,
}

impl Components<'_> {
    fn renamed(&self, entries: Entries) -> Arc<dyn TensorSource> {
        Arc::new(Renamed::new(self.opened.source.clone(), entries))
    }

    /// A configuration as the networks read it, to find the names by. Errors name the file.
    fn file(&self, settings: &Settings) -> ConfigFile {
        ConfigFile::new(&self.opened.path, settings.clone())
            .on_unknown(crate::UnknownSettings::Warn)
    }

    pub(super) fn unet(
        &self,
        folder: &mut Folder,
        parts: &Parts<'_>,
        part: &Part<'_>,
        heads: Heads,
        says: Settings,
    ) -> Result<Settings> {
        let mut settings = unet::settings(part, heads);
        settings.extend(says);
        let settings = with_component(settings, self.config, "unet")?;
        let entries = unet::names(part, &self.numbers, &self.file(&settings))?;
        let averaged = parts.of_role(Role::Ema);
        if let Some(entries) = averaged.and_then(|ema| self.averaged(ema, part, &entries)) {
            let file = "unet/diffusion_pytorch_model.ema.safetensors";
            folder
                .0
                .insert(file.into(), Entry::Tensors(self.renamed(entries)));
        }
        folder.component(
            "unet",
            "diffusion_pytorch_model",
            settings.clone(),
            self.renamed(entries),
        );
        Ok(settings)
    }

    /// The U-Net `part`, whose tensors have these names, from the averaged copy that training kept of
    /// it: its names are those of the plain one without dots, so that these lead to them and not the
    /// other way round. `None` unless all are there.
    fn averaged(&self, ema: &Part<'_>, part: &Part<'_>, plain: &Entries) -> Option<Entries> {
        let copy = |(index, name, form): &(usize, String, Storage)| {
            let tensor = &self.opened.source.tensors().get(*index)?.name;
            let inner = tensor.strip_prefix(part.prefix)?.replace('.', "");
            let copy = format!("diffusion_model{inner}");
            ema.has(&copy)
                .then(|| (self.numbers.of(ema, &copy), name.clone(), *form))
        };
        plain.iter().map(copy).collect()
    }

    /// Gives the autoencoder's class, `None` where there is none.
    pub(super) fn vae(
        &self,
        folder: &mut Folder,
        parts: &Parts<'_>,
        says: Settings,
    ) -> Result<Option<String>> {
        let Some(part) = parts.of_role(Role::Vae) else {
            return Ok(None);
        };
        let (settings, source) = match self.tiny(part)? {
            // Its latents are those that denoisers work on: a family has no say.
            Some((settings, source)) => (with_component(settings, self.config, "vae")?, source),
            None => {
                let mut settings = vae::settings(part);
                settings.extend(says);
                let settings = with_component(settings, self.config, "vae")?;
                let entries = vae::names(part, &self.numbers, &self.file(&settings))?;
                (settings, self.renamed(entries))
            }
        };
        let class = settings.get("_class_name").and_then(Value::as_str);
        let class = class.unwrap_or_default().to_string();
        folder.component("vae", "diffusion_pytorch_model", settings, source);
        Ok(Some(class))
    }

    /// A tiny autoencoder, if that is what is there: by diffusers' names, by its own with both halves
    /// in one file, or one half.
    fn tiny(&self, part: &Part<'_>) -> Result<Option<tiny::Found>> {
        let halves = |starts: [&'static str; 2]| starts.map(|start| tiny::Half { part, start });
        let has = |starts: [&str; 2]| starts.iter().any(|start| part.any(start));
        let ours = ["encoder.layers.", "decoder.layers."];
        let theirs = ["taesd_encoder.", "taesd_decoder."];
        Ok(Some(if has(ours) {
            let [encoder, decoder] = halves(ours);
            let settings = tiny::settings(&encoder, &decoder);
            (settings, self.renamed(self.numbers.kept(part)))
        } else if has(theirs) {
            tiny::both(self.opened, &self.numbers, &halves(theirs))?
        } else if is_half(&part.tensors) {
            tiny::with_other_half(self.opened, part)?
        } else {
            return Ok(None);
        }))
    }

    pub(super) fn text(
        &self,
        folder: &mut Folder,
        parts: &[&Part<'_>],
        name: &str,
        layers: Option<usize>,
        says: Settings,
    ) -> Result<Settings> {
        let mut settings = text::settings(parts, layers);
        settings.extend(says);
        // One alone is in no folder of its own.
        let folder_of = if name.is_empty() {
            "text_encoder"
        } else {
            name
        };
        let settings = with_config(settings, self.config, folder_of, "config.json")?;
        let entries = text::names(parts, &self.numbers, &self.file(&settings))?;
        folder.component(name, "model", settings.clone(), self.renamed(entries));
        Ok(settings)
    }
}
