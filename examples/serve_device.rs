//! Lends devices of this machine to programs on other machines.
//!
//! ```sh
//! cargo run --release --features remote,cuda --example serve_device -- --device cuda
//! ```
//!
//! With it comes no encryption: see `docs/remote.md` on where to listen, and on tunnels.

use std::error::Error;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;

use clap::Parser;
use sd_pipeline::devices;

/// Lends devices of this machine to programs on other machines, until Ctrl+C.
#[derive(Parser)]
struct Arguments {
    /// Device to lend: cuda, vulkan:1, …; more than once for several GPUs
    #[arg(long, value_name = "NAME", default_value = "auto")]
    device: Vec<String>,
    /// Address to listen at; port 0 takes one that is free
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:3000")]
    listen: String,
    /// Token that clients must present
    #[arg(long)]
    token: Option<String>,
    /// Serve beyond this machine whoever connects, without a token
    #[arg(long)]
    anyone: bool,
}

fn main() -> ExitCode {
    match lend(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn lend(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let listen = &arguments.listen;
    let listener = TcpListener::bind(listen)
        .map_err(|e| format!("cannot listen at {listen}: {e}; --listen names another address"))?;
    let address = reachable(listener.local_addr()?);
    if !address.ip().is_loopback() && arguments.token.is_none() && !arguments.anyone {
        let all = format!("{address} can be reached from other machines, and whoever connects");
        let choose = "may compute there and fill its memory; give a --token, or say --anyone";
        return Err(format!("{all} {choose}").into());
    }
    let devices: Result<Vec<_>, _> = arguments
        .device
        .iter()
        .map(|name| devices::open(name))
        .collect();
    let devices = devices?;
    for (index, name) in arguments.device.iter().enumerate() {
        match index {
            0 => println!("{name} is remote:ws://{address}"),
            _ => println!("{name} is remote:ws://{address}#{index}"),
        }
    }
    devices::serve(listener, &devices, arguments.token.as_deref())?;
    Ok(())
}

/// Address that a client must name: 0.0.0.0 stands for all addresses of this machine and is none itself.
fn reachable(listening: SocketAddr) -> SocketAddr {
    // Addresses that exist only in documentation, to see from which of ours one goes out there.
    // Nothing is sent.
    let outside = match listening {
        address if !address.ip().is_unspecified() => return address,
        SocketAddr::V4(_) => "192.0.2.1:9",
        SocketAddr::V6(_) => "[2001:db8::1]:9",
    };
    let any = listening.ip();
    let ours = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(outside)?;
        socket.local_addr()
    });
    SocketAddr::new(ours.map_or(any, |address| address.ip()), listening.port())
}
