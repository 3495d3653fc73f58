//! The product as a whole: the binary, real servers, real clients.

mod crash;
mod database;
mod installation;
mod lifecycle;
mod os_users;
mod owner;
mod story;
mod witness;
