/// A device that could not be opened, or was lost.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("device '{name}': {kind}")]
#[non_exhaustive]
pub struct DeviceError {
    /// The name asked for.
    pub name: String,
    /// The obstacle, and what would help.
    #[source]
    pub kind: DeviceErrorKind,
}

/// Obstacles between a program and a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceErrorKind {
    /// A name that no backend has.
    #[error("there is no such backend; known are {known}, and auto for the best one present")]
    Unknown {
        /// The names there are, with commas between.
        known: String,
    },
    /// A backend that was left out of this program.
    #[error("not compiled in; build with the cargo feature `{feature}`")]
    NotCompiled {
        /// The feature that compiles it in.
        feature: &'static str,
    },
    /// Text behind the colon that is not understood.
    #[error("'{found}' behind the colon is not understood; expected {expected}")]
    Selector {
        /// The text behind the colon.
        found: String,
        /// Values that would be right.
        expected: &'static str,
    },
    /// An index beyond the devices of this kind that the machine has.
    #[error("there is no such device; this machine has {found}, counted from 0")]
    NoSuchIndex {
        /// The number of devices.
        found: usize,
    },
    /// A machine without a device of this kind, or without its driver.
    #[error("this machine has no such device; needed is {needs}")]
    Absent {
        /// The hardware or driver without which it does not run.
        needs: &'static str,
    },
    /// A graphics driver that only computes on the CPU.
    #[error("this machine has no GPU, only a software adapter; `{name}` asks for that")]
    SoftwareOnly {
        /// The name that opens the software adapter.
        name: String,
    },
    /// A device that is there, but whose first use failed.
    #[error("it is compiled in but does not run here: {message}; needed is {needs}")]
    Failed {
        /// The backend's own words.
        message: String,
        /// The hardware or driver without which it does not run.
        needs: &'static str,
    },
    /// A remote device's address at which no server answers.
    #[error("no server answers: {reason}; needed is a Burn server at that address")]
    Unreachable {
        /// Words on what happened instead.
        reason: String,
    },
    /// A remote device whose server died, fell silent or made no sense. What it held is gone; the
    /// device can be opened anew.
    #[error("the connection is lost: {reason}")]
    Lost {
        /// The end of the connection.
        reason: String,
    },
    /// A program none of whose backends runs on this machine.
    #[error(
        "no backend of this program runs here ({tried}); the cargo feature `flex` runs anywhere"
    )]
    Nothing {
        /// Each backend tried and what was in the way.
        tried: String,
    },
}

impl DeviceErrorKind {
    /// The error of the device called `name`.
    pub(super) fn of(self, name: impl Into<String>) -> DeviceError {
        DeviceError {
            name: name.into(),
            kind: self,
        }
    }
}
