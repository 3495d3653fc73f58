//! Tests of the pure half: what is read, decided and said.

#![expect(clippy::expect_used, clippy::panic, reason = "a test that cannot be set up fails")]

mod advice;
mod function;
mod fuzz;
mod idle;
mod maintenance;
mod manifest;
mod names;
mod plan;
mod postgres;
mod refusals;
mod simulator;
mod transfer;
mod world;
