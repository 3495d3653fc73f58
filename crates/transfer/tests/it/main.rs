//! Transfers from a real PostgreSQL into real tables.

#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]

mod bucket;
mod copied;
mod current;
mod damaged;
mod declared;
mod elsewhere;
mod exactly_once;
mod parts;
mod process;
mod published;
mod query;
mod site;
mod source;
mod torture;
mod types;
mod upkeep;
