//! Ways out of a worker, by name.
//!
//! Connections to the addresses that stand for names arrive here, at listeners inside the worker's namespace, each with
//! the address that was dialled. The name is looked up on the host at that moment, and what it stands for has to be a
//! public address, or of a network that the operator named: a name that somebody points at the host itself, at its
//! neighbours or at a cloud's metadata opens nothing. The address that was judged is the one that is dialled.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::control_socket;
use crate::engine::Engine;
use crate::names;
use crate::worker::Worker;

/// Connections of one worker at once.
const MOST: usize = 256;
/// How long the other side may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// Refusals that are told in the log, a worker.
const TOLD: u32 = 100;

/// What the listeners of a worker share.
struct Way {
    engine: Arc<Engine>,
    worker: Arc<Worker>,
    places: Arc<Semaphore>,
    told: AtomicU32,
}

/// Listens for connections of a worker to names that it may reach.
pub(crate) fn listen(engine: &Arc<Engine>, worker: &Arc<Worker>, ports: &[u16], fds: Vec<OwnedFd>) {
    let way = Arc::new(Way {
        engine: engine.clone(),
        worker: worker.clone(),
        places: Arc::new(Semaphore::new(MOST)),
        told: AtomicU32::new(0),
    });
    for (port, fd) in ports.iter().zip(fds) {
        match control_socket::tcp(fd) {
            Ok(listener) => drop(tokio::spawn(accept(way.clone(), *port, listener))),
            Err(error) => tracing::error!(%error, port, "a way out of a worker cannot be opened"),
        }
    }
}

async fn accept(way: Arc<Way>, port: u16, listener: TcpListener) {
    loop {
        let Ok(place) = way.places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = way.worker.ended() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let way = way.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = pass(&way, port, stream) => {}
                () = way.worker.ended() => {}
            }
            drop(place);
        });
    }
}

/// Connects and copies, or refuses.
async fn pass(way: &Way, port: u16, mut inside: TcpStream) {
    let (name, connected) = match meant(way, port, &inside) {
        Ok(name) => {
            let connected = connect(way, &name, port).await;
            (name, connected)
        }
        Err((name, why)) => (name, Err(why)),
    };
    match connected {
        Ok(mut outside) => {
            let _ = inside.set_nodelay(true);
            let _ = outside.set_nodelay(true);
            let copied = copy_bidirectional(&mut inside, &mut outside).await;
            if let (Ok((sent, received)), Some(pool)) = (copied, way.worker.pool.upgrade()) {
                pool.tally.traffic(sent, received);
            }
        }
        Err(why) => {
            if way.told.fetch_add(1, Ordering::Relaxed) < TOLD {
                let message = format!("no connection to {name}:{port}: {why}");
                way.worker.output.say("warning", message);
            }
            // A reset, at once: nobody waits for an answer.
            let _ = inside.set_zero_linger();
        }
    }
}

/// The name that was dialled.
fn meant(way: &Way, port: u16, inside: &TcpStream) -> Result<String, (String, String)> {
    let address = inside.local_addr().map(|address| address.ip().to_canonical());
    let (shown, name) = match address {
        Ok(IpAddr::V4(address)) => (address.to_string(), way.worker.names.name(address)),
        Ok(IpAddr::V6(address)) => (address.to_string(), None),
        Err(error) => (String::new(), Err(error).ok()),
    };
    let name = name.ok_or_else(|| (shown, "the address stands for no name".to_owned()))?;
    if names::may_reach(&way.worker.edition.version.egress, &name, Some(port)) {
        Ok(name)
    } else {
        Err((name, "the function's `egress` does not name it at this port".to_owned()))
    }
}

async fn connect(way: &Way, name: &str, port: u16) -> Result<TcpStream, String> {
    let found = timeout(CONNECT, tokio::net::lookup_host((name, port))).await;
    let found = found.map_err(|_| "its address was not found in time".to_owned())?;
    let found: Vec<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
    let networks = &way.engine.settings().egress_networks;
    let allowed: Vec<_> = found.iter().copied().filter(|address| may_dial(address.ip(), networks)).collect();
    if allowed.is_empty() {
        return Err(format!("its address {} is not a public one", list(&found)));
    }
    let mut last = String::new();
    for address in allowed {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = io::Error::from(io::ErrorKind::TimedOut).to_string(),
        }
    }
    Err(last)
}

fn list(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().take(4).map(|address| address.ip().to_string()).collect();
    addresses.join(", ")
}

fn may_dial(address: IpAddr, networks: &[IpNet]) -> bool {
    let address = address.to_canonical();
    let is_public = match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    };
    is_public || networks.iter().any(|network| network.contains(&address))
}

/// By IANA's registry of special-purpose addresses.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && (18..20).contains(&b)))
}

/// Global unicast, without what leads to an IPv4 address, to nowhere, or to oneself.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    let is_global = a & 0xe000 == 0x2000;
    let is_special = (a == 0x2001 && (b < 0x0200 || b == 0x0db8)) || a == 0x2002 || a == 0x3fff;
    is_global && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_dialled() {
        let may = |text: &str| may_dial(text.parse().unwrap(), &[]);
        for address in
            ["1.1.1.1", "100.128.0.1", "198.20.0.1", "2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1"]
        {
            assert!(may(address), "{address}");
        }
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00:ec2::254",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ] {
            assert!(!may(address), "{address}");
        }
        assert!(may_dial("10.1.2.3".parse().unwrap(), &["10.0.0.0/8".parse().unwrap()]));
    }
}
