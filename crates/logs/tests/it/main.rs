//! The store of logs from outside: what is collected is found, once, whatever happens meanwhile.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod collecting;
mod crash;
mod damage;
mod home;
mod searching;
