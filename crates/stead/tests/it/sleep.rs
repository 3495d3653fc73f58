//! A server that nobody uses sleeps, and wakes for a client that proves itself, also with the control plane
//! down; nobody else wakes it, and nobody notices but by a moment's wait.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::crash::dies_at;
use crate::installation::{Installation, until};
use crate::story::{Story, THIRD, ask, kill, manifest, psql};

const IDLE: &str = "idle = \"1s\"\n";

impl Story<'_> {
    /// Whether the server has no process.
    fn sleeps(&self) -> bool {
        !self.tree().join("run/.s.PGSQL.5432").exists() && self.stead.processes_of(&self.tree()).is_empty()
    }

    pub(crate) fn until_asleep(&self) {
        until("the server to sleep", || self.sleeps().then_some(()));
    }

    fn until_told(&self, phase: &str) {
        until(&format!("`stead status` to say {phase}"), || {
            let shown = self.run(&["status"]);
            String::from_utf8_lossy(&shown.stdout).contains(&format!("postgres.main  {phase}")).then_some(())
        });
    }
}

#[test]
fn a_right_password_wakes_and_nothing_else_does() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", IDLE);
    let url = story.url();
    ask(&url, "create table kept as select 1 as a").unwrap();
    story.until_asleep();
    story.until_told("asleep");
    // A scanner, a wrong password, and every look of Stead's own.
    let port: u16 = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
    let mut scanner = TcpStream::connect(("127.0.0.1", port)).unwrap();
    scanner.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let _ = scanner.read(&mut [0; 16]);
    let password = story.password();
    let refused = ask(&url.replace(&password, "another"), "select 1").unwrap_err();
    assert!(refused.contains("password authentication failed"), "{refused}");
    let refused = ask(&url.replace("owner:", "nobody:"), "select 1").unwrap_err();
    assert!(refused.contains("password authentication failed"), "{refused}");
    story.look();
    story.ok(&["status"]);
    story.ok(&["plan"]);
    assert!(story.sleeps(), "it was woken by something else than a right password");
    assert_eq!(story.lines("server.woken").len(), 0);
    // The owner, with nothing of the control plane there.
    stead.kill_server();
    assert_eq!(ask(&url, "select a from kept").unwrap(), "1");
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder: stead.folder().join("shop") };
    let woken = until("the wake to be on record", || story.lines("server.woken").first().cloned());
    assert!(woken["reason"].as_str().unwrap().contains("role owner signed in from 127.0.0.1"), "{woken}");
    let asleep = story.lines("server.asleep");
    assert!(
        asleep[0]["reason"].as_str().unwrap().contains("no client ran a statement for 1 s"),
        "{asleep:?}"
    );
    assert_eq!(story.lines("drift.found"), Vec::<serde_json::Value>::new());
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

/// What the gateway's metrics say of it, with the control plane down.
#[test]
fn sleeps_and_wakes_are_counted() {
    let mut stead = Installation::new();
    // The last of the ports that servers may have: one server takes the first.
    let at = format!("127.0.0.1:{}", stead.shared_port() - 1);
    stead.environment.push(("STEAD_GATEWAY_METRICS".into(), at.clone()));
    stead.start();
    let story = Story::up(&stead, "shop", IDLE);
    let url = story.url();
    ask(&url, "select 1").unwrap();
    story.until_asleep();
    stead.kill_server();
    let counted = |name: &str| {
        let mut stream = TcpStream::connect(&at).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("stead_gateway_{name}{{"))).unwrap();
        assert!(line.contains("component=\"postgres.main\""), "{line}");
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    until("the sleep to be counted", || (counted("sleeps_total") == 1.0).then_some(()));
    assert_eq!(counted("wake_seconds_count"), 0.0);
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            std::thread::spawn(move || ask(&url, "select 1"))
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().unwrap().unwrap(), "1");
    }
    assert_eq!(counted("wake_seconds_count"), 1.0, "one wake, however many wait for it");
    let took = counted("wake_seconds_sum");
    assert!(took > 0.0 && took < 60.0, "{took}");
    assert_eq!(counted("wakes_failed_total"), 0.0);
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder: stead.folder().join("shop") };
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

#[test]
fn an_edit_wakes_it_and_a_rotated_password_counts_at_once() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", IDLE);
    story.until_asleep();
    story.write_schema(THIRD);
    story.ok(&["up", "--yes"]);
    assert_eq!(story.sql("select count(*) from ran").unwrap(), "3");
    story.until_asleep();
    let before = story.url();
    story.ok(&["rotate"]);
    let refused = ask(&before, "select 1").unwrap_err();
    assert!(refused.contains("password authentication failed"), "{refused}");
    assert_eq!(story.sql("select 1").unwrap(), "1");
    story.until_asleep();
    let refused = ask(&before, "select 1").unwrap_err();
    assert!(refused.contains("password authentication failed"), "also by what was frozen: {refused}");
    assert_eq!(story.sql("select 1").unwrap(), "1");
    // One that shall not sleep any more is awake, and stays so.
    story.until_asleep();
    story.write_manifest(&manifest("shop", ""));
    story.ok(&["up", "--yes"]);
    assert!(!story.sleeps());
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

