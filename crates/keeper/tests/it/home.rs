//! A `$STEAD_HOME` of a test with a keeper of its own; whatever happens, nothing of it is left behind.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use keeper::wire::*;
use keeper::{Client, ClientError, Host};

/// Longer than anything takes here, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Home {
    pub(crate) path: PathBuf,
    pub(crate) client: Client,
    keeper: Option<Child>,
    extra: Vec<String>,
    /// Who the keeper runs as, when not as root.
    user: Option<u32>,
}

pub(crate) fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub(crate) fn server(text: &str) -> Tree {
    Tree::Servers(name(text))
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

pub(crate) fn example() -> PathBuf {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples/keeper")
}

/// A program as somebody else.
pub(crate) fn as_user(uid: u32, gid: u32, program: &Path) -> Command {
    let mut command = Command::new("/usr/bin/setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".into()]);
    command.arg(program);
    command
}

/// The `bin` folder of an engine.
pub(crate) fn bin(major: u32) -> PathBuf {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    if debian.join("postgres").exists() { debian } else { engines().join(major.to_string()).join("bin") }
}

pub(crate) fn engines() -> PathBuf {
    std::env::var_os("STEAD_ENGINES").map_or_else(|| "/var/lib/stead/engines".into(), PathBuf::from)
}

impl Home {
    /// An empty home, no keeper yet.
    pub(crate) fn empty() -> Self {
        Self::at(tempfile::Builder::new().prefix("sk").tempdir_in("/tmp").unwrap().keep())
    }

    pub(crate) fn at(path: PathBuf) -> Self {
        let client = Client::new(&path);
        Self { path, client, keeper: None, extra: Vec::new(), user: None }
    }

    /// A home with a running keeper.
    pub(crate) fn new() -> Self {
        let mut home = Self::empty();
        home.start();
        home
    }

    /// More arguments for keepers that are started from now on.
    pub(crate) fn with(mut self, extra: &[&str]) -> Self {
        self.extra = extra.iter().map(ToString::to_string).collect();
        self
    }

    /// A home that belongs to a user, who runs the keeper.
    pub(crate) fn of_user(uid: u32) -> Self {
        let mut home = Self::empty();
        home.user = Some(uid);
        std::os::unix::fs::chown(&home.path, Some(uid), Some(uid)).unwrap();
        home
    }

    /// The keeper's binary where any user can run it.
    pub(crate) fn binary_for_all(&self) -> PathBuf {
        let copy = self.path.join("keeper.bin");
        if !copy.exists() {
            fs::copy(example(), &copy).unwrap();
        }
        copy
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = match self.user {
            None => Command::new(example()),
            Some(uid) => as_user(uid, uid, &self.binary_for_all()),
        };
        command.arg("--home").arg(&self.path).arg("--engines").arg(engines()).args(&self.extra);
        command.stdin(Stdio::null()).env_remove("FAILPOINTS");
        command
    }

    /// Starts a keeper and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts a keeper with variables in its environment.
    pub(crate) fn start_with(&mut self, env: &[(&str, &str)]) {
        let child = self.command().envs(env.iter().copied()).spawn().unwrap();
        self.keeper = Some(child);
        until("the keeper answers", || {
            let ended = self.keeper.as_mut().and_then(|keeper| keeper.try_wait().unwrap());
            assert!(ended.is_none(), "the keeper ended: {ended:?}\n{}", self.log());
            self.client.host().ok()
        });
    }

    /// Starts a keeper that dies at a fail point; it may do so before it answers.
    pub(crate) fn start_to_die(&mut self, at: &str) {
        let mut command = self.command();
        self.keeper = Some(command.env("FAILPOINTS", at).stderr(Stdio::null()).spawn().unwrap());
    }

    /// Whether the keeper that was started last has died (by SIGKILL, as fail points do).
    pub(crate) fn has_died(&mut self) -> bool {
        let Some(keeper) = &mut self.keeper else { return true };
        match keeper.try_wait().unwrap() {
            Some(status) => {
                assert_eq!(status.signal(), Some(9), "{status}\n{}", self.log());
                self.keeper = None;
                true
            }
            None => false,
        }
    }

