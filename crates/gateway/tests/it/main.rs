//! The gateway between real clients and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod cancel;
mod clients;
mod endings;
mod handover;
mod hostile;
mod log;
mod refusals;
mod routes;
mod sessions;
mod shapes;
mod shared;
mod support;
