//! Who stands at a port: where a connection comes from, and who brings it.
//!
//! Behind a load balancer every connection comes from the balancer's address. One that is trusted to
//! (`gateway.json`) says in a PROXY protocol header (`proxy.rs`) whose connection it really is, and that is
//! the address that counts from then on: for the allow-list, the limits and the log. From everybody else
//! such a header is garbage, so that nobody gives himself an address.

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
    pub(crate) client: SocketAddr,
    /// The load balancer that brings it, if one does.
    pub(crate) via: Option<SocketAddr>,
    /// Its place among those of its address that sign in, until it has.
    pub(crate) place: Option<Place<Neighbourhood>>,
}

impl Caller {
    /// A connection as it was accepted.
    pub(crate) fn new(number: u64, peer: SocketAddr) -> Caller {
        Caller { number, started: Instant::now(), client: canonical(peer), via: None, place: None }
    }

    /// The client's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.client.ip()
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
    let admitted = match hear(context, &mut tcp, &mut caller).await {
        Ok(()) => context.calling.join(caller.address().into()),
        Err(refusal) => return turn_away(context, tcp, caller, refusal).await,
    };
    if admitted.is_none() {
        let refusal = Refusal::CrowdedAddress(caller.address());
        return turn_away(context, tcp, caller, refusal).await;
    }
    caller.place = admitted;
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
    if !context.balancers.are_at(caller.address()) {
        return Ok(());
    }
    let _place = context.arriving.clone().try_acquire_owned().map_err(|_| Refusal::Crowded)?;
    let patience = context.limits.stranger;
    let header = timeout_at(caller.started + patience, proxy::read(tcp)).await;
    if let proxy::Origin::Client(client) = header.map_err(|_| Refusal::Deadline(patience))?? {
        caller.via = Some(caller.client);
        caller.client = canonical(client);
    }
    Ok(())
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
