//! Addresses: what they are made of, and where a redirection leads.

use std::net::IpAddr;

use ureq::http::Uri;
use ureq::http::uri::Scheme;

/// Scheme, host and port of an address: whom it speaks to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    https: bool,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` where the address is none of http or https.
    pub(crate) fn of(url: &Uri) -> Option<Self> {
        let https = match url.scheme()? {
            scheme if *scheme == Scheme::HTTPS => true,
            scheme if *scheme == Scheme::HTTP => false,
            _ => return None,
        };
        let host = url.host()?.to_ascii_lowercase();
        let port = url.port_u16().unwrap_or(if https { 443 } else { 80 });
        Some(Self { https, host, port })
    }

    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    pub(crate) fn is_loopback(&self) -> bool {
        let address = self.host.trim_matches(['[', ']']).parse::<IpAddr>();
        self.host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }
}

/// The address that `location` is for whoever is at `base` (RFC 3986, section 5.2, without `..`).
pub(crate) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next()?.trim();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let path = base.path();
    let text = if location.contains("://") && !location.starts_with('/') {
        location.into()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else if location.starts_with('?') || location.is_empty() {
        format!("{scheme}://{authority}{path}{location}")
    } else {
        let folder = &path[..path.rfind('/').map_or(0, |end| end + 1)];
        format!("{scheme}://{authority}{folder}{location}")
    };
    let url: Uri = text.parse().ok()?;
    Origin::of(&url).map(|_| url)
}

/// The address for messages: without a query, which may hold a signature, and without a user.
pub(crate) fn shown(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or("http");
    let host = url.host().unwrap_or_default();
    let port = url.port().map_or(String::new(), |port| format!(":{port}"));
    format!("{scheme}://{host}{port}{}", url.path())
}

/// `text` as a part of a path: all but letters, digits and `-._~` are escaped.
pub(crate) fn escaped(text: &str) -> String {
    let mut result = String::new();
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b'_' | b'~' => {
                result.push(char::from(byte));
            }
            _ => result.push_str(&format!("%{byte:02X}")),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirections_lead_where_they_say() {
        let base: Uri = "http://hub:8080/a/b?x=1".parse().unwrap();
        for (location, expected) in [
            ("/c?d=e#f", "http://hub:8080/c?d=e"),
            ("c", "http://hub:8080/a/c"),
            ("?y", "http://hub:8080/a/b?y"),
            ("//other/c", "http://other/c"),
            ("https://cdn/x?s=t", "https://cdn/x?s=t"),
            ("/c?u=http://x", "http://hub:8080/c?u=http://x"),
        ] {
            assert_eq!(join(&base, location).unwrap().to_string(), expected);
        }
        for bad in ["ftp://x/y", "file:///etc/passwd", "http://", "/a b"] {
            assert!(join(&base, bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn whom_an_address_speaks_to_is_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
        let hub = origin("https://huggingface.co/a");
        assert_eq!(hub, origin("https://HuggingFace.co:443/b?c"));
        for other in [
            "http://huggingface.co/a",
            "https://huggingface.co:444/a",
            "https://huggingface.co.evil.org/a",
            "https://huggingface.co@evil.org/a",
        ] {
            assert_ne!(hub, origin(other), "{other}");
        }
        for (url, is_loopback) in [
            ("http://127.0.0.1:80", true),
            ("http://[::1]:80", true),
            ("http://LocalHost", true),
            ("http://127.0.0.1.evil.org", false),
            ("http://10.0.0.1", false),
        ] {
            assert_eq!(origin(url).is_loopback(), is_loopback, "{url}");
        }
        let url = "https://u:p@cdn.example/x?signature=secret"
            .parse()
            .unwrap();
        assert_eq!(shown(&url), "https://cdn.example/x");
        assert_eq!(escaped("refs/pr/1 ü"), "refs%2Fpr%2F1%20%C3%BC");
    }
}
