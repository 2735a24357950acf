use std::time::Duration;

/// Options of a connection to a [server](super::open).
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteOptions {
    /// The number of the server's device, counted from 0.
    pub index: usize,
    /// The token that the server's authorizer asks for. It goes over the network as it is.
    pub token: Option<String>,
    /// The time that the server may take to open a session, and may be silent later, when it is
    /// asked for a sign of life. By default 10 s.
    pub answer_within: Duration,
    /// The time that a step or a picture may take once all of it is sent. By default 5 min: a slow
    /// server that computes looks like one that never will.
    pub patience: Duration,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            index: 0,
            token: None,
            answer_within: Duration::from_secs(10),
            patience: Duration::from_secs(300),
        }
    }
}

impl std::fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteOptions")
            .field("index", &self.index)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("answer_within", &self.answer_within)
            .field("patience", &self.patience)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_printed() {
        let options = RemoteOptions {
            token: Some("secret".into()),
            ..RemoteOptions::default()
        };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
