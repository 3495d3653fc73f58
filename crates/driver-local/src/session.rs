//! Sessions in a server, over its Unix socket.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use component::DriverError;
use component::postgres::{ADMIN_ROLE, OWNER_ROLE};
use keeper::wire::Name;
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::{Client, Config, NoTls};

use crate::socket::ServerSocket;
use crate::{Local, lock};

/// Sessions of one pass.
#[derive(Clone)]
pub(crate) struct Kept {
    /// As `stead_admin` in the database `postgres`, where no tenant can have set or made anything.
    pub(crate) admin: Arc<Client>,
    /// As `stead_admin` in the tenant's database.
    pub(crate) inside: Option<Arc<Client>>,
    /// What was seen by them, until Stead itself does something inside the server: within a pass nothing else
    /// is looked for there twice.
    pub(crate) seen: Option<component::postgres::Session>,
}

impl Kept {
    pub(crate) fn new(admin: Client) -> Self {
        Self { admin: Arc::new(admin), inside: None, seen: None }
    }
}

/// How long a server may take to take a session.
const CONNECT: Duration = Duration::from_secs(5);

/// Signs in as `stead_admin`.
///
/// Names without a schema are `pg_catalog`'s, and a statement that fails is not logged with its text. No
/// setting that the spec owns is set here: the session is where drift is looked for.
pub(crate) async fn admin(socket: &Path, database: &str) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.user(ADMIN_ROLE).dbname(database).application_name("stead").options(
        "-c search_path=pg_catalog -c log_min_error_statement=panic -c statement_timeout=20s \
             -c lock_timeout=5s -c default_transaction_read_only=off",
    );
    connect(socket, &config).await
}

/// Signs in as the tenant's owner, to change something.
pub(crate) async fn owner(
    socket: &Path,
    database: &str,
    password: &SecretString,
) -> Result<Client, tokio_postgres::Error> {
    as_owner(socket, database, password, "-c default_transaction_read_only=off").await
}

/// Signs in as the tenant's owner, for a look at what the tenant may have put a trap in the place of: a
/// statement that does not end is ended by the server, so that none is left behind.
pub(crate) async fn owner_looking(
    socket: &Path,
    database: &str,
    password: &SecretString,
) -> Result<Client, tokio_postgres::Error> {
    as_owner(
        socket,
        database,
        password,
        "-c search_path=pg_catalog -c statement_timeout=10s -c lock_timeout=5s",
    )
    .await
}

async fn as_owner(
    socket: &Path,
    database: &str,
    password: &SecretString,
    options: &str,
) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config
        .user(OWNER_ROLE)
        .dbname(database)
        .password(password.expose_secret())
        .application_name("stead migrations")
        .options(options);
    connect(socket, &config).await
}

async fn connect(socket: &Path, config: &Config) -> Result<Client, tokio_postgres::Error> {
    let stream = ServerSocket::connect(socket, CONNECT).await;
    let (client, mut connection) = config.connect_raw(stream, NoTls).await?;
    // Ends by itself when the client is dropped; an error shows up at the client's next query. Notices are a
    // tenant's words and no line of the control plane's log.
    tokio::spawn(async move {
        while let Some(Ok(_)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {}
    });
    Ok(client)
}

impl Local {
    /// The administration session of this pass.
    pub(crate) async fn admin(
        &self,
        handle: &str,
        socket: &Path,
    ) -> Result<Arc<Client>, tokio_postgres::Error> {
        if let Some(kept) = lock(&self.0.sessions).get(handle)
            && !kept.admin.is_closed()
        {
            return Ok(Arc::clone(&kept.admin));
        }
        let kept = Kept::new(admin(socket, "postgres").await?);
        let admin = Arc::clone(&kept.admin);
        lock(&self.0.sessions).insert(handle.to_owned(), kept);
        Ok(admin)
    }

    /// The administration session of this pass in the tenant's database.
    pub(crate) async fn inside(
        &self,
        handle: &str,
        socket: &Path,
        database: &str,
    ) -> Result<Arc<Client>, tokio_postgres::Error> {
        let kept = lock(&self.0.sessions).get(handle).and_then(|kept| kept.inside.clone());
        if let Some(inside) = kept.filter(|inside| !inside.is_closed()) {
            return Ok(inside);
        }
        let inside = Arc::new(admin(socket, database).await?);
        if let Some(kept) = lock(&self.0.sessions).get_mut(handle) {
            kept.inside = Some(Arc::clone(&inside));
        }
        Ok(inside)
    }

    /// What was seen inside a server holds no longer.
    pub(crate) fn look_again(&self, handle: &str) {
        if let Some(kept) = lock(&self.0.sessions).get_mut(handle) {
            kept.seen = None;
        }
    }

    pub(crate) fn forget_session(&self, handle: &str) {
        lock(&self.0.sessions).remove(handle);
    }

    /// Whether a server says of itself that it takes sessions. Asked before a session is tried, which would
    /// cost a server that is just starting a process and a line in its log.
    pub(crate) async fn says_ready(&self, unit: &Name) -> Result<bool, DriverError> {
        let unit = unit.clone();
        self.keeper(move |keeper| keeper.ready(&unit)).await
    }

    /// Waits until the server takes a session, at most `limit`; what it said last otherwise.
    pub(crate) async fn await_ready(
        &self,
        unit: &Name,
        socket: &Path,
        limit: Duration,
    ) -> Result<Client, String> {
        let until = Instant::now() + limit;
        loop {
            let late = Instant::now() >= until;
            if late || self.says_ready(unit).await.map_err(|error| error.to_string())? {
                match admin(socket, "postgres").await {
                    Ok(client) => return Ok(client),
                    Err(error) if late => return Err(describe(&error)),
                    Err(_) => {}
                }
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A database error in words: message, detail and hint, without the driver's own prefix.
pub(crate) fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        let cause = std::error::Error::source(error);
        return cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
    };
    let parts = [Some(db.message()), db.detail(), db.hint()];
    shortened(&parts.into_iter().flatten().collect::<Vec<_>>().join("; "))
}

/// What a server said, at a length that fits a line of the journal: a tenant's function can say a gigabyte.
pub(crate) fn shortened(said: &str) -> String {
    const LONGEST: usize = 2_000;
    match said.char_indices().nth(LONGEST) {
        None => said.to_owned(),
        Some((end, _)) => format!("{} ...", said.get(..end).unwrap_or_default()),
    }
}
