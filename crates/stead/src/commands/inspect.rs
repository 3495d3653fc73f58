//! `stead dev --inspect`: a debugger on this machine, at a function wherever that runs.
//!
//! Debuggers connect to a port of this command's. Each connection is carried through the API to the inspector of the one
//! worker that answers calls meanwhile: so nothing listens on the host of the functions, and who may deploy is asked by
//! the API as for everything else. The port outlives releases, so a debugger that attaches again after each save needs
//! to know nothing.

use std::time::Duration;

use client::{Client, Error, Upgraded};
use functions::route::Notice;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, copy_bidirectional, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{interval, sleep};
use uuid::Uuid;

use crate::cli::{At, InspectArgs};
use crate::context::Named;
use crate::exit::Failure;
use crate::output;
use crate::project::Project;

/// How often the engine is told that somebody is there; it waits four times as long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);
/// Before an inspection is begun again that was cut off.
const AGAIN: Duration = Duration::from_secs(1);

/// Where debuggers connect, and to which function they then are.
pub(super) struct Door {
    listener: TcpListener,
    at: At,
    component: String,
}

impl Door {
    /// Opens it, where one is wanted.
    pub(super) async fn open(project: &Project, args: &InspectArgs) -> Result<Option<Self>, Failure> {
        let Some(inspect) = &args.inspect else { return Ok(None) };
        let component = choose(&project.wanted()?.body, inspect.as_deref())?;
        let at = args.inspect_at.clone();
        let listener = TcpListener::bind((at.host.as_str(), at.port)).await.map_err(|error| {
            Failure::Failed(format!(
                "cannot wait for a debugger at {at}: {error}; name another place with --inspect-at PORT"
            ))
        })?;
        // 0 is any port that is free.
        let port = listener.local_addr().map_err(Failure::failed)?.port();
        Ok(Some(Self { listener, at: At { port, ..at }, component }))
    }

    /// Carries what debuggers say until it is interrupted; an inspection that is cut off is begun again.
    pub(super) async fn keep(self, client: &Client, named: &Named) -> Result<(), Failure> {
        let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
        let (mut begun, mut told) = (false, false);
        loop {
            match client.inspect(tenant, stead, &self.component).await {
                Ok((id, engine)) => {
                    (begun, told) = (true, false);
                    self.hold(client, named, id, engine).await;
                }
                Err(error) if begun && passes(&error) => {
                    if !told {
                        output::remark(format!("no debugger can be attached at the moment: {error}"));
                    }
                    told = true;
                }
                Err(error) => return Err(error.into()),
            }
            sleep(AGAIN).await;
        }
    }

    /// One inspection, until its connection ends.
    async fn hold(&self, client: &Client, named: &Named, id: Uuid, engine: Upgraded) {
        let (from, mut to) = split(engine);
        let mut notices = BufReader::new(from).lines();
        let mut alive = interval(SIGN_OF_LIFE);
        let mut carried = JoinSet::new();
        loop {
            tokio::select! {
                notice = notices.next_line() => match notice {
                    Ok(Some(notice)) => self.tell(&notice),
                    Ok(None) | Err(_) => return,
                },
                _ = alive.tick() => if to.write_all(b"\n").await.is_err() { return },
                accepted = self.listener.accept() => if let Ok((debugger, _)) = accepted {
                    let (client, named) = (client.clone(), named.clone());
                    carried.spawn(carry(client, named, self.component.clone(), id, debugger));
                },
                Some(_) = carried.join_next() => {}
            }
        }
    }

    fn tell(&self, notice: &str) {
        let Self { at, component, .. } = self;
        match serde_json::from_str(notice) {
            Ok(Notice::Ready { version }) => {
                output::remark(format!("release {version} of {component} waits for a debugger at {at}"));
            }
            Ok(Notice::Broken { version, why }) => {
                output::remark(format!("release {version} of {component} does not start: {why}"));
            }
            Ok(Notice::Nothing { why }) => output::remark(format!("{component} has nothing to debug: {why}")),
            // A newer engine's.
            Err(_) => {}
        }
    }
}

