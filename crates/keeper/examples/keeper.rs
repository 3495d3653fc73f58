//! A keeper as a process of its own, for this crate's tests; the product runs it as `stead keeper`.
//!
//! `keeper --home H [--low BYTES --high BYTES --reserve BYTES] [--engines DIR]...`; as the gateway's
//! stand-in also `gateway --home H`, which listens where the gateway does; `ask --home H` asks a keeper.

use std::io::Write;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _fail_points = fail::FailScenario::setup();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1).cloned()
    };
    let home = PathBuf::from(value("--home").ok_or("--home is missing")?);
    if args.first().is_some_and(|arg| arg == "gateway") {
        return Ok(gateway(&home)?);
    }
    if args.first().is_some_and(|arg| arg == "ask") {
        return Ok(keeper::Client::new(home).host().map(drop)?);
    }
    let mut options = keeper::Options::new(home, std::env::current_exe()?);
    for (name, dir) in args.iter().zip(args.iter().skip(1)) {
        if name == "--engines" {
            options.engine_dirs.push(dir.into());
        }
    }
    if let (Some(low), Some(high), Some(reserve)) = (value("--low"), value("--high"), value("--reserve")) {
        options.watermarks = Some(keeper::Watermarks {
            low_bytes: low.parse()?,
            high_bytes: high.parse()?,
            reserve_bytes: reserve.parse()?,
        });
    }
    keeper::run(&options)?;
    Ok(())
}

/// Shows that the gateway's user can do what the gateway has to.
fn gateway(home: &std::path::Path) -> std::io::Result<()> {
    let socket = home.join("gateway/gateway.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = std::os::unix::net::UnixListener::bind(socket)?;
    let log = home.join("logs/gateway.jsonl");
    writeln!(std::fs::OpenOptions::new().create(true).append(true).open(log)?, "{{}}")?;
    for peer in listener.incoming() {
        drop(peer?);
    }
    Ok(())
}
