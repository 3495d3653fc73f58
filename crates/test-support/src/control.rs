//! A control database for a test.

use std::fmt::Write as _;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak, mpsc};
use std::time::{Duration, Instant};

use sqlx::postgres::PgConnectOptions;
use store::{InstallationKey, Store};
use tempfile::TempDir;

/// Debian 12's own engine, which every machine that builds Stead has.
const MAJOR: u16 = 15;

/// The port in the name of a socket, unless it listens over TCP, too.
const PORT: u16 = 5432;

/// How long the server may take to answer first.
const START_WITHIN: Duration = Duration::from_secs(30);

/// A database of its own on a PostgreSQL server that the tests of this process share.
pub struct ControlDatabase {
    server: Arc<Server>,
    name: String,
    key: PathBuf,
}

impl ControlDatabase {
    /// Starts the server, where no other test of this process has, and makes a database.
    pub async fn start() -> Self {
        let server = tokio::task::spawn_blocking(Server::shared).await.expect("start a PostgreSQL server");
        let client = server.connect("postgres").await;
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        client
            .batch_execute(&format!("create database {name} template template0"))
            .await
            .expect("create a database");
        let key = server.dir.path().join(format!("{name}.key"));
        Self { server, name, key }
    }

    /// Where it is, for a store. (Each call may be another store on the same database.)
    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.server.run)
            .username("postgres")
            .database(&self.name)
    }

    /// The same, for a client of PostgreSQL's.
    pub fn config(&self) -> tokio_postgres::Config {
        self.server.config(&self.name)
    }

    /// A store on it; every one has the same installation key.
    pub async fn store(&self) -> Store {
        Store::open(self.options(), self.installation_key()).await.expect("open the store")
    }

    /// The installation key of its stores.
    pub fn installation_key(&self) -> InstallationKey {
        InstallationKey::read_or_make(&self.key).expect("read the installation key")
    }

    /// A connection of a superuser's, around the store.
    pub async fn connect(&self) -> tokio_postgres::Client {
        self.server.connect(&self.name).await
    }
}

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// How a server listens at 127.0.0.1.
#[derive(Debug, Clone, Default)]
pub struct Listening {
    /// Certificate and key, PEM; without, it speaks no TLS.
    pub tls: Option<(String, String)>,
    /// Settings that are others than usual, like `wal_level=replica`.
    pub settings: Vec<String>,
}

/// A server of its own, of any engine that `script/setup` installs, that can be killed and started again.
pub struct Cluster(Server);

impl Cluster {
    /// Starts one of this major version.
    pub async fn start(major: u16) -> Self {
        let started = tokio::task::spawn_blocking(move || Server::start(major, None));
        Self(started.await.expect("start a PostgreSQL server"))
    }

    /// Starts one that everybody reaches over TCP, too, and signs in to by password.
    pub async fn listening(major: u16, listening: Listening) -> Self {
        let started = tokio::task::spawn_blocking(move || Server::start(major, Some(listening)));
        Self(started.await.expect("start a PostgreSQL server"))
    }

    /// The port of its socket, and of 127.0.0.1 where it listens there.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Where a database of it is.
    pub fn config(&self, database: &str) -> tokio_postgres::Config {
        self.0.config(database)
    }

    /// A connection of a superuser's.
    pub async fn connect(&self, database: &str) -> tokio_postgres::Client {
        self.0.connect(database).await
    }

    /// Ends it as a machine's end would, but for what the kernel has in memory.
    pub fn kill(&mut self) {
        let pid = std::fs::read_to_string(self.0.data().join("postmaster.pid")).expect("read its number");
        let pid =
            pid.lines().next().and_then(|line| line.parse().ok()).and_then(rustix::process::Pid::from_raw);
        let pid = pid.expect("read its number");
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill the server");
        self.0.wait();
    }

    /// Starts it again; it recovers first.
    pub fn start_again(&mut self) {
        let begun = Instant::now();
        // Its other processes may hold its memory for a moment longer.
        while !self.0.run() {
            assert!(begun.elapsed() < START_WITHIN, "PostgreSQL does not start again: {}", self.0.said());
        }
    }
}

