//! The product as a whole: the binary, real servers, real clients.

mod installation;
mod lifecycle;
