//! The function front door: Lambda's contracts, pools of workers, HTTP.

pub mod route;
