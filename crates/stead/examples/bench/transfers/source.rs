//! The server that is copied: a plain PostgreSQL, as an unprivileged user, and what is in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::is_trial;
use super::process::{Run, family_cpu_seconds};
use crate::calls::free_port;
use crate::limit::{as_nobody, newest_engine};

/// What it is started with, beside where it listens.
const SETTINGS: [&str; 6] = [
    "wal_level=logical",
    "shared_buffers=1GB",
    "max_wal_size=1GB",
    "checkpoint_timeout=30min",
    // A vacuum is in one round and not in another.
    "autovacuum=off",
    "max_connections=60",
];

/// Who comes in: the superuser by the Unix socket alone.
const HBA: &str = "local all postgres trust
local all all scram-sha-256
host all debezium 127.0.0.1/32 scram-sha-256
";
/// Debezium speaks TCP alone.
pub(crate) const DEBEZIUM: &str =
    "create role debezium login replication superuser password 'as random as any'";

/// Flights like those of `examples/flights`, made by their numbers, always the same: `made(1, 10)` are the first ten.
const FLIGHTS: &str = "
create table flights (
    day date not null, carrier text not null, flight integer not null, origin text not null, dest text not null,
    tailnum text, time_hour timestamptz not null, sched_dep_time time not null, dep_time time, dep_delay integer,
    sched_arr_time time not null, arr_time time, arr_delay integer, air_time integer, distance integer not null
);
create function made(first bigint, last bigint) returns setof flights language sql stable as $$
    select date '1996-01-01' + (i / 920)::integer,
           (array['UA','B6','EV','DL','AA','MQ','US','9E','WN','VX','FL','AS','F9','YV','HA','OO'])[1 + i * 7 % 16],
           (1 + i % 920)::integer,
           (array['EWR','JFK','LGA'])[1 + i % 3],
           (array['IAH','MIA','BQN','ATL','ORD','FLL','IAD','MCO','PBI','TPA','LAX','SFO','DFW','BOS'])[1 + i * 11 % 14],
           case when i % 133 <> 0 then 'N' || lpad((i * 7919 % 4043)::text, 5, '0') end,
           timestamptz '1996-01-01 05:00Z' + (i / 920) * interval '1 day' + (i % 920 / 54) * interval '1 hour',
           time '05:00' + (i % 920) * interval '1 minute',
           case when i % 40 <> 0 then time '05:00' + (i % 920 + i * 31 % 97 - 15) * interval '1 minute' end,
           case when i % 40 <> 0 then (i * 31 % 97 - 15)::integer end,
           time '07:00' + (i % 920) * interval '1 minute',
           case when i % 40 <> 0 then time '07:00' + (i % 920 + i * 17 % 113 - 30) * interval '1 minute' end,
           case when i % 40 <> 0 then (i * 17 % 113 - 30)::integer end,
           case when i % 40 <> 0 then (20 + i * 13 % 640)::integer end,
           (80 + i * 41 % 4900)::integer
    from generate_series(first, last) i
$$;
";
/// What names a flight; where tables are only copied it would be in nobody's use.
pub(crate) const KEY: &str = "alter table flights add primary key (day, origin, carrier, flight)";

/// What the largest table, its log and what is copied of it need, bytes.
const DISK: u64 = 5 << 30;
/// Rows that are made by one statement.
const AT_ONCE: usize = 1_000_000;
/// Until the server answers.
const START: Duration = Duration::from_secs(60);

