//! The gateway is replaced while clients work: by hand, by another binary, and by one that is killed half way.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use keeper::wire::Wanted;
use serde_json::Value;

use crate::installation::{Installation, STEAD, text, until};
use crate::story::{Story, ask, kill, psql};

/// A session that stays open.
struct Session {
    client: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Session {
    fn open(url: &str) -> Self {
        let mut client = Command::new(psql());
        client.args(["-XAtq", url]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut client = client.spawn().unwrap();
        let (to, from) = (client.stdin.take().unwrap(), BufReader::new(client.stdout.take().unwrap()));
        let mut session = Self { client, to, from };
        assert_eq!(session.ask("select 1"), "1");
        session
    }

    /// The one value that a statement answers; nothing where the session has ended.
    fn ask(&mut self, sql: &str) -> String {
        let _ = writeln!(self.to, "{sql};");
        let mut line = String::new();
        self.from.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// What it was told at its end; psql hears of it when it is to do something.
    fn told(mut self) -> String {
        let _ = writeln!(self.to, "select 1;");
        drop(self.to);
        text(&self.client.wait_with_output().unwrap().stderr)
    }
}

fn replace(stead: &Installation) -> Value {
    serde_json::from_str(&stead.ok(&["server", "replace-gateway", "--json"])).unwrap()
}

/// Ranks of those that drain, as the gateway in force says.
fn draining(said: &Value) -> Vec<u64> {
    said["draining"].as_array().unwrap().iter().map(|one| one["rank"].as_u64().unwrap()).collect()
}

fn units(stead: &Installation) -> Vec<String> {
    stead.list("units").into_iter().filter(|unit| unit.starts_with("gateway")).collect()
}

#[test]
fn it_is_replaced_by_hand_and_sessions_go_on() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (url, folder) = (story.url(), story.folder.clone());
    let mut first = Session::open(&url);
    let said = replace(&stead);
    assert_eq!((said["rank"].as_u64(), draining(&said)), (Some(2), vec![1]));
    assert_eq!(ask(&url, "select 1").unwrap(), "1");
    let mut second = Session::open(&url);
    let told = stead.ok(&["server", "replace-gateway"]);
    assert!(told.starts_with("gateway 3 (process "), "{told}");
    assert!(
        told.contains("; gateway 1 drains, with 1 session left; gateway 2 drains, with 1 session"),
        "{told}"
    );
    assert_eq!((first.ask("select 2"), second.ask("select 3")), ("2".into(), "3".into()));
    assert_eq!(units(&stead), ["gateway-2.json", "gateway-3.json", "gateway.json"]);
    // Those that drain are taken up by the next keeper, and the control plane leaves all three alone.
    stead.kill_server();
    let keeper = keeper::Client::new(&stead.home);
    let pids = |keeper: &keeper::Client| -> Vec<i32> {
        let units = keeper.host().unwrap().units;
        units
            .iter()
            .filter(|unit| unit.unit.as_str().starts_with("gateway"))
            .filter_map(|unit| unit.pid)
            .collect()
    };
    let before = pids(&keeper);
    assert_eq!(before.len(), 3);
    kill(keeper.host().unwrap().pid);
    stead.start();
    assert_eq!(pids(&keeper), before);
    assert_eq!((first.ask("select 4"), second.ask("select 5")), ("4".into(), "5".into()));
    assert_eq!(ask(&url, "select 1").unwrap(), "1");
    // One that has no session left ends, is not started again, and is forgotten.
    drop(first.told());
    until("the first to end", || (pids(&keeper).len() == 2).then_some(()));
    let said = replace(&stead);
    assert_eq!((said["rank"].as_u64(), draining(&said)), (Some(4), vec![2]));
    until("those that ended to be forgotten", || {
        replace(&stead);
        (!units(&stead).contains(&"gateway.json".to_owned())).then_some(())
    });
    assert_eq!(second.ask("select 6"), "6");
    let story = Story { stead: &stead, name: "shop".into(), folder };
    assert_eq!(story.sql("select 7").unwrap(), "7");
    // All is stopped at once, sessions that drain with it: whichever of the two ends first says so.
    stead.ok(&["server", "stop", "--all"]);
    let told = second.told();
    let both = ["the gateway is restarting", "due to administrator command"];
    assert!(both.iter().any(|one| told.contains(one)), "{told}");
    stead.finish();
}

/// `stead server` of a new release, once the keeper is of it too.
#[test]
fn another_binary_takes_over_by_itself() {
    let mut stead = Installation::started();
    let url = Story::up(&stead, "shop", "").url();
    let mut session = Session::open(&url);
    let before = stead.pids(" gateway");
    // The same one leaves everything alone.
    stead.kill_server();
    stead.start();
    assert_eq!(stead.pids(" gateway"), before);
    stead.kill_server();
    let release = stead.folder().join("stead");
    std::fs::copy(STEAD, &release).unwrap();
    stead.binary = release;
    kill(keeper::Client::new(&stead.home).host().unwrap().pid);
    stead.start();
    until("the new one to take over", || {
        (stead.pids(" gateway").len() == 2 && stead.list("gateway").contains(&"drain-1.sock".into()))
            .then_some(())
    });
    assert_eq!(session.ask("select 2"), "2");
    assert_eq!(ask(&url, "select 1").unwrap(), "1");
    let _ = session.told();
    until("the old one to end", || (stead.pids(" gateway").len() == 1).then_some(()));
    assert_eq!(ask(&url, "select 1").unwrap(), "1");
    assert_ne!(stead.pids(" gateway"), before);
    stead.finish();
}

/// A new one that cannot start leaves the place to the one that has it.
#[test]
fn one_that_cannot_start_replaces_nothing() {
    let stead = Installation::started();
    let url = Story::up(&stead, "shop", "").url();
    let mut session = Session::open(&url);
    let log = stead.home.join("logs/gateway.jsonl");
    let aside = stead.folder().join("log");
    std::fs::rename(&log, &aside).unwrap();
    std::fs::create_dir(&log).unwrap();
    let refused = stead.run(&["server", "replace-gateway"]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("cannot open") && said.contains("gateway.jsonl"), "{said}");
    assert_eq!(units(&stead), ["gateway.json"]);
    assert_eq!((session.ask("select 2"), ask(&url, "select 1").unwrap()), ("2".into(), "1".into()));
    // Killed between the two declarations of one that fails, too.
    assert_eq!(killed_at(&stead, "driver-local::gateway-withdrawn").code(), None);
    std::fs::remove_dir(&log).unwrap();
    std::fs::rename(&aside, &log).unwrap();
    assert_eq!(replace(&stead)["rank"].as_u64(), Some(3));
    assert_eq!(session.ask("select 2"), "2");
    stead.finish();
}

/// Points that the replacement of the gateway passes.
pub(crate) const REPLACE: [&str; 4] = [
    "driver-local::gateway-declared",
    "driver-local::gateway-withdrawn",
    "driver-local::gateway-replaced",
    "driver-local::gateway-retired",
];

fn killed_at(stead: &Installation, point: &str) -> std::process::ExitStatus {
    let mut command = stead.command(&["server", "replace-gateway"]);
    command.env("FAILPOINTS", format!("{point}=return"));
    command.output().unwrap().status
}

#[test]
fn killed_while_it_is_replaced() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (url, folder) = (story.url(), story.folder.clone());
    // What goes on is the command's alone.
    stead.kill_server();
    let mut session = Session::open(&url);
    for point in REPLACE.iter().filter(|point| **point != "driver-local::gateway-withdrawn") {
        assert_eq!(killed_at(&stead, point).code(), None, "{point} was never reached");
        assert_eq!(ask(&url, "select 1").unwrap(), "1", "{point}");
        // Whatever starts all that is declared again, in whatever order.
        for pid in stead.pids(" gateway") {
            kill(pid);
        }
        until("one to serve", || ask(&url, "select 1").ok());
        assert_eq!(session.ask("select 1"), "", "{point}: it went with its gateway");
        session = Session::open(&url);
        replace(&stead);
        assert_eq!(ask(&url, "select 1").unwrap(), "1", "{point}");
        assert_eq!(session.ask("select 1"), "1", "{point}");
    }
    let _ = session.told();
    until("the others to end", || (stead.pids(" gateway").len() == 1).then_some(()));
    // One that was given up, and took over before that was known.
    let unit = keeper::wire::Name::parse(format!("gateway-{}", replace(&stead)["rank"])).unwrap();
    let file = stead.home.join(format!("units/{unit}.json"));
    let declared =
        || -> keeper::wire::Unit { serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap() };
    let keeper = keeper::Client::new(&stead.home);
    keeper.declare(&keeper::wire::Unit { wanted: Wanted::Retired, ..declared() }).unwrap();
    keeper.apply(&unit).unwrap();
    until("the others to end", || (stead.pids(" gateway").len() == 1).then_some(()));
    stead.start();
    until("the others to be forgotten", || (units(&stead).len() == 1).then_some(()));
    assert_eq!(declared().wanted, Wanted::Running);
    let story = Story { stead: &stead, name: "shop".into(), folder };
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

/// A session counts as a user of its server also where its gateway drains: what it does keeps the server awake,
/// and when it rests the server sleeps, and the session wakes it with its next statement.
#[test]
fn a_session_that_drains_keeps_its_server_awake_only_while_it_works() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "idle = \"3s\"\n");
    let mut session = Session::open(&story.url());
    let said = replace(&stead);
    assert_eq!(draining(&said), [1]);
    // Longer than the idle time, and never at rest for as long; the pause is the client's own, so that nothing
    // but what it sends says that it is there.
    for _ in 0..7 {
        assert_eq!(session.ask("\\! sleep 1\nselect 1"), "1");
    }
    story.until_asleep();
    assert_eq!(session.ask("select 1"), "1");
    assert_eq!(session.ask("create temporary table held (n int);\nselect 2"), "2");
    story.until_asleep();
    let told = session.told();
    assert!(told.contains("falls asleep, and this session holds a temporary table"), "{told}");
    assert_eq!(story.sql("select 1").unwrap(), "1");
    stead.finish();
}