/// Whether it may be otherwise in a moment: the server is gone, or what went before has not quite ended.
fn passes(error: &Error) -> bool {
    match error.problem() {
        Some(problem) => matches!(problem.status, 409 | 429 | 500..),
        None => true,
    }
}

/// Carries what a debugger and the inspector say. A debugger that is not let in tries again by itself.
async fn carry(client: Client, named: Named, component: String, id: Uuid, mut debugger: TcpStream) {
    let _ = debugger.set_nodelay(true);
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    match client.inspector(tenant, stead, &component, id).await {
        Ok(mut inspector) => drop(copy_bidirectional(&mut debugger, &mut inspector).await),
        Err(error @ Error::Strange(_)) => output::remark(error.to_string()),
        Err(_) => {}
    }
}

/// The function that is meant: the one named, or the only one in Node.js.
fn choose(body: &Value, named: Option<&str>) -> Result<String, Failure> {
    let all: Vec<(String, &str)> = body["function"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, function)| {
            (format!("function.{name}"), function["runtime"].as_str().unwrap_or_default())
        })
        .collect();
    let names =
        |all: &[&(String, &str)]| all.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let in_node: Vec<_> = all.iter().filter(|(_, runtime)| runtime.starts_with("nodejs")).collect();
    match (named, &in_node[..]) {
        (Some(named), _) => match all.iter().find(|(name, _)| name == named) {
            Some((name, runtime)) if runtime.starts_with("nodejs") => Ok(name.clone()),
            Some((name, runtime)) => Err(Failure::Usage(no_inspector(name, runtime))),
            None => Err(Failure::Usage(format!(
                "stead.toml has no `{named}` to inspect; it has: {}",
                names(&all.iter().collect::<Vec<_>>())
            ))),
        },
        (None, [(name, _)]) => Ok(name.clone()),
        (None, []) => Err(Failure::Usage(match &all[..] {
            [] => "--inspect is for functions, and stead.toml has none".to_owned(),
            [(name, runtime), ..] => no_inspector(name, runtime),
        })),
        (None, several) => Err(Failure::Usage(format!(
            "say which function is to be inspected, `--inspect {}`; there are: {}",
            several[0].0,
            names(several)
        ))),
    }
}

/// Why there is nothing that a debugger could be attached to.
fn no_inspector(name: &str, runtime: &str) -> String {
    let why = if runtime.starts_with("python") {
        "Python has no debugger of its own that another program could be attached to"
    } else {
        "what a program of its own is debugged by, Stead cannot know"
    };
    format!(
        "--inspect is for Node.js, and {name} runs as {runtime}: {why}; `stead logs {name} -f` shows what it prints"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chosen(functions: &[(&str, &str)], named: Option<&str>) -> Result<String, String> {
        let functions: serde_json::Map<_, _> = functions
            .iter()
            .map(|(name, runtime)| ((*name).to_owned(), json!({ "runtime": runtime })))
            .collect();
        choose(&json!({ "function": functions }), named).map_err(|failure| format!("{failure:?}"))
    }

    #[test]
    fn the_only_function_in_node_is_meant_unless_one_is_named() {
        let both = [("api", "nodejs24.x"), ("job", "python3.13")];
        assert_eq!(chosen(&both, None).unwrap(), "function.api");
        assert_eq!(chosen(&both, Some("function.api")).unwrap(), "function.api");
        let two = [("api", "nodejs24.x"), ("web", "nodejs22.x")];
        assert_eq!(chosen(&two, Some("function.web")).unwrap(), "function.web");
        let why = chosen(&two, None).unwrap_err();
        assert!(why.contains("`--inspect function.api`; there are: function.api, function.web"), "{why}");
        let why = chosen(&both, Some("function.job")).unwrap_err();
        assert!(why.contains("--inspect is for Node.js, and function.job runs as python3.13"), "{why}");
        let why = chosen(&[("tool", "provided.al2023")], None).unwrap_err();
        assert!(why.contains("function.tool runs as provided.al2023: what a program"), "{why}");
        assert!(chosen(&both, Some("function.no")).unwrap_err().contains("has no `function.no`"));
        assert!(chosen(&[], None).unwrap_err().contains("stead.toml has none"));
    }
}
