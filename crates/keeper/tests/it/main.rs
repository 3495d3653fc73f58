//! The keeper as a process of its own, with real PostgreSQL servers in real namespaces.

#[cfg(test)]
mod home;
#[cfg(test)]
mod servers;
