//! A real identity provider (npm `oidc-provider`) on loopback.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::place;

/// It runs until this is dropped.
pub struct IdentityProvider {
    /// Its address.
    pub issuer: String,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

/// What Stead proves itself with there.
pub const CLIENT_SECRET: &str = "of the test alone";

impl IdentityProvider {
    /// Starts one that sends browsers back to a console at this address.
    ///
    /// # Panics
    /// When it cannot be started: `script/setup --tests` installs it.
    pub async fn start(console: &str) -> Self {
        let modules = place("STEAD_TEST_NODE_MODULES", "node/node_modules");
        let redirects = json!({
            "back": [format!("{console}/sign-in/back")],
            "out": [format!("{console}/sign-in")],
        });
        let mut process = Command::new("node")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/js/provider.mjs"))
            .arg(redirects.to_string())
            .env("STEAD_TEST_NODE_MODULES", modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node starts");
        let stdin = process.stdin.take().expect("a pipe");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let issuer = lines.next_line().await.ok().flatten();
        let issuer = issuer.expect("npm oidc-provider is there: script/setup --tests");
        Self { issuer, stdin, lines, _process: process }
    }

    async fn tell(&mut self, what: &Value) {
        self.stdin.write_all(format!("{what}\n").as_bytes()).await.expect("it listens");
        self.lines.next_line().await.expect("it answers");
    }

    /// Says who is in which groups from now on.
    pub async fn set_groups(&mut self, groups: Value) {
        self.tell(&json!({ "groups": groups })).await;
    }

    /// Signs with another key from now on.
    pub async fn rotate_keys(&mut self) {
        self.tell(&json!({ "rotate": true })).await;
    }
}
