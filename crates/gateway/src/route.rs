//! The files a gateway goes by, and what it answers on its status socket.
//!
//! Routes are declared by files, `gateway/routes/<server>.json`, one a server, written by atomic rename.
//! The gateway needs nothing else to serve, so it serves while the control plane is down.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use keeper::wire::Name;
use serde::{Deserialize, Serialize};

/// `gateway/gateway.json`: what holds for every route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Addresses to listen on; loopback unless asked.
    pub listen: Vec<IpAddr>,
    /// One port more, for every server: which one is meant is told by the name in TLS, whose first label is
    /// the server's handle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_port: Option<u16>,
    /// Networks of load balancers. Each connection from there has to begin with a PROXY protocol header of
    /// version 2, whose word counts: for the allow-list, the limits and the log the client is who it says.
    /// From anywhere else a header is garbage. Empty: there is no load balancer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proxy_protocol_from: Vec<IpNet>,
    /// Where metrics can be asked for by HTTP, `GET /metrics`; absent: nowhere. They name tenants and servers
    /// to whoever asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<SocketAddr>,
    /// Milliseconds that the sessions of a gateway which was replaced may go on; absent: a day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_ms: Option<u64>,
}

impl Default for Settings {
    /// What holds where there is no file: loopback alone.
    fn default() -> Self {
        Settings {
            listen: vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            shared_port: None,
            proxy_protocol_from: Vec::new(),
            metrics: None,
            drain_ms: None,
        }
    }
}

/// One server's front door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// The server's handle; the file is `<server>.json`.
    pub server: String,
    /// Counts edits of the route.
    pub generation: u64,
    /// For the log: whose it is.
    pub tenant: String,
    /// For the log: the stead.
    pub stead: String,
    /// For the log: the component, `postgres.main`.
    pub component: String,
    /// TCP port, on every address of [`Settings::listen`].
    pub port: u16,
    /// Folder of the server's Unix socket.
    pub socket_dir: PathBuf,
    /// Who may connect; checked before anything of the client's is read. Empty: nobody.
    pub allow: Vec<IpNet>,
    /// Sessions at once through the gateway.
    pub max_sessions: u32,
    /// When the server sleeps; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sleep: Option<Sleep>,
}

/// A server that sleeps while nobody uses it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sleep {
    /// The server's unit at the keeper.
    pub unit: Name,
    /// Milliseconds without a client's statement after which it sleeps.
    pub after_ms: u64,
}

/// Request on `gateway/gateway.sock`: one JSON object a line, answered by one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Read the route files again now (the gateway also watches them) and answer with [`Status`].
    Refresh,
    /// Answer with [`Status`].
    Status,
    /// As `Refresh`, for one server: answers with [`RouteStatus`] or `null` where there is no such route.
    Route { server: String },
    /// The next gateway asks for this one's place; see `handover.rs`. Of the gateway's own user only.
    HandOver {
        /// Must be higher than that of the one that is asked.
        rank: u64,
    },
    /// Have the sessions of a server leave it, so that it can be stopped and moved, and new ones wait. Answers
    /// with [`Hold`] once nobody is left at the server, or once it is clear that this will not be.
    Hold {
        /// The server's handle.
        server: String,
        /// Milliseconds that transactions may take to end, at most 30 s.
        patience_ms: u64,
        /// Milliseconds that the hold may last in all, at most 60 s: then sessions go on, released or not.
        deadline_ms: u64,
        /// Whether transactions that do not end in time are ended, rather than the hold given up.
        insist: bool,
    },
    /// Let sessions go on, at the server that the route leads to now; answers with `true`, or with `false`
    /// where there was no hold any more.
    Release {
        /// The server's handle.
        server: String,
    },
}

/// What a hold came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hold {
    /// Nobody uses the server any more.
    Held {
        /// Sessions that go on when it is released.
        parked: u32,
        /// Sessions that were ended: they held what cannot be taken along, or were in the way.
        ended: u32,
    },
    /// It was given up, and everything goes on as before.
    Busy {
        /// Whether that is because transactions did not end.
        in_transaction: bool,
        /// Why, for a person.
        why: String,
    },
}

/// What the gateway serves now.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// Every route.
    pub routes: Vec<RouteStatus>,
    /// Files that could not be taken as routes: name and reason.
    pub refused: Vec<(String, String)>,
    /// When the certificate in force ends.
    pub certificate_until: Option<jiff::Timestamp>,
    /// Which of the gateways of this home it is: each one takes over from one of a lower rank. 0 from one
    /// that knows no hand-over.
    #[serde(default)]
    pub rank: u64,
    /// Version of its binary.
    #[serde(default)]
    pub version: String,
    /// Which binary it is, as [`keeper::own_program`] says it.
    #[serde(default)]
    pub program: String,
    /// Gateways that handed over, and serve the sessions they still have.
    #[serde(default)]
    pub draining: Vec<Draining>,
}

/// A gateway that has handed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Process id.
    pub pid: u32,
    /// Its rank.
    pub rank: u64,
    /// Sessions that it still has.
    pub sessions: u32,
}

/// One route as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The server's handle.
    pub server: String,
    /// Generation in force.
    pub generation: u64,
    /// The port it listens on.
    pub port: u16,
    /// Sessions now.
    pub sessions: u32,
    /// Why it cannot listen: the port is taken by another program, for example.
    pub error: Option<String>,
    /// Whether that is because other routes have its port: two that change ports each have to be read.
    #[serde(default)]
    pub clashes: bool,
}
