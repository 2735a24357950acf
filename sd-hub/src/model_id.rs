use std::fmt;
use std::str::FromStr;

use crate::names::is_inside;
use crate::{HubError, Result};

/// Name of a model on a hub: `OWNER/NAME[/FILE][@REVISION]`, with or without `hf:` before it.
///
/// `FILE` is a file of the repository, or a folder. The revision is a branch, a tag or a commit,
/// `main` where there is none; it may have slashes (`refs/pr/1`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ModelId {
    repository: String,
    file: Option<String>,
    revision: String,
}

impl ModelId {
    /// The repository: `OWNER/NAME`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Path of the file or folder in the repository, where one is named.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// The revision: a branch, a tag or a commit.
    pub fn revision(&self) -> &str {
        &self.revision
    }
}

impl FromStr for ModelId {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self> {
        let fault = |reason: String| HubError::Id {
            id: text.chars().take(300).collect(),
            reason,
        };
        let name = text.strip_prefix("hf:").unwrap_or(text);
        if name.contains("://") {
            return Err(fault("an address".into()));
        }
        let (path, revision) = name.split_once('@').unwrap_or((name, "main"));
        let mut parts = path.splitn(3, '/');
        let (Some(owner), Some(name)) = (parts.next(), parts.next()) else {
            return Err(fault("a name without an owner".into()));
        };
        for part in [owner, name] {
            if let Some(reason) = wrong(part) {
                return Err(fault(format!("{part:?} {reason}")));
            }
        }
        let file = parts.next();
        if let Some(file) = file.filter(|file| !is_inside(file)) {
            return Err(fault(format!("{file:?} is no file of a repository")));
        }
        let is_bad = |c: char| c.is_whitespace() || "~^?*[".contains(c);
        if !is_inside(revision) || revision.contains(is_bad) {
            return Err(fault(format!("{revision:?} is no revision")));
        }
        Ok(Self {
            repository: format!("{owner}/{name}"),
            file: file.map(Into::into),
            revision: revision.into(),
        })
    }
}

/// The fault of an owner's or a repository's name, by the hub's own rules. Two hyphens would make
/// two repositories one folder of the cache.
fn wrong(name: &str) -> Option<&'static str> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let at_ends = name.starts_with(['-', '.']) || name.ends_with(['-', '.']);
    if name.is_empty() || name.len() > 96 {
        return Some("has not 1 to 96 letters");
    }
    if !name.bytes().all(is_allowed) || at_ends || name.contains("--") || name.contains("..") {
        return Some("has other characters than letters, digits and single -, _ and . inside");
    }
    None
}

impl fmt::Display for ModelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repository)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        match self.revision.as_str() {
            "main" => Ok(()),
            revision => write!(f, "@{revision}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let id: ModelId = "hf:a/b.c_d-1/unet/x.safetensors@refs/pr/1".parse().unwrap();
        assert_eq!((id.repository(), id.revision()), ("a/b.c_d-1", "refs/pr/1"));
        assert_eq!(id.file(), Some("unet/x.safetensors"));
        assert_eq!(id.to_string(), "a/b.c_d-1/unet/x.safetensors@refs/pr/1");
        let id: ModelId = "a/b".parse().unwrap();
        assert_eq!((id.file(), id.revision()), (None, "main"));
        assert_eq!(id.to_string(), "a/b");
        for bad in [
            "",
            "a",
            "hf:",
            "a/",
            "/b",
            "../b",
            "a/..",
            "a/b/",
            "a/b/../c",
            "a/b//c",
            "a/b@",
            "a/b@../main",
            "a/b@/main",
            "a/b@x y",
            "a b/c",
            "-a/b",
            "a--b/c",
            "a/b@x/",
            "https://huggingface.co/a/b",
            "a/b\\c",
            "a/b\u{0}",
        ] {
            assert!(bad.parse::<ModelId>().is_err(), "{bad:?}");
        }
    }
}
