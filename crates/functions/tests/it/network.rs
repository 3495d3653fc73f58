//! What a function reaches: names that are declared, where they lead to allowed addresses, and nothing else.

use std::io::{Read, Write};
use std::net::TcpListener;

use functions::route::{Egress, Settings};
use serde_json::{Value, json};

use crate::home::{Home, until};

const CODE: &str = "
import net from 'node:net';
import dns from 'node:dns/promises';
const talk = (host, port) => new Promise((done) => {
  const socket = net.connect(port, host, () => socket.write('hello'));
  socket.setTimeout(2000, () => { socket.destroy(); done('silence'); });
  socket.on('data', (data) => { done(String(data)); socket.destroy(); });
  socket.on('error', (error) => done(error.code));
});
export const handler = async ({ host, port, lookup }) =>
  lookup ? dns.lookup(lookup).then((found) => found.address, (error) => error.code) : talk(host, port);";

/// A server on the host that answers every connection; its port.
fn server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut hello = [0; 5];
            if stream.read_exact(&mut hello).is_ok() {
                stream.write_all(b"and hello to you").unwrap();
            }
        }
    });
    port
}

#[test]
fn declared_names_are_reached_where_they_lead_to_allowed_networks() {
    let home = Home::new();
    let host = String::from_utf8(std::fs::read("/etc/hostname").unwrap()).unwrap().trim().to_owned();
    let (port, other) = (server(), server());
    let mut version = home.version("nodejs20.x", "index.handler", &[("index.mjs", CODE)]);
    version.egress =
        vec![Egress { name: host.clone(), port }, Egress { name: "never.invalid".into(), port: other }];
    home.put(&home.route("f1", version));
    let ask = |question: Value| home.invoke("f1", &[], &question.to_string()).json();
    let address = ask(json!({ "lookup": host }));
    assert!(address.as_str().unwrap().starts_with("198.1"), "{address}");
    assert_eq!(ask(json!({ "lookup": "example.com" })), "ENOTFOUND");
    home.line("f1", "`example.com` was asked for");
    // It leads to the host itself, which nobody allowed.
    assert_eq!(ask(json!({ "host": host, "port": port })), "ECONNRESET");
    home.line("f1", "is not a public one");
    let path = home.path.join("functions/functions.json");
    let mut settings: Settings = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    settings.egress_networks = vec!["127.0.0.0/8".parse().unwrap()];
    home.write("functions/functions.json", &serde_json::to_vec(&settings).unwrap());
    home.refresh().unwrap();
    assert_eq!(ask(json!({ "host": host, "port": port })), "and hello to you", "{}", home.log());
    // The port of another name, an address that stands for none, and the host by its address.
    assert_eq!(ask(json!({ "host": host, "port": other })), "ECONNRESET");
    assert_eq!(ask(json!({ "host": "198.18.77.77", "port": port })), "ECONNRESET");
    assert_eq!(ask(json!({ "host": "127.0.0.1", "port": port })), "ECONNRESET");
    assert_eq!(ask(json!({ "host": "127.0.0.1", "port": 1 })), "ECONNREFUSED");
    until("the traffic is counted", || {
        let bytes = std::fs::read(home.path.join("functions/spool/usage/f1")).unwrap();
        let number = |n: usize| u64::from_le_bytes(bytes[n * 8..n * 8 + 8].try_into().unwrap());
        (number(7) == 5 && number(8) == 16).then_some(())
    });
}
