//! AWS's SDK for Python, which speaks TCP: a relay stands between it and the engine's socket.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::installed::{self, Installed};
use crate::home::Home;

const SCRIPT: &str = "tests/conformance/sdk.py";

/// All that the script tries; handles begin with `prefix`.
pub(crate) fn everything(home: &Home, prefix: &str) {
    let install = |program: installed::Program, n: u8| program.install(home, &format!("{prefix}{n}"));
    let whole = install(installed::NODE, 1);
    let streamed = [installed::NODE_STREAM, installed::RIC_4_STREAM, installed::RUST_STREAM];
    let streamed: Vec<Installed> = streamed.into_iter().zip(2..).map(|(it, n)| install(it, n)).collect();
    let relay = Relay::start(home.path.join("functions/invoke.sock"));
    let mut python = Command::new(installed::python());
    python.env_clear().env("HOME", "/nonexistent");
    python.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(SCRIPT));
    python.args([
        format!("http://127.0.0.1:{}", relay.port),
        whole.whole.function.clone(),
        whole.broken.function,
    ]);
    let output = python.args(streamed.iter().map(|it| &it.whole.function)).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(out, "well\n", "{err}");
    home.line(&whole.whole.function, "by event");
}

/// A port that leads to a Unix socket.
struct Relay {
    port: u16,
    ended: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Relay {
    fn start(socket: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let accepting = thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, socket) = (stream.unwrap(), UnixStream::connect(&socket).unwrap());
                stream.set_nodelay(true).unwrap();
                relay(stream, socket);
            }
        });
        Self { port, ended, accepting: Some(accepting) }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Both ways, until either end closes.
fn relay(stream: TcpStream, socket: UnixStream) {
    let (mut from, mut to) = (stream.try_clone().unwrap(), socket.try_clone().unwrap());
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    });
    let (mut from, mut to) = (socket, stream);
    thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
