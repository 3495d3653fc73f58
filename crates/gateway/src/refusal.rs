//! Why a client was turned away or sent off, and how it is told.
//!
//! Before sign-in nothing here names a tenant or a server: whoever can reach a port must not learn from
//! it who else lives on the host. After sign-in the names help, and are given.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pgwire::messages::Message;
use pgwire::messages::response::ErrorResponse;

use crate::caller::Address;
use crate::hold::Because;
use crate::proxy::HeaderError;
use scram::ScramError;

/// A connection that comes to no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    /// Not on the allow-list.
    #[error("address {0} is not on the allow-list of this server; ask its owner to add it to `allow`")]
    NotAllowed(Address),
    /// A startup packet in the clear.
    #[error("this server takes encrypted connections only; connect with sslmode=require or verify-full")]
    NotEncrypted,
    /// The gateway itself is not ready.
    #[error("the gateway has no usable certificate; ask the operator to look at the gateway's log")]
    NoCertificate,
    /// Not the protocol.
    #[error("{0}")]
    Protocol(&'static str),
    /// A load balancer's word that does not count.
    #[error("no usable PROXY protocol header: {0}")]
    Header(#[from] HeaderError),
    /// Not a protocol that we speak.
    #[error("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")]
    UnsupportedProtocol {
        /// Asked for.
        major: u32,
        /// Asked for.
        minor: u32,
    },
    /// A startup packet without a role.
    #[error("no PostgreSQL user name specified in startup packet")]
    NoUser,
    /// Wrong password, no such role, or a role that may not come this way.
    #[error("password authentication failed for user \"{0}\"")]
    SignIn(String),
    /// The exchange itself went wrong.
    #[error("{0}")]
    Scram(ScramError),
    /// Sign-in took too long.
    #[error("sign-in was not finished within {} s; connect again", .0.as_secs_f32())]
    Deadline(Duration),
    /// Too many that have not signed in yet.
    #[error("too many connections are signing in at once; retry in a few seconds")]
    Crowded,
    /// The same, of one address.
    #[error("too many connections from {0} are signing in at once; retry in a few seconds")]
    CrowdedAddress(IpAddr),
    /// Too many wrong passwords of one address at one server.
    #[error("too many wrong passwords came from {address}; retry in {} s", pause.as_secs() + 1)]
    Guessing {
        /// Whose.
        address: IpAddr,
        /// Until it may try again.
        pause: Duration,
    },
    /// The shared port has to know which server is meant.
    #[error(
        "the shared port needs the server's name in TLS (SNI): connect by the host name that `stead url --shared` gives"
    )]
    Nameless,
    /// The control plane asks for a server without a route.
    #[error("the server is not served here; it is still being made, or is gone")]
    NoSuchServer,
    /// Signed in, but the server's sessions are all in use.
    #[error("all {limit} sessions of {server} are in use; close some or raise the server's size")]
    TooMany {
        /// `postgres.main of acme/flights`.
        server: String,
        /// Sessions at once.
        limit: u32,
    },
    /// Signed in, but the address has as many sessions as one may have.
    #[error("all {limit} sessions that one address may have here are in use by {address}; close some")]
    TooManyOfAddress {
        /// Whose.
        address: IpAddr,
        /// Sessions at once, of all servers.
        limit: usize,
    },
    /// The server is starting, stopping, stopped or gone.
    #[error("the server is starting or stopped; retry in a few seconds")]
    Down,
    /// The server sleeps and could not be woken.
    #[error("the server was asleep and did not wake up: {0}; retry in a few seconds")]
    Asleep(String),
    /// The server says so itself, in its words.
    #[error("{0}; retry in a few seconds")]
    Starting(String),
    /// The server has no connection left, not even for the gateway.
    #[error("the server has no connection left; close some, or retry in a few seconds")]
    ServerFull,
    /// The server answers, but cannot check a sign-in.
    #[error("the server cannot check a sign-in now; retry, or ask the operator to look at the gateway's log")]
    Unready,
    /// What the server itself says, word for word.
    #[error("{message}")]
    Server {
        /// SQLSTATE.
        code: String,
        /// For the log.
        message: String,
        /// The whole message as it came.
        raw: Bytes,
    },
    /// The route went away while the client signed in.
    #[error(transparent)]
    Ended(#[from] Ending),
    /// The TLS handshake failed.
    #[error("TLS handshake failed: {0}")]
    Tls(std::io::Error),
    /// The client went away, or the network did.
    #[error("connection lost: {0}")]
    Lost(#[from] std::io::Error),
}

/// Why the gateway ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ending {
    /// The gateway stops.
    #[error("terminating connection: the gateway is restarting; connect again")]
    Stopping,
    /// The server has no front door any more.
    #[error("terminating connection: this server is no longer served here")]
    RouteRemoved,
    /// The allow-list was edited.
    #[error("terminating connection: your address is no longer on the allow-list of this server")]
    NoLongerAllowed,
    /// The session could not be taken off its server for a while, because of what it holds there.
    #[error("terminating connection: the server {because}, and this session holds {what}; connect again")]
    Holds {
        /// What happens to the server.
        because: Because,
        /// `a temporary table`.
        what: &'static str,
    },
    /// Its transaction did not end in time.
    #[error(
        "terminating connection: the server is moved, and this transaction did not end in time; repeat it"
    )]
    InTheWay,
    /// It was taken off its server and could not be brought to it again.
    #[error(
        "terminating connection: the session could not be brought to its server again: {0}; connect again"
    )]
    Stranded(&'static str),
    /// The server closed its end without a word.
    #[error("terminating connection: the server ended the session without a word; it may be restarting")]
    ServerVanished,
}

