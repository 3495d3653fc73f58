//! The store on a real PostgreSQL: what the database itself refuses, who holds a lease, what is imported once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod journal;
mod lease;
mod rig;
mod search;
mod secrets;
mod spool;
