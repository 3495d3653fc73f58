//! A gateway on a folder, by itself: `cargo run -p gateway --example front_door -- HOME`.

use std::path::PathBuf;

#[tokio::main]
async fn main() -> Result<(), gateway::Error> {
    let home = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("/var/lib/stead"), PathBuf::from);
    gateway::run(gateway::Options { home, rank: gateway::FIRST_RANK }).await
}