impl Ending {
    /// A word for the log.
    pub(crate) fn outcome(self) -> &'static str {
        match self {
            Ending::Stopping => "gateway_stopping",
            Ending::RouteRemoved => "route_removed",
            Ending::NoLongerAllowed => "no_longer_allowed",
            Ending::Holds { .. } => "holds_state",
            Ending::InTheWay => "in_the_way",
            Ending::Stranded(_) => "stranded",
            Ending::ServerVanished => "server_vanished",
        }
    }

    /// The message for the client: 57P01, `admin_shutdown`, which pools know as "connect again".
    pub(crate) fn message(self) -> BytesMut {
        error("57P01", &self.to_string())
    }
}

impl Refusal {
    /// The SQLSTATE that PostgreSQL itself would use.
    fn sqlstate(&self) -> &str {
        match self {
            Refusal::NotAllowed(_)
            | Refusal::NotEncrypted
            | Refusal::NoUser
            | Refusal::Nameless
            | Refusal::Guessing { .. } => "28000",
            Refusal::NoCertificate
            | Refusal::Down
            | Refusal::NoSuchServer
            | Refusal::Starting(_)
            | Refusal::Asleep(_)
            | Refusal::Unready => "57P03",
            Refusal::Protocol(_) | Refusal::Header(_) => "08P01",
            Refusal::UnsupportedProtocol { .. } => "0A000",
            Refusal::SignIn(_) => "28P01",
            Refusal::Scram(ScramError::Binding(_)) => "28000",
            Refusal::Scram(ScramError::Unsupported(_)) => "0A000",
            Refusal::Scram(_) => "08P01",
            Refusal::Deadline(_) => "57014",
            Refusal::Crowded
            | Refusal::CrowdedAddress(_)
            | Refusal::TooMany { .. }
            | Refusal::TooManyOfAddress { .. }
            | Refusal::ServerFull => "53300",
            Refusal::Server { code, .. } => code,
            Refusal::Ended(_) => "57P01",
            Refusal::Tls(_) | Refusal::Lost(_) => "08006",
        }
    }

    /// Whether the server does not run, or not yet or no longer: it may be asleep.
    pub(crate) fn is_of_a_server_that_is_down(&self) -> bool {
        matches!(self, Refusal::Down | Refusal::Starting(_))
            || matches!(self, Refusal::Server { code, .. } if code == "57P03")
    }

    /// A word for the log.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Refusal::NotAllowed(_) => "not_allowed",
            Refusal::NotEncrypted => "not_encrypted",
            Refusal::NoCertificate => "no_certificate",
            Refusal::Protocol(_) | Refusal::UnsupportedProtocol { .. } | Refusal::NoUser => "bad_protocol",
            Refusal::Header(_) => "bad_proxy_header",
            Refusal::Nameless | Refusal::NoSuchServer => "unknown_name",
            Refusal::SignIn(_) => "bad_password",
            Refusal::Scram(ScramError::Binding(_)) => "channel_binding",
            Refusal::Scram(_) => "bad_protocol",
            Refusal::Deadline(_) => "sign_in_deadline",
            Refusal::Crowded => "too_many_signing_in",
            Refusal::CrowdedAddress(_) => "too_many_signing_in_of_address",
            Refusal::Guessing { .. } => "too_many_wrong_passwords",
            Refusal::TooMany { .. } => "too_many_sessions",
            Refusal::TooManyOfAddress { .. } => "too_many_sessions_of_address",
            Refusal::Down | Refusal::Starting(_) | Refusal::Unready => "server_down",
            Refusal::Asleep(_) => "wake_failed",
            Refusal::ServerFull => "server_full",
            Refusal::Server { .. } => "server_refused",
            Refusal::Ended(ending) => ending.outcome(),
            Refusal::Tls(_) => "tls_failed",
            Refusal::Lost(_) => "left_before_sign_in",
        }
    }

    /// The message for the client.
    pub(crate) fn message(&self) -> BytesMut {
        match self {
            Refusal::Server { raw, .. } => BytesMut::from(&raw[..]),
            _ => error(self.sqlstate(), &self.to_string()),
        }
    }
}

/// A FATAL ErrorResponse.
fn error(sqlstate: &str, message: &str) -> BytesMut {
    let field = |code: u8, value: &str| (code, value.to_owned());
    let fields =
        vec![field(b'S', "FATAL"), field(b'V', "FATAL"), field(b'C', sqlstate), field(b'M', message)];
    encode(&ErrorResponse::new(fields))
}

/// A message as bytes. Those of the gateway's own are far below pgwire's limits, so that it cannot fail;
/// if it did, the client would see the connection close.
pub(crate) fn encode(message: &impl Message) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(256);
    if let Err(error) = message.encode(&mut bytes) {
        tracing::error!(%error, "could not encode a message for a client");
        bytes.clear();
    }
    bytes
}
