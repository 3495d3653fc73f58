//! The lake's service, asked by real clients over its socket.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod copy;
mod fresh;
mod gateway;
mod limits;
mod psql;
mod questions;
mod sign_in;
mod support;
mod travel;
