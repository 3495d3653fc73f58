//! HTTP/1.1 as a test needs it: one request, one whole response, over TCP or a Unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;

/// A response.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection ended before the body did.
    pub(crate) cut_off: bool,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A connection that can be used again.
pub(crate) struct Connection<S: Read + Write>(BufReader<S>);

impl Connection<TcpStream> {
    pub(crate) fn tcp(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }
}

impl Connection<UnixStream> {
    pub(crate) fn unix(path: &Path) -> Self {
        Self::try_unix(path).unwrap()
    }

    /// Nothing where nobody listens.
    pub(crate) fn try_unix(path: &Path) -> Option<Self> {
        Some(Self(BufReader::new(UnixStream::connect(path).ok()?)))
    }
}

impl<S: Read + Write> Connection<S> {
    pub(crate) fn ask(&mut self, request: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        self.send(request, headers, body);
        self.read(request.starts_with("HEAD "))
    }

    /// Sends a request; its response is waited for with [`Self::read`].
    pub(crate) fn send(&mut self, request: &str, headers: &[(&str, &str)], body: &[u8]) {
        let host = if headers.iter().any(|(name, _)| *name == "Host") { "" } else { "Host: test\r\n" };
        let mut head = format!("{request} HTTP/1.1\r\n{host}Content-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let bytes = [head.as_bytes(), body].concat();
        // A server may answer and close before it has read all.
        let _ = self.0.get_mut().write_all(&bytes);
    }

    /// The response, unless the server ends without a word.
    pub(crate) fn try_read(&mut self) -> Option<Response> {
        match self.0.fill_buf() {
            Ok([]) | Err(_) => None,
            Ok(_) => Some(self.read(false)),
        }
    }

    pub(crate) fn read(&mut self, headless: bool) -> Response {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        let status =
            line.split(' ').nth(1).unwrap_or_else(|| panic!("no response: {line:?}")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new(), cut_off: false };
        if headless || status == 204 {
            return response;
        }
        if response.header("transfer-encoding") == Some("chunked") {
            response.cut_off = self.chunks(&mut response.body).is_none();
        } else {
            let length = response.header("content-length").map_or(0, |length| length.parse().unwrap());
            response.body = vec![0; length];
            self.0.read_exact(&mut response.body).unwrap();
        }
        response
    }

    fn chunks(&mut self, body: &mut Vec<u8>) -> Option<()> {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).ok()?;
            let length = usize::from_str_radix(line.trim(), 16).ok()?;
            let mut chunk = vec![0; length + 2];
            self.0.read_exact(&mut chunk).ok()?;
            if length == 0 {
                return Some(());
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
}