struct Server {
    dir: TempDir,
    run: PathBuf,
    port: u16,
    settings: Vec<String>,
    user: User,
    /// Dropped, it tells the thread that minds the process to end it.
    stop: Option<mpsc::Sender<()>>,
    minder: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(server) = shared.upgrade() {
            return server;
        }
        let server = Arc::new(Self::start(MAJOR, None));
        *shared = Arc::downgrade(&server);
        server
    }

    fn start(major: u16, listening: Option<Listening>) -> Self {
        let user = User::find(major);
        assert!(user.engine.join("postgres").exists(), "{:?} is missing; run script/setup", user.engine);
        // Short, because of the socket's path.
        let dir = tempfile::Builder::new().prefix("stead-t").tempdir_in("/tmp").expect("make a folder");
        let (data, run) = (dir.path().join("data"), dir.path().join("run"));
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("open the folder");
        user.folder(&run);
        match prepared(&user, major) {
            Some(prepared) => {
                succeeded(
                    Command::new("cp").args(["-a", "--reflink=auto"]).arg(prepared).arg(&data).output(),
                );
            }
            None => user.initdb(&data),
        }
        let (mut port, mut settings) = (PORT, Vec::new());
        if let Some(listening) = listening {
            port = free_port();
            settings.extend(["listen_addresses=127.0.0.1".to_owned(), format!("port={port}")]);
            settings.extend(listen(&user, &data, listening));
        }
        let mut server = Self { dir, run, port, settings, user, stop: None, minder: None };
        assert!(server.run(), "PostgreSQL ended at once: {}", server.said());
        server
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.run.join("log")).unwrap_or_default()
    }

    /// Starts the process, and waits until it answers; whether it did not end at once.
    fn run(&mut self) -> bool {
        let (stop, stopped) = mpsc::channel();
        let (started, starts) = mpsc::channel();
        let command = postgres(&self.user, &self.data(), &self.run, &self.settings);
        self.minder = Some(std::thread::spawn(move || mind(command, &started, &stopped)));
        self.stop = Some(stop);
        starts.recv().expect("start PostgreSQL");
        let begun = Instant::now();
        let socket = self.run.join(format!(".s.PGSQL.{}", self.port));
        // Asked with the client's own greeting: the socket is there before the server is ready.
        while !ready(&socket) {
            assert!(begun.elapsed() < START_WITHIN, "PostgreSQL does not answer: {}", self.said());
            if self.minder.as_ref().is_none_or(std::thread::JoinHandle::is_finished) {
                return false;
            }
            std::thread::park_timeout(Duration::from_millis(2));
        }
        true
    }

    /// Waits until the process has ended.
    fn wait(&mut self) {
        if let Some(minder) = self.minder.take() {
            let _ = minder.join();
        }
    }

    fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.run).port(self.port).user("postgres").dbname(database);
        config
    }

    async fn connect(&self, database: &str) -> tokio_postgres::Client {
        let (client, connection) =
            self.config(database).connect(tokio_postgres::NoTls).await.expect("connect to PostgreSQL");
        tokio::spawn(connection);
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.wait();
    }
}

/// A cluster to copy, which costs a tenth of making one: it is kept where cargo keeps what it built, and made by
/// the first test that finds none. `None` where this is no test of cargo's.
fn prepared(user: &User, major: u16) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?;
    let built =
        program.ancestors().find(|folder| folder.file_name().is_some_and(|name| name == "deps"))?.parent()?;
    let kept = built.join(if major == MAJOR {
        "stead-test-cluster".to_owned()
    } else {
        format!("stead-test-cluster-{major}")
    });
    if kept.exists() {
        return Some(kept);
    }
    // Made elsewhere, where the server's user may go, and moved in whole: of two that do so, one wins.
    let folder = tempfile::Builder::new().prefix("stead-t").tempdir_in("/tmp").ok()?;
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).ok()?;
    let (fresh, draft) = (
        folder.path().join("data"),
        built.join(format!("stead-test-cluster-{major}.{}", std::process::id())),
    );
    user.initdb(&fresh);
    succeeded(Command::new("cp").arg("-a").arg(&fresh).arg(&draft).output());
    if std::fs::rename(&draft, &kept).is_err() {
        let _ = std::fs::remove_dir_all(&draft);
    }
    kept.exists().then_some(kept)
}

/// Whether a server answers a start-up message with anything but "starting up".
fn ready(socket: &Path) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(socket) else { return false };
    let mut message = vec![0, 3, 0, 0];
    message.extend(b"user\0postgres\0database\0postgres\0\0");
    let length = u32::try_from(message.len() + 4).unwrap_or_default().to_be_bytes();
    let mut answer = [0];
    stream.write_all(&[&length[..], &message].concat()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"R"
}

/// A port that nobody has at the moment.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("find a port");
    listener.local_addr().expect("find a port").port()
}