/// See above; it and its folder go with this.
pub(crate) struct Server {
    pub(crate) folder: PathBuf,
    pub(crate) port: u16,
    bin: PathBuf,
    process: Option<Run>,
    /// The command of it.
    postmaster: u32,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let folder = PathBuf::from(format!("/var/tmp/sx-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let disk = rustix::fs::statvfs("/var/tmp").unwrap();
        let free = disk.f_bavail * disk.f_frsize;
        assert!(free >= DISK || is_trial(), "/var/tmp has {} MB, and {} are needed", free >> 20, DISK >> 20);
        std::fs::create_dir_all(folder.join("run")).unwrap();
        let owned = Command::new("chown").args(["-R", "nobody"]).arg(&folder).status();
        assert!(owned.unwrap().success());
        let (_, bin) = newest_engine();
        let mut server = Self { port: free_port(), folder, bin, process: None, postmaster: 0 };
        server.run().await;
        server
    }

    async fn run(&mut self) {
        let (data, run) = (self.folder.join("data"), self.socket_dir());
        let made = as_nobody(&self.bin.join("initdb"))
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"])
            .output();
        let made = made.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        let mut command = as_nobody(&self.bin.join("postgres"));
        command.arg("-D").arg(&data).arg("-c").arg(format!("unix_socket_directories={}", run.display()));
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", &format!("port={}", self.port)]);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let process = Run::start("PostgreSQL", &mut command, self.folder.join("log"));
        self.postmaster = process.pid();
        // A transfer looks for the server at PostgreSQL's own port, which on 127.0.0.1 may be somebody's.
        let socket = format!(".s.PGSQL.{}", self.port);
        std::os::unix::fs::symlink(&socket, run.join(".s.PGSQL.5432")).unwrap();
        let began = Instant::now();
        while self.config("postgres").connect(NoTls).await.is_err() {
            let waits = began.elapsed() < START && !process.is_over();
            assert!(waits, "PostgreSQL does not answer: {}", process.complaints());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.process = Some(process);
        self.client("postgres").await.batch_execute(DEBEZIUM).await.unwrap();
    }

    pub(crate) fn socket_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    fn config(&self, database: &str) -> Config {
        let mut config = Config::new();
        config.host_path(self.socket_dir()).user("postgres").dbname(database);
        config
    }

    /// A session of the superuser's.
    pub(crate) async fn client(&self, database: &str) -> Client {
        let (client, connection) = self.config(database).connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// What it calls itself.
    pub(crate) async fn version(&self) -> String {
        one(&self.client("postgres").await, "show server_version").await
    }

    /// A database with so many flights; how many bytes the table has.
    pub(crate) async fn fill(&self, database: &str, rows: u64, more: &str) -> u64 {
        let admin = self.client("postgres").await;
        admin.batch_execute(&format!("create database {database} template template0")).await.unwrap();
        let client = self.client(database).await;
        client.batch_execute(FLIGHTS).await.unwrap();
        for first in (1..=rows).step_by(AT_ONCE) {
            let last = rows.min(first - 1 + AT_ONCE as u64);
            let insert = format!("insert into flights select * from made({first}, {last})");
            client.batch_execute(&insert).await.unwrap();
            // So its log takes no more room than it has to.
            client.batch_execute("checkpoint").await.unwrap();
        }
        client.batch_execute(more).await.unwrap();
        client.batch_execute("vacuum (freeze, analyze) flights").await.unwrap();
        client.batch_execute("checkpoint").await.unwrap();
        one(&client, "select pg_table_size('flights')").await.parse().unwrap()
    }

    pub(crate) async fn drop_database(&self, database: &str) {
        let admin = self.client("postgres").await;
        admin.batch_execute(&format!("drop database {database} with (force)")).await.unwrap();
        admin.batch_execute("checkpoint").await.unwrap();
    }

    /// Processor time of all of its processes until now; seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        family_cpu_seconds(self.postmaster)
    }

    /// A program of its own, told where it is.
    pub(crate) fn tool(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env("PGHOST", self.socket_dir()).env("PGPORT", self.port.to_string());
        command.env("PGUSER", "postgres").env("PGDATABASE", database);
        command.stdout(Stdio::piped());
        command
    }

    /// A file for what somebody complains of.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // Its children end with it.
            process.end_at_once();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The one value of an answer.
pub(crate) async fn one(client: &Client, sql: &str) -> String {
    rows(client, sql).await.remove(0).remove(0)
}

/// All values of an answer, as text; none for one that is missing.
pub(crate) async fn rows(client: &Client, sql: &str) -> Vec<Vec<String>> {
    let said = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = said.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let texts = (0..row.len()).map(|column| row.get(column).unwrap_or_default().to_owned());
            Some(texts.collect())
        }
        _ => None,
    });
    rows.collect()
}

/// Bytes of a folder's files.
pub(crate) fn bytes_in(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes_in(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
