//! The part of a device's name behind the colon.

use super::DeviceErrorKind;

/// A choice among the devices of a backend.
pub(super) struct Selector<'a> {
    /// The backend's name.
    #[allow(dead_code, reason = "for wgpu's errors, which name other devices")]
    pub(super) backend: &'static str,
    /// The hardware or driver that a machine must have to run it.
    pub(super) needs: &'static str,
    /// The text behind the colon.
    pub(super) text: Option<&'a str>,
}

impl Selector<'_> {
    /// The index behind the colon, 0 where there is none.
    #[allow(dead_code, reason = "every backend but remote counts its devices")]
    pub(super) fn index(&self, expected: &'static str) -> Result<usize, DeviceErrorKind> {
        let text = self.text.unwrap_or("0");
        text.parse().map_err(|_| DeviceErrorKind::Selector {
            found: text.into(),
            expected,
        })
    }

    /// The index behind the colon, when `found` devices are there.
    #[allow(dead_code, reason = "every backend but wgpu's counts this way")]
    pub(super) fn index_below(&self, found: usize) -> Result<usize, DeviceErrorKind> {
        let index = self.index("the device's index, a number")?;
        match found {
            0 => Err(self.absent()),
            _ if index < found => Ok(index),
            _ => Err(DeviceErrorKind::NoSuchIndex { found }),
        }
    }

    /// The error of a machine without such a device.
    #[allow(dead_code, reason = "the CPU backends are always there")]
    pub(super) fn absent(&self) -> DeviceErrorKind {
        DeviceErrorKind::Absent { needs: self.needs }
    }
}
