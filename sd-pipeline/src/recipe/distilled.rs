//! Models distilled to a few steps, which their files tell from others by hints alone.

use std::path::Path;

use sd_models::{ConfigFile, Files};

/// Numbers that a model distilled to a few steps draws best with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Distilled {
    /// Word by which a name tells it.
    word: &'static str,
    /// The steps it was distilled to, in words.
    steps: &'static str,
    /// The most steps that are still few.
    pub(crate) most_steps: usize,
    /// `true` of one that was distilled with its guidance, and is drawn without any.
    pub(crate) unguided: bool,
}

const fn unguided(word: &'static str, steps: &'static str, most_steps: usize) -> Distilled {
    Distilled {
        word,
        steps,
        most_steps,
        unguided: true,
    }
}

/// Distillations by the words in their models' names.
static DISTILLED: &[Distilled] = &[
    unguided("turbo", "1 to 4", 8),
    unguided("lightning", "2, 4 or 8", 8),
    unguided("hyper-sd", "1 to 8", 8),
    unguided("sdxs", "1", 4),
    Distilled {
        unguided: false,
        ..unguided("lcm", "4 to 8", 16)
    },
];

/// A model that no name tells: its timesteps begin at the very last, which few steps need.
const TRAILING: Distilled = unguided("", "1 to 8", 8);

impl Distilled {
    /// The distillation that the name of the folder or file at `path`, a name that one of its files
    /// notes, or its scheduler's spacing hint at. A note that cannot be read is no hint.
    pub(super) fn find(files: &Files, path: Option<&Path>) -> Option<Self> {
        let file = |folder: &str, name: &str| {
            let files = match folder {
                "" => files.clone(),
                folder => files.folder(folder),
            };
            ConfigFile::read(&files, name).ok()
        };
        let text = |file: Option<ConfigFile>, field: &str| file?.text(field).ok()?;
        let noted = "_name_or_path";
        let names = [
            path.and_then(model_name),
            text(file("", "model_index.json"), noted),
            text(file("unet", "config.json"), noted),
        ];
        let names: Vec<String> = names.iter().flatten().map(|n| n.to_lowercase()).collect();
        let is_named = |one: &&Self| names.iter().any(|name| name.contains(one.word));
        if let Some(named) = DISTILLED.iter().find(is_named) {
            return Some(*named);
        }
        let scheduler = file("scheduler", "scheduler_config.json")?;
        let trailing = scheduler.text("timestep_spacing").ok()?? == "trailing";
        // Zero terminal SNR needs the last timestep for another reason.
        let zero_snr = scheduler.flag("rescale_betas_zero_snr", false).ok()?;
        (trailing && !zero_snr).then_some(TRAILING)
    }

    /// Words on what to ask for.
    pub(crate) fn advice(&self) -> String {
        let why = match self.word {
            "" => "by its trailing timesteps".into(),
            word => format!("by its name ({word})"),
        };
        let guidance = match self.unguided {
            true => " and guidance scale 0",
            false => "",
        };
        let steps = self.steps;
        format!("{why} the model is one for few steps: better are {steps}{guidance}")
    }
}

/// The model's name: that of its folder or file, or of the repository whose snapshot it is.
fn model_name(path: &Path) -> Option<String> {
    let parent = path.parent()?;
    let path = match parent.file_name() {
        Some(name) if name == "snapshots" => parent.parent()?,
        _ => path,
    };
    Some(path.file_name()?.to_string_lossy().into_owned())
}
