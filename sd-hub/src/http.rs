use std::collections::BTreeSet;
use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use ureq::{Agent, Error as Fault};

use crate::names::is_commit;
use crate::url::{Origin, escaped, join, shown};
use crate::{Body, HubClient, HubError, Listing, Metadata, Result, Settings, Token};

/// Redirections that are followed for one question.
const REDIRECTIONS: usize = 10;

/// No listing is longer: a hundred thousand files take 8 MB.
const LONGEST_LISTING: u64 = 16 << 20;

/// A [`HubClient`] that speaks HTTP, through the proxy that `HTTPS_PROXY` and its like name unless
/// the endpoint is this machine.
///
/// Redirections are followed by itself: the token goes to the endpoint's own scheme, host and port
/// alone, and nothing goes from https to http. Endpoints with https need the feature `tls`.
pub struct HttpClient {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<Token>,
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("HttpClient").field(&self.endpoint).finish()
    }
}

/// An answer, and the address that gave it.
struct Answer {
    url: Uri,
    response: Response<ureq::Body>,
}

/// Redirections that are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// All.
    All,
    /// Those that stay at the endpoint: others are the answer.
    Inside,
}

impl HttpClient {
    /// A client of the endpoint, with the token and the timeout, of `settings`.
    ///
    /// # Errors
    /// [`HubError::Setting`] when the endpoint is no address, or one with https and the feature
    /// `tls` is off.
    pub fn new(settings: &Settings) -> Result<Self> {
        let wrong = |reason: &str| {
            let reason = format!("{:?}: {reason}", settings.endpoint);
            let name = "HF_ENDPOINT";
            HubError::Setting { name, reason }
        };
        let address = "expected an address such as https://huggingface.co";
        let url: Uri = settings.endpoint.parse().map_err(|_| wrong(address))?;
        let origin = Origin::of(&url).ok_or_else(|| wrong(address))?;
        if url.query().is_some() {
            return Err(wrong(address));
        }
        if origin.is_https() && !cfg!(feature = "tls") {
            return Err(wrong("https needs the feature `tls` of sd-hub"));
        }
        let timeout = Some(settings.timeout);
        let mut config = Agent::config_builder();
        if origin.is_loopback() {
            config = config.proxy(None);
        }
        let config = config
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("sd-hub/", env!("CARGO_PKG_VERSION")))
            // Sizes and places are those of the file itself.
            .accept_encoding("identity")
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_send_request(timeout)
            .timeout_recv_response(timeout)
            // A body may take hours, but not stop.
            .timeout_per_read(timeout);
        Ok(Self {
            agent: config.build().into(),
            endpoint: settings.endpoint.clone(),
            origin,
            token: settings.token.clone(),
        })
    }

    fn file_url(&self, repository: &str, commit: &str, file: &str) -> String {
        let parts: Vec<String> = file.split('/').map(escaped).collect();
        let (endpoint, commit) = (&self.endpoint, escaped(commit));
        format!(
            "{endpoint}/{repository}/resolve/{commit}/{}",
            parts.join("/")
        )
    }

    /// Asks `url`, and whoever it redirects to, for the content from byte `from` on.
    fn ask(&self, method: &Method, url: &str, from: u64, follow: Follow) -> Result<Answer> {
        let broken = |reason: &str| HubError::Reply {
            url: url.into(),
            reason: reason.into(),
        };
        let mut url: Uri = url.parse().map_err(|_| broken("no address"))?;
        for _ in 0..=REDIRECTIONS {
            let origin = Origin::of(&url).ok_or_else(|| broken("no address"))?;
            let is_own = origin == self.origin;
            let mut request = Request::builder().method(method).uri(&url);
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            if let Some(token) = self.token.as_ref().filter(|_| is_own) {
                request = request.header("authorization", token.header());
            }
            let request = request.body(()).map_err(|error| HubError::Reply {
                url: shown(&url),
                reason: error.to_string(),
            })?;
            let answer = self.agent.run(request);
            let response = answer.map_err(|fault| network(&url, &fault))?;
            let status = response.status();
            if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return match status.is_success() {
                    true => Ok(Answer { url, response }),
                    false => Err(self.refusal(&url, response, is_own)),
                };
            }
            let redirect = |reason: &str| HubError::Redirect {
                url: shown(&url),
                reason: reason.into(),
            };
            let location = header(response.headers(), "location");
            let location =
                location.ok_or_else(|| redirect("a redirection that says no address"))?;
            let next = join(&url, location);
            let next = next.ok_or_else(|| redirect("a redirection to no address of http"))?;
            let to = Origin::of(&next).ok_or_else(|| broken("no address"))?;
            if origin.is_https() && !to.is_https() {
                return Err(redirect("a redirection from https to http"));
            }
            if follow == Follow::Inside && to != self.origin {
                return Ok(Answer { url, response });
            }
            url = next;
        }
        Err(HubError::Redirect {
            url: shown(&url),
            reason: format!("more than {REDIRECTIONS} redirections"),
        })
    }

    /// The error that an answer without success is.
    fn refusal(&self, url: &Uri, response: Response<ureq::Body>, is_own: bool) -> HubError {
        let headers = response.headers();
        let message = header(headers, "x-error-message").unwrap_or_default();
        let message: String = message
            .chars()
            .filter(|c| !c.is_control())
            .take(200)
            .collect();
        let seconds = header(headers, "retry-after").and_then(|seconds| seconds.parse().ok());
        let url = shown(url);
        match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => HubError::Refused {
                url,
                status: response.status().as_u16(),
                message,
                with_token: is_own && self.token.is_some(),
            },
            StatusCode::NOT_FOUND => HubError::NotFound { url, message },
            status => HubError::Status {
                url,
                status: status.as_u16(),
                message,
                retry_after: seconds.map(Duration::from_secs),
            },
        }
    }
}

