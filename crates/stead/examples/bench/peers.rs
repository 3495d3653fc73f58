//! What else runs here and calls a function: a direct HTTP server, AWS's emulator, cargo-lambda, workerd.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::calls::{Target, free_port, quietly};
use crate::functions::{Kind, Place, fine, invoke};
use crate::{Host, SAMPLES, ms, until};

/// The same handler, asked without anything between.
const NODE_DIRECT: &str = "
import http from 'node:http';
import { handler } from './index.mjs';
const server = http.createServer((request, response) => {
  request.resume().on('end', async () => {
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify(await handler({})));
  });
});
server.listen(Number(process.argv[2]), '127.0.0.1');
";
const WORKER: &str = "
import { handler } from 'index.mjs';
export default { async fetch() { return Response.json(await handler({})); } };
";

/// A process that ends with the measurement.
pub(crate) struct Peer(Child);

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Peer {
    fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

/// All ways to the handler in Node.js.
pub(crate) async fn node_ways(
    host: &Host,
    kind: &Kind,
    place: &Place,
    work: &Path,
    peers: &mut Vec<Peer>,
) -> Vec<(&'static str, Target)> {
    let port = free_port();
    std::fs::write(work.join("node/direct.mjs"), NODE_DIRECT).unwrap();
    peers.push(Peer::start(
        Command::new(&kind.bare[0]).arg(work.join("node/direct.mjs")).arg(port.to_string()),
    ));
    let mut ways = ours("an HTTP server with the same handler", port, host, place);
    if let Some(program) = program("STEAD_BENCH_RIE") {
        let (peer, target) = emulator_of_aws(&program, kind);
        peers.push(peer);
        ways.push(("AWS's emulator", target));
    }
    if let Some(program) = program("STEAD_BENCH_WORKERD") {
        let (peer, target) = workerd(&program, work);
        peers.push(peer);
        ways.push(("workerd", target));
    }
    answering(&ways).await;
    ways
}

/// All ways to the handler in Rust.
pub(crate) async fn rust_ways(
    host: &Host,
    kind: &Kind,
    place: &Place,
    work: &Path,
    peers: &mut Vec<Peer>,
) -> Vec<(&'static str, Target)> {
    let port = free_port();
    peers.push(Peer::start(
        Command::new(std::env::current_exe().unwrap()).args(["direct", &port.to_string()]),
    ));
    let mut ways = ours("an HTTP server (hyper)", port, host, place);
    if let Some(program) = program("STEAD_BENCH_RIE") {
        let (peer, target) = emulator_of_aws(&program, kind);
        peers.push(peer);
        ways.push(("AWS's emulator", target));
    }
    if let Some(program) = program("STEAD_BENCH_CARGO_LAMBDA") {
        let (watch, port) = cargo_lambda(&program, work).await;
        peers.push(watch);
        peers.push(of_cargo_lambda(kind, port));
        ways.push(("cargo-lambda", Target::emulator(port, "_")));
    }
    answering(&ways).await;
    ways
}

fn ours(direct: &'static str, port: u16, host: &Host, place: &Place) -> Vec<(&'static str, Target)> {
    vec![
        (direct, Target::get(port)),
        ("Stead, its URL", Target::get(place.port)),
        ("Stead, Invoke API", invoke(host, place)),
    ]
}

/// Cold starts of the peers: from the start of what has to be started to the first answer.
pub(crate) async fn cold(node: &Kind, rust: &Kind, work: &Path) {
    if let Some(program) = program("STEAD_BENCH_RIE") {
        for (what, kind) in [("Node.js", node), ("Rust", rust)] {
            starts(&format!("{what}: AWS's emulator"), || emulator_of_aws(&program, kind)).await;
        }
    }
    if let Some(program) = program("STEAD_BENCH_WORKERD") {
        starts("Node.js: workerd", || workerd(&program, work)).await;
    }
    if let Some(program) = program("STEAD_BENCH_CARGO_LAMBDA") {
        let mut times = Vec::new();
        for _ in 0..SAMPLES {
            let (_watch, port) = cargo_lambda(&program, work).await;
            let began = Instant::now();
            let _function = of_cargo_lambda(rust, port);
            quietly(&Target::emulator(port, "_")).await;
            times.push(ms(began));
        }
        println!(
            "| Rust: cargo-lambda, start of the function -> first answer | {SAMPLES} | {} |",
            fine(&times)
        );
    }
}

async fn starts(what: &str, start: impl Fn() -> (Peer, Target)) {
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let began = Instant::now();
        let (_peer, target) = start();
        quietly(&target).await;
        times.push(ms(began));
    }
    println!("| {what}, start -> first answer | {SAMPLES} | {} |", fine(&times));
}

