//! What a function's URL does with an answer that comes in pieces.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use super::installed::Installed;
use crate::home::Home;
use crate::http::Connection;
use functions::route::Route;

/// All of it.
pub(crate) fn everything(home: &Home, installed: &Installed) {
    let name = installed.program.name;
    answers(installed);
    let first = until_the_last_after_the_first(&installed.whole);
    assert!(first > Duration::from_millis(250), "{name}: all pieces came at once, within {first:?}");
    let broken = Connection::tcp(port(&installed.whole)).ask("GET /break", &[], b"");
    let told = installed.program.tells_breaks;
    assert_eq!(broken.cut_off, told, "{name}: an answer that broke off: {broken:?}");
    assert!(broken.text().starts_with(&pieces()), "{name}: {broken:?}");
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| answers(installed));
        }
    });
    let response = home.get(&installed.broken, "/");
    assert_eq!(response.status, 502, "{name}: {response:?}");
}

fn port(route: &Route) -> u16 {
    route.url.as_ref().unwrap().port
}

fn pieces() -> String {
    (0..5).map(|piece| format!("piece {piece}\n")).collect()
}

#[track_caller]
fn answers(installed: &Installed) {
    let name = installed.program.name;
    let response = Connection::tcp(port(&installed.whole)).ask("GET /", &[], b"");
    assert_eq!((response.status, response.text()), (202, pieces()), "{name}: {response:?}");
    assert!(!response.cut_off, "{name}");
    assert_eq!(response.header("content-type"), Some("text/plain"), "{name}");
    assert_eq!(response.header("x-mine"), Some("yes"), "{name}");
    assert_eq!(response.header("set-cookie"), Some("a=1"), "{name}");
}

/// The pieces come a tenth of a second apart.
fn until_the_last_after_the_first(route: &Route) -> Duration {
    let mut stream = TcpStream::connect(("127.0.0.1", port(route))).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    let mut first = None;
    loop {
        let length = stream.read(&mut buffer).unwrap();
        assert!(length > 0, "it ended early: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&all);
        if text.contains("piece 0") {
            let first = *first.get_or_insert_with(Instant::now);
            if text.contains("piece 4") {
                return first.elapsed();
            }
        }
    }
}
