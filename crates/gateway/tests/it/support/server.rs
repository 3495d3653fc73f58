//! A real PostgreSQL, on a Unix socket only, with what the driver gives the gateway.

use std::fs::File;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::{DATABASE, PASSWORD, USER, engine, folder};

/// What the driver must provide, and the roles of the tests.
const SETUP: &str = r#"
CREATE ROLE stead_gateway LOGIN;
CREATE SCHEMA stead;
REVOKE ALL ON SCHEMA stead FROM PUBLIC;
CREATE FUNCTION stead.verifier(name text, OUT verifier text) RETURNS SETOF text LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1::name AND octet_length($1) < 64 AND rolcanlogin AND NOT rolsuper AND rolpassword IS NOT NULL AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now())';
CREATE FUNCTION stead.verifiers(OUT name text, OUT verifier text) RETURNS SETOF record LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT rolname::text, rolpassword FROM pg_catalog.pg_authid WHERE rolcanlogin AND NOT rolsuper AND rolpassword IS NOT NULL';
CREATE FUNCTION stead.at_rest(OUT at_rest boolean) LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity WHERE backend_type = ''client backend'' AND state IS DISTINCT FROM ''idle'' AND usename NOT IN (''stead_admin'', ''stead_gateway''))';
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA stead FROM PUBLIC;
GRANT USAGE ON SCHEMA stead TO stead_gateway;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA stead TO stead_gateway;
"#;

const HBA: &str = "local all stead_gateway trust
local all stead_admin trust
local all trusted trust
local all all scram-sha-256
";

const CONF: &str = "listen_addresses = ''
max_connections = 60
shared_buffers = 16MB
fsync = off
synchronous_commit = off
autovacuum = off
log_min_messages = warning
";

/// A running (or stopped) server; gone when dropped.
pub(crate) struct Server {
    pub(crate) major: u32,
    root: PathBuf,
    child: Option<Child>,
    _folder: tempfile::TempDir,
}

impl Server {
    /// A fresh server with the tests' role and database.
    pub(crate) async fn start(major: u32) -> Server {
        let folder = folder();
        let root = folder.path().join("0");
        std::fs::create_dir(&root).unwrap();
        let data = template(major);
        run(Command::new("cp").arg("-a").arg(&data).arg(root.join("data")));
        std::fs::create_dir(root.join("run")).unwrap();
        own(&root.join("run"));
        let mut server = Server { major, root, child: None, _folder: folder };
        server.boot().await;
        server
    }

    /// The folder of its socket.
    pub(crate) fn socket_dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn boot(&mut self) {
        let log = File::options().append(true).create(true).open(self.root.join("log")).unwrap();
        let mut command = as_postgres(&engine(self.major).join("postgres"));
        command.arg("-D").arg(self.root.join("data")).arg("-k").arg(self.socket_dir());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
        super::eventually("PostgreSQL to start", || async { self.try_admin().await.ok() }).await;
    }

    /// Stops it, moves all that is its own to another folder, and starts it there.
    pub(crate) async fn relocate(&mut self) {
        self.stop();
        let moved = self.root.with_file_name(format!("{}0", self.root.file_name().unwrap().display()));
        std::fs::rename(&self.root, &moved).unwrap();
        self.root = moved;
        self.boot().await;
    }

    /// As `pg_ctl stop -m fast`.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::INT);
    }

    /// As `pg_ctl stop -m immediate`, or a crash of the host.
    pub(crate) fn stop_at_once(&mut self) {
        self.signal(Signal::QUIT);
    }

    /// SIGSTOP to the postmaster: it accepts nothing more, and says nothing.
    pub(crate) fn freeze(&self, frozen: bool) {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        kill_process(self.pid(), signal).unwrap();
    }

    fn pid(&self) -> Pid {
        let child = self.child.as_ref().expect("it runs");
        Pid::from_raw(child.id().cast_signed()).unwrap()
    }

    fn signal(&mut self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
        let mut child = self.child.take().unwrap();
        let _ = child.wait();
    }

    /// The superuser's own connection, not through the gateway.
    pub(crate) async fn admin(&self) -> tokio_postgres::Client {
        self.try_admin().await.unwrap()
    }

    async fn try_admin(&self) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host_path(self.socket_dir())
            .user("stead_admin")
            .dbname("postgres")
            .connect(tokio_postgres::NoTls)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Client backends of the server now, Stead's own not counted.
    pub(crate) async fn sessions(&self) -> i64 {
        let question = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
                        AND usename NOT IN ('stead_admin', 'stead_gateway')";
        self.admin().await.query_one(question, &[]).await.unwrap().get(0)
    }

    /// Whether a client's `pg_sleep` is under way.
    pub(crate) async fn sleeps(&self) -> bool {
        let question = "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        self.admin().await.query_one(question, &[]).await.unwrap().get(0)
    }

    /// Connections ever made to it, as its statistics count them, including failed ones' log lines.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.root.join("log")).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let Some(pid) = Pid::from_raw(child.id().cast_signed()) else { return };
        let _ = kill_process(pid, Signal::CONT);
        let _ = kill_process(pid, Signal::QUIT);
        // An immediate shutdown always ends: the postmaster itself kills what does not.
        let _ = child.wait();
    }
}

/// An initialised data directory of a major, made once for all tests and copied by each.
fn template(major: u32) -> PathBuf {
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let digest = SETUP.bytes().chain(HBA.bytes()).chain(CONF.bytes()).chain(PASSWORD.bytes());
    let digest = digest.fold(0_u64, |all, byte| all.wrapping_mul(31).wrapping_add(byte.into()));
    let done = cache.join(format!("gateway-pg{major}-{digest:016x}"));
    let lock = File::create(cache.join(format!("gateway-pg{major}.lock"))).unwrap();
    lock.lock().unwrap();
    if done.exists() {
        return done;
    }
    let work = folder();
    let data = work.path().join("data");
    std::fs::create_dir(&data).unwrap();
    own(&data);
    let bin = engine(major);
    run(as_postgres(&bin.join("initdb")).arg("-D").arg(&data).args([
        "-U",
        "stead_admin",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C",
        "--wal-segsize=1",
        "-N",
    ]));
    std::fs::write(data.join("pg_hba.conf"), HBA).unwrap();
    std::fs::write(data.join("postgresql.auto.conf"), CONF).unwrap();
    let password = PASSWORD.replace('\'', "''");
    let roles = format!(
        "CREATE ROLE {USER} LOGIN PASSWORD '{password}';\nCREATE DATABASE {DATABASE} OWNER {USER};\n\
         CREATE ROLE trusted LOGIN PASSWORD 'trusted';\n\
         ALTER ROLE stead_admin PASSWORD 'admin';\n"
    );
    let mut single = as_postgres(&bin.join("postgres"))
        .arg("--single")
        .arg("-D")
        .arg(&data)
        .arg("postgres")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    single.stdin.take().unwrap().write_all((SETUP.to_owned() + &roles).as_bytes()).unwrap();
    assert!(single.wait().unwrap().success());
    run(Command::new("cp").arg("-a").arg(&data).arg(done.with_extension("new")));
    std::fs::rename(done.with_extension("new"), &done).unwrap();
    done
}

/// `postgres` refuses to be root.
fn as_postgres(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]);
    }
    // A test that is killed takes its server along.
    command.arg("--pdeathsig=QUIT").arg(program).process_group(0);
    command
}

fn own(path: &Path) {
    if rustix::process::geteuid().is_root() {
        run(Command::new("chown").arg("postgres:postgres").arg(path));
    }
    run(Command::new("chmod").arg("700").arg(path));
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
