//! Wire types of the API, and the typed client that the command line and the tests use.
//!
//! [`wire`] is what goes over the wire in both directions and what the OpenAPI document is made of;
//! [`Client`] has one method a route. Neither knows how a stead is stored or made.

mod functions;
mod http;
mod inspections;
pub mod wire;

pub use http::{Client, Edit, Error, LogLines, LogNext, LogPart, Part};
pub use reqwest::Upgraded;
