//! The PostgreSQL front door: TLS, sign-in, allow-list.
