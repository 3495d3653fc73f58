//! The door to a function's databases, on a worker's own listener: a pool in transaction mode.
//!
//! A function scales to many workers, and PostgreSQL to few connections. So what a worker connects to is this pool: each
//! of its sessions has a connection to the server only while a transaction is open, and all workers of a function share
//! so many of them as are declared. Who speaks is known by the listener: the password that comes is not looked at, and
//! the one that the server asks for the function never sees. The server is reached through the gateway's inner door, so
//! that one that sleeps is woken and one that is switched takes its sessions along.
//!
//! Transaction mode has a price, the same as with PgBouncer: what outlives a transaction in a session (`SET`, `LISTEN`,
//! temporary tables, advisory locks of the session) may meet another session. Prepared statements are the exception:
//! they are remembered and made again where they are missing ([`session`]).

mod frames;
mod hello;
mod pool;
mod server;
mod session;

use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::engine::Engine;
use crate::worker::Worker;
use hello::Hello;
pub(crate) use pool::Databases;

/// Sessions of one worker at once.
const MOST: usize = 64;

/// Serves a worker's sessions until the worker has ended.
pub(crate) async fn serve(engine: Arc<Engine>, worker: Arc<Worker>, listener: TcpListener) {
    let Some(databases) = worker.pool.upgrade().map(|pool| pool.databases.clone()) else { return };
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.ended() => return,
        };
        let Ok((stream, _)) = accepted else { continue };
        let (engine, worker, databases) = (engine.clone(), worker.clone(), databases.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = visit(&engine, &worker, &databases, stream) => {}
                () = worker.ended() => {}
            }
            drop(place);
        });
    }
}

async fn visit(engine: &Engine, worker: &Worker, databases: &Arc<Databases>, mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let result = match hello::read(&mut stream).await {
        Ok(Hello::Cancel(key)) => databases.cancel(engine, key).await,
        Ok(Hello::Session { database, parameters }) => {
            let route = worker.edition.declared.route();
            session::run(engine, databases, &route, &database, parameters, stream).await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        tracing::debug!(%error, worker = %worker.name, "a session with a database ended");
    }
}
