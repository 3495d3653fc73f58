//! Transfers from a real PostgreSQL into real tables.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "tests")]

mod current;
mod exactly_once;
mod source;
