use burn::tensor::Device;

use crate::devices::registry::REGISTRY;

/// Bytes that passed between this program and a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// To the server.
    pub sent: u64,
    /// From the server.
    pub received: u64,
}

impl std::ops::Sub for Traffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            received: self.received - earlier.received,
        }
    }
}

/// The bytes that have passed so far between this program and the server of `device`. `None` for a
/// device of this machine.
///
/// The difference over a step is what the step costs the network.
pub fn traffic(device: &Device) -> Option<Traffic> {
    let proxy = REGISTRY.of(device, |opened| opened.server.clone())?;
    Some(Traffic {
        sent: proxy.sent(),
        received: proxy.received(),
    })
}
