//! What the tests of crashes, drift and damage share: an app with a schema that tells when it ran twice, and
//! questions put to the product, to the control database and to a tenant's server.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use serde_json::Value;

use crate::installation::{Installation, text, until};

/// A migration that can run any number of times, and leaves a row each time.
pub(crate) const FIRST: (&str, &str) = (
    "0001_first.sql",
    "create table if not exists ran (what text);\ninsert into ran values ('0001_first');\n",
);
pub(crate) const SECOND: (&str, &str) = ("0002_second.sql", "insert into ran values ('0002_second');\n");
pub(crate) const THIRD: (&str, &str) = ("0003_third.sql", "insert into ran values ('0003_third');\n");

/// An app of one small server, with more lines of its manifest.
pub(crate) fn manifest(app: &str, more: &str) -> String {
    format!("app = \"{app}\"\n[postgres.main]\nsize = \"nano\"\nprotect = false\nschema = \"schema\"\n{more}")
}

/// A stead of tenant `acme`, and the folder of its app.
pub(crate) struct Story<'a> {
    pub(crate) stead: &'a Installation,
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
}

impl<'a> Story<'a> {
    /// A folder with a manifest and two migrations; nothing is made yet.
    pub(crate) fn new(stead: &'a Installation, name: &str, more: &str) -> Self {
        let folder = stead.app(name, &manifest(name, more), &[FIRST, SECOND]);
        Self { stead, name: name.to_owned(), folder }
    }

    /// The same, made.
    pub(crate) fn up(stead: &'a Installation, name: &str, more: &str) -> Self {
        let story = Self::new(stead, name, more);
        story.ok(&["up", "--yes"]);
        story
    }

    /// Another manifest in the same folder.
    pub(crate) fn write_manifest(&self, text: &str) {
        std::fs::write(self.folder.join("stead.toml"), text).unwrap();
    }

    pub(crate) fn write_schema(&self, (name, text): (&str, &str)) {
        std::fs::write(self.folder.join("schema").join(name), text).unwrap();
    }

    /// Runs a verb in the folder, against the control plane that runs: none is started for it.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        let mut command = self.stead.command(args);
        command.current_dir(&self.folder).env("STEAD_TENANT", "acme");
        if let Some(running) = self.stead.running() {
            command.env("STEAD_URL", running["url"].as_str().unwrap());
        }
        command.output().unwrap()
    }

    /// Runs it, expects success.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "stead {}: {}\n{out}\n{err}", args.join(" "), output.status);
        out
    }

    /// Runs it, expects to be refused; answers what it said.
    pub(crate) fn refused(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(
            !output.status.success(),
            "stead {} should have failed: {}",
            args.join(" "),
            text(&output.stdout)
        );
        text(&output.stderr)
    }

    /// Runs it, expects JSON.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(&[args, &["--json"]].concat())).unwrap()
    }

    /// The only component as the API tells it.
    pub(crate) fn component(&self) -> Value {
        let shown: Value = serde_json::from_str(&self.status(&["--json"])).unwrap();
        shown["components"][0].clone()
    }

    /// What `stead status` prints, whether or not all is well.
    fn status(&self, args: &[&str]) -> String {
        let output = self.run(&[&["status"], args].concat());
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(!out.is_empty(), "stead status: {}\n{err}", output.status);
        out
    }

    /// Waits until the component is as wanted.
    pub(crate) fn settled(&self) -> Value {
        until("the component to be as wanted", || {
            let component = self.component();
            let settled =
                component["phase"] == "ready" && component["generation"] == component["observed_generation"];
            settled.then_some(component)
        })
    }

    /// Waits for a condition, and answers its message as a person reads it in `stead status`.
    pub(crate) fn condition(&self, kind: &str) -> String {
        until(&format!("condition {kind}"), || {
            let shown = self.status(&[]);
            shown.lines().find_map(|line| line.trim().strip_prefix(&format!("! {kind}: "))).map(str::to_owned)
        })
    }

    /// The lines of the history, oldest first.
    pub(crate) fn history(&self) -> Vec<Value> {
        let lines = self.json(&["history", "--lines", "10000"]);
        lines.as_array().unwrap().iter().rev().cloned().collect()
    }

    /// Lines of one action.
    pub(crate) fn lines(&self, action: &str) -> Vec<Value> {
        self.history().into_iter().filter(|line| line["action"] == action).collect()
    }

    /// The URL, password included.
    pub(crate) fn url(&self) -> String {
        self.ok(&["url"]).trim().to_owned()
    }

    /// The password.
    pub(crate) fn password(&self) -> String {
        let url = self.url();
        url.split(['@', ':']).nth(2).unwrap().to_owned()
    }

    /// The name that tree, unit and route of the server are derived from.
    pub(crate) fn handle(&self) -> String {
        let id = self.stead.control(&format!(
            "select left(replace(c.id::text, '-', ''), 16) from components c join steads s on s.id = c.stead_id
             where s.name = '{}' and c.name not like 'transfer.%'",
            self.name
        ));
        assert_eq!(id.len(), 16, "{id}");
        id
    }

    /// The tree of the server: at one of its two places.
    pub(crate) fn tree(&self) -> PathBuf {
        let first = self.stead.home.join("servers").join(self.handle());
        let second = first.with_file_name(format!("{}-2", self.handle()));
        if second.is_dir() { second } else { first }
    }

    /// A question to the server through the front door, as a client asks it.
    pub(crate) fn sql(&self, sql: &str) -> Result<String, String> {
        ask(&self.url(), sql)
    }

    /// A question to the server, as its superuser.
    pub(crate) fn admin(&self, database: &str, sql: &str) -> String {
        self.stead.ask_server(&self.tree(), database, sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Has the component looked at now rather than in a minute.
    pub(crate) fn look(&self) {
        self.stead.look();
    }
}

/// A question to a server by its URL.
pub(crate) fn ask(url: &str, sql: &str) -> Result<String, String> {
    let mut command = Command::new(psql());
    answer(command.env("PGCONNECT_TIMEOUT", "30").args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql, url]))
}

