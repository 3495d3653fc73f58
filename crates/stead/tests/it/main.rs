//! The product as a whole: the binary, real servers, real clients.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]

mod clients;
mod crash;
mod database;
mod damage;
mod disk;
mod drift;
mod installation;
mod lifecycle;
mod os_users;
mod owner;
mod secrets;
mod story;
mod twice;
mod tenants;
mod witness;
mod command_line;
mod tour;
mod transcript;
