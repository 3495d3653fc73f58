//! Proof of who somebody is.
//!
//! Three ways, and no state of their own but what they are given: the company's identity provider ([`oidc`]), a
//! password ([`password`]), and a code of a second factor ([`second_factor`]). Whose session that begins, and what they
//! may do, is said elsewhere.

pub mod oidc;
pub mod password;
pub mod second_factor;