/// What is read of the answer to a question for a repository.
#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Listing {
    /// The listing that a hub's answer `json` to `/api/models/OWNER/NAME/revision/REVISION` is.
    ///
    /// # Errors
    /// The fault, in words, of one that is not JSON, or of another form.
    pub fn from_json(json: &[u8]) -> Result<Self, String> {
        let info: Info = serde_json::from_slice(json).map_err(|error| error.to_string())?;
        if !is_commit(&info.sha) {
            let found: String = info.sha.chars().take(80).collect();
            return Err(format!("{found:?} is no commit's hash"));
        }
        let files: BTreeSet<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
        let commit = info.sha;
        Ok(Self { commit, files })
    }
}

impl HubClient for HttpClient {
    fn listing(&self, repository: &str, revision: &str) -> Result<Listing> {
        let (endpoint, revision) = (&self.endpoint, escaped(revision));
        let url = format!("{endpoint}/api/models/{repository}/revision/{revision}");
        let Answer { url, response } = self.ask(&Method::GET, &url, 0, Follow::All)?;
        let mut json = Vec::new();
        let mut body = response.into_body().into_reader().take(LONGEST_LISTING);
        body.read_to_end(&mut json)
            .map_err(|error| HubError::Network {
                url: shown(&url),
                reason: error.to_string(),
            })?;
        Listing::from_json(&json).map_err(|reason| HubError::Reply {
            url: shown(&url),
            reason,
        })
    }

    fn metadata(&self, repository: &str, commit: &str, file: &str) -> Result<Metadata> {
        let url = self.file_url(repository, commit, file);
        let Answer { url, response } = self.ask(&Method::HEAD, &url, 0, Follow::Inside)?;
        let wrong = |reason: String| HubError::Reply {
            url: shown(&url),
            reason,
        };
        let get = |name: &str| header(response.headers(), name);
        if let Some(found) = get("x-repo-commit").filter(|found| *found != commit) {
            return Err(wrong(format!("{found:?} is another commit than {commit}")));
        }
        let etag = get("x-linked-etag").or(get("etag"));
        let etag = etag.ok_or_else(|| wrong("an answer without an etag".into()))?;
        let size = match get("x-linked-size") {
            // That of a redirection is its own.
            None if response.status().is_redirection() => None,
            None => get("content-length"),
            linked => linked,
        };
        let number = |text: &str| {
            let size = text.trim().parse();
            size.map_err(|_| wrong(format!("{text:?} is no size")))
        };
        Ok(Metadata {
            etag: etag
                .trim()
                .trim_start_matches("W/")
                .trim_matches('"')
                .into(),
            size: size.map(number).transpose()?,
        })
    }

    fn read(&self, repository: &str, commit: &str, file: &str, from: u64) -> Result<Body> {
        let url = self.file_url(repository, commit, file);
        let Answer { url, response } = self.ask(&Method::GET, &url, from, Follow::All)?;
        let headers = response.headers();
        let (from, total) = if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = header(headers, "content-range").and_then(content_range);
            let (begins, total) = range.ok_or_else(|| HubError::Reply {
                url: shown(&url),
                reason: "a part of a file that does not say which".into(),
            })?;
            (begins, total)
        } else {
            let length = header(headers, "content-length");
            (0, length.and_then(|length| length.trim().parse().ok()))
        };
        Ok(Body {
            from,
            total,
            bytes: Box::new(response.into_body().into_reader()),
        })
    }
}

/// First byte and size of the whole in `bytes 5-9/10`.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((from.trim().parse().ok()?, total))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn network(url: &Uri, fault: &Fault) -> HubError {
    let url = shown(url);
    let reason = match fault {
        Fault::Timeout(_) => "no answer in time".into(),
        Fault::HostNotFound => "no such host, or no connection to the net".into(),
        fault => fault.to_string(),
    };
    HubError::Network { url, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_listings_are_read_with_care() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-0/*"), Some((0, None)));
        for bad in [
            "",
            "bytes",
            "bytes */10",
            "bytes -1/2",
            "5-9/10",
            "bytes 1-2/x",
        ] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let json = format!(r#"{{"sha":"{sha}","siblings":[{{"rfilename":"a/b"}}],"x":[1]}}"#);
        let listing = Listing::from_json(json.as_bytes()).unwrap();
        assert_eq!(listing.commit, sha);
        assert!(listing.files.contains("a/b"));
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"sha":"../../x"}"#,
            r#"{"sha":5}"#,
            "<html>",
        ] {
            assert!(Listing::from_json(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
