//! `stead doctor`: what is wrong on this host, and what to do.

use driver_local::{Engines, Runtimes};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Failure;
use crate::{host, output};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Finding {
    Good,
    Note,
    Wrong,
}

#[derive(Debug, Serialize)]
struct Check {
    what: &'static str,
    finding: Finding,
    message: String,
}

pub(super) async fn run(context: &Context) -> Result<(), Failure> {
    let mut checks = vec![home(context), engines(context), isolation(), functions(context)];
    checks.extend(huge_pages());
    checks.extend(keeper_and_disk(context));
    checks.push(gateway(context).await);
    checks.push(server(context).await);
    let wrong = checks.iter().filter(|check| check.finding == Finding::Wrong).count();
    if context.json {
        output::json(&checks)?;
    } else {
        for check in &checks {
            let sign = match check.finding {
                Finding::Good => "ok   ",
                Finding::Note => "note ",
                Finding::Wrong => "WRONG",
            };
            output::line(format!("{sign} {}: {}", check.what, check.message))?;
        }
    }
    if wrong > 0 { Err(Failure::Troubled) } else { Ok(()) }
}

fn check(what: &'static str, finding: Finding, message: impl Into<String>) -> Check {
    Check { what, finding, message: message.into() }
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn home(context: &Context) -> Check {
    match host::serve::fits(&context.home) {
        Ok(()) => check("home", Finding::Good, context.home.display().to_string()),
        Err(why) => check("home", Finding::Wrong, why),
    }
}

fn engines(context: &Context) -> Check {
    let engines = Engines::discover(&context.home, &host::engine_dirs());
    if engines.is_empty() {
        return check("engines", Finding::Wrong, "none found; run script/setup, or set STEAD_ENGINES");
    }
    let list: Vec<String> = engines
        .majors()
        .into_iter()
        .filter_map(|major| engines.get(major).map(|engine| format!("{major} in {}", engine.bin.display())))
        .collect();
    check("engines", Finding::Good, list.join(", "))
}

/// What functions can be run here.
fn functions(context: &Context) -> Check {
    if !rustix::process::geteuid().is_root() {
        let message = "not root: no functions, because nothing would keep their code from everything else of this user's";
        return check("functions", Finding::Note, message);
    }
    let names = Runtimes::discover(&context.home, &host::runtime_dirs()).names();
    let names = names.into_iter().collect::<Vec<_>>().join(", ");
    let lacks: Vec<&str> = [
        ("user namespaces", "/proc/self/ns/user"),
        ("filters of system calls", "/proc/sys/kernel/seccomp/actions_avail"),
    ]
    .into_iter()
    .filter_map(|(what, path)| (!std::path::Path::new(path).exists()).then_some(what))
    .collect();
    let groups = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let freezes = groups.contains(" - cgroup2 ") || groups.contains("freezer");
    match (names.is_empty(), lacks.is_empty(), freezes) {
        (_, false, _) => {
            let message = format!("this kernel has no {}, so workers do not start", lacks.join(" and no "));
            check("functions", Finding::Wrong, message)
        }
        (true, ..) => check(
            "functions",
            Finding::Note,
            "no interpreter: packages that bring their own run; run script/setup",
        ),
        (_, _, false) => {
            let message = format!("{names}; no cgroups that freeze, so workers go on between calls");
            check("functions", Finding::Note, message)
        }
        _ => check("functions", Finding::Good, format!("{names}; and packages that bring their own program")),
    }
}

fn isolation() -> Check {
    if rustix::process::geteuid().is_root() {
        check("isolation", Finding::Good, "root: every server has a user, namespaces and limits of its own")
    } else {
        check(
            "isolation",
            Finding::Note,
            "not root: servers are not kept apart, so there can be one tenant only",
        )
    }
}

/// Whether the kernel gives huge pages to memory that processes share, as a server's buffers are; nothing where
/// it has none to give.
fn huge_pages() -> Option<Check> {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/shmem_enabled").ok()?;
    let in_force = setting.split('[').nth(1)?.split(']').next()?;
    let check = |finding, message| Some(check("huge pages", finding, message));
    match in_force {
        "always" | "within_size" | "force" => check(Finding::Good, "on for shared memory"),
        _ => check(
            Finding::Note,
            "off for shared memory, so that large servers work and start slower: see docs/install.md",
        ),
    }
}

fn keeper_and_disk(context: &Context) -> Vec<Check> {
    let status = match keeper::Client::new(&context.home).host() {
        Ok(status) => status,
        Err(error) => {
            return vec![check("keeper", Finding::Wrong, format!("{error} (`stead server` starts it)"))];
        }
    };
    let failing: Vec<String> = status
        .units
        .iter()
        .filter_map(|unit| match &unit.state {
            keeper::wire::UnitState::Backoff { last_error, .. } => {
                Some(format!("{}: {}", unit.unit, last_error.trim()))
            }
            _ => None,
        })
        .collect();
    let mib = 1024 * 1024;
    let (free, total) = (status.disk.free_bytes / mib, status.disk.total_bytes / mib);
    let disk = if status.disk.read_only {
        check(
            "disk",
            Finding::Wrong,
            format!("{free} MiB free of {total}: servers are read-only; free some space"),
        )
    } else {
        check("disk", Finding::Good, format!("{free} MiB free of {total}"))
    };
    let keeper = if failing.is_empty() {
        check(
            "keeper",
            Finding::Good,
            format!("process {}, {}", status.pid, count(status.units.len(), "unit")),
        )
    } else {
        check("keeper", Finding::Wrong, format!("units that end by themselves: {}", failing.join("; ")))
    };
    vec![keeper, disk]
}

async fn gateway(context: &Context) -> Check {
    let status = async { ::gateway::Client::connect(&context.home).await?.status().await };
    match status.await {
        Err(error) => check("gateway", Finding::Wrong, format!("{error} (the keeper starts it)")),
        Ok(status) => {
            let broken: Vec<String> = status
                .routes
                .iter()
                .filter_map(|route| route.error.clone())
                .chain(status.refused.iter().map(|(file, why)| format!("{file}: {why}")))
                .collect();
            if !broken.is_empty() {
                return check("gateway", Finding::Wrong, broken.join("; "));
            }
            let mut said = format!("process {}, {}", status.pid, count(status.routes.len(), "route"));
            for one in &status.draining {
                let sessions = count(usize::try_from(one.sessions).unwrap_or(usize::MAX), "session");
                said.push_str(&format!("; process {} drains, {sessions} left", one.pid));
            }
            let keeper = keeper::Client::new(&context.home).host().map(|keeper| keeper.program);
            match (keeper, keeper::own_program()) {
                (Ok(keeper), Ok(own)) if keeper != own => {
                    said.push_str("; the keeper, which starts it, is of another binary than this command");
                    check("gateway", Finding::Note, said)
                }
                (Ok(keeper), _) if keeper != status.program => {
                    said.push_str("; of another binary than the keeper's: `stead server replace-gateway`");
                    check("gateway", Finding::Note, said)
                }
                _ => check("gateway", Finding::Good, said),
            }
        }
    }
}

async fn server(context: &Context) -> Check {
    match context.client().await {
        Ok(client) => match client.health().await {
            Ok(health) => check("server", Finding::Good, format!("version {}", health.version)),
            Err(error) => check("server", Finding::Wrong, error.to_string()),
        },
        Err(Failure::Unreachable(why) | Failure::Failed(why)) => check("server", Finding::Wrong, why),
        Err(_) => check("server", Finding::Wrong, "cannot be asked"),
    }
}
