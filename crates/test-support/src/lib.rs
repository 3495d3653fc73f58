//! Databases, and a running server, for tests.
//!
//! Tests run against the real thing. [`ControlDatabase`] is a real PostgreSQL, made in about half a second,
//! gone without a trace when the last test of the process that uses it is over, however that ended.

#![expect(clippy::expect_used, reason = "it is for tests: what fails here fails the test")]

mod control;

pub use control::ControlDatabase;
