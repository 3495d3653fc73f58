//! Calls of functions: one connection, one request at a time, nothing between the clock and the socket.

use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;

use crate::{ms, until};

/// What is asked, and where.
#[derive(Clone)]
pub(crate) struct Target {
    place: Place,
    request: Vec<u8>,
}

#[derive(Clone)]
enum Place {
    Port(u16),
    Socket(PathBuf),
}

impl Target {
    /// Asks a web server.
    pub(crate) fn get(port: u16) -> Self {
        Self { place: Place::Port(port), request: b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n".to_vec() }
    }

    /// Asks by the Invoke API.
    pub(crate) fn invoke(socket: PathBuf, function: &str, event: &Value) -> Self {
        Self { place: Place::Socket(socket), request: invocation(function, &event.to_string()) }
    }

    /// Asks an emulator of it.
    pub(crate) fn emulator(port: u16, function: &str) -> Self {
        Self { place: Place::Port(port), request: invocation(function, "{\"n\":1}") }
    }

    /// A connection.
    pub(crate) fn open(&self) -> Line {
        let both: Box<dyn Both> = match &self.place {
            Place::Port(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).unwrap();
                stream.set_nodelay(true).unwrap();
                Box::new(stream)
            }
            Place::Socket(path) => Box::new(UnixStream::connect(path).unwrap()),
        };
        Line { stream: BufReader::new(both), request: self.request.clone() }
    }

    /// Whether somebody answers, and well.
    fn answers(&self) -> bool {
        match self.place {
            Place::Port(port) => {
                TcpStream::connect(("127.0.0.1", port)).is_ok() && self.open().try_ask().is_some()
            }
            Place::Socket(_) => self.open().try_ask().is_some(),
        }
    }
}

fn invocation(function: &str, event: &str) -> Vec<u8> {
    let path = format!("/2015-03-31/functions/{function}/invocations");
    format!("POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: {}\r\n\r\n{event}", event.len())
        .into_bytes()
}

trait Both: Read + Write + Send {}

impl<T: Read + Write + Send> Both for T {}

/// A connection that is used again.
pub(crate) struct Line {
    stream: BufReader<Box<dyn Both>>,
    request: Vec<u8>,
}

impl Line {
    /// One call, answered well.
    pub(crate) fn ask(&mut self) {
        self.try_ask().expect("an answer");
    }

    /// One call; whatever becomes of it.
    pub(crate) fn send(&mut self) {
        let _ = self.try_ask();
    }

    fn try_ask(&mut self) -> Option<()> {
        self.stream.get_mut().write_all(&self.request).ok()?;
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        let well = line.split(' ').nth(1)?.starts_with('2');
        let (mut length, mut chunked) = (0, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line).ok()?;
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse().ok()?,
                "transfer-encoding" => chunked = true,
                // An error of the function.
                "x-amz-function-error" => return None,
                _ => {}
            }
        }
        while chunked {
            line.clear();
            self.stream.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok()?;
            self.skip(length + 2)?;
            chunked = length > 0;
        }
        self.skip(length)?;
        well.then_some(())
    }

    fn skip(&mut self, length: usize) -> Option<()> {
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).ok()
    }
}

/// What a web server answers, over a connection of its own.
pub(crate) fn body(port: u16) -> Option<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_nodelay(true).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

/// Waits until something answers.
pub(crate) async fn quietly(target: &Target) {
    until("an answer", || target.answers().then_some(())).await;
}

/// A port that nobody has.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A runtime with code, by itself.
pub(crate) fn runtime(program: &[PathBuf], folder: &Path, handler: &str) -> Command {
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).current_dir(folder);
    // It is ended in the middle of its next question, and says so.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.env("_HANDLER", handler).env("LAMBDA_TASK_ROOT", folder);
    for (name, value) in [
        ("AWS_LAMBDA_FUNCTION_NAME", "function"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "1"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256"),
        ("AWS_LAMBDA_LOG_GROUP_NAME", "/aws/lambda/function"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "stream"),
    ] {
        command.env(name, value);
    }
    command
}

/// What no cold start can be faster than: the runtime is started, asks for an event at once gets it, and answers.
/// Milliseconds.
pub(crate) async fn bare_start(program: &[PathBuf], folder: &Path, handler: &str) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let api = listener.local_addr().unwrap().to_string();
    let mut command = runtime(program, folder, handler);
    let began = Instant::now();
    let mut process = command.env("AWS_LAMBDA_RUNTIME_API", api).spawn().unwrap();
    let took = tokio::task::spawn_blocking(move || {
        answered(&listener);
        ms(began)
    });
    let took = took.await.unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    took
}

/// Gives one event away, and waits for its answer, over however many connections.
fn answered(listener: &TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut seen, mut buffer) = (String::new(), [0; 4096]);
        loop {
            let length = stream.read(&mut buffer).unwrap_or(0);
            if length == 0 {
                break;
            }
            seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            if seen.contains("/response") {
                return;
            }
            if seen.contains("/invocation/next") && seen.ends_with("\r\n\r\n") {
                seen.clear();
                let event = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\
                    Lambda-Runtime-Aws-Request-Id: 8476a536-e9f4-11e8-9739-2dfe598c3fcd\r\n\
                    Lambda-Runtime-Deadline-Ms: 4102444800000\r\n\
                    Lambda-Runtime-Trace-Id: Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700\r\n\
                    Lambda-Runtime-Invoked-Function-Arn: arn:aws:lambda:local:1:function:function\r\n\r\n{}";
                stream.write_all(event.as_bytes()).unwrap();
            }
        }
    }
}

/// A web server that says what the function in Rust says; a process of its own.
pub(crate) async fn direct(port: u16) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let service = hyper::service::service_fn(|_: Request<hyper::body::Incoming>| async {
            let mut response = Response::new(Full::new(Bytes::from_static(b"{\"got\":{\"n\":1}}")));
            let json = hyper::header::HeaderValue::from_static("application/json");
            response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
            Ok::<_, Infallible>(response)
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}
