//! A keeper as a process of its own, for this crate's tests; the product runs it as `stead keeper`.
//!
//! `keeper --home H [--low BYTES --high BYTES --reserve BYTES] [--engines DIR]...`; as the gateway's
//! stand-in also `gateway --home H`, which listens where the gateway does, and as the function front door's
//! `functions --home H [--worker NAME]`, which makes a worker; `ask --home H` asks a keeper.

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
    if args.first().is_some_and(|arg| arg == "functions") {
        return functions(&home, &value("--worker").unwrap_or_else(|| "w-1".into()));
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

/// Shows that the function front door's user can do what it has to; lives until its standard input or it is ended.
fn functions(home: &std::path::Path, worker: &str) -> Result<(), Box<dyn std::error::Error>> {
    let log = home.join("logs/functions.jsonl");
    writeln!(std::fs::OpenOptions::new().create(true).append(true).open(log)?, "{{}}")?;
    std::fs::write(home.join("functions/spool/x"), "")?;
    for route in std::fs::read_dir(home.join("functions/routes"))? {
        std::fs::read(route?.path())?;
    }
    let order = keeper::wire::WorkerOrder {
        worker: keeper::wire::Name::parse(worker)?,
        lang: None,
        files: Default::default(),
        program: Vec::new(),
        env: Default::default(),
        limits: keeper::wire::WorkerLimits { memory_bytes: 64 << 20, tmp_bytes: 1 << 20, pids: 8 },
    };
    let (control, theirs) = rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let (input, _stdin) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let (_stdout, output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let all = [&theirs, &input, &output, &output].map(std::os::fd::AsFd::as_fd);
    keeper::Client::new(home).start_worker(&order, all)?;
    std::fs::write(home.join("functions/started"), worker)?;
    let mut packet = [0u8; 4096];
    while rustix::net::recv(&control, &mut packet[..], rustix::net::RecvFlags::empty())?.1 > 0 {}
    Ok(())
}
