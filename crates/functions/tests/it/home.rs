//! A `$STEAD_HOME` of a test with a keeper and an engine; whatever happens, nothing of it is left behind.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use functions::route::{
    FunctionStatus, Interpreter, Language, Prepared, Request, Route, Secrets, Settings, Status, Url, Version,
};
use keeper::wire::{Limits, Name, Restart, Runs, Stop, Unit, UnitState, Wanted};
use keeper::{Client, Host};
use sha2::{Digest, Sha256};

use crate::http::{Connection, Response};

/// Longer than anything takes here, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fail points that an engine passes before it answers.
pub(crate) const POINTS_OF_A_START: [&str; 2] = ["functions::sockets_bound", "functions::serves"];

pub(crate) struct Home {
    pub(crate) path: PathBuf,
    pub(crate) client: Client,
    keeper: Option<Child>,
    generation: u64,
}

/// A moment's wait between two looks at a condition.
pub(crate) fn pause() {
    let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 3_000_000 };
    let _ = rustix::event::poll(&mut [], Some(&pause));
}

/// Waits until something is there.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        pause();
    }
}

fn example() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/functions")
}

/// A port that nobody has. Below those that the kernel gives to connections, of which one could take it meanwhile; and
/// told to the tests in other processes, which look for one as well, by a name that goes with this process.
pub(crate) fn free_port() -> u16 {
    static TRIED: AtomicU32 = AtomicU32::new(0);
    static TOLD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    loop {
        let tried = TRIED.fetch_add(1, Ordering::Relaxed);
        let port = 10_000 + (std::process::id().wrapping_mul(131).wrapping_add(tried) % 22_000);
        let port = u16::try_from(port).unwrap();
        let name = SocketAddr::from_abstract_name(format!("stead-test-port-{port}")).unwrap();
        let Ok(told) = UnixListener::bind_addr(&name) else { continue };
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            TOLD.lock().unwrap().push(told);
            return port;
        }
    }
}

fn unit_name() -> Name {
    Name::parse("functions").unwrap()
}

impl Home {
    /// A home with a running keeper and a running engine.
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// The same with limits of its own, `name=value`.
    pub(crate) fn with(limits: &[&str]) -> Self {
        let path = tempfile::Builder::new().prefix("sf").tempdir_in("/tmp").unwrap().keep();
        let mut home = Self { client: Client::new(&path), path, keeper: None, generation: 0 };
        home.start_keeper();
        let mut runtimes = BTreeMap::new();
        let interpreter =
            |language, program: &str| Interpreter { language, folder: None, program: program.into() };
        runtimes.insert("nodejs20.x".to_owned(), interpreter(Language::Node, "/usr/bin/node"));
        runtimes.insert("python3.11".to_owned(), interpreter(Language::Python, "/usr/bin/python3.11"));
        // What script/setup installs, where it did.
        let dir = std::env::var_os("STEAD_RUNTIMES").unwrap_or_else(|| "/var/lib/stead/runtimes".into());
        let folder = Some(Path::new(&dir).join("nodejs24.x")).filter(|folder| folder.exists());
        if folder.is_some() {
            let program = "/var/lang/bin/node".to_owned();
            let node = Interpreter { language: Language::Node, folder, program };
            runtimes.insert("nodejs24.x".to_owned(), node);
        }
        let settings =
            Settings { listen: vec!["127.0.0.1".parse().unwrap()], runtimes, egress_networks: Vec::new() };
        home.write("functions/functions.json", &serde_json::to_vec(&settings).unwrap());
        home.start_engine(limits, &[]);
        home
    }

    fn start_keeper(&mut self) {
        let mut command = Command::new(example());
        command.arg("keeper").arg("--home").arg(&self.path).stdin(Stdio::null()).env_remove("FAILPOINTS");
        self.keeper = Some(command.spawn().unwrap());
        until("the keeper answers", || self.client.host().ok());
    }

    /// Runs the engine as the keeper's unit, with limits and fail points.
    pub(crate) fn start_engine(&mut self, limits: &[&str], env: &[(&str, &str)]) {
        self.declare_engine(limits, env, Restart::Always);
        self.await_engine();
    }

