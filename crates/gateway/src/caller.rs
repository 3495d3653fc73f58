//! Who stands at a port: where a connection comes from, and who brings it.
//!
//! Behind a load balancer every connection comes from the balancer's address. One that is trusted to
//! (`gateway.json`) says in a PROXY protocol header (`proxy.rs`) whose connection it really is, and that is
//! the address that counts from then on: for the allow-list, the limits and the log. From everybody else
//! such a header is garbage, so that nobody gives himself an address.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{PoisonError, RwLock};

use ipnet::IpNet;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::conn::Conn;
use crate::crowd::{Neighbourhood, Place};
use crate::proxy;
use crate::refusal::Refusal;
use crate::session::Context;

/// One connection's origin. Addresses are canonical: no v4 inside v6. Boxed where it is handed on: it would lie in
/// memory several times as long as a session lasts.
pub(crate) struct Caller {
    /// Counts connections of this run of the gateway.
    pub(crate) number: u64,
    /// When it was accepted.
    pub(crate) started: Instant,
    /// The client.
    pub(crate) client: Client,
    /// The load balancer that brings it, if one does.
    pub(crate) via: Option<SocketAddr>,
    /// Its place among those of its address that sign in, until it has.
    pub(crate) place: Option<Place<Neighbourhood>>,
}

/// Who is at the other end.
pub(crate) enum Client {
    /// Somebody of a network.
    Network(SocketAddr),
    /// The control plane, for somebody who is signed in there, at the inner door.
    Inner(String),
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Client::Network(client) => client.fmt(f),
            Client::Inner(who) => write!(f, "console: {who}"),
        }
    }
}

/// Where somebody comes from, as far as it decides what he may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Address {
    /// From a network.
    Network(IpAddr),
    /// Through the inner door: no allow-list and no limit by address is about that.
    Inner,
}

impl Address {
    /// The address, where there is one.
    pub(crate) fn ip(self) -> Option<IpAddr> {
        match self {
            Address::Network(ip) => Some(ip),
            Address::Inner => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Network(ip) => ip.fmt(f),
            Address::Inner => f.write_str("the console"),
        }
    }
}

impl Caller {
    /// A connection as it was accepted.
    pub(crate) fn new(number: u64, peer: SocketAddr) -> Caller {
        Caller::of(number, Client::Network(canonical(peer)))
    }

    /// The same of whoever it is.
    pub(crate) fn of(number: u64, client: Client) -> Caller {
        Caller { number, started: Instant::now(), client, via: None, place: None }
    }

    /// Where the client is.
    pub(crate) fn address(&self) -> Address {
        match &self.client {
            Client::Network(client) => Address::Network(client.ip()),
            Client::Inner(_) => Address::Inner,
        }
    }
}

/// The load balancers whose word counts.
#[derive(Default)]
pub(crate) struct Balancers {
    networks: RwLock<Vec<IpNet>>,
}

impl Balancers {
    /// Trusts these and no others. Connections that came before are not asked again.
    pub(crate) fn trust(&self, networks: &[IpNet]) {
        networks.clone_into(&mut self.networks.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn are_at(&self, address: IpAddr) -> bool {
        let networks = self.networks.read().unwrap_or_else(PoisonError::into_inner);
        networks.iter().any(|network| network.contains(&address))
    }
}

/// Whose connection it is. One that may not even say what it wants is turned away and logged: `None`.
pub(crate) async fn identify(
    context: &Context,
    mut tcp: TcpStream,
    mut caller: Box<Caller>,
) -> Option<(Conn, Box<Caller>)> {
    if let Err(refusal) = hear(context, &mut tcp, &mut caller).await {
        return turn_away(context, tcp, caller, refusal).await;
    }
    if let Some(ip) = caller.address().ip() {
        caller.place = context.calling.join(ip.into());
        if caller.place.is_none() {
            return turn_away(context, tcp, caller, Refusal::CrowdedAddress(ip)).await;
        }
    }
    Some((Conn::Plain(tcp), caller))
}

async fn turn_away<T>(context: &Context, tcp: TcpStream, caller: Box<Caller>, refusal: Refusal) -> Option<T> {
    Conn::Plain(tcp).refuse(&refusal).await;
    context.turned_away(&caller, (refusal.outcome(), Some(refusal.to_string())));
    None
}

/// What a load balancer says of its client. That comes before anything else, in little time: it is not known
/// yet whether the address is allowed.
async fn hear(context: &Context, tcp: &mut TcpStream, caller: &mut Caller) -> Result<(), Refusal> {
    let Client::Network(peer) = caller.client else { return Ok(()) };
    if !context.balancers.are_at(peer.ip()) {
        return Ok(());
    }
    let _place = context.arriving.clone().try_acquire_owned().map_err(|_| Refusal::Crowded)?;
    let patience = context.limits.stranger;
    let header = timeout_at(caller.started + patience, proxy::read(tcp)).await;
    if let proxy::Origin::Client(client) = header.map_err(|_| Refusal::Deadline(patience))?? {
        caller.via = Some(peer);
        caller.client = Client::Network(canonical(client));
    }
    Ok(())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
