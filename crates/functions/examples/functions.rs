//! A function front door as a process of its own, for this crate's tests; the product runs it as `stead functions`.
//!
//! `functions --home HOME [--limit NAME=NUMBER]...`; `keeper --home HOME` is the keeper that it needs, which in turn
//! runs this same program as unit.

use std::path::PathBuf;
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _fail_points = fail::FailScenario::setup();
    let args: Vec<String> = std::env::args().collect();
    let values = |name: &str| -> Vec<String> {
        let pairs = args.iter().zip(args.iter().skip(1));
        pairs.filter(|(key, _)| key.as_str() == name).map(|(_, value)| value.clone()).collect()
    };
    let home = PathBuf::from(values("--home").first().ok_or("--home is missing")?);
    if args.get(1).is_some_and(|arg| arg == "keeper") {
        let mut options = keeper::Options::new(home, std::env::current_exe()?);
        let dirs = std::env::var_os("STEAD_RUNTIMES").unwrap_or_default();
        options.runtime_dirs.extend(std::env::split_paths(&dirs).filter(|dir| dir.is_absolute()));
        return Ok(keeper::run(&options)?);
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let mut limits = functions::Limits::default();
    for limit in values("--limit") {
        let (name, value) = limit.split_once('=').ok_or("a limit is NAME=NUMBER")?;
        set(&mut limits, name, value.parse()?)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        functions::serve(functions::Options { home }, limits, stop)
            .await
            .map_err(Box::<dyn std::error::Error>::from)
    })
}

/// Times are in milliseconds.
fn set(limits: &mut functions::Limits, name: &str, value: u64) -> Result<(), Box<dyn std::error::Error>> {
    let count = usize::try_from(value)?;
    let time = Duration::from_millis(value);
    match name {
        "spares" => limits.spares = count,
        "empty_spares" => limits.empty_spares = count,
        "idle" => limits.idle = time,
        "queue" => limits.queue = count,
        "queue_wait" => limits.queue_wait = time,
        "log_rate" => limits.log_rate = value,
        "log_burst" => limits.log_burst = value,
        "rotate_at" => limits.rotate_at = value,
        "farewell" => limits.farewell = time,
        "retry" => limits.retries.pauses = vec![time, time],
        "event_age" => limits.retries.age = time,
        other => return Err(format!("there is no limit `{other}`").into()),
    }
    Ok(())
}
