use std::path::{Path, PathBuf};
use std::time::Duration;

/// Result of this crate's functions.
pub type Result<T, E = HubError> = std::result::Result<T, E>;

/// Why a file of a hub could not be had.
///
/// Addresses are without their queries, which sign in for whoever reads them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A name that is no repository's.
    #[error("{id:?}: {reason}; expected OWNER/NAME[/FILE][@REVISION]")]
    Id {
        /// The name.
        id: String,
        /// Its fault.
        reason: String,
    },
    /// A setting of the environment that cannot be used.
    #[error("{name}: {reason}")]
    Setting {
        /// The variable's name.
        name: &'static str,
        /// Its fault, and what would be right; never a token.
        reason: String,
    },
    /// A name from the server that would lead out of its folder.
    #[error("{source_of}: the server names {name:?}, which is no name of a file in a folder")]
    UnsafeName {
        /// The place it was named at.
        source_of: String,
        /// The name.
        name: String,
    },
    /// A file that is not in the repository.
    #[error("{repository} has no file {file}{}", similar(others))]
    NoFile {
        /// The repository and its revision.
        repository: String,
        /// The file.
        file: String,
        /// Some of the files with that ending.
        others: Vec<String>,
    },
    /// A file or revision that is not in the cache, and may not be fetched.
    #[error("{what} is not in the cache {}, and offline nothing is fetched", cache.display())]
    Offline {
        /// The file or revision.
        what: String,
        /// The repository's folder in the cache.
        cache: PathBuf,
    },
    /// An answer of 401 or 403: a private or gated repository, a wrong token.
    #[error(
        "{url}: refused with {status}{}; {}", quoted(message),
        if *with_token { "is the token right, and are the model's terms accepted on its page?" }
        else { "a private or gated model needs a token in HF_TOKEN, or the name is wrong" }
    )]
    Refused {
        /// The address.
        url: String,
        /// The status: 401 or 403.
        status: u16,
        /// The server's words.
        message: String,
        /// `true` when a token was sent.
        with_token: bool,
    },
    /// An answer of 404: no such repository, revision or file.
    #[error("{url}: not there{}", quoted(message))]
    NotFound {
        /// The address.
        url: String,
        /// The server's words.
        message: String,
    },
    /// An answer with another status than one of success.
    #[error("{url}: answered with {status}{}", quoted(message))]
    Status {
        /// The address.
        url: String,
        /// The status.
        status: u16,
        /// The server's words.
        message: String,
        /// Time after which the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// A connection that could not be made, broke or hung.
    #[error("{url}: {reason}")]
    Network {
        /// The address.
        url: String,
        /// The fault.
        reason: String,
    },
    /// A redirection that is not followed.
    #[error("{url}: {reason}")]
    Redirect {
        /// The address that redirects.
        url: String,
        /// The fault.
        reason: String,
    },
    /// An answer that is not a hub's.
    #[error("{url}: {reason}; is it a hub's address?")]
    Reply {
        /// The address.
        url: String,
        /// The fault.
        reason: String,
    },
    /// A file of another size than the hub says.
    #[error("{file}: has {found} bytes, and the hub says {expected}; nothing was kept")]
    Size {
        /// The file.
        file: String,
        /// Bytes that the hub says.
        expected: u64,
        /// Bytes that there are, as far as they were counted.
        found: u64,
    },
    /// A file of another content than the hub says.
    #[error("{file}: its hash is {found}, and the hub says {expected}; nothing was kept")]
    Hash {
        /// The file.
        file: String,
        /// The hash that the hub says, in hexadecimal digits.
        expected: String,
        /// The hash of what was received.
        found: String,
    },
    /// A download that the program stopped. What there is of it stays for the next time.
    #[error("{file}: the download was stopped")]
    Stopped {
        /// The file.
        file: String,
    },
    /// A file or folder of the cache that could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
}

impl HubError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, source }
    }

    /// `true` of what may go well when it is tried again.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Network { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502..=504),
            _ => false,
        }
    }
}

fn quoted(message: &str) -> String {
    match message {
        "" => String::new(),
        message => format!(" ({message})"),
    }
}

fn similar(others: &[String]) -> String {
    match others {
        [] => String::new(),
        others => format!("; it has {}", others.join(", ")),
    }
}
