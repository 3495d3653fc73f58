//! One way: who connects to its socket is connected to the place that it leads to.
//!
//! The first line that he hears says how that went: it is empty, or says why there is no connection.

use std::time::Duration;

use ipnet::IpNet;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::dial::dial;
use crate::wire::Route;

/// Connections of one way at once: a copier's sessions, and those that are being given up.
const MOST: usize = 32;
/// After a failure of the listener.
const PAUSE: Duration = Duration::from_millis(100);

/// Passes on for as long as it is let; its connections end with it.
pub(crate) async fn keep(name: String, listener: UnixListener, route: Route, networks: Vec<IpNet>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MOST {
            connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((inside, _)) => {
                connections.spawn(pass(name.clone(), inside, route.clone(), networks.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, name, "a way takes no connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn pass(name: String, mut inside: UnixStream, route: Route, networks: Vec<IpNet>) {
    let Route { host, port } = &route;
    match dial(host, *port, &networks).await {
        Ok(mut outside) => {
            if inside.write_all(b"\n").await.is_ok() {
                // Whoever ends it: both ends notice.
                let _ = copy_bidirectional(&mut inside, &mut outside).await;
            }
        }
        Err(why) => {
            tracing::info!(name, host, port, why, "no connection");
            let why = why.replace(['\n', '\r'], " ");
            let _ = inside.write_all(format!("{why}\n").as_bytes()).await;
        }
    }
}
