use std::fmt;

/// A kernel that was not launched: the device lacks something, or the shape does not suit it. In
/// CubeCL's words.
#[derive(Debug)]
pub struct Unavailable(String);

impl Unavailable {
    pub(crate) fn new(reason: impl fmt::Debug) -> Self {
        Self(format!("{reason:?}"))
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unavailable {}
