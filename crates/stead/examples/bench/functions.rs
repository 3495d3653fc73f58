//! Functions: cold starts beside the bare runtime's own start, warm calls beside a direct HTTP call to the same handler
//! and beside the peers that run here. One after the other in turn, in rounds, so that a machine that is now faster and
//! now slower treats all alike.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::calls::{Target, quietly};
use crate::peers::{self, node_ways, rust_ways};
use crate::{Host, SAMPLES, median, ms, quantile, row};

const NODE: &str = "
export const handler = async (event) => {
  if (event.ms) await new Promise((done) => setTimeout(done, event.ms));
  return { answer: 42 };
};
";
const PYTHON: &str = "
import time

def handler(event, context):
    time.sleep(event.get('ms', 0) / 1000)
    return {'answer': 42}
";
/// Our own, of which the bare runtime is measured with.
const BOOTSTRAP_NODE: &str = include_str!("../../../functions/src/bootstrap/bootstrap.mjs");
const BOOTSTRAP_PYTHON: &str = include_str!("../../../functions/src/bootstrap/bootstrap.py");

/// Rounds of warm calls, each of every way, and calls in one.
const ROUNDS: usize = 8;
const CALLS: usize = 500;
/// Milliseconds that a worker is kept busy, so that the next call finds none at rest.
const BUSY_MS: u64 = 50_000;

/// A kind of runtime.
pub(crate) struct Kind {
    name: &'static str,
    runtime: &'static str,
    pub(crate) handler: &'static str,
    /// The interpreter, by itself, with our bootstrap.
    pub(crate) bare: Vec<PathBuf>,
    /// The code.
    pub(crate) folder: PathBuf,
    /// Variables of its own.
    environment: &'static [(&'static str, &'static str)],
}

/// Cold starts, deployments, warm calls.
pub(crate) async fn functions() {
    let work = tempfile::tempdir().unwrap();
    let kinds = kinds(work.path());
    let host = Host::start(0).await;
    let mut routes = BTreeMap::new();
    for kind in &kinds {
        routes.insert(kind.name, deploy(&host, kind).await);
    }
    deployments(&host, &kinds[0]).await;
    crate::deploys::deploys(&host, NODE).await;
    for kind in &kinds {
        cold(&host, kind, &routes[kind.name], "").await;
    }
    // An interpreter that was started ahead of need would not see it.
    for kind in &kinds[..2] {
        let own = Kind { name: "own", environment: &[("TZ", "Europe/Zurich")], ..kind.named() };
        let place = deploy(&host, &own).await;
        cold(&host, &own, &place, ", and no interpreter that was started ahead of need").await;
    }
    peers::cold(&kinds[0], &kinds[2], work.path()).await;
    // Those are still busy: new functions of the same code have workers of their own.
    let mut warm = BTreeMap::new();
    for kind in &kinds {
        warm.insert(kind.name, deploy(&host, &Kind { name: "warm", ..kind.named() }).await);
    }
    println!("\n| warm call, {} of each, one client | p50 | p99 | over direct | calls/s |", ROUNDS * CALLS);
    println!("|---|---|---|---|---|");
    let (node, rust) = (&kinds[0], &kinds[2]);
    let mut peers = Vec::new();
    let node_ways = node_ways(&host, node, &warm[node.name], work.path(), &mut peers).await;
    compare("Node.js", node_ways);
    peers.clear();
    let rust_ways = rust_ways(&host, rust, &warm[rust.name], work.path(), &mut peers).await;
    compare("Rust", rust_ways);
    drop(peers);
    let python = &warm[kinds[1].name];
    let ways =
        vec![("Stead, its URL", Target::get(python.port)), ("Stead, Invoke API", invoke(&host, python))];
    compare("Python", ways);
}

impl Kind {
    fn named(&self) -> Self {
        Self { bare: self.bare.clone(), folder: self.folder.clone(), ..*self }
    }
}

fn kinds(work: &Path) -> Vec<Kind> {
    let runtimes = std::env::var_os("STEAD_RUNTIMES").unwrap_or_else(|| "/var/lib/stead/runtimes".into());
    let rust = PathBuf::from(std::env::var_os("STEAD_TEST_LAMBDA").expect("script/bench")).join("rust");
    let file = |folder: &str, name: &str, text: &str| {
        let folder = work.join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), text).unwrap();
        folder
    };
    let (node, python) = (file("node", "index.mjs", NODE), file("python", "index.py", PYTHON));
    let bootstraps = file("bootstraps", "bootstrap.mjs", BOOTSTRAP_NODE);
    file("bootstraps", "bootstrap.py", BOOTSTRAP_PYTHON);
    vec![
        Kind {
            name: "node",
            runtime: "nodejs24.x",
            handler: "index.handler",
            bare: vec![Path::new(&runtimes).join("nodejs24.x/bin/node"), bootstraps.join("bootstrap.mjs")],
            folder: node,
            environment: &[],
        },
        Kind {
            name: "python",
            runtime: "python3.11",
            handler: "index.handler",
            bare: vec!["/usr/bin/python3.11".into(), bootstraps.join("bootstrap.py")],
            folder: python,
            environment: &[],
        },
        Kind {
            name: "rust",
            runtime: "provided.al2023",
            handler: "plain",
            bare: vec![rust.join("bootstrap")],
            folder: rust,
            environment: &[],
        },
    ]
}

