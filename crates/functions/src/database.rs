//! The door to a function's databases, on a worker's own listener.

use std::sync::Arc;

use tokio::net::TcpListener;

use crate::engine::Engine;
use crate::worker::Worker;

/// Serves a worker's sessions until the worker has ended.
pub(crate) async fn serve(_engine: Arc<Engine>, _worker: Arc<Worker>, listener: TcpListener) {
    drop(listener);
}
