//! The engine with a real keeper, real sandboxes and real interpreters. Needs root, node and python3.

mod conformance;
mod databases;
mod events;
mod failures;
mod home;
mod http;
mod network;
mod runtimes;
mod streaming;
mod versions;