/// Writes what a server needs that is reached over TCP; answers its settings.
fn listen(user: &User, data: &Path, listening: Listening) -> Vec<String> {
    let hba = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    let mut settings = listening.settings;
    let mut files = vec![("pg_hba.conf", hba.to_owned())];
    if let Some((certificate, key)) = listening.tls {
        files.extend([("server.crt", certificate), ("server.key", key)]);
        settings.push("ssl=on".to_owned());
    }
    for (name, text) in files {
        let path = data.join(name);
        std::fs::write(&path, text).expect("write a file");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("close a file");
        if let Some((uid, gid)) = user.ids {
            chown(&path, Some(uid), Some(gid)).expect("give a file away");
        }
    }
    settings
}

fn postgres(user: &User, data: &Path, run: &Path, more: &[String]) -> Command {
    let mut command = user.command("postgres");
    let mut settings = String::from("unix_socket_permissions=0777");
    let _ = write!(settings, " unix_socket_directories={}", run.display());
    // Nothing here outlives a crash; and nothing of it may be left in /dev/shm by a kill.
    for fixed in [
        "listen_addresses=",
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "max_connections=300",
        "shared_buffers=16MB",
        "dynamic_shared_memory_type=mmap",
        "autovacuum=off",
        "max_wal_size=256MB",
        "wal_level=logical",
        "max_replication_slots=64",
    ] {
        let _ = write!(settings, " {fixed}");
    }
    for setting in settings.split(' ').chain(more.iter().map(String::as_str)) {
        command.arg("-c").arg(setting);
    }
    let log = std::fs::File::create(run.join("log")).expect("make a log");
    command.arg("-D").arg(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

/// Starts the server and ends it when told. A thread of its own, because the kernel ends the server with the
/// thread that started it: so a killed test leaves no server behind.
fn mind(mut command: Command, started: &mpsc::Sender<()>, stopped: &mpsc::Receiver<()>) {
    let Ok(mut child) = command.spawn() else { return };
    let _ = started.send(());
    while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(Duration::from_millis(200)) {
        if let Ok(Some(_)) = child.try_wait() {
            return;
        }
    }
    end(&mut child);
}

/// At once, without writing anything: its files go anyway.
fn end(child: &mut Child) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::QUIT);
    }
    let _ = child.wait();
}

/// Whom the server runs as, as it refuses root, and its programs.
struct User {
    ids: Option<(u32, u32)>,
    engine: PathBuf,
}

impl User {
    fn find(major: u16) -> Self {
        let engine = engine(major);
        if !rustix::process::geteuid().is_root() {
            return Self { ids: None, engine };
        }
        let id = |what: &str| {
            let output = succeeded(Command::new("id").args([what, "postgres"]).output());
            String::from_utf8_lossy(&output.stdout).trim().parse().expect("read the id of user postgres")
        };
        Self { ids: Some((id("-u"), id("-g"))), engine }
    }

    /// Makes a folder of the user's own.
    fn folder(&self, path: &Path) {
        std::fs::create_dir(path).expect("make a folder");
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).expect("close a folder");
        if let Some((uid, gid)) = self.ids {
            chown(path, Some(uid), Some(gid)).expect("give a folder away");
        }
    }

    fn initdb(&self, data: &Path) {
        self.folder(data);
        let mut initdb = self.command("initdb");
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--username=postgres",
            "--encoding=UTF8",
            "--locale=C",
            "-D",
        ]);
        succeeded(initdb.arg(data).output());
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        if let Some((uid, gid)) = self.ids {
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        command
            .arg("--pdeathsig=KILL")
            .arg(self.engine.join(program))
            .env_clear()
            .env("TZ", "UTC")
            .current_dir("/");
        command
    }
}

/// The programs of an engine.
fn engine(major: u16) -> PathBuf {
    let debian = PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"));
    if debian.exists() {
        return debian;
    }
    let home = || {
        if rustix::process::geteuid().is_root() {
            PathBuf::from("/var/lib")
        } else {
            std::env::var_os("HOME").map(PathBuf::from).unwrap_or_default().join(".local/share")
        }
    };
    let engines = std::env::var_os("STEAD_ENGINES").map(PathBuf::from);
    engines.unwrap_or_else(|| home().join("stead/engines")).join(major.to_string()).join("bin")
}

fn succeeded(output: std::io::Result<Output>) -> Output {
    let output = output.expect("run a program");
    let said = || String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}", said());
    output
}
