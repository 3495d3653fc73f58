//! A worker's network: a loopback of its own and nothing else. What whoever asked for it shall serve listens there;
//! addresses of [`EGRESS_NETWORK`] are local, so that a connection to one of them meets a listener as well.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, sockopt};

use crate::wire::{DNS, EGRESS_NETWORK, POSTGRES, RUNTIME_API};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Index of the loopback, which is the first link of every namespace.
const LOOPBACK: u32 = 1;

/// Brings up the network of a namespace that has just been made; the runtime API's, the database's and DNS's sockets.
pub(super) fn bring_up() -> io::Result<[OwnedFd; 3]> {
    let route = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is 0.
        None,
    )?;
    ask(&route, &loopback_up())?;
    let (network, prefix) = egress_network().ok_or(io::ErrorKind::InvalidData)?;
    ask(&route, &local_route(network, prefix))?;
    Ok([listener(parse(RUNTIME_API)?)?, listener(parse(POSTGRES)?)?, datagrams(parse(DNS)?)?])
}

fn parse(address: &str) -> io::Result<SocketAddr> {
    address.parse().map_err(io::Error::other)
}

fn egress_network() -> Option<([u8; 4], u8)> {
    let (address, prefix) = EGRESS_NETWORK.split_once('/')?;
    Some((address.parse::<std::net::Ipv4Addr>().ok()?.octets(), prefix.parse().ok()?))
}

/// A TCP socket that listens. Its port can be had a second time at another address, by root only: a worker may be let
/// out to a port at which it is served itself.
pub(super) fn listener(address: SocketAddr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A TCP socket that is connected to nothing yet. It belongs to the namespace in which it is made, wherever it is used.
pub(super) fn unconnected() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, Some(ipproto::TCP))?)
}

fn datagrams(address: SocketAddr) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::DGRAM, flags, Some(ipproto::UDP))?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// `struct ifinfomsg`: the link shall be up.
fn loopback_up() -> Vec<u8> {
    let up = libc::IFF_UP.unsigned_abs();
    let mut body = vec![0u8; 4];
    body.extend_from_slice(&LOOPBACK.to_ne_bytes());
    // Flags, and which of them are meant.
    body.extend_from_slice(&up.to_ne_bytes());
    body.extend_from_slice(&up.to_ne_bytes());
    message(libc::RTM_NEWLINK, 0, &body)
}

/// `struct rtmsg`: every address of the network is this host's own.
fn local_route(network: [u8; 4], prefix: u8) -> Vec<u8> {
    let family = libc::AF_INET.to_ne_bytes()[0];
    let mut body = vec![
        family,
        prefix,
        0,
        0,
        libc::RT_TABLE_LOCAL,
        libc::RTPROT_BOOT,
        libc::RT_SCOPE_HOST,
        libc::RTN_LOCAL,
    ];
    body.extend_from_slice(&0u32.to_ne_bytes());
    attribute(&mut body, libc::RTA_DST, network);
    attribute(&mut body, libc::RTA_OIF, LOOPBACK.to_ne_bytes());
    message(libc::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body)
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend_from_slice(&8u16.to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(&value);
}

/// `struct nlmsghdr` and what follows it.
fn message(kind: u16, flags: i32, body: &[u8]) -> Vec<u8> {
    let flags = u16::try_from(flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK).unwrap_or_default();
    let length = u32::try_from(16 + body.len()).unwrap_or_default();
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(body);
    bytes
}

/// Sends a request to the kernel and takes its answer, `struct nlmsgerr`.
fn ask(route: &OwnedFd, request: &[u8]) -> io::Result<()> {
    rustix::net::sendto(route, request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0u8; 4096];
    let (_, n) = rustix::net::recv(route, &mut answer[..], RecvFlags::empty())?;
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let error = answer.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, error) {
        (Some(kind), Some(0)) if n >= 20 && i32::from(kind) == libc::NLMSG_ERROR => Ok(()),
        (_, Some(error)) if n >= 20 => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
