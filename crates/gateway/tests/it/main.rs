//! The gateway between real clients and real servers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on fails")]

mod balancer;
mod cancel;
mod clients;
mod crowds;
mod endings;
mod handover;
mod hold;
mod hostile;
mod inner;
mod log;
mod metrics;
mod refusals;
mod routes;
mod sessions;
mod shapes;
mod shared;
mod slow;
mod support;
mod taken_over;
mod tls;
