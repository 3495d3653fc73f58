//! The engine with a real keeper, real sandboxes and real interpreters. Needs root, node and python3.

mod home;
mod http;
mod runtimes;
