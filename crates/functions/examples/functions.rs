//! A function front door on a folder, by itself, for this crate's tests: `functions --home HOME`; the product runs it as
//! `stead functions`.

use std::path::PathBuf;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _fail_points = fail::FailScenario::setup();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::INFO).init();
    let args: Vec<String> = std::env::args().collect();
    let home = args.iter().position(|arg| arg == "--home").and_then(|at| args.get(at + 1));
    let home = PathBuf::from(home.ok_or("--home is missing")?);
    functions::run(functions::Options { home }).await?;
    Ok(())
}
