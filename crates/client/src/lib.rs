//! Wire types of the API, and the typed client that the command line and the tests use.
//!
//! [`wire`] is what goes over the wire in both directions and what the OpenAPI document is made of;
//! [`Client`] has one method a route. Neither knows how a stead is stored or made.

mod http;
pub mod wire;

pub use http::{Client, Error, LogLines, LogNext, LogPart, Part};
pub use reqwest::Upgraded;
