/// Why a device could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
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
    /// What follows the colon is not understood.
    #[error("'{found}' behind the colon is not understood; expected {expected}")]
    Selector {
        /// What follows the colon.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The machine has devices of this kind, but not that many.
    #[error("there is no such device; this machine has {found}, counted from 0")]
    NoSuchIndex {
        /// How many there are.
        found: usize,
    },
    /// The machine has no device of this kind, or no driver for it.
    #[error("this machine has no such device; needed is {needs}")]
    Absent {
        /// The hardware or driver without which it does not run.
        needs: &'static str,
    },
    /// A graphics driver is here, but only one that computes on the CPU.
    #[error("this machine has no GPU, only a software adapter; `{name}` asks for that")]
    SoftwareOnly {
        /// The name that opens the software adapter.
        name: String,
    },
    /// The device is there, but its first use failed.
    #[error("it is compiled in but does not run here: {message}; needed is {needs}")]
    Failed {
        /// The backend's own words.
        message: String,
        /// The hardware or driver without which it does not run.
        needs: &'static str,
    },
    /// No server answers at a remote device's address.
    #[error("no server answers: {reason}; needed is a Burn server at that address")]
    Unreachable {
        /// What happened instead.
        reason: String,
    },
    /// The server of a remote device died, fell silent or made no sense. What it held is gone;
    /// the device can be opened anew.
    #[error("the connection is lost: {reason}")]
    Lost {
        /// How it was lost.
        reason: String,
    },
    /// No backend compiled into this program runs on this machine.
    #[error(
        "no backend of this program runs here ({tried}); the cargo feature `flex` runs anywhere"
    )]
    Nothing {
        /// Each backend tried and what was in the way.
        tried: String,
    },
}