    /// Runs an engine that dies at a fail point, once `lead` has led it there; what it answers is of this engine.
    /// Afterwards none runs.
    pub(crate) fn dies_at<T>(&mut self, point: &str, limits: &[&str], lead: impl FnOnce(&Self) -> T) {
        let at_start = POINTS_OF_A_START.contains(&point);
        self.declare_engine(limits, &[("FAILPOINTS", &format!("{point}=return"))], Restart::Never);
        if !at_start {
            self.await_engine();
        }
        // What is open stays open until it has died.
        let led = lead(self);
        let killed = UnitState::Exited { code: None, signal: Some(9) };
        until(&format!("the engine dies at {point}"), || {
            let unit = self.client.unit(&unit_name()).ok()??;
            (unit.generation == self.generation && unit.state == killed).then_some(())
        });
        drop(led);
    }

    fn declare_engine(&mut self, limits: &[&str], env: &[(&str, &str)], restart: Restart) {
        self.generation += 1;
        let unit = Unit {
            name: unit_name(),
            generation: self.generation,
            wanted: Wanted::Running,
            runs: Runs::Functions,
            args: limits.iter().flat_map(|limit| ["--limit".to_owned(), (*limit).to_owned()]).collect(),
            env: env.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            limits: Limits::default(),
            stop: Stop::default(),
            restart,
            sleeps: false,
        };
        self.client.declare(&unit).unwrap();
        self.client.apply(&unit.name).unwrap();
    }

    fn await_engine(&self) {
        // The one before may answer until it has ended.
        until("the engine answers", || {
            let unit = self.client.unit(&unit_name()).ok()??;
            let answers = unit.generation == self.generation && unit.state == UnitState::Running;
            self.refresh().filter(|status| answers && Some(status.pid) == unit.pid)
        });
    }

