use std::net::TcpListener;

use burn::server::{RemoteServer, TokenAuthorizer, WebSocketTransport};
use burn::tensor::Device;

/// Devices that could not be lent to other machines.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A token that anybody could present.
    #[error("serving: the token is empty; expected at least one character")]
    EmptyToken,
    /// Devices that cannot be lent, or a listener that fails.
    #[error("serving: {0}")]
    Server(#[source] burn::server::ServeError),
}

/// Lends `devices` to programs that connect to `listener`, until the process gets Ctrl+C or
/// SIGTERM. There they are `remote:ws://host:port`, `remote:ws://host:port#1` and so on.
///
/// With a `token`, only to programs that present it ([`RemoteOptions::token`]). What passes is not
/// encrypted, the token included, and whoever may connect may use all of the machine's memory: let
/// the listener be one of `127.0.0.1` or of a private network.
///
/// Sessions are logged through `tracing`, to the standard output where the program has not
/// installed a subscriber. A program that wants to end serving by itself, to use Burn's encrypted
/// transport or another way to authorise, uses [`burn::server::RemoteServer`], of which this is
/// one use.
///
/// ```no_run
/// use sd_pipeline::devices;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let listener = std::net::TcpListener::bind("127.0.0.1:3000")?;
/// devices::serve(listener, &[devices::open("cuda")?], Some("open sesame"))?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// At once for an empty token and for devices that cannot be lent: none, those of `tch`, those of
/// other machines, and devices of several backends; cuda, rocm, wgpu and cpu count as one. Later
/// when the listener fails.
///
/// [`RemoteOptions::token`]: super::remote::RemoteOptions::token
pub fn serve(
    listener: TcpListener,
    devices: &[Device],
    token: Option<&str>,
) -> Result<(), ServeError> {
    let mut server = RemoteServer::new(devices.iter().cloned());
    if let Some(token) = token {
        let authorizer = TokenAuthorizer::new(token).map_err(|_| ServeError::EmptyToken)?;
        server = server.with_authorizer(authorizer);
    }
    let transport = WebSocketTransport::from_listener(listener);
    server.serve(transport).map_err(ServeError::Server)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_lent_is_refused() {
        let refused = |devices: &[Device], token| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            serve(listener, devices, token).unwrap_err().to_string()
        };
        assert!(refused(&[], None).contains("at least one device"));
        let flex = crate::device("flex").unwrap();
        assert!(refused(&[flex], Some("")).contains("token is empty"));
    }
}
