//! The API over real HTTP, with the real store on a real PostgreSQL. The reconciler's part is played by the tests:
//! they claim leases and record what a driver would have seen.

mod access;
mod bad_requests;
mod clients;
mod document;
mod edits;
mod idempotency;
mod journal;
mod lists;
mod rig;
mod tokens;
mod waiting;
