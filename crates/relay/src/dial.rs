//! Connections to names outside, and which addresses they may be to.
//!
//! A name is looked up at the moment of the connection, and what it stands for has to be a public address, or of a network
//! that the operator named: a name that somebody points at the host itself, at its neighbours or at a cloud's metadata
//! opens nothing. The address that was judged is the one that is dialled.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long the other side may take to answer a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection on which nothing is said is asked for its other side after so long, so often, until it counts as gone.
const SILENT: Duration = Duration::from_secs(30);
const BETWEEN: Duration = Duration::from_secs(10);
const TIMES: u32 = 3;

/// Connects to a name or an address at a port.
///
/// # Errors
/// Why not, in words: it stands for no address, for none that may be dialled, or nobody answers there.
pub async fn dial(name: &str, port: u16, networks: &[IpNet]) -> Result<TcpStream, String> {
    let found = timeout(CONNECT, tokio::net::lookup_host((name, port))).await;
    let found = found.map_err(|_| "its address was not found in time".to_owned())?;
    let found: Vec<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
    let allowed: Vec<_> = found.iter().copied().filter(|address| may_dial(address.ip(), networks)).collect();
    if allowed.is_empty() {
        return Err(format!(
            "its address {} is not a public one; whoever operates Stead may allow its network by --egress-network",
            list(&found)
        ));
    }
    let mut last = String::new();
    for address in allowed {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                notice_its_end(&stream);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = io::Error::from(io::ErrorKind::TimedOut).to_string(),
        }
    }
    Err(last)
}

/// Small messages go at once, and a side that vanished is noticed though nothing is said.
fn notice_its_end(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, SILENT);
    let _ = sockopt::set_tcp_keepintvl(stream, BETWEEN);
    let _ = sockopt::set_tcp_keepcnt(stream, TIMES);
}

fn list(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<_> = addresses.iter().take(4).map(|address| address.ip().to_string()).collect();
    addresses.join(", ")
}

/// Whether an address is public, or of one of these networks.
#[must_use]
pub fn may_dial(address: IpAddr, networks: &[IpNet]) -> bool {
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
