//! Devices of another machine, over Burn's remote backend.

mod calls;
mod options;
pub(super) mod proxy;
mod traffic;

use burn::tensor::Device;
use burn::tensor::remote::RemoteHost;

use super::probe::probe;
use super::registry::{Opened, REGISTRY};
use super::{DeviceError, DeviceErrorKind};
use proxy::Proxy;

pub(crate) use calls::{PendingCalls, lost};
pub use options::RemoteOptions;
pub use traffic::{Traffic, traffic};

/// A device of the Burn server at `url`, such as `ws://gpu:3000`. [`devices::open`](fn@super::open)
/// opens one by the name `remote:ws://gpu:3000`, with the default options.
///
/// Each call opens a session of its own: what is uploaded through one device is not seen through
/// another. When the server dies, stops answering or answers what makes no sense, whatever was
/// under way ends with [`DeviceErrorKind::Lost`] and the device is of no further use; open it
/// again, here or on another machine, and the pipeline with it.
///
/// # Errors
/// An address that is not understood, and [`DeviceErrorKind::Unreachable`] when no server answers
/// there within [`RemoteOptions::answer_within`].
pub fn open(url: &str, options: &RemoteOptions) -> Result<Device, DeviceError> {
    connected(url, options).map_err(|kind| kind.of(format!("remote:{url}")))
}

/// As [`open`], at `url` or at `url#index`.
pub(super) fn open_by_name(name: &str) -> Result<Device, DeviceErrorKind> {
    let (url, index) = name.split_once('#').unwrap_or((name, "0"));
    let index = index.parse().map_err(|_| DeviceErrorKind::Selector {
        found: name.into(),
        expected: "the device's index behind the #, as in remote:ws://gpu:3000#1",
    })?;
    let options = RemoteOptions {
        index,
        ..RemoteOptions::default()
    };
    connected(url, &options)
}

fn connected(url: &str, options: &RemoteOptions) -> Result<Device, DeviceErrorKind> {
    let host = host(url).ok_or_else(|| DeviceErrorKind::Selector {
        found: url.into(),
        expected: "the server's address, as in remote:ws://gpu:3000",
    })?;
    let unreachable = |reason| DeviceErrorKind::Unreachable { reason };
    let name = format!("remote:{url}");
    let (proxy, port) = Proxy::start(name, host, options).map_err(unreachable)?;
    let failed = |reason: String| {
        let reason = match proxy.lost() {
            Some(lost) => format!("{reason} ({lost})"),
            None => reason,
        };
        proxy.close(reason.as_str());
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
    proxy.answered();
    REGISTRY.add(Opened {
        server: Some(proxy),
        ..Opened::new(&device)
    });
    Ok(device)
}

/// `name:port` of `ws://name:port`.
fn host(url: &str) -> Option<&str> {
    let host = url.strip_prefix("ws://")?.trim_end_matches('/');
    let (name, port) = host.rsplit_once(':')?;
    let sound = !name.is_empty() && !name.contains(['/', '@']) && port.parse::<u16>().is_ok();
    sound.then_some(host)
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
            let error = open(wrong, &RemoteOptions::default()).unwrap_err();
            assert!(
                error.to_string().contains("remote:ws://gpu:3000"),
                "{error}"
            );
        }
    }
}
