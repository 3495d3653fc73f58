//! A Stead of a test's own: its own home, ports, uids, processes; gone without a trace at the end.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Servers that one test may have.
const PORTS: u16 = 30;
/// Below the range from which the kernel takes ports for outgoing connections.
const FIRST_PORT: u16 = 10_000;
const LAST_PORT: u16 = 32_000;

pub(crate) const STEAD: &str = env!("CARGO_BIN_EXE_stead");

/// A home and what runs for it.
pub(crate) struct Installation {
    folder: tempfile::TempDir,
    pub(crate) home: PathBuf,
    /// Held for the length of the test: who holds the first port of a block has the block.
    ports: TcpListener,
    server: Option<Child>,
    /// What is run as `stead`.
    pub(crate) binary: PathBuf,
    /// More of the environment for everything that is started.
    pub(crate) environment: Vec<(String, String)>,
}

impl Installation {
    /// A home in which nothing runs yet.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("st-").tempdir_in("/tmp").unwrap();
        // Stead's users have to get through.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let home = folder.path().join("h");
        let ports = (FIRST_PORT..LAST_PORT)
            .step_by(usize::from(PORTS) + 1)
            .skip(usize::try_from(std::process::id()).unwrap() % 600)
            .chain((FIRST_PORT..LAST_PORT).step_by(usize::from(PORTS) + 1))
            .find_map(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .unwrap();
        let environment = vec![("STEAD_SPARES".into(), "0".into())];
        Self { folder, home, ports, server: None, binary: STEAD.into(), environment }
    }

    /// A home with a control plane that answers.
    pub(crate) fn started() -> Self {
        let mut stead = Self::new();
        stead.start();
        stead
    }

    /// The folder that holds the home, for whatever else a test needs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The first port that servers are given.
    pub(crate) fn first_port(&self) -> u16 {
        self.ports.local_addr().unwrap().port() + 1
    }

    /// The port that every server shares.
    pub(crate) fn shared_port(&self) -> u16 {
        self.first_port() + PORTS - 1
    }

