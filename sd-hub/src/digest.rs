//! Hash of a file's content, which its etag is.

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::names::is_hexadecimal;

/// Hash that the etag of a file is, as far as its content is known.
#[derive(Clone)]
pub(crate) enum Hash {
    /// SHA-256 of the content: that of a large file.
    Sha256(Sha256),
    /// Git's, SHA-1 of a line with the size and the content, and that without the line: hubs
    /// answer with the first, some mirrors with the second.
    Git(Sha1, Sha1),
}

impl Hash {
    /// The hash that `etag` looks like, of no content yet; `None` where it looks like none. Git's
    /// needs the size.
    pub(crate) fn of(etag: &str, size: Option<u64>) -> Option<Self> {
        match (etag.len(), size) {
            _ if !is_hexadecimal(etag) => None,
            (64, _) => Some(Self::Sha256(Sha256::new())),
            (40, Some(size)) => {
                let git = Sha1::new().chain_update(format!("blob {size}\0"));
                Some(Self::Git(git, Sha1::new()))
            }
            _ => None,
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(git, plain) => {
                git.update(bytes);
                plain.update(bytes);
            }
        }
    }

    /// # Errors
    /// The hash of the content, where it is not `etag`.
    pub(crate) fn check(self, etag: &str) -> Result<(), String> {
        let found = match self {
            Self::Sha256(hash) => hexadecimal(&hash.finalize()),
            Self::Git(git, plain) => match hexadecimal(&plain.finalize()) {
                plain if plain == etag => plain,
                _ => hexadecimal(&git.finalize()),
            },
        };
        match found == etag {
            true => Ok(()),
            false => Err(found),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `sha256sum`, `git hash-object` and `sha1sum` of the same file.
    #[test]
    fn hashes_are_those_of_other_tools() {
        for etag in [
            "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
            "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0",
            "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d",
        ] {
            let mut hash = Hash::of(etag, Some(5)).unwrap();
            hash.update(b"he");
            hash.update(b"llo");
            assert_eq!(hash.clone().check(etag), Ok(()));
            hash.update(b"o");
            assert!(hash.check(etag).is_err());
        }
        assert!(Hash::of("abc-2", Some(5)).is_none());
    }
}
