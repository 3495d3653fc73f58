//! The product as a whole: the binary, real servers, real clients.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "what a failed test was about")]

mod advise;
mod archive;
mod backups;
mod bucket;
mod canary;
mod clients;
mod command_line;
mod console;
mod crash;
mod damage;
mod database;
mod disk;
mod drift;
mod elsewhere;
mod function_secrets;
mod functions;
mod gateway;
mod inspection;
mod installation;
mod lifecycle;
mod logs;
mod moves;
mod os_users;
mod owner;
mod queries;
mod secrets;
mod shared;
mod sleep;
mod story;
mod tenants;
mod tour;
mod transcript;
mod transfers;
mod twice;
mod witness;
