//! Devices of another machine, over Burn's remote backend.

mod line;
mod serve;

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use burn::tensor::Device;
use burn::tensor::remote::RemoteHost;

use super::{DeviceError, probe};
use crate::{Error, Result};
use line::Line;

pub use serve::serve;

/// How to reach a [server](remote_device).
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteOptions {
    /// Which of the server's devices, counted from 0.
    pub index: usize,
    /// What the server's authorizer asks for. It goes over the network as it is.
    pub token: Option<String>,
    /// How long the server may take to open a session, and how long it may be silent later, when
    /// it is asked for a sign of life. By default 10 s.
    pub answer_within: Duration,
    /// How long a step or a picture may take once all of it is sent. By default 5 min: a slow
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

struct Opened {
    device: Device,
    name: String,
    line: Arc<Line>,
}

static OPENED: Mutex<Vec<Opened>> = Mutex::new(Vec::new());

/// A device of the Burn server at `url`, such as `ws://gpu:3000`. [`device`](crate::device) opens
/// one by the name `remote:ws://gpu:3000`, with the default options.
///
/// Each call opens a session of its own: what is uploaded through one device is not seen through
/// another. When the server dies, stops answering or answers what makes no sense, whatever was
/// under way ends with [`DeviceError::Lost`] and the device is of no further use; open it again,
/// here or on another machine, and the pipeline with it.
///
/// # Errors
/// [`Error::Device`]: an address that is not understood, [`DeviceError::Unreachable`] when no
/// server answers there within [`RemoteOptions::answer_within`].
pub fn remote_device(url: &str, options: &RemoteOptions) -> Result<Device> {
    open(url, options).map_err(|source| Error::Device {
        name: format!("remote:{url}"),
        source,
    })
}

/// What has passed so far between this program and the server of `device`. `None` for a device of
/// this machine.
///
/// The difference over a step is what the step costs the network.
pub fn remote_traffic(device: &Device) -> Option<Traffic> {
    let line = find(device)?.1;
    Some(Traffic {
        sent: line.sent.load(Relaxed),
        received: line.received.load(Relaxed),
    })
}

pub(super) fn open(url: &str, options: &RemoteOptions) -> Result<Device, DeviceError> {
    let host = host(url).ok_or_else(|| DeviceError::Selector {
        found: url.into(),
        expected: "the server's address, as in remote:ws://gpu:3000",
    })?;
    let unreachable = |reason| DeviceError::Unreachable { reason };
    let (line, port) = Line::lay(host, options).map_err(unreachable)?;
    let failed = |reason: String| {
        let reason = match line.lost() {
            Some(lost) => format!("{reason} ({lost})"),
            None => reason,
        };
        line.cut(reason.as_str());
        unreachable(reason)
    };
    let mut server = RemoteHost::websocket(&format!("ws://127.0.0.1:{port}"));
    if let Some(token) = &options.token {
        server = server.with_credential(token.as_str());
    }
    let device = Device::remote_options(&server)
        .device_index(options.index)
        .init()
        .map_err(|e| failed(e.to_string()))?;
    probe(&device).map_err(|e| failed(e.to_string()))?;
    line.opened();
    lock().push(Opened {
        device: device.clone(),
        name: format!("remote:{url}"),
        line,
    });
    Ok(device)
}

/// As [`open`], at `url` or at `url#index`.
pub(super) fn open_by_name(name: &str) -> Result<Device, DeviceError> {
    let (url, index) = name.split_once('#').unwrap_or((name, "0"));
    let index = index.parse().map_err(|_| DeviceError::Selector {
        found: name.into(),
        expected: "the device's index behind the #, as in remote:ws://gpu:3000#1",
    })?;
    let options = RemoteOptions {
        index,
        ..RemoteOptions::default()
    };
    open(url, &options)
}

/// `name:port` of `ws://name:port`.
fn host(url: &str) -> Option<&str> {
    let host = url.strip_prefix("ws://")?.trim_end_matches('/');
    let (name, port) = host.rsplit_once(':')?;
    let sound = !name.is_empty() && !name.contains(['/', '@']) && port.parse::<u16>().is_ok();
    sound.then_some(host)
}

/// Says, as long as it lives, that the servers of some devices owe an answer.
pub(super) struct Due(Vec<Arc<Line>>);

impl Due {
    pub(super) fn of(devices: &[&Device]) -> Self {
        let found = devices.iter().filter_map(|device| find(device));
        let lines: Vec<_> = found.map(|(_, line)| line).collect();
        lines.iter().for_each(|line| line.begin());
        Self(lines)
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        self.0.iter().for_each(|line| line.end());
    }
}

/// The loss of the server of `device`, if it is lost. After a failure, `failure` is what was
/// reported: if then the device does not even wait for its work, its session is over.
pub(super) fn lost(device: &Device, failure: Option<&str>) -> Option<Error> {
    let (name, line) = find(device)?;
    if let Some(failure) = failure
        && line.lost().is_none()
        && super::synchronise(device).is_err()
    {
        line.cut(failure);
    }
    let reason = line.lost()?.to_string();
    let source = DeviceError::Lost { reason };
    Some(Error::Device { name, source })
}

fn find(device: &Device) -> Option<(String, Arc<Line>)> {
    let opened = lock();
    let found = opened.iter().find(|opened| opened.device == *device);
    found.map(|opened| (opened.name.clone(), opened.line.clone()))
}

fn lock() -> std::sync::MutexGuard<'static, Vec<Opened>> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_name_and_a_port() {
        assert_eq!(host("ws://gpu:3000"), Some("gpu:3000"));
        assert_eq!(host("ws://[::1]:3000/"), Some("[::1]:3000"));
        for wrong in [
            "",
            "gpu:3000",
            "ws://gpu",
            "ws://:3000",
            "ws://gpu:70000",
            "wss://gpu:3000",
            "ws://me:secret@gpu:3000",
        ] {
            assert_eq!(host(wrong), None, "{wrong}");
            let error = remote_device(wrong, &RemoteOptions::default()).unwrap_err();
            assert!(
                error.to_string().contains("remote:ws://gpu:3000"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_token_is_not_printed() {
        let options = RemoteOptions {
            token: Some("secret".into()),
            ..RemoteOptions::default()
        };
        assert!(!format!("{options:?}").contains("secret"));
    }
}
