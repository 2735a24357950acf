//! The process-wide list of opened devices.

#[cfg(feature = "remote")]
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::tensor::Device;
#[cfg(feature = "wgpu")]
use burn::tensor::wgpu::WgpuSetup;

#[cfg(feature = "remote")]
use super::remote::proxy::Proxy;
#[cfg(feature = "wgpu")]
use super::wgpu::adapters::Adapter;

/// The devices of this process. There is one list for all, because several backends can open a
/// device only once in a process.
pub(super) static REGISTRY: Registry = Registry::new();

pub(super) struct Registry {
    /// Apart from the list, which runs on other threads ask at each step: opening may take seconds.
    opening: Mutex<()>,
    opened: Mutex<Vec<Opened>>,
}

/// A device, and what is known of it.
pub(super) struct Opened {
    pub(super) device: Device,
    /// The names that open it, each with its backend and selector, as in `wgpu:0` and `vulkan:0`.
    pub(super) names: Vec<String>,
    /// The largest buffer that a kernel can be given whole, in bytes.
    pub(super) largest_buffer: Option<u64>,
    /// The adapter it was opened on, and the handles behind it.
    #[cfg(feature = "wgpu")]
    pub(super) wgpu: Option<(Adapter, WgpuSetup)>,
    /// The way to its server.
    #[cfg(feature = "remote")]
    pub(super) server: Option<Arc<Proxy>>,
}

impl Opened {
    /// A device of which nothing more is known.
    pub(super) fn new(device: &Device) -> Self {
        Self {
            device: device.clone(),
            names: Vec::new(),
            largest_buffer: None,
            #[cfg(feature = "wgpu")]
            wgpu: None,
            #[cfg(feature = "remote")]
            server: None,
        }
    }

    fn is_lost(&self) -> bool {
        #[cfg(feature = "remote")]
        return (self.server.as_ref()).is_some_and(|proxy| proxy.lost().is_some());
        #[cfg(not(feature = "remote"))]
        false
    }
}

impl Registry {
    const fn new() -> Self {
        Self {
            opening: Mutex::new(()),
            opened: Mutex::new(Vec::new()),
        }
    }

    /// The turn to open a device by name. Held until the device is in the list: a second thread
    /// must not open it beside the first.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        // A panic of a backend leaves the list as it was.
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a device that was opened by more than a name.
    #[allow(dead_code, reason = "wgpu's and remote devices are")]
    pub(super) fn add(&self, opened: Opened) {
        self.opened().push(opened);
    }

    /// Records that `name` opens `device`.
    pub(super) fn name(&self, device: &Device, name: String) {
        let mut opened = self.opened();
        match opened.iter_mut().find(|opened| opened.device == *device) {
            Some(opened) => opened.names.push(name),
            None => opened.push(Opened {
                names: vec![name],
                ..Opened::new(device)
            }),
        }
    }

    /// The device that `name` opened, unless it is lost.
    pub(super) fn named(&self, name: &str) -> Option<Device> {
        self.find(|opened| {
            let same = opened.names.iter().any(|n| n == name) && !opened.is_lost();
            same.then(|| opened.device.clone())
        })
    }

    /// A fact that is known of `device`.
    pub(super) fn of<T>(&self, device: &Device, fact: impl Fn(&Opened) -> Option<T>) -> Option<T> {
        self.find(|opened| (opened.device == *device).then(|| fact(opened))?)
    }

    /// The first that `look` finds in the list.
    pub(super) fn find<T>(&self, look: impl Fn(&Opened) -> Option<T>) -> Option<T> {
        self.opened().iter().find_map(look)
    }

    fn opened(&self) -> MutexGuard<'_, Vec<Opened>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_one_entry_whatever_its_names() {
        let (registry, device) = (Registry::new(), Device::flex());
        registry.add(Opened {
            largest_buffer: Some(7),
            ..Opened::new(&device)
        });
        for name in ["one:0", "other:0"] {
            assert_eq!(registry.named(name), None);
            registry.name(&device, name.into());
            assert_eq!(registry.named(name).as_ref(), Some(&device));
        }
        assert_eq!(registry.opened().len(), 1);
        let largest = registry.of(&device, |opened| opened.largest_buffer);
        assert_eq!(largest, Some(7));
    }
}
