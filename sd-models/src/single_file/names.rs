//! Names of a component's tensors: where each lies in the file.

use std::collections::HashMap;

use crate::inspect::parts::Part;
use crate::ldm::{Layout, Storage};
use crate::weights::TensorInfo;

/// For each of a component's tensors the number of the file's tensor, its name by diffusers and the
/// form in which the file holds it. One that the component has not keeps its name in the file, by
/// which it is then an error.
pub(crate) type Entries = Vec<(usize, String, Storage)>;

/// Numbers of a file's tensors by their names.
pub(crate) struct Numbers<'a>(HashMap<&'a str, usize>);

impl<'a> Numbers<'a> {
    pub(crate) fn new(tensors: &'a [TensorInfo]) -> Self {
        let names = tensors.iter().map(|tensor| tensor.name.as_str());
        Self(names.zip(0..).collect())
    }

    /// Number of the tensor that is called `name` within `part`.
    pub(crate) fn of(&self, part: &Part<'_>, name: &str) -> usize {
        let tensor = part.tensors.get(name).map(|tensor| tensor.name.as_str());
        tensor
            .and_then(|name| self.0.get(name).copied())
            .unwrap_or(usize::MAX)
    }

    /// The tensors of a part that diffusers calls the same.
    pub(crate) fn kept(&self, part: &Part<'_>) -> Entries {
        let names = part.tensors.keys();
        names
            .map(|name| (self.of(part, name), (*name).into(), Storage::Whole))
            .collect()
    }

    /// The tensors of a part by the table of its layout.
    pub(crate) fn renamed(&self, part: &Part<'_>, layout: &Layout) -> Entries {
        self.renamed_by(part, layout, |name: &str| name.to_string())
    }

    /// The same with the name by which the table has each tensor.
    pub(crate) fn renamed_by(
        &self,
        part: &Part<'_>,
        layout: &Layout,
        spelt: impl Fn(&str) -> String,
    ) -> Entries {
        let mut entries = Entries::new();
        for (name, tensor) in &part.tensors {
            let index = self.of(part, name);
            let renamed = layout.in_diffusers(&spelt(name));
            if renamed.is_empty() {
                entries.push((index, tensor.name.clone(), Storage::Whole));
            }
            entries.extend(renamed.into_iter().map(|(name, form)| (index, name, form)));
        }
        entries
    }
}
