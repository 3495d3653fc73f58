//! The function front door: Lambda's contracts, pools of workers, HTTP.

mod client;
pub mod route;

pub use client::ask;
