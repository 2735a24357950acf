//! What a row of the tables of names is, and the tables in print.

use super::{SCHEDULES, SOLVERS, list};

/// A value of a configuration key.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Opt {
    Flag(bool),
    Text(&'static str),
    Count(u32),
}

/// Configuration keys and their values.
pub(crate) type Options = &'static [(&'static str, Opt)];

/// A solver's name.
#[derive(Debug)]
pub(crate) struct SolverRow {
    /// The name it is printed with.
    pub(crate) name: &'static str,
    /// The class it is.
    pub(crate) class: &'static str,
    /// What tells it from the class's defaults.
    pub(crate) options: Options,
    /// What each program calls it.
    pub(crate) a1111: &'static [&'static str],
    pub(crate) comfyui: &'static [&'static str],
    pub(crate) sd_cpp: &'static [&'static str],
    /// Whether it can run on any σ.
    pub(crate) takes_sigmas: bool,
}

/// A sigma schedule's name.
#[derive(Debug)]
pub(crate) struct ScheduleRow {
    /// The name it is printed with behind the solver's.
    pub(crate) name: &'static str,
    /// The keys that ask for it.
    pub(crate) options: Options,
    /// What each program calls it.
    pub(crate) a1111: &'static [&'static str],
    pub(crate) comfyui: &'static [&'static str],
    pub(crate) sd_cpp: &'static [&'static str],
}

/// Whose names are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    A1111,
    ComfyUi,
    SdCpp,
    Diffusers,
}

impl Dialect {
    /// The dialect of a prefix such as `a1111:`.
    pub(crate) fn named(prefix: &str) -> Option<Self> {
        Some(match prefix.trim().to_lowercase().as_str() {
            "a1111" | "webui" => Self::A1111,
            "comfyui" | "comfy" => Self::ComfyUi,
            "sd.cpp" | "sdcpp" | "stable-diffusion.cpp" => Self::SdCpp,
            "diffusers" => Self::Diffusers,
            _ => return None,
        })
    }
}

impl SolverRow {
    /// Its names in one dialect.
    pub(crate) fn names_in(&self, dialect: Dialect) -> &[&'static str] {
        match dialect {
            Dialect::A1111 => self.a1111,
            Dialect::ComfyUi => self.comfyui,
            Dialect::SdCpp => self.sd_cpp,
            Dialect::Diffusers if self.options.is_empty() => std::slice::from_ref(&self.class),
            Dialect::Diffusers => &[],
        }
    }
}

impl ScheduleRow {
    /// Its names in all dialects, its own first.
    pub(crate) fn spellings(&self) -> impl Iterator<Item = &'static str> {
        let others = [self.a1111, self.comfyui, self.sd_cpp]
            .into_iter()
            .flatten();
        [self.name].into_iter().chain(others.copied())
    }
}

/// The canonical names of all solvers.
pub fn names() -> Vec<&'static str> {
    SOLVERS.iter().map(|row| row.name).collect()
}

/// All names of solvers and sigma schedules as two Markdown tables; `NAMES.md` beside the crate's
/// manifest is this.
pub fn names_markdown() -> String {
    let code = |names: &[&str]| -> String {
        let quoted: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
        if quoted.is_empty() {
            "–".into()
        } else {
            list(&quoted)
        }
    };
    let options = |options: Options| -> String {
        let texts: Vec<String> = options
            .iter()
            .map(|(key, value)| match value {
                Opt::Flag(flag) => format!("`{key}={flag}`"),
                Opt::Text(text) => format!("`{key}={text}`"),
                Opt::Count(count) => format!("`{key}={count}`"),
            })
            .collect();
        if texts.is_empty() {
            "–".into()
        } else {
            list(&texts)
        }
    };
    let mut text = String::from(
        "| solver | class | options | A1111 | ComfyUI | stable-diffusion.cpp | any σ |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in SOLVERS {
        text += &format!(
            "| {} | `{}` | {} | {} | {} | {} | {} |\n",
            row.name,
            row.class,
            options(row.options),
            code(row.a1111),
            code(row.comfyui),
            code(row.sd_cpp),
            if row.takes_sigmas { "yes" } else { "no" },
        );
    }
    text += "\n| schedule | A1111 | ComfyUI | stable-diffusion.cpp |\n|---|---|---|---|\n";
    for row in SCHEDULES {
        text += &format!(
            "| {} | {} | {} | {} |\n",
            row.name,
            code(row.a1111),
            code(row.comfyui),
            code(row.sd_cpp),
        );
    }
    text
}
