//! The engine with a real keeper, real sandboxes and real interpreters. Needs root, node and python3.

#[cfg(test)]
mod broken;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod databases;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod events;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod home;
#[cfg(test)]
mod http;
#[cfg(test)]
mod inspections;
#[cfg(test)]
mod load;
#[cfg(test)]
mod network;
#[cfg(test)]
mod runtimes;
#[cfg(test)]
mod streaming;
#[cfg(test)]
mod versions;
