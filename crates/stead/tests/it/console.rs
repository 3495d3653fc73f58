//! The console in a real browser, before a real identity provider.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use test_support::{CLIENT_SECRET, IdentityProvider, installed};

use crate::functions::{MANIFEST, app, code, save};
use crate::installation::{Installation, text, until};
use crate::story::ask;

/// The browser's own path: its driver starts no program by name.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("STEAD_TEST_CHROMIUM").map_or_else(|| "chromium".into(), PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(&named)).find(|program| program.is_file())
}

/// A real browser's driver with its environment; `None` where something is missing, which the machine that checks does
/// not accept.
fn driver(script: &str, console: &str) -> Option<Command> {
    let modules = installed("STEAD_TEST_NODE_MODULES", "node/node_modules")?;
    let chromium = chromium().or_else(|| installed("STEAD_TEST_CHROMIUM", "chromium"))?;
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/console").join(script));
    command.env("STEAD_TEST_NODE_MODULES", modules).env("STEAD_TEST_CHROMIUM_PATH", chromium);
    command.env("CONSOLE", console);
    Some(command)
}

/// An installation whose console is at a port of its own, the last one that a server could have been given, and where.
fn installation() -> (Installation, String) {
    let mut stead = Installation::new();
    let (first, listen) = (stead.first_port(), stead.first_port() + 20);
    let settings =
        [("STEAD_LISTEN", format!("127.0.0.1:{listen}")), ("STEAD_PORTS", format!("{first}-{}", listen - 1))];
    stead.environment.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    (stead, format!("http://127.0.0.1:{listen}"))
}

#[test]
fn a_person_does_all_of_it_by_the_keyboard() {
    let (mut stead, console) = installation();
    let Some(mut journey) = driver("journey.mjs", &console) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut provider = runtime.block_on(IdentityProvider::start(&console));
    runtime.block_on(provider.set_groups(json!({"ann": ["stead-acme-owner"]})));
    let settings = [
        ("STEAD_OIDC_ISSUER", provider.issuer.clone()),
        ("STEAD_OIDC_CLIENT_ID", "stead".to_owned()),
        ("STEAD_OIDC_CLIENT_SECRET", CLIENT_SECRET.to_owned()),
        ("STEAD_OIDC_ROLES", "stead-{tenant}-{role}={tenant}:{role}".to_owned()),
    ];
    stead.environment.extend(settings.map(|(name, value)| (name.to_owned(), value)));
    stead.start();
    stead.ok(&["tenant", "create", "acme"]);
    let output = journey.output().unwrap();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}

#[test]
fn every_screen_is_good_in_every_state() {
    let (mut stead, console) = installation();
    let Some(mut screens) = driver("screens.mjs", &console) else { return };
    stead.start();
    stead.ok(&["tenant", "create", "acme"]);
    let link = stead.ok(&["console"]);
    screens.env("LINK", link.trim()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut browser = Driver(screens.spawn().unwrap());
    let mut answers = browser.0.stdin.take().unwrap();
    let mut said = String::new();
    for line in BufReader::new(browser.0.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        match line.strip_prefix("do ") {
            Some("kill") => stead.kill_server(),
            Some("start") => stead.start(),
            Some("break") => break_a_migration(&stead),
            Some("function") => {
                let folder = app(&stead, MANIFEST, &code(1));
                stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
                save(&folder, &code(2));
                stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes", "--canary", "20%"]);
            }
            Some("function-broken") => {
                let folder = app(&stead, MANIFEST, "export const handler = no code;");
                assert!(!stead.run_in(&folder, &["up", "--tenant", "acme", "--yes"]).status.success());
            }
            Some("lake") => {
                let manifest = "app = \"lake\"\n\n[postgres.main]\n\n[transfer.lake]\nfrom = \"postgres.main\"\nevery = \"1s\"\n";
                let folder = stead.app("lake", manifest, &[]);
                stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
                let url = |name: &str| stead.ok(&["url", name, "--tenant", "acme", "--stead", "lake"]);
                let tables = "create table items (id int primary key, name text);
                              insert into items select n, 'قطعة ' || n from generate_series(1, 5000) n;
                              create table loose (what text)";
                ask(url("postgres.main").trim(), tables).unwrap();
                let lake = url("transfer.lake");
                until("the lake to have it, and the status to say so", || {
                    let count = ask(lake.trim(), "select count(*) from items").ok()?;
                    let status = stead.run_in(&folder, &["status", "--tenant", "acme"]);
                    (count == "5000" && text(&status.stdout).contains("stands still")).then_some(())
                });
            }
            Some("log") => {
                let url = stead.ok(&["url", "postgres.main", "--tenant", "acme", "--stead", "shop"]);
                ask(url.trim(), "do $$ begin raise log 'written after the kill'; end $$").unwrap();
            }
            _ => {
                said.push_str(&line);
                said.push('\n');
                continue;
            }
        }
        writeln!(answers, "done").unwrap();
    }
    assert!(browser.0.wait().unwrap().success(), "{said}");
}

/// A browser's driver. It ends with the test, and the browser with it.
struct Driver(Child);

impl Drop for Driver {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A stead whose only migration is no SQL.
fn break_a_migration(stead: &Installation) {
    let manifest = "app = \"broken\"\n\n[postgres.main]\nschema = \"schema\"\n";
    let app = stead.app("broken", manifest, &[("0001_wrong.sql", "create tabel flights (id int);")]);
    let output = stead.run_in(&app, &["up", "--tenant", "acme", "--yes"]);
    assert!(!output.status.success(), "{}", text(&output.stdout));
}