/// Where a function is.
pub(crate) struct Place {
    handle: String,
    pub(crate) port: u16,
}

/// Uploads, declares, waits until it answers.
async fn deploy(host: &Host, kind: &Kind) -> Place {
    let stead = format!("{}-{}", kind.name, kind.runtime.split('.').next().unwrap());
    let zip = package::build(&kind.folder).unwrap();
    let digest = package::digest(&zip).to_string();
    host.client.put_package("bench", &digest, zip).await.unwrap();
    let api = json!({
        "code": digest, "runtime": kind.runtime, "handler": kind.handler, "url": true, "memory": 256, "timeout": 60,
        "concurrency": 60, "environment": kind.environment.iter().copied().collect::<BTreeMap<_, _>>(),
    });
    let body = json!({ "function": { "api": api } });
    let made = host
        .client
        .put_stead("bench", &stead, &body, &client::Edit { wait: Some("60s"), ..client::Edit::default() })
        .await
        .unwrap();
    let operation = made.operation.as_ref().unwrap();
    assert_eq!(operation.state, "succeeded", "{:?}", operation.error);
    let place = place(&host.home, &stead);
    quietly(&Target::get(place.port)).await;
    place
}

/// What the engine goes by.
pub(crate) fn place(home: &Path, stead: &str) -> Place {
    let routes = std::fs::read_dir(home.join("functions/routes")).unwrap().flatten();
    let routes =
        routes.filter_map(|route| serde_json::from_slice::<Value>(&std::fs::read(route.path()).ok()?).ok());
    let mut ours = routes.filter(|route| route["stead"].as_str().is_some_and(|name| name.ends_with(stead)));
    let route = ours.next().expect("a route of it");
    Place {
        handle: route["function"].as_str().unwrap().to_owned(),
        port: u16::try_from(route["url"]["port"].as_u64().unwrap()).unwrap(),
    }
}

pub(crate) fn invoke(host: &Host, place: &Place) -> Target {
    Target::invoke(host.home.join("functions/invoke.sock"), &place.handle, &json!({ "n": 1 }))
}

/// From an edit to the first answer of what was edited.
async fn deployments(host: &Host, kind: &Kind) {
    let mut times = Vec::new();
    for number in 0..SAMPLES {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("index.mjs"), format!("{NODE}// {number}")).unwrap();
        let edited = Kind { folder: folder.path().to_owned(), name: "edited", ..kind.named() };
        let began = Instant::now();
        deploy(host, &edited).await;
        times.push(ms(began));
    }
    row("a function in Node.js is packed, uploaded, released -> first answer", &times[1..], None);
}

/// Calls that find every worker busy, beside the runtime's own start.
async fn cold(host: &Host, kind: &Kind, place: &Place, what: &str) {
    let socket = host.home.join("functions/invoke.sock");
    let occupy = || {
        let target = Target::invoke(socket.clone(), &place.handle, &json!({ "do": "wait", "ms": BUSY_MS }));
        std::thread::spawn(move || target.open().send());
    };
    occupy();
    let (mut bare, mut times) = (Vec::new(), Vec::new());
    let call = invoke(host, place);
    for _ in 0..SAMPLES {
        bare.push(crate::calls::bare_start(&kind.bare, &kind.folder, kind.handler).await);
        // Spares are made ahead of need, and by now there are some again.
        tokio::time::sleep(Duration::from_millis(400)).await;
        let began = Instant::now();
        call.open().ask();
        times.push(ms(began));
        occupy();
    }
    println!("| limit: {} by itself, start -> answer | {SAMPLES} | {} |", kind.runtime, fine(&bare));
    let ratio = median(&times) / median(&bare);
    println!(
        "| a call of a {} function that finds no worker at rest{what} | {SAMPLES} | {} | {:.1} ms | {ratio:.2} |",
        kind.runtime,
        fine(&times),
        median(&bare),
    );
}

pub(crate) fn fine(times: &[f64]) -> String {
    format!("{:.1} ms | {:.1} ms", median(times), quantile(times, 99))
}

/// All ways to the same handler, the direct one first.
fn compare(language: &str, ways: Vec<(&'static str, Target)>) {
    let mut times = vec![Vec::new(); ways.len()];
    let mut lines: Vec<_> = ways.iter().map(|(_, target)| target.open()).collect();
    for line in &mut lines {
        (0..100).for_each(|_| line.ask());
    }
    for round in 0..ROUNDS {
        for number in 0..lines.len() {
            let at = (round + number) % lines.len();
            for _ in 0..CALLS {
                let began = Instant::now();
                lines[at].ask();
                times[at].push(ms(began));
            }
        }
    }
    let direct = median(&times[0]);
    for ((name, _), times) in ways.iter().zip(&times) {
        let rate = 1000.0 * times.len() as f64 / times.iter().sum::<f64>();
        let micros = |ms: f64| format!("{:.0} µs", ms * 1000.0);
        println!(
            "| {language}: {name} | {} | {} | {} | {rate:.0} |",
            micros(median(times)),
            micros(quantile(times, 99)),
            micros(median(times) - direct),
        );
    }
}