/// A peer that was installed.
fn program(variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from).filter(|program| program.exists());
    if program.is_none() {
        println!("\n{variable} is not here: script/setup --bench installs it.\n");
    }
    program
}

async fn answering(ways: &[(&str, Target)]) {
    for (_, target) in ways {
        quietly(target).await;
    }
}

/// With the same program and code.
fn emulator_of_aws(emulator: &Path, kind: &Kind) -> (Peer, Target) {
    let (api, port) = (free_port(), free_port());
    let mut command = crate::calls::runtime(&[emulator.to_owned()], &kind.folder, kind.handler);
    command.args(["--runtime-api-address", &format!("127.0.0.1:{api}")]);
    command.args(["--runtime-interface-emulator-address", &format!("127.0.0.1:{port}")]);
    command.args(&kind.bare).arg(kind.handler);
    (Peer::start(&mut command), Target::emulator(port, "function"))
}

fn workerd(program: &Path, work: &Path) -> (Peer, Target) {
    let port = free_port();
    std::fs::write(work.join("node/worker.mjs"), WORKER).unwrap();
    let config = work.join("node/config.capnp");
    std::fs::write(&config, workerd_config(port)).unwrap();
    (Peer::start(Command::new(program).arg("serve").arg(config)), Target::get(port))
}

async fn cargo_lambda(program: &Path, work: &Path) -> (Peer, u16) {
    let port = free_port();
    // It wants a project to be in, even where it is to run nothing of it.
    let project = work.join("project/src");
    std::fs::create_dir_all(&project).unwrap();
    std::fs::write(project.join("main.rs"), "fn main() {}").unwrap();
    let manifest = "[package]\nname = \"none\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n";
    std::fs::write(work.join("project/Cargo.toml"), manifest).unwrap();
    let mut command = Command::new(program);
    command.args(["lambda", "watch", "--only-lambda-apis", "-A", "127.0.0.1", "-P", &port.to_string()]);
    let peer = Peer::start(command.current_dir(work.join("project")));
    until("cargo-lambda", || std::net::TcpStream::connect(("127.0.0.1", port)).ok()).await;
    (peer, port)
}

/// The function that it calls.
fn of_cargo_lambda(kind: &Kind, port: u16) -> Peer {
    let mut function = crate::calls::runtime(&kind.bare, &kind.folder, kind.handler);
    function.env("AWS_LAMBDA_RUNTIME_API", format!("http://127.0.0.1:{port}/.rt"));
    Peer::start(function.env("AWS_LAMBDA_FUNCTION_NAME", "_"))
}

fn workerd_config(port: u16) -> String {
    format!(
        "using Workerd = import \"/workerd/workerd.capnp\";
const config :Workerd.Config = (
  services = [(name = \"main\", worker = .main)],
  sockets = [(name = \"http\", address = \"127.0.0.1:{port}\", http = (), service = \"main\")]
);
const main :Workerd.Worker = (
  modules = [(name = \"worker\", esModule = embed \"worker.mjs\"), (name = \"index.mjs\", esModule = embed \"index.mjs\")],
  compatibilityDate = \"2026-01-01\"
);
"
    )
}
