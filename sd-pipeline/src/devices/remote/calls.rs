//! Calls that end with a server's answer, and the loss of a server over one.

use std::sync::Arc;

use burn::tensor::Device;

use super::proxy::Proxy;
use crate::devices::DeviceError;
use crate::devices::probe::wait;
use crate::devices::registry::REGISTRY;

/// Calls under way: as long as it lives, the servers of some devices owe an answer.
pub(crate) struct PendingCalls(Vec<Arc<Proxy>>);

impl PendingCalls {
    pub(crate) fn of(devices: &[&Device]) -> Self {
        let proxies = devices.iter().filter_map(|device| find(device));
        let proxies: Vec<_> = proxies.collect();
        proxies.iter().for_each(|proxy| proxy.begin());
        Self(proxies)
    }
}

impl Drop for PendingCalls {
    fn drop(&mut self) {
        self.0.iter().for_each(|proxy| proxy.end());
    }
}

/// The loss of the server of `device`, after a call that ended with `failure`: if then the device
/// does not even wait for its work, its session is over.
pub(crate) fn lost(device: &Device, failure: &str) -> Option<DeviceError> {
    let proxy = find(device)?;
    if proxy.lost().is_none() && wait(device).is_err() {
        proxy.close(failure);
    }
    proxy.loss()
}

fn find(device: &Device) -> Option<Arc<Proxy>> {
    REGISTRY.of(device, |opened| opened.server.clone())
}
