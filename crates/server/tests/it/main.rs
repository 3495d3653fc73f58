//! The API over real HTTP, with the real store on a real PostgreSQL. The reconciler's part is played by the tests:
//! they claim leases and record what a driver would have seen.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod access;
mod bad_requests;
mod browser;
mod clients;
mod database_page;
mod document;
mod edits;
mod forms;
mod idempotency;
mod journal;
mod judges;
mod lake_page;
mod lists;
mod log_pages;
mod logs;
mod matrix;
mod pages;
mod people;
mod records;
mod rig;
mod tokens;
mod waiting;
