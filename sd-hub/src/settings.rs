use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{HubError, Result, Token};

/// The hub of those who say none.
const ENDPOINT: &str = "https://huggingface.co";

/// Settings of the access to a hub, by default those that the Python tools read of the
/// environment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// The hub's address, without a slash at its end: `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// Folder of the cache: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else
    /// `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// The user's token: `HF_TOKEN`, else what the file `token` in `HF_HOME` holds (or that of
    /// `HF_TOKEN_PATH`). It goes to the endpoint alone, and nowhere that it redirects to.
    pub token: Option<Token>,
    /// `true` to take what is in the cache and ask nobody: `HF_HUB_OFFLINE`.
    pub offline: bool,
    /// Time without a sign of life after which a connection is given up: `HF_HUB_DOWNLOAD_TIMEOUT`
    /// in seconds, else 10 s.
    pub timeout: Duration,
    /// Times that a question is asked until the fault is reported; an answer that brought at least
    /// some bytes is no fault.
    pub attempts: u32,
    /// Pause before the second attempt; it doubles with each, up to sixteenfold. A server may ask
    /// for a longer one, of up to a minute.
    pub pause: Duration,
}

impl Settings {
    /// The settings that the environment says.
    ///
    /// # Errors
    /// [`HubError::Setting`] when a variable is not understood, or nothing says where the cache
    /// is; [`HubError::Io`] when the token's file cannot be read.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var_os(name), std::env::home_dir())
    }

    /// As [`from_env`](Self::from_env), of an environment that `variable` says, whose user's folder
    /// is `home`.
    ///
    /// # Errors
    /// As [`from_env`](Self::from_env).
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<OsString>,
        home: Option<PathBuf>,
    ) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let text = |name: &'static str| match set(name).map(OsString::into_string) {
            None => Ok(None),
            Some(Ok(text)) => Ok(Some(text)),
            Some(Err(_)) => Err(wrong(name, "expected text in UTF-8")),
        };
        let path =
            |name: &str| set(name).map(|value| in_home(PathBuf::from(value), home.as_deref()));
        let home_of_hub = || {
            let caches = path("XDG_CACHE_HOME");
            let caches = caches.or_else(|| Some(home.as_deref()?.join(".cache")));
            path("HF_HOME").or_else(|| Some(caches?.join("huggingface")))
        };
        let expected = || wrong("HF_HOME", "expected a folder, for the user has none");

        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = match cache {
            Some(folder) => folder,
            None => home_of_hub().ok_or_else(expected)?.join("hub"),
        };
        let endpoint = text("HF_ENDPOINT")?.unwrap_or(ENDPOINT.into());
        let timeout = match text("HF_HUB_DOWNLOAD_TIMEOUT")? {
            None => Duration::from_secs(10),
            Some(seconds) => seconds
                .trim()
                .parse()
                .ok()
                .filter(|seconds| *seconds > 0.0)
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or_else(|| wrong("HF_HUB_DOWNLOAD_TIMEOUT", "expected seconds above 0"))?,
        };
        let is_set = |name| Ok::<_, HubError>(text(name)?.is_some_and(|value| is_true(&value)));
        let token = match text("HF_TOKEN")?.or(text("HUGGING_FACE_HUB_TOKEN")?) {
            Some(token) => Some(Token::new(&token)?),
            None => {
                let file = path("HF_TOKEN_PATH");
                let file = file.or_else(|| Some(home_of_hub()?.join("token")));
                file.as_deref().map(in_file).transpose()?.flatten()
            }
        };
        let implicit = !is_set("HF_HUB_DISABLE_IMPLICIT_TOKEN")?;
        Ok(Self {
            endpoint: endpoint.trim().trim_end_matches('/').into(),
            cache,
            token: token.filter(|_| implicit),
            offline: is_set("HF_HUB_OFFLINE")? || is_set("TRANSFORMERS_OFFLINE")?,
            timeout,
            attempts: 5,
            pause: Duration::from_secs(1),
        })
    }
}

fn wrong(name: &'static str, reason: impl fmt::Display) -> HubError {
    let reason = reason.to_string();
    HubError::Setting { name, reason }
}

/// As the Python tools read it.
fn is_true(value: &str) -> bool {
    ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str())
}

/// `path` with `~` at its beginning as the user's folder.
fn in_home(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
}

/// The token in a file, if there is one.
fn in_file(path: &Path) -> Result<Option<Token>> {
    match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => Token::new(&text).map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(HubError::io(path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)], home: &str) -> Result<Settings> {
        let find = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let home = Some(home).filter(|home| !home.is_empty());
        Settings::from_variables(find, home.map(PathBuf::from))
    }

    #[test]
    fn the_environment_is_read_as_the_python_tools_do() {
        for (variables, cache) in [
            (&[][..], "/h/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("HF_HOME", "~/hf")], "/h/hf/hub"),
            (&[("HF_HOME", "/f"), ("HF_HUB_CACHE", "/c")], "/c"),
            (
                &[("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", "/d")],
                "/d",
            ),
        ] {
            assert_eq!(settings(variables, "/h").unwrap().cache, Path::new(cache));
        }
        let all = [
            ("HF_ENDPOINT", "http://127.0.0.1:80/"),
            ("HF_HUB_OFFLINE", "YES"),
            ("HF_TOKEN", " hf_secret\n"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "2.5"),
        ];
        let all = settings(&all, "/h").unwrap();
        assert_eq!(all.endpoint, "http://127.0.0.1:80");
        assert!(all.offline && all.timeout == Duration::from_millis(2500));
        assert_eq!(all.token, Some(Token::new("hf_secret").unwrap()));
        assert!(!format!("{all:?}").contains("secret"));
        let none = settings(&[("HF_HUB_OFFLINE", "0")], "/h").unwrap();
        assert!(!none.offline && none.token.is_none());
        assert_eq!(none.endpoint, ENDPOINT);

        for (name, value) in [
            ("HF_TOKEN", "a b"),
            ("HF_TOKEN", "a\r\nb"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "-1"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "nan"),
            ("HF_HUB_DOWNLOAD_TIMEOUT", "soon"),
        ] {
            let error = settings(&[(name, value)], "/h").unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("a b"), "{error}");
        }
        assert!(settings(&[], "").is_err(), "no user's folder");
        assert!(settings(&[("HF_HUB_CACHE", "/c")], "").is_ok());
    }

    #[test]
    fn a_token_may_lie_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        fs::write(folder.path().join("token"), "hf_filed\n").unwrap();
        let filed = Some(Token::new("hf_filed").unwrap());
        assert_eq!(settings(&[("HF_HOME", home)], "/h").unwrap().token, filed);
        let off = [("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")];
        assert_eq!(settings(&off, "/h").unwrap().token, None);
    }
}
