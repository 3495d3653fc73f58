//! Ways out of a worker, by name.
//!
//! Connections to the addresses that stand for names arrive here, at listeners inside the worker's namespace, each with
//! the address that was dialled. What the name may stand for [`relay::dial`] says.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::control_socket;
use crate::engine::Engine;
use crate::names;
use crate::worker::Worker;

/// Connections of one worker at once.
const MOST: usize = 256;
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
            let connected = relay::dial(&name, port, &way.engine.settings().egress_networks).await;
            (name, connected)
        }
        Err((name, why)) => (name, Err(why)),
    };
    match connected {
        Ok(mut outside) => {
            let _ = inside.set_nodelay(true);
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