    /// As `kill -9` of the keeper, and another one.
    pub(crate) fn restart_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            keeper.kill().unwrap();
            keeper.wait().unwrap();
        }
        self.start_keeper();
    }

    /// As `kill -9` of the engine; the keeper starts it again.
    pub(crate) fn kill_engine(&self) {
        let before = self.engine_pid();
        let pid = rustix::process::Pid::from_raw(before).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        until("the engine runs again", || {
            let unit = self.client.unit(&unit_name()).ok()??;
            (unit.state == UnitState::Running && unit.pid != Some(before)).then_some(())
        });
        until("the engine answers", || self.refresh());
    }

    pub(crate) fn engine_pid(&self) -> i32 {
        self.client.unit(&unit_name()).unwrap().unwrap().pid.unwrap()
    }

    /// Writes a file as the control plane does.
    pub(crate) fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path.join(path);
        let new = path.with_extension("new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o644)).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// A package with these files, executable where they begin with `#!`; its digest.
    pub(crate) fn package(&self, files: &[(&str, &str)]) -> String {
        let digest = Sha256::digest(format!("{files:?}"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = self.path.join("packages").join(&digest);
        for (name, text) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        digest
    }

    /// A version of a function.
    pub(crate) fn version(&self, runtime: &str, handler: &str, files: &[(&str, &str)]) -> Version {
        Version {
            package: self.package(files),
            code_bytes: 1000,
            runtime: runtime.to_owned(),
            handler: handler.to_owned(),
            memory_mib: 256,
            timeout_ms: 3000,
            tmp_mib: 32,
            concurrency: 4,
            environment: BTreeMap::new(),
            secrets: BTreeSet::new(),
            uses: None,
            egress: Vec::new(),
        }
    }

    /// A route of one version, with a URL.
    pub(crate) fn route(&self, function: &str, version: Version) -> Route {
        Route {
            function: function.to_owned(),
            generation: 1,
            tenant: "123456789012".to_owned(),
            stead: "shop".to_owned(),
            component: format!("function.{function}"),
            url: Some(Url { port: free_port(), token_sha256: None }),
            versions: [(1, version)].into(),
            live: Some(1),
            canary: None,
            secrets: Secrets::default(),
            databases: BTreeMap::new(),
            schedule: None,
            dead_letter: None,
        }
    }

    /// Puts a route in force.
    #[track_caller]
    pub(crate) fn put(&self, route: &Route) {
        self.write(&format!("functions/routes/{}.json", route.function), &serde_json::to_vec(route).unwrap());
        let status = self.function(&route.function);
        assert_eq!((status.generation, &status.trouble), (route.generation, &None), "{}", self.log());
    }

    /// A function of one file, in force.
    #[track_caller]
    pub(crate) fn serve(&self, runtime: &str, file: &str, code: &str) -> Route {
        let version = self.version(runtime, "index.handler", &[(file, code)]);
        let route = self.route("f1", version);
        self.put(&route);
        route
    }

    pub(crate) fn node(&self, code: &str) -> Route {
        self.serve("nodejs20.x", "index.mjs", code)
    }

    pub(crate) fn python(&self, code: &str) -> Route {
        self.serve("python3.11", "index.py", code)
    }

    fn ask<T: serde::de::DeserializeOwned>(&self, request: &Request) -> std::io::Result<T> {
        let mut stream = UnixStream::connect(self.path.join("functions/functions.sock"))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    }

    pub(crate) fn refresh(&self) -> Option<Status> {
        self.ask(&Request::Refresh).ok()
    }

    #[track_caller]
    pub(crate) fn function(&self, function: &str) -> FunctionStatus {
        let status: Option<_> = self.ask(&Request::Function { function: function.to_owned() }).unwrap();
        status.unwrap()
    }

    #[track_caller]
    pub(crate) fn prepare(&self, function: &str, version: u64) -> Prepared {
        self.ask(&Request::Prepare { function: function.to_owned(), version }).unwrap()
    }

    /// A request at a function's URL.
    #[track_caller]
    pub(crate) fn get(&self, route: &Route, target: &str) -> Response {
        Connection::tcp(route.url.as_ref().unwrap().port).ask(&format!("GET {target}"), &[], b"")
    }

    /// An invocation by the Invoke API.
    #[track_caller]
    pub(crate) fn invoke(&self, function: &str, headers: &[(&str, &str)], payload: &str) -> Response {
        let target = format!("POST /2015-03-31/functions/{function}/invocations");
        Connection::unix(&self.path.join("functions/invoke.sock")).ask(&target, headers, payload.as_bytes())
    }

    /// The same, sent and not waited for.
    #[track_caller]
    pub(crate) fn send(
        &self,
        function: &str,
        headers: &[(&str, &str)],
        payload: &str,
    ) -> Connection<UnixStream> {
        let target = format!("POST /2015-03-31/functions/{function}/invocations");
        let mut connection = Connection::unix(&self.path.join("functions/invoke.sock"));
        connection.send(&target, headers, payload.as_bytes());
        connection
    }

    /// The function's log, as it is now.
    pub(crate) fn lines(&self, function: &str) -> Vec<serde_json::Value> {
        let path = self.path.join(format!("logs/function-{function}.jsonl"));
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Bytes of the function's log, older files included.
    pub(crate) fn log_bytes(&self, function: &str) -> u64 {
        let name = format!("function-{function}");
        let entries = fs::read_dir(self.path.join("logs")).unwrap().flatten();
        let of = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with(&name));
        of.map(|entry| entry.metadata().unwrap().len()).sum()
    }

    /// Waits for a line in the function's log.
    #[track_caller]
    pub(crate) fn line(&self, function: &str, contains: &str) -> serde_json::Value {
        until(&format!("the log says {contains}"), || {
            let mut lines = self.lines(function).into_iter();
            lines.find(|line| line["message"].as_str().is_some_and(|text| text.contains(contains)))
        })
    }

    /// What the engine and the keeper say of themselves, and the function.
    pub(crate) fn log(&self) -> String {
        let read = |path: &str| fs::read_to_string(self.path.join(path)).unwrap_or_default();
        let mut functions = String::new();
        for entry in fs::read_dir(self.path.join("logs")).into_iter().flatten().flatten() {
            functions.push_str(&fs::read_to_string(entry.path()).unwrap_or_default());
        }
        format!("keeper:\n{}\nengine and functions:\n{functions}", read("keeper/keeper.log"))
    }

    /// Every sandbox that the keeper knows, of workers and of spares, with its first process.
    pub(crate) fn sandboxes(&self) -> BTreeMap<String, i32> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.path.join("keeper/workers")).into_iter().flatten().flatten() {
            // One that is just being written, or just removed, is not known.
            let Ok(text) = fs::read(entry.path()) else { continue };
            let Ok(record) = serde_json::from_slice::<serde_json::Value>(&text) else { continue };
            let (name, pid) =
                (record["worker"].as_str().unwrap(), record["identity"]["pid"].as_i64().unwrap());
            found.insert(name.to_owned(), i32::try_from(pid).unwrap());
        }
        found
    }

    /// The groups of a sandbox, one in each hierarchy.
    fn groups(&self, sandbox: &str) -> Vec<PathBuf> {
        let of = |folder: PathBuf| folder.join("all.workers").join(sandbox);
        self.cgroups().into_iter().map(of).filter(|folder| folder.exists()).collect()
    }

    /// Waits until a sandbox is frozen.
    #[track_caller]
    pub(crate) fn frozen(&self, sandbox: &str) {
        until("it is frozen", || {
            let says = |file: &str, what: &str| {
                let mut groups = self.groups(sandbox).into_iter();
                groups.any(|group| fs::read_to_string(group.join(file)).is_ok_and(|text| text.contains(what)))
            };
            (says("freezer.state", "FROZEN") || says("cgroup.events", "frozen 1")).then_some(())
        });
    }

    /// Waits until nothing is left of a sandbox: no process, record, group or mount.
    #[track_caller]
    pub(crate) fn nothing_left_of(&self, sandbox: &str, pid: i32) {
        until(&format!("nothing is left of {sandbox}"), || {
            let is_gone = !fs::exists(format!("/proc/{pid}")).unwrap()
                && !self.sandboxes().contains_key(sandbox)
                && self.groups(sandbox).is_empty()
                && !fs::read_to_string("/proc/self/mountinfo").unwrap().contains(sandbox);
            is_gone.then_some(())
        });
    }

    fn processes(&self) -> Vec<i32> {
        let Ok(host) = Host::read(&self.path) else { return Vec::new() };
        let range = host.uid_first..host.uid_first + host.uid_count;
        let own = self.keeper.as_ref().map(|keeper| keeper.id().to_string());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().into_string().unwrap();
            let Ok(number) = pid.parse() else { continue };
            let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key).map(str::trim));
            let zombie = field("State:").is_some_and(|state| state.starts_with('Z'));
            let uid = field("Uid:").and_then(|l| l.split_ascii_whitespace().next()?.parse::<u32>().ok());
            let args = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let args = String::from_utf8_lossy(&args).replace('\0', " ");
            let ours = uid.is_some_and(|uid| range.contains(&uid));
            let named = args.contains(self.path.to_str().unwrap()) && !args.contains("/deps/it-");
            if !zombie && (ours || named) && own.as_ref() != Some(&pid) {
                found.push(number);
            }
        }
        found
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let digest = Sha256::digest(self.path.as_os_str().as_encoded_bytes());
        let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(" - cgroup"));
        let folders =
            mounts.map(|line| Path::new(line.split(' ').nth(4).unwrap()).join(format!("stead-{hash}")));
        folders.filter(|folder| folder.exists()).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
        let _ = self.client.shutdown(true);
        if let Some(mut keeper) = self.keeper.take() {
            let deadline = Instant::now() + Duration::from_secs(40);
            while keeper.try_wait().unwrap().is_none() && Instant::now() < deadline {
                pause();
            }
            let _ = keeper.kill();
            let _ = keeper.wait();
        }
        until("nothing lives", || {
            let left = self.processes();
            for pid in &left {
                let pid = rustix::process::Pid::from_raw(*pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            left.is_empty().then_some(())
        });
        for folder in self.cgroups() {
            until("its groups are gone", || {
                for entry in fs::read_dir(&folder).ok()?.flatten().filter(|entry| entry.path().is_dir()) {
                    for inner in
                        fs::read_dir(entry.path()).ok()?.flatten().filter(|inner| inner.path().is_dir())
                    {
                        let _ = fs::remove_dir(inner.path());
                    }
                    let _ = fs::remove_dir(entry.path());
                }
                fs::remove_dir(&folder).ok()
            });
        }
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
        until("its folder is gone", || match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => None,
            _ => Some(()),
        });
    }
}