fn answer(command: &mut Command) -> Result<String, String> {
    let output = command.current_dir("/").output().unwrap();
    if output.status.success() {
        Ok(text(&output.stdout).trim().to_owned())
    } else {
        Err(text(&output.stderr))
    }
}

/// A client that inserts one number after the other, and connects again whenever it has to.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicI64>,
    thread: std::thread::JoinHandle<()>,
}

impl Writer {
    /// `first` is added to the numbers.
    pub(crate) fn start(url: &str, first: i64) -> Writer {
        let (stop, acknowledged) = <(Arc<AtomicBool>, Arc<AtomicI64>)>::default();
        let (url, stopped, done) = (url.to_owned(), stop.clone(), acknowledged.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let next = done.load(Ordering::Relaxed) + 1;
                if ask(&url, &format!("insert into written values ({})", first + next)).is_ok() {
                    done.store(next, Ordering::Relaxed);
                }
            }
        });
        Writer { stop, acknowledged, thread }
    }

    /// How many were acknowledged.
    pub(crate) fn acknowledged(&self) -> i64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// The same, in the end.
    pub(crate) fn stop(self) -> i64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// `kill -9`; gone already is fine.
pub(crate) fn kill(pid: i32) {
    let _ = rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    );
}

/// Debian's, which is always there.
pub(crate) fn psql() -> &'static str {
    "/usr/lib/postgresql/15/bin/psql"
}

impl Installation {
    /// Asks a server over its Unix socket as Stead's own superuser.
    pub(crate) fn ask_server(&self, tree: &Path, database: &str, sql: &str) -> Result<String, String> {
        let uid = self.uid_first().to_string();
        let mut command = Command::new("setpriv");
        command.args([
            "--reuid",
            &uid,
            "--regid",
            &uid,
            "--clear-groups",
            psql(),
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
        ]);
        // Also on a disk that is nearly full.
        command.env("PGOPTIONS", "-c default_transaction_read_only=off");
        command.arg("-h").arg(tree.join("run")).args(["-U", "stead_admin", "-d", database, "-c", sql]);
        answer(&mut command)
    }

    /// Processes of this installation whose command line has these words.
    pub(crate) fn pids(&self, words: &str) -> Vec<i32> {
        let all = self.processes();
        let found = all.iter().filter(|line| line.contains(words));
        found.map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
    }

    /// The first process of the control plane's own server, while it runs.
    pub(crate) fn control_postmaster(&self) -> Option<i32> {
        let control = self.uid_first();
        let uid = |pid: &i32| std::fs::metadata(format!("/proc/{pid}")).map(|process| process.uid());
        self.pids("/bin/postgres -D").into_iter().find(|pid| uid(pid).is_ok_and(|uid| uid == control))
    }

    /// Processes of a server.
    pub(crate) fn processes_of(&self, tree: &Path) -> Vec<i32> {
        let uid = std::fs::metadata(tree.join("data")).unwrap().uid();
        assert!(uid > self.uid_first(), "{uid} is nobody's");
        let out = Command::new("pgrep").args(["-u", &uid.to_string()]).output().unwrap();
        text(&out.stdout).lines().map(|pid| pid.parse().unwrap()).collect()
    }

