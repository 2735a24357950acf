//! The variant of the weights that each component of a folder is opened with.

use sd_models::Files;

use crate::{Error, Result};

/// A variant that was asked for, and the component folders that have it.
///
/// Folders are published with some components in a variant and others not: a U-Net without its
/// averaging (`non_ema`) beside a text encoder that never had any.
pub(crate) struct Variants<'a> {
    asked: Option<&'a str>,
    folders: Vec<&'a str>,
}

impl<'a> Variants<'a> {
    /// Looks for the variant `asked` in the folders that are read: those of `true`.
    ///
    /// # Errors
    /// [`Error::NoVariant`] when none of them has it.
    pub(crate) fn find(
        files: &Files,
        folders: &[(&'a str, bool)],
        asked: Option<&'a str>,
    ) -> Result<Self> {
        let mut found = Self {
            asked,
            folders: Vec::new(),
        };
        let Some(asked) = asked else {
            return Ok(found);
        };
        let mut others = Vec::new();
        let read = folders.iter().filter(|(_, is_read)| *is_read);
        for (folder, _) in read.clone() {
            let there = files.folder(folder).variants();
            if there.iter().any(|variant| variant == asked) {
                found.folders.push(folder);
            } else {
                tracing::warn!("{folder} has no weights of variant {asked}");
            }
            others.extend(
                there
                    .into_iter()
                    .map(|variant| format!("{variant} ({folder})")),
            );
        }
        if found.folders.is_empty() && read.count() > 0 {
            return Err(Error::NoVariant {
                path: files.path(""),
                variant: asked.into(),
                others,
            });
        }
        Ok(found)
    }

    /// The variant that the component in `folder` is opened with.
    pub(crate) fn of(&self, folder: &str) -> Option<String> {
        let asked = self.asked.filter(|_| self.folders.contains(&folder));
        asked.map(Into::into)
    }
}
