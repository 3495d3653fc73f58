//! The keeper as a process of its own, with real PostgreSQL servers in real namespaces.

#[cfg(test)]
mod crash;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod escapes;
#[cfg(test)]
mod home;
#[cfg(test)]
mod isolation;
#[cfg(test)]
mod launch;
#[cfg(test)]
mod machine;
#[cfg(test)]
mod orphans;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod sandboxed;
#[cfg(test)]
mod servers;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod user;
#[cfg(test)]
mod workers;