    pub(crate) fn keeper_pid(&self) -> i32 {
        self.keeper.as_ref().unwrap().id().try_into().unwrap()
    }

    /// As `kill -9` of the keeper.
    pub(crate) fn kill_keeper(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            keeper.kill().unwrap();
            keeper.wait().unwrap();
        }
    }

    /// Waits for the keeper's own end.
    pub(crate) fn keeper_ended(&mut self) -> std::process::ExitStatus {
        let mut keeper = self.keeper.take().unwrap();
        until("the keeper has ended", || keeper.try_wait().unwrap())
    }

    pub(crate) fn restart_keeper(&mut self) {
        self.kill_keeper();
        self.start();
    }

    pub(crate) fn host(&self) -> Host {
        Host::read(&self.path).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path.join("keeper/keeper.log")).unwrap_or_default()
    }

    pub(crate) fn spool(&self) -> Vec<SpoolLine> {
        let text = fs::read_to_string(self.path.join("spool/keeper.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn dir(&self, tree: &Tree) -> PathBuf {
        keeper::tree_dir(&self.path, tree)
    }

    pub(crate) fn uid(&self, tree: &Tree) -> u32 {
        fs::metadata(self.dir(tree).join("data")).unwrap().uid()
    }

    /// Declares and applies.
    pub(crate) fn apply(&self, unit: &Unit) -> Result<UnitStatus, ClientError> {
        self.client.declare(unit).unwrap();
        self.client.apply(&unit.name)
    }

    pub(crate) fn state(&self, unit: &str) -> UnitState {
        self.client.unit(&name(unit)).unwrap().unwrap().state
    }

    pub(crate) fn pid(&self, unit: &str) -> i32 {
        self.client.unit(&name(unit)).unwrap().unwrap().pid.unwrap()
    }

    #[track_caller]
    pub(crate) fn until_state(&self, unit: &str, state: &UnitState) {
        until(&format!("{unit} is {state:?}"), || (self.state(unit) == *state).then_some(()));
    }

    /// A tree with an initialised cluster.
    pub(crate) fn cluster(&self, tree: &Tree, major: u32) {
        self.client.create_tree(tree).unwrap();
        let unit = initdb_unit("init", tree, major);
        self.apply(&unit).unwrap();
        self.until_state("init", &UnitState::Exited { code: Some(0), signal: None });
        self.client.remove_unit(&unit.name).unwrap();
        self.configure(tree);
    }

    /// What the driver writes into a new cluster.
    pub(crate) fn configure(&self, tree: &Tree) {
        let seen = self.host().seen_at(&self.path, tree).display().to_string();
        let conf = format!(
            "\ninclude_if_exists '{seen}/guard/read_only.conf'\nunix_socket_directories = '{seen}/run'\n\
             listen_addresses = ''\nfsync = off\nshared_buffers = 16MB\nmax_connections = 20\n"
        );
        let path = self.dir(tree).join("data/postgresql.conf");
        let had = fs::read_to_string(&path).unwrap();
        if !had.contains("read_only.conf") {
            fs::write(path, had + &conf).unwrap();
        }
    }

    /// A running server that answers.
    pub(crate) fn running(&self, unit: &str, tree: &Tree, major: u32) -> Unit {
        self.cluster(tree, major);
        let unit = postgres_unit(unit, tree, major);
        let status = self.apply(&unit).unwrap();
        assert_eq!(status.state, UnitState::Running, "{}", self.log());
        self.until_answers(tree);
        unit
    }

    pub(crate) fn psql(&self, tree: &Tree, sql: &str) -> Output {
        Command::new("/usr/lib/postgresql/15/bin/psql")
            .args(["-XAtq", "-U", "postgres", "-d", "postgres", "-h"])
            .arg(self.dir(tree).join("run"))
            .args(["-v", "ON_ERROR_STOP=1", "-c", sql])
            .output()
            .unwrap()
    }

    /// The answer to a query that must work.
    #[track_caller]
    pub(crate) fn sql(&self, tree: &Tree, sql: &str) -> String {
        let out = self.psql(tree, sql);
        assert!(out.status.success(), "{sql}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    #[track_caller]
    pub(crate) fn until_answers(&self, tree: &Tree) {
        let deadline = Instant::now() + PATIENCE;
        while !self.psql(tree, "select 1").status.success() {
            let stderr = fs::read_to_string(self.dir(tree).join("log/stderr.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{tree:?} does not answer\n{stderr}\n{}", self.log());
            pause();
        }
    }

    /// Stops a unit and waits.
    pub(crate) fn stop(&self, unit: &Unit) {
        let stopped = Unit { wanted: Wanted::Stopped, generation: unit.generation + 1, ..unit.clone() };
        self.apply(&stopped).unwrap();
        self.until_state(unit.name.as_str(), &UnitState::Stopped);
    }

    /// Every process on this machine that runs as one of this home's users, or whose arguments name it.
    pub(crate) fn processes(&self) -> Vec<(i32, String)> {
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
                found.push((number, args));
            }
        }
        found
    }

    /// Folders of the group that all workers are in.
    pub(crate) fn groups_of_workers(&self) -> Vec<PathBuf> {
        self.cgroups().iter().map(|folder| folder.join("all.workers")).collect()
    }

    /// cgroup folders of this home.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(self.path.as_os_str().as_encoded_bytes());
        let hash: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mounts = mounts.lines().filter(|line| line.contains(" - cgroup"));
        let folders =
            mounts.map(|line| Path::new(line.split(' ').nth(4).unwrap()).join(format!("stead-{hash}")));
        folders.filter(|folder| folder.exists()).collect()
    }

    /// Stops everything, and asserts that nothing is left.
    pub(crate) fn finish(mut self) {
        self.client.shutdown(true).unwrap();
        assert!(self.keeper_ended().success(), "{}", self.log());
        // A child that empties the trash may outlive a keeper that was killed by a moment.
        until("nothing lives", || self.processes().is_empty().then_some(()));
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let ours = format!("{}/", self.path.display());
        assert!(!mounts.contains(&ours), "{mounts}");
    }
}

/// Removes a group with all below it.
fn remove_groups(folder: &Path) -> std::io::Result<()> {
    for group in fs::read_dir(folder)?.flatten().filter(|group| group.path().is_dir()) {
        remove_groups(&group.path())?;
    }
    fs::remove_dir(folder)
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("keeper's log:\n{}", self.log());
        }
        self.kill_keeper();
        // The first processes of namespaces take the others with them.
        until("nothing lives", || {
            let left = self.processes();
            for (pid, _) in &left {
                let pid = rustix::process::Pid::from_raw(*pid).unwrap();
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            left.is_empty().then_some(())
        });
        for folder in self.cgroups() {
            until("its groups are empty", || remove_groups(&folder).ok());
        }
        let _ = rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::DETACH);
        until("its folder is gone", || match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => None,
            _ => Some(()),
        });
    }
}

pub(crate) fn unit(text: &str, runs: Runs, args: &[&str]) -> Unit {
    Unit {
        name: name(text),
        generation: 1,
        wanted: Wanted::Running,
        runs,
        args: args.iter().map(ToString::to_string).collect(),
        env: BTreeMap::new(),
        limits: Limits { memory_bytes: Some(512 << 20), pids: Some(200) },
        stop: Stop::default(),
        restart: Restart::Always,
        sleeps: false,
    }
}

pub(crate) fn initdb_unit(text: &str, tree: &Tree, major: u32) -> Unit {
    let runs = Runs::Engine { tree: tree.clone(), bin: bin(major), program: EngineProgram::Initdb };
    let args =
        ["-D", "/stead/data", "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C", "-E", "UTF8"];
    Unit { restart: Restart::Never, ..unit(text, runs, &args) }
}

pub(crate) fn postgres_unit(text: &str, tree: &Tree, major: u32) -> Unit {
    let runs = Runs::Engine { tree: tree.clone(), bin: bin(major), program: EngineProgram::Postgres };
    unit(text, runs, &["-D", "/stead/data"])
}
