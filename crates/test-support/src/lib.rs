//! Databases, a store of objects and an identity provider, for tests.
//!
//! Tests run against the real thing. [`ControlDatabase`] is a real PostgreSQL, made in about half a second,
//! gone without a trace when the last test of the process that uses it is over, however that ended.

#![expect(clippy::expect_used, reason = "it is for tests: what fails here fails the test")]

mod control;
mod installed;
mod provider;
mod s3;

pub use control::{Cluster, ControlDatabase, Listening};
pub use installed::{installed, place};
pub use provider::{CLIENT_SECRET, IdentityProvider};
pub use s3::{Fault, S3};
