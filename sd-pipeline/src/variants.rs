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
    /// Looks for the variant `asked` in the components that are read, each with its files, of the
    /// model `files`.
    ///
    /// # Errors
    /// [`Error::NoVariant`] when none of them has it.
    pub(crate) fn find(
        files: &Files,
        folders: &'a [(String, Files)],
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
        for (folder, files) in folders {
            let there = files.variants();
            if there.iter().any(|variant| variant == asked) {
                found.folders.push(folder.as_str());
            } else {
                tracing::warn!("{folder} has no weights of variant {asked}");
            }
            others.extend(
                there
                    .into_iter()
                    .map(|variant| format!("{variant} ({folder})")),
            );
        }
        if found.folders.is_empty() && !folders.is_empty() {
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
