//! Databases, and a running server, for tests.
