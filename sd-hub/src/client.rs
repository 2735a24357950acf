use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io::Read;

use crate::Result;

/// Questions to a hub. [`HttpClient`](crate::HttpClient) is the one that speaks HTTP; a program may
/// bring its own, with its own proxies, certificates or storage.
///
/// Each method asks once: what is worth trying again ([`is_temporary`]) is asked again by the
/// [`Hub`](crate::Hub), which also checks all names, sizes and hashes.
///
/// [`is_temporary`]: crate::HubError::is_temporary
pub trait HubClient: Debug + Send + Sync {
    /// The commit that `revision` is of `repository` (`OWNER/NAME`), and its files.
    ///
    /// # Errors
    /// Any of a [`HubError`](crate::HubError), as for the other methods.
    fn listing(&self, repository: &str, revision: &str) -> Result<Listing>;

    /// Facts on the file `file` of a commit, without its content.
    ///
    /// # Errors
    /// As for [`listing`](Self::listing).
    fn metadata(&self, repository: &str, commit: &str, file: &str) -> Result<Metadata>;

    /// The content of a file, from byte `from` on.
    ///
    /// # Errors
    /// As for [`listing`](Self::listing).
    fn read(&self, repository: &str, commit: &str, file: &str, from: u64) -> Result<Body>;
}

/// Files of a repository at one commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The commit's hash: 40 hexadecimal digits.
    pub commit: String,
    /// Paths of the files, with `/`.
    pub files: BTreeSet<String>,
}

/// Facts on a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// The name of its content in the cache: SHA-256 of a large file (64 hexadecimal digits), git's
    /// hash of a small one (40 digits), by which the content is checked. Anything else is only a
    /// name.
    pub etag: String,
    /// Its size in bytes.
    pub size: Option<u64>,
}

/// Content of a file, from some place on.
pub struct Body {
    /// The place in bytes: what was asked for, or 0 where a server knows no ranges.
    pub from: u64,
    /// Bytes of the whole file, as far as this answer says it.
    pub total: Option<u64>,
    /// The bytes.
    pub bytes: Box<dyn Read + Send>,
}

impl Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, total, .. } = self;
        f.debug_struct("Body")
            .field("from", from)
            .field("total", total)
            .finish_non_exhaustive()
    }
}
