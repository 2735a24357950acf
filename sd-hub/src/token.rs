use std::fmt;

use crate::{HubError, Result};

/// Token of a hub's user: a secret, which no message and no `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The token `text`, without the white space around it.
    ///
    /// # Errors
    /// [`HubError::Setting`] when it is empty or has characters that no token has: it goes into a
    /// header.
    pub fn new(text: &str) -> Result<Self> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            let reason = "expected the letters of a token, without spaces".into();
            let name = "HF_TOKEN";
            return Err(HubError::Setting { name, reason });
        }
        Ok(Self(text.into()))
    }

    pub(crate) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