    /// `kill -9` of every process of a server.
    pub(crate) fn kill_server_of(&self, tree: &Path) {
        self.kill_server_of_uid(&tree.join("data"));
    }

    /// The same, of whoever a folder belongs to.
    pub(crate) fn kill_server_of_uid(&self, folder: &Path) {
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(folder).unwrap());
        assert!(uid > self.uid_first(), "{uid} is nobody's");
        let out = Command::new("pgrep").args(["-u", &uid.to_string()]).output().unwrap();
        for pid in text(&out.stdout).lines() {
            kill(pid.parse().unwrap());
        }
    }

    /// Asks the control database.
    pub(crate) fn control(&self, sql: &str) -> String {
        self.ask_server(&self.home.join("control"), "postgres", sql)
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// Has every component looked at now, and once more where a look is under way.
    pub(crate) fn look(&self) {
        self.control("update components set wake_at = now(), wakes = wakes + 1; notify stead_wake");
    }

    /// Checks that everything on the host belongs to a component or is a finished spare, and nothing is double.
    pub(crate) fn nothing_left_over(&self) {
        let handles = self.control("select left(replace(id::text, '-', ''), 16) from components order by 1");
        let handles: Vec<String> = handles.lines().map(str::to_owned).collect();
        // After an odd number of moves a server is at its second place.
        let places =
            "select left(replace(id::text, '-', ''), 16) || case place % 2 when 1 then '-2' else '' end
                      from components order by 1";
        let places: Vec<String> = self.control(places).lines().map(str::to_owned).collect();
        // A new spare may be in the making, and what was removed is deleted in the background.
        let pool = self.environment.iter().any(|(name, value)| name == "STEAD_SPARES" && value != "0");
        let engines = || self.control("select max(cardinality(engines)) from hosts").parse().unwrap();
        let wanted: usize = if pool { engines() } else { 0 };
        until("spares in the making to be finished", || {
            let making = self.list("units").iter().any(|unit| unit.starts_with("spare-"));
            let spares = self.list("spares");
            let marked =
                |spare: &String| self.home.join("spares").join(spare).join("conf/spare.json").exists();
            (!making && spares.len() >= wanted && spares.iter().all(marked)).then_some(())
        });
        for folder in ["keeper/trash", "keeper/new"] {
            until(&format!("{folder} to be empty"), || self.list(folder).is_empty().then_some(()));
        }
        assert_eq!(self.list("servers"), places);
        let files = |names: &[String], prefix: &str| -> Vec<String> {
            names.iter().map(|name| format!("{prefix}{name}.json")).collect()
        };
        assert_eq!(self.list("gateway/routes"), files(&handles, ""));
        let units = [
            vec!["archiver.json".into(), "control.json".into(), "functions.json".into()],
            files(&places, "pg-"),
        ]
        .concat();
        // One that was replaced has a number.
        let (gateways, mut others): (Vec<_>, Vec<_>) =
            self.list("units").into_iter().partition(|unit| unit.starts_with("gateway"));
        // The relay stays once somebody has read a server elsewhere.
        others.retain(|unit| unit != "relay.json");
        assert_eq!(others, units);
        assert_eq!(gateways.len(), 1, "{gateways:?}");
        let spares = self.list("spares");
        for (folder, trees) in [("servers", &places), ("spares", &spares)] {
            for tree in trees {
                let conf = self.list(&format!("{folder}/{tree}/conf"));
                assert!(conf.iter().all(|file| !file.ends_with(".new")), "drafts left behind: {conf:?}");
            }
        }
        let servers = self.processes().into_iter().filter(|line| line.contains("/bin/postgres -D")).count();
        assert_eq!(servers, handles.len() + 1, "{:#?}", self.processes());
        let open = self.control("select count(*) from operations where state = 'running'");
        assert_eq!(open, "0", "operations that nobody ends");
        // Every edit of a spec counted up the generation, and has its line.
        let unrecorded = self.control(
            "select s.name, c.generation, count(j.id) from components c join steads s on s.id = c.stead_id
             left join journal j on j.tenant_id = s.tenant_id and j.stead = s.name and j.component = c.name
                  and j.action in ('component.created', 'component.edited', 'password.rotated',
                                   'component.move_requested', 'component.swapped', 'component.deletion_requested')
                  and j.at >= c.created_at
             group by c.id, s.name having c.generation <> count(j.id)",
        );
        assert_eq!(unrecorded, "", "edits without their line");
    }
}
