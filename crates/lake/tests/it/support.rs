//! A lake, and its service.

use std::path::PathBuf;
use std::sync::Arc;

use deltalake::arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use deltalake::kernel::{DataType, StructField};
use postgres_protocol::password::scram_sha_256;
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, Error, NoTls};
use transfer::Lsn;
use transfer::lake::{LakeTable, Writer};
use url::Url;

pub(crate) const PASSWORD: &str = "correct horse";

/// A folder, and a service that reads it.
pub(crate) struct Lake {
    home: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), lake::Error>>,
}

impl Lake {
    pub(crate) async fn start() -> Self {
        Self::start_with(json!({})).await
    }

    /// Some settings are others.
    pub(crate) async fn start_with(others: Value) -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("lake/public")).unwrap();
        let mut settings = json!({
            "socket_dir": home.path(),
            "lake": home.path().join("lake"),
            "database": "lake",
            "verifiers": { "ann": scram_sha_256(PASSWORD.as_bytes()) },
            "gateway_uid": uid(),
            "memory_bytes": 64 << 20,
            "timeout_ms": 60_000,
            "sessions": 4,
        });
        settings.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
        let file = home.path().join("lake.json");
        std::fs::write(&file, settings.to_string()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(async move { lake::serve(&file, async { stopped.await.unwrap() }).await });
        let lake = Self { home, stop: Some(stop), served };
        while UnixStream::connect(lake.socket()).await.is_err() {
            assert!(!lake.served.is_finished(), "{:?}", lake.served.await);
            tokio::task::yield_now().await;
        }
        lake
    }

    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.served.await.unwrap().unwrap();
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.home.path().join("lake")
    }

    pub(crate) fn home(&self) -> PathBuf {
        self.home.path().to_owned()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join(".s.PGSQL.5432")
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = Config::new();
        config.host_path(self.home.path()).user("ann").password(PASSWORD).dbname("lake");
        config
    }

    pub(crate) async fn client(&self) -> Client {
        connect(&self.config()).await.unwrap()
    }

    /// Opens a table of `id` and `value`, to be appended to.
    pub(crate) async fn table(&self, schema: &str, name: &str) -> Appender {
        let place = Url::from_directory_path(self.folder().join(schema).join(name)).unwrap().into();
        let fields = vec![
            StructField::nullable("id", DataType::LONG),
            StructField::nullable("value", DataType::STRING),
        ];
        let writer = Writer { name: format!("test/{schema}.{name}"), epoch: "1".into() };
        Appender { table: LakeTable::open(&place, writer, fields).await.unwrap(), commits: 0 }
    }
}

/// Whoever runs the tests.
pub(crate) fn uid() -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").unwrap().uid()
}

pub(crate) async fn connect(config: &Config) -> Result<Client, Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Writes a table, as a transfer does.
pub(crate) struct Appender {
    table: LakeTable,
    commits: u64,
}

impl Appender {
    /// A version more, with these ids.
    pub(crate) async fn append(&mut self, ids: impl IntoIterator<Item = i64>) {
        self.commits += 1;
        let ids: Int64Array = ids.into_iter().map(Some).collect();
        let values: StringArray = ids.values().iter().map(|id| Some(format!("value {id}"))).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(values)];
        let batch = RecordBatch::try_new(self.table.schema().unwrap(), columns).unwrap();
        self.table.append(batch, Lsn::from(self.commits)).await.unwrap();
    }
}

/// The one value of an answer.
pub(crate) async fn count(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// The code and the message of an error.
pub(crate) fn said(error: &Error) -> (String, String) {
    let said = error.as_db_error().unwrap_or_else(|| panic!("{error:?}"));
    (said.code().code().to_owned(), said.message().to_owned())
}