    /// The command with this installation's environment and nothing of the caller's.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        let ports = format!("{}-{}", self.first_port(), self.first_port() + PORTS - 2);
        command.args(args).env_clear().stdin(Stdio::null());
        for name in ["PATH", "STEAD_ENGINES", "STEAD_RUNTIMES", "STEAD_LOG"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("STEAD_SHARED_PORT", self.shared_port().to_string());
        command.env("STEAD_HOME", &self.home).env("STEAD_LISTEN", "127.0.0.1:0").env("STEAD_PORTS", ports);
        command.env("HOME", self.folder.path()).current_dir(self.folder.path());
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Runs the command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs it, expects success, answers what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "stead {}: {}\n{out}\n{err}", args.join(" "), output.status);
        out
    }

    /// Starts a control plane as a child, so that it can be killed, and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.spawn(&[]);
        self.await_server();
    }

    /// Starts a control plane with more environment (`FAILPOINTS`), without waiting for it.
    pub(crate) fn spawn(&mut self, environment: &[(&str, &str)]) {
        assert!(self.server.is_none(), "one at a time");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = self.command(&["server"]);
        command.envs(environment.iter().copied()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().unwrap());
    }

    /// Starts a control plane by way of another program.
    pub(crate) fn spawn_in(&mut self, wrapper: &[&str]) {
        assert!(self.server.is_none(), "one at a time");
        let stead = self.command(&["server"]);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log()).unwrap();
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(stead.get_program()).args(stead.get_args()).env_clear();
        command.envs(stead.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.server = Some(command.spawn().unwrap());
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("server.log")
    }

    /// What the control plane has said so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap()
    }

    pub(crate) fn await_server(&mut self) {
        let pid = self.server.as_ref().unwrap().id();
        until("the control plane", || {
            if let Some(status) = self.server.as_mut().unwrap().try_wait().unwrap() {
                panic!("the control plane ended: {status}\n{}", std::fs::read_to_string(self.log()).unwrap());
            }
            self.running().filter(|running| running["pid"] == pid)
        });
    }

    /// `server.json` while a control plane runs.
    pub(crate) fn running(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.home.join("server.json")).ok()?).ok()
    }

    /// `kill -9` of the control plane.
    pub(crate) fn kill_server(&mut self) {
        let mut server = self.server.take().unwrap();
        server.kill().unwrap();
        server.wait().unwrap();
    }

    /// Waits until the control plane has ended by itself (a fail point ended it).
    pub(crate) fn await_death(&mut self, point: &str) {
        let mut server = self.server.take().unwrap();
        until(&format!("the control plane to die at {point}"), || server.try_wait().unwrap());
    }

    /// Waits until the control plane answers, and tells its URL; `None` where it has ended before that.
    pub(crate) fn await_server_or_death(&mut self) -> Option<String> {
        let pid = self.server.as_ref().unwrap().id();
        until("the control plane to come up or die", || {
            if self.server.as_mut().unwrap().try_wait().unwrap().is_some() {
                return Some(None);
            }
            let running = self.running().filter(|running| running["pid"] == pid)?;
            Some(Some(running["url"].as_str().unwrap().to_owned()))
        })
    }

    /// `host.json`.
    pub(crate) fn uid_first(&self) -> u32 {
        let text = std::fs::read(self.home.join("host.json")).unwrap();
        let host: Value = serde_json::from_slice(&text).unwrap();
        u32::try_from(host["uid_first"].as_u64().unwrap()).unwrap()
    }

    /// Names in a folder of the home.
    pub(crate) fn list(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.home.join(folder))
            .map(|dir| dir.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
            .unwrap_or_default();
        names.sort();
        names
    }

    /// A manifest in a folder of its own; answers the folder.
    pub(crate) fn app(&self, name: &str, manifest: &str, schema: &[(&str, &str)]) -> PathBuf {
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(folder.join("schema")).unwrap();
        std::fs::write(folder.join("stead.toml"), manifest).unwrap();
        for (file, sql) in schema {
            std::fs::write(folder.join("schema").join(file), sql).unwrap();
        }
        folder
    }

    /// Runs the command in an app's folder.
    pub(crate) fn run_in(&self, folder: &Path, args: &[&str]) -> Output {
        self.command(args).current_dir(folder).output().unwrap()
    }

    /// Runs it in an app's folder, expects success.
    pub(crate) fn ok_in(&self, folder: &Path, args: &[&str]) -> String {
        let output = self.run_in(folder, args);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "stead {}: {}\n{out}\n{err}", args.join(" "), output.status);
        out
    }

    /// Everything of this installation that lives: processes by uid and by home.
    pub(crate) fn processes(&self) -> Vec<String> {
        let uids = if self.home.join("host.json").exists() {
            let first = self.uid_first();
            first..first + 4096
        } else {
            0..0
        };
        let home = self.home.to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.parse::<u32>().is_err() || name == std::process::id().to_string() {
                continue;
            }
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field = |wanted: &str| {
                status
                    .lines()
                    .find_map(|line| line.strip_prefix(wanted))
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            };
            let uid: u32 =
                field("Uid:").split_whitespace().next().and_then(|uid| uid.parse().ok()).unwrap_or(0);
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let dead = field("State:").starts_with('Z');
            if !dead && (uids.contains(&uid) || command.contains(&home)) {
                found.push(format!("{name} {command}"));
            }
        }
        found
    }

    /// Stops everything and checks that nothing is left: for tests that end well.
    pub(crate) fn finish(mut self) {
        self.stop();
        // The keeper answers before it ends.
        until_or(
            "everything to end",
            || self.processes().is_empty().then_some(()),
            || self.processes().join("\n"),
        );
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.home.to_string_lossy()), "mounts left behind");
    }

    /// The same machine after its disk was lost: nothing runs, and the home is empty.
    pub(crate) fn lost(mut self) -> Self {
        self.stop();
        until("everything to end", || self.processes().is_empty().then_some(()));
        std::fs::remove_dir_all(&self.home).unwrap();
        self
    }

    fn stop(&mut self) {
        if self.home.exists() {
            let _ = self.run(&["server", "stop", "--all"]);
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.log()).unwrap_or_default());
        }
        for line in self.processes() {
            let pid = line.split_whitespace().next().and_then(|pid| pid.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        until("the last processes to end", || self.processes().is_empty().then_some(()));
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// As [`until`], and says more when it was in vain.
pub(crate) fn until_or<T>(
    what: &str,
    mut reached: impl FnMut() -> Option<T>,
    said: impl Fn() -> String,
) -> T {
    let limit = Instant::now() + Duration::from_secs(20);
    until(what, || {
        let value = reached();
        assert!(value.is_some() || Instant::now() < limit, "waited for {what}:\n{}", said());
        value
    })
}

/// Waits on a condition; the limit is for a test that would hang, not part of what is tested.
pub(crate) fn until<T>(what: &str, mut reached: impl FnMut() -> Option<T>) -> T {
    let limit = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(value) = reached() {
            return value;
        }
        assert!(Instant::now() < limit, "waited two minutes for {what}");
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
        let _ = rustix::event::poll(&mut [], Some(&pause));
    }
}
