//! A listening socket and the loop that takes connections from it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::caller::{self, Caller};
use crate::door::Door;
use crate::scrape::Scrapes;
use crate::session::{self, Context};
use crate::shared::{self, Directory};

/// Connections that the kernel holds while we are busy.
const BACKLOG: i32 = 1024;
/// A peer that has gone silent is found out after about 60 + 6 x 10 s; with an answer of ours under way to it,
/// by TCP's own retransmissions (`tcp_retries2`, about 15 minutes). TCP_USER_TIMEOUT would be sooner, but Linux
/// counts the time in which a live peer's window is shut as well: it would end a client that reads slowly, as
/// a pager does, or `pg_dump` into a pipe that waits.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_COUNT: u32 = 6;

/// Whose a port is.
#[derive(Clone)]
pub(crate) enum Entrance {
    /// One server's.
    Door(Arc<Door>),
    /// Every server's.
    Shared(Arc<Directory>),
    /// No server's: whoever asks for metrics.
    Metrics(Arc<Scrapes>),
}

impl Entrance {
    /// Whose it is, for the operator's log.
    pub(crate) fn owner(&self) -> String {
        match self {
            Entrance::Door(door) => door.route().server.clone(),
            Entrance::Shared(_) => "every server".to_owned(),
            Entrance::Metrics(_) => "the metrics".to_owned(),
        }
    }
}

/// A port that is open.
pub(crate) struct Listener {
    socket: Arc<TcpListener>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Opens a port, or takes the one that was handed over, and serves whoever comes. `alive` is held by each connection to its end.
    pub(crate) fn open(
        address: SocketAddr,
        context: Arc<Context>,
        entrance: Entrance,
        alive: mpsc::Sender<()>,
    ) -> io::Result<Listener> {
        let socket = context.lent.take(address).map_or_else(|| bind(address), Ok)?;
        let socket = Arc::new(TcpListener::from_std(socket)?);
        crate::fail_point!("gateway::port_opened");
        let task = tokio::spawn(accept(socket.clone(), context, entrance, alive));
        Ok(Listener { socket, task })
    }

    /// Another descriptor of the same socket.
    pub(crate) fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.as_fd().try_clone_to_owned()
    }

    /// Closes the port; when this returns it is free. Connections taken before go on.
    pub(crate) async fn close(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        // `::` and `0.0.0.0` are two addresses to listen on.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

async fn accept(
    listener: Arc<TcpListener>,
    context: Arc<Context>,
    entrance: Entrance,
    alive: mpsc::Sender<()>,
) {
    loop {
        match listener.accept().await {
            Ok((tcp, peer)) => {
                if let Err(error) = prepare(&tcp) {
                    tracing::debug!(%error, "a connection was gone before it began");
                    continue;
                }
                if let Entrance::Metrics(scrapes) = &entrance {
                    let scrapes = scrapes.clone();
                    tokio::spawn(async move { scrapes.serve(tcp).await });
                    continue;
                }
                let (context, alive) = (context.clone(), alive.clone());
                let caller = Box::new(Caller::new(context.number(), peer));
                let entrance = entrance.clone();
                tokio::spawn(async move {
                    // Boxed: it would lie in memory as long as a session lasts.
                    let whose = Box::pin(caller::identify(&context, tcp, caller)).await;
                    match (whose, entrance) {
                        (Some((conn, caller)), Entrance::Door(door)) => {
                            session::serve(context, door, conn, caller).await;
                        }
                        (Some((conn, caller)), Entrance::Shared(directory)) => {
                            shared::serve(context, directory, conn, caller).await;
                        }
                        (None, _) | (_, Entrance::Metrics(_)) => {}
                    }
                    drop(alive);
                });
            }
            Err(error) if is_of_the_peer(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: the backlog holds the others while some go.
                tracing::error!(%error, "cannot accept connections; trying again");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

fn is_of_the_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn prepare(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, true)?;
    sockopt::set_tcp_keepidle(tcp, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(tcp, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(tcp, KEEPALIVE_COUNT)?;
    Ok(())
}