/// A transaction that is open, and a statement that runs, outlast the idle time; a session at rest does not,
/// and wakes the server with its next statement, unless it holds what cannot be kept: then it ends with 57P01.
#[test]
fn whoever_works_keeps_it_awake() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", IDLE);
    let url = story.url();
    let script = |text: &str| {
        let file = stead.folder().join("script.sql");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(psql());
        let done = command.args(["-Xq", "-v", "ON_ERROR_STOP=1", &url, "-f"]).arg(&file).output().unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    // What passes here is the idle time itself, three times over.
    let (done, said) = script("begin; create table a (n int);\n\\! sleep 3\ncommit;\nselect pg_sleep(3);\n");
    assert!(done, "{said}");
    let socket = story.tree().join("run/.s.PGSQL.5432");
    let after_a_sleep = |before: &str, after: &str| {
        let wait = format!("\\! while [ -e {} ]; do sleep 0.1; done", socket.display());
        script(&format!("{before};\n{wait}\n{after};\n"))
    };
    let (done, said) = after_a_sleep(
        "insert into a values (1); prepare p as select n from a; set work_mem = '5MB'",
        "execute p",
    );
    assert!(done, "{said}");
    let (done, said) =
        after_a_sleep("set my.own = 'kept'", "do $$ begin assert current_setting('my.own') = 'kept'; end $$");
    assert!(done, "{said}");
    let (done, said) = after_a_sleep("create temporary table b (n int)", "select 1");
    assert!(!done && said.contains("falls asleep, and this session holds a temporary table"), "{said}");
    assert_eq!(ask(&url, "select count(*) from a").unwrap(), "1");
    stead.finish();
}

/// The gateway, the keeper and the whole host may go while a server sleeps: it sleeps on and can be woken.
#[test]
fn it_sleeps_through_the_end_of_everything_else() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", IDLE);
    let (url, folder) = (story.url(), story.folder.clone());
    story.until_asleep();
    for pid in stead.pids(" gateway") {
        kill(pid);
    }
    until("the gateway to serve", || ask(&url, "select 1").ok());
    story.until_asleep();
    for pid in stead.pids(" keeper") {
        kill(pid);
    }
    stead.kill_server();
    // Nobody can wake it now, and the client is told.
    let refused = ask(&url, "select 1").unwrap_err();
    assert!(refused.contains("did not wake up"), "{refused}");
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
    assert!(story.sleeps(), "a keeper that starts leaves it asleep");
    assert_eq!(story.sql("select 1").unwrap(), "1");
    story.until_asleep();
    stead.ok(&["server", "stop", "--all"]);
    stead.kill_server();
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder };
    assert!(story.sleeps(), "a host that starts leaves it asleep");
    assert_eq!(ask(&story.url(), "select 1").unwrap(), "1");
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

/// Of many clients at once one wakes it, and all are served.
#[test]
fn many_at_once_wake_it_once() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", IDLE);
    let url = story.url();
    story.until_asleep();
    let clients: Vec<_> = (0..12)
        .map(|_| {
            let mut command = Command::new(psql());
            command.args(["-XAtq", "-c", "select 1", &url]).stdout(Stdio::piped()).stderr(Stdio::piped());
            command.spawn().unwrap()
        })
        .collect();
    for client in clients {
        let output = client.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let woken = until("the wake to be on record", || {
        let lines = story.lines("server.woken").len();
        (lines > 0).then_some(lines)
    });
    assert_eq!(woken, 1);
    stead.finish();
}

/// Between any two effects of falling asleep and of waking the gateway may go.
#[test]
fn a_gateway_killed_half_way_loses_nobody() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", IDLE);
    let (url, folder) = (story.url(), story.folder.clone());
    ask(&url, "create table kept as select 1 as a").unwrap();
    stead.kill_server();
    let keeper = keeper::Client::new(&stead.home);
    let declared = std::fs::read(stead.home.join("units/gateway.json")).unwrap();
    let mut gateway: keeper::wire::Unit = serde_json::from_slice(&declared).unwrap();
    for point in ["gateway::frozen", "gateway::asleep", "gateway::woken"] {
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        // It has to be awake to fall asleep, and asleep to be woken.
        match point {
            "gateway::woken" => story.until_asleep(),
            _ => assert_eq!(ask(&url, "select a from kept").unwrap(), "1", "{point}"),
        }
        gateway.generation += 1;
        gateway.env.insert("FAILPOINTS".into(), format!("{point}=return"));
        keeper.declare(&gateway).unwrap();
        keeper.apply(&gateway.name).unwrap();
        until(&format!("the gateway to die at {point}"), || {
            if point == "gateway::woken" {
                let _ = ask(&url, "select 1");
            }
            let status = keeper.unit(&gateway.name).unwrap()?;
            (status.generation == gateway.generation && status.restarts > 0).then_some(())
        });
        gateway.generation += 1;
        gateway.env.remove("FAILPOINTS");
        keeper.declare(&gateway).unwrap();
        keeper.apply(&gateway.name).unwrap();
        until("the gateway to serve", || ask(&url, "select a from kept").ok().filter(|a| a == "1"));
    }
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder };
    story.until_asleep();
    assert_eq!(story.sql("select a from kept").unwrap(), "1");
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    assert_eq!(stead.list("gateway/asleep"), Vec::<String>::new());
    stead.finish();
}

/// A control plane that goes after it has woken a server for an edit leaves one that is awake for a while;
/// the next makes the edit.
#[test]
fn killed_after_it_was_woken_for_an_edit() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", IDLE);
    let folder = story.folder.clone();
    story.until_asleep();
    story.write_schema(THIRD);
    dies_at(&mut stead, "driver-local::woken", &folder, &["up", "--yes"]);
    let story = Story { stead: &stead, name: "shop".into(), folder };
    story.settled();
    assert_eq!(story.sql("select count(*) from ran").unwrap(), "3");
    story.until_asleep();
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}
