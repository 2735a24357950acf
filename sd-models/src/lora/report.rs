//! What of an adapter was matched.

use std::fmt;

/// Modules of an adapter's file, by what became of them in a model.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct AdapterReport {
    /// Kind of the adapter: `lora`, whatever the form of its changes, `textual_inversion`,
    /// `controlnet`, `control_lora` or `t2i_adapter`.
    pub kind: &'static str,
    /// Family of models that the file is for, where it shows: `sd1`, `sdxl`.
    pub family: Option<String>,
    /// Number of modules that the model has, with a change that fits.
    pub matched: usize,
    /// Names in the file of modules that the model does not have, and of tensors that are no part
    /// of a change.
    pub unmatched: Vec<String>,
    /// Modules with a change of another shape, each with the reason.
    pub misshapen: Vec<String>,
}

impl AdapterReport {
    /// `true` where all of the file was matched, and that is something.
    pub fn is_complete(&self) -> bool {
        self.matched > 0 && self.unmatched.is_empty() && self.misshapen.is_empty()
    }
}

impl fmt::Display for AdapterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            family,
            matched,
            unmatched,
            misshapen,
        } = self;
        let family = family.as_deref().unwrap_or("a family that does not show");
        write!(f, "{kind} of {family}: {matched} modules matched")?;
        for (what, names) in [
            ("not in the model", unmatched),
            ("of another shape", misshapen),
        ] {
            let Some(first) = names.first() else {
                continue;
            };
            write!(f, ", {} {what} ({first}", names.len())?;
            f.write_str(if names.len() > 1 { ", …)" } else { ")" })?;
        }
        Ok(())
    }
}
