//! The store of logs from outside: what is collected is found, once, whatever happens meanwhile.

mod collecting;
mod crash;
mod damage;
mod home;
mod searching;
