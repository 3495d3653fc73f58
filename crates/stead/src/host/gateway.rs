//! The gateway of the host, replaced while it serves: by itself when the keeper runs another binary than the
//! gateway, and by hand.

use std::path::Path;
use std::time::Duration;

use driver_local::Local;
use tokio::sync::watch;

use crate::exit::Failure;

/// Between two looks at whether it is the right one, and whether those before it have drained.
const LOOK: Duration = Duration::from_secs(3600);
/// While others drain, and after it could not be replaced.
const AGAIN: Duration = Duration::from_secs(60);

/// Has the right gateway serve, until told to stop.
pub(super) async fn run(local: Local, mut stop: watch::Receiver<bool>) {
    match (keeper::Client::new(local.home()).host(), keeper::own_program()) {
        (Ok(keeper), Ok(own)) if keeper.program != own => tracing::warn!(
            pid = keeper.pid,
            version = keeper.version,
            "the keeper is of another binary, and starts the gateway from that; end it and start \
             `stead server` again to have it replaced"
        ),
        _ => {}
    }
    let mut told = String::new();
    while !*stop.borrow() {
        let looking = async {
            let pause = match local.renew_gateway(false).await {
                Ok(status) if status.draining.is_empty() => LOOK,
                Ok(_) => AGAIN,
                Err(why) => {
                    let why = why.to_string();
                    if why != told {
                        tracing::warn!(why, "the gateway was not replaced");
                        told = why;
                    }
                    AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        };
        // What is broken off half way the next look goes on with.
        tokio::select! { () = looking => {}, _ = stop.changed() => {} }
    }
}

/// Replaces it now; says which one serves, and which ones drain.
pub(crate) fn replace(home: &Path) -> Result<gateway::route::Status, Failure> {
    let host = keeper::Host::read(home).map_err(Failure::failed)?;
    let engine_dirs = super::engine_dirs();
    if host.isolated {
        super::privileges::become_user(host.control_uid(), host.gid())
            .map_err(|error| Failure::Failed(format!("cannot give up root: {error}")))?;
    }
    let local =
        Local::open(home, "localhost", &engine_dirs, &super::runtime_dirs()).map_err(Failure::failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    runtime.block_on(local.renew_gateway(true)).map_err(Failure::failed)
}

/// `gateway 2 (process 4711) serves; gateway 1 drains, with 3 sessions left`.
pub(crate) fn described(status: &gateway::route::Status) -> String {
    let sessions =
        |number: u32| if number == 1 { "1 session".to_owned() } else { format!("{number} sessions") };
    let drain = |one: &gateway::route::Draining| {
        format!("; gateway {} drains, with {} left", one.rank, sessions(one.sessions))
    };
    let draining: String = status.draining.iter().map(drain).collect();
    format!("gateway {} (process {}) serves{draining}", status.rank, status.pid)
}
