//! Servers in which nothing of Stead's is: the way there, what is believed, and what each wrong thing is called.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use secrecy::ExposeSecret;
use serde_json::Value;
use test_support::{Cluster, Listening};
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use transfer::address::Address;
use transfer::wire::{Cursor, Elsewhere, Left, Mode, Settings, Status, TableState};

use crate::site::lake_rows;

const PASSWORD: &str = "s3cret-and-long";
const GIB: u64 = 1 << 30;

/// A server, and a relay by which alone it is reached.
struct Away {
    cluster: Cluster,
    client: Client,
    home: tempfile::TempDir,
    relay: JoinHandle<()>,
}

impl Drop for Away {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

/// A process of a transfer; ended with this.
struct Copier {
    status: PathBuf,
    lake: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Copier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Away {
    async fn new(listening: Listening, sql: &str) -> Self {
        Self::of(16, listening, sql).await
    }

    async fn of(major: u16, listening: Listening, sql: &str) -> Self {
        let cluster = Cluster::listening(major, listening).await;
        let client = cluster.connect("postgres").await;
        let role = format!(
            "set password_encryption = 'scram-sha-256'; create role reader login password '{PASSWORD}'"
        );
        client.batch_execute(&role).await.unwrap();
        client.batch_execute(sql).await.unwrap();
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(home.path().join("relay/routes")).unwrap();
        std::fs::write(home.path().join("relay/relay.json"), r#"{"networks": ["127.0.0.0/8"]}"#).unwrap();
        let path = home.path().to_owned();
        let relay = tokio::spawn(async move { relay::run(&path, std::future::pending()).await.unwrap() });
        let away = Self { cluster, client, home, relay };
        away.lead("127.0.0.1", away.cluster.port()).await;
        away
    }

    async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    async fn one(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }

    async fn lead(&self, host: &str, port: u16) {
        let route = serde_json::json!({ "host": host, "port": port }).to_string();
        std::fs::write(self.home.path().join("relay/routes/a.json"), route).unwrap();
        while relay::refresh(self.home.path(), "a").await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    /// The end of a URL, and who reads how.
    fn settings(&self, mode: Mode, url: &str) -> Settings {
        let address = Address::parse(&url.into()).unwrap();
        let folder = self.home.path().join(format!("{:x}", rand::random::<u64>()));
        std::fs::create_dir_all(folder.join("lake/public")).unwrap();
        let elsewhere = Elsewhere {
            socket: self.home.path().join("relay/sockets/a").join(relay::SOCKET),
            host: address.host,
            user: address.user,
            tls: address.tls,
            ca: None,
            tables: vec![("public".into(), "%".into())],
            most_kept_bytes: GIB,
            secret: "LEGACY_URL".into(),
            leaves: false,
        };
        Settings {
            name: "test".into(),
            mode,
            socket_dir: "/nowhere".into(),
            database: address.database,
            role: "stead_0123456789abcdef".into(),
            password: address.password,
            elsewhere: Some(elsewhere),
            lake: folder.join("lake"),
            bucket: None,
            memory: folder.join("memory.json"),
            status: folder.join("status.json"),
            parts: Vec::new(),
            every_ms: 200,
            keep_ms: 7 * 24 * 3_600_000,
            keep_changes_ms: None,
            resyncs: 0,
            table_resyncs: std::collections::BTreeMap::new(),
            asked: 0,
        }
    }

    fn url(&self, host: &str, end: &str) -> String {
        format!("postgres://reader:{PASSWORD}@{host}:{}/postgres{end}", self.cluster.port())
    }

    fn reads(&self, mode: Mode) -> Settings {
        self.settings(mode, &self.url("127.0.0.1", "?sslmode=disable"))
    }

    /// What a copier says that goes by these settings, once it is what is waited for.
    async fn says(&self, settings: &Settings, wanted: impl Fn(&Status) -> bool) -> Status {
        self.copier(settings).says(wanted).await
    }

    /// Why nothing goes on.
    async fn trouble(&self, settings: &Settings) -> String {
        let said = self.says(settings, |status| status.trouble.is_some()).await.trouble.unwrap();
        assert!(!said.contains(PASSWORD), "{said}");
        said
    }

    fn copier(&self, settings: &Settings) -> Copier {
        let file = settings.memory.with_file_name("transfer.json");
        std::fs::write(&file, serde_json::to_string(settings).unwrap()).unwrap();
        let run = async move { transfer::run::run(&file, std::future::pending()).await.unwrap() };
        let (status, lake) = (settings.status.clone(), settings.lake.clone());
        let _ = std::fs::remove_file(&status);
        Copier { status, lake, task: tokio::spawn(run) }
    }
}

impl Copier {
    async fn says(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let mut last = None;
        for _ in 0..6_000 {
            let said = std::fs::read(&self.status).ok().and_then(|said| serde_json::from_slice(&said).ok());
            if let Some(status) = said {
                if wanted(&status) {
                    return status;
                }
                last = Some(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it says {last:?}");
    }

    /// The rows of a table, by a column.
    fn rows(&self, table: &str, column: &str) -> Vec<String> {
        if !self.lake.join("public").join(table).join("_delta_log").exists() {
            return Vec::new();
        }
        let rows = lake_rows("duckdb", Path::new(&self.lake.join("public").join(table)));
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let mut rows: Vec<String> = rows.iter().map(|row| text(&row[column])).collect();
        rows.sort();
        rows
    }

    async fn has(&self, table: &str, column: &str, wanted: &[&str]) {
        for _ in 0..300 {
            if self.rows(table, column) == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{table} has {:?}: {:?}", self.rows(table, column), std::fs::read_to_string(&self.status));
    }
}

fn table<'s>(status: &'s Status, name: &str) -> Option<&'s transfer::wire::TableStatus> {
    status.tables.iter().find(|table| table.name == name)
}

fn why(status: &Status, name: &str) -> String {
    table(status, name).and_then(|table| table.why.clone()).unwrap_or_default()
}

fn query() -> Mode {
    Mode::Query(Cursor { column: "at".into(), overlap: None })
}

/// An authority, and a certificate of it for these names.
pub(crate) fn certificates(names: &[&str]) -> (String, (String, String)) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, format!("authority {:x}", rand::random::<u64>()));
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    (ca, (leaf.pem(), key.serialize_pem()))
}

const ITEMS: &str =
    "create table items (id int primary key, name text, at timestamptz not null default clock_timestamp());
    insert into items values (1, 'one'), (2, 'two'); grant select on items to reader";

/// To be read is all that is asked of the server, and what may not be read is named with the others going on.
#[tokio::test]
async fn rows_are_read_with_select_alone() {
    let sql = format!(
        "{ITEMS}; create table closed (id int primary key, at timestamptz);
         create table hidden (id int primary key, at timestamptz default now());
         alter table hidden enable row level security; grant select on hidden to reader;
         create table loose (what text); grant select on loose to reader;
         create table parts (id int, name text, at timestamptz default now()) partition by list (id);
         create table part_1 partition of parts for values in (1); insert into parts values (1, 'part');
         grant select on parts to reader; create schema shut; create table shut.t (id int, at timestamptz)"
    );
    for major in [15, 18] {
        let away = Away::of(major, Listening::default(), &sql).await;
        let newer = away.copier(&away.reads(query()));
        newer.has("items", "name", &["one", "two"]).await;
        newer.has("parts", "name", &["part"]).await;
        away.sql("update items set name = 'zwei', at = clock_timestamp() where id = 2").await;
        newer.has("items", "name", &["one", "zwei"]).await;
        let whole = away.copier(&away.reads(Mode::Snapshot));
        whole.has("items", "name", &["one", "zwei"]).await;
        whole.has("loose", "what", &[]).await;
        away.sql("delete from items where id = 1").await;
        whole.has("items", "name", &["zwei"]).await;
        let status = newer.says(|status| !why(status, "public.closed").is_empty()).await;
        assert_eq!(
            why(&status, "public.closed"),
            "the role reader may not read it: `grant select on public.closed to \"reader\"`"
        );
        assert!(why(&status, "public.hidden").contains("bypassrls"));
        assert!(why(&status, "public.loose").contains("it has no column at"));
        // What is granted is taken up, and what is shut altogether is said.
        away.sql("grant select on closed to reader").await;
        newer
            .says(|status| table(status, "public.closed").is_some_and(|is| is.state == TableState::Copied))
            .await;
        let mut settings = away.reads(Mode::Snapshot);
        settings.elsewhere.as_mut().unwrap().tables = vec![("shut".into(), "%".into())];
        let status = away.says(&settings, |status| table(status, "shut.t").is_some()).await;
        assert!(
            why(&status, "shut.t")
                .contains("grant usage on schema \"shut\" to \"reader\"; grant select on shut.t")
        );
        // Nothing was made there.
        let made =
            "select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)
                         + (select count(*) from pg_namespace where nspname like 'stead%')";
        assert_eq!(away.one(made).await, 0);
    }
}

#[tokio::test]
async fn only_who_proves_who_he_is_is_believed() {
    let (ca, tls) = certificates(&["db.example.com", "127.0.0.1"]);
    let (other, _) = certificates(&["db.example.com"]);
    let away = Away::new(Listening { tls: Some(tls), ..Listening::default() }, ITEMS).await;
    let with = |host: &str, mode: &str, ca: Option<&String>| {
        let mut settings = away.settings(query(), &away.url(host, mode));
        settings.elsewhere.as_mut().unwrap().ca = ca.cloned();
        settings
    };
    let is_encrypted = "select count(*) from pg_stat_ssl s join pg_stat_activity a using (pid)
                        where a.usename = 'reader' and s.ssl";
    for (host, mode, ca) in [
        ("db.example.com", "", Some(&ca)),
        ("127.0.0.1", "?sslmode=verify-full", Some(&ca)),
        ("other.example.com", "?sslmode=verify-ca", Some(&ca)),
        ("other.example.com", "?sslmode=require", None),
        ("other.example.com", "?sslmode=prefer", None),
        ("127.0.0.1", "", None),
    ] {
        let copier = away.copier(&with(host, mode, ca));
        copier.has("items", "name", &["one", "two"]).await;
        // Between two readings there may be no session.
        let mut seen = 0;
        for _ in 0..1_000 {
            seen = away.one(is_encrypted).await;
            if seen > 0 {
                break;
            }
        }
        assert!(seen > 0, "{host}{mode}");
    }
    for (host, mode, ca, said) in [
        ("db.example.com", "", None, "of an authority that is not known here"),
        ("db.example.com", "", Some(&other), "of an authority that is not known here"),
        ("db.example.com", "?sslmode=verify-ca", Some(&other), "of an authority that is not known here"),
        ("db.example.com", "?sslmode=require", Some(&other), "of an authority that is not known here"),
        ("other.example.com", "", Some(&ca), "is not for that name"),
        ("db.example.com", "", Some(&"nonsense".to_owned()), "holds no certificate"),
    ] {
        let trouble = away.trouble(&with(host, mode, ca)).await;
        assert!(trouble.contains(said), "{host}{mode}: {trouble}");
    }
    let plain = Away::new(Listening::default(), ITEMS).await;
    let mut settings = plain.settings(query(), &plain.url("db.example.com", ""));
    settings.elsewhere.as_mut().unwrap().ca = Some(ca);
    let trouble = plain.trouble(&settings).await;
    assert!(trouble.contains("speaks no TLS") && trouble.contains("sslmode=disable"), "{trouble}");
}

#[tokio::test]
async fn whoever_does_not_let_in_is_named_with_what_to_do() {
    let away = Away::new(Listening::default(), ITEMS).await;
    let good = away.url("127.0.0.1", "");
    for (url, said) in [
        (good.replace(PASSWORD, "wrong"), "refuses the password of reader"),
        (good.replace(&format!(":{PASSWORD}"), ""), "asks for a password"),
        (good.replace("reader", "nobody"), "refuses the password of nobody"),
        (good.replace("/postgres", "/nothing"), "database \"nothing\" does not exist"),
    ] {
        let trouble = away.trouble(&away.settings(query(), &url)).await;
        assert!(trouble.contains(said), "{trouble}");
        assert!(trouble.contains("stead secret set LEGACY_URL"), "{trouble}");
    }
    away.sql("alter role reader nologin").await;
    assert!(away.trouble(&away.reads(query())).await.contains("does not let reader in"));
    away.sql("alter role reader login").await;
    let copier = away.copier(&away.reads(query()));
    copier.has("items", "name", &["one", "two"]).await;
    // Gone and come back, it goes on.
    away.lead("no-such-host.invalid", 5432).await;
    let status = copier.says(|status| status.trouble.is_some()).await;
    assert!(status.trouble.unwrap().contains("127.0.0.1 cannot be reached: failed to lookup"));
    away.lead("169.254.169.254", 5432).await;
    copier
        .says(|status| status.trouble.as_ref().is_some_and(|why| why.contains("is not a public one")))
        .await;
    away.lead("127.0.0.1", away.cluster.port()).await;
    copier.says(|status| status.trouble.is_none()).await;
    away.sql("insert into items values (3, 'three')").await;
    copier.has("items", "name", &["one", "three", "two"]).await;
}

/// Without a publication somebody else makes it; with the right to, it is made; and it goes with the transfer.
#[tokio::test]
async fn changes_are_followed_and_nothing_stays_behind() {
    for major in [15, 18] {
        let away = Away::of(
            major,
            Listening::default(),
            &format!(
                "{ITEMS}; create table loose (what text);
            create unlogged table quick (id int primary key); grant select on loose, quick to reader"
            ),
        )
        .await;
        let settings = away.reads(Mode::Stream);
        let copier = away.copier(&settings);
        let trouble = async |part: &str| {
            let says = |status: &Status| status.trouble.as_ref().is_some_and(|why| why.contains(part));
            copier.says(says).await.trouble.unwrap()
        };
        let said = trouble("`alter role \"reader\" replication`").await;
        assert!(said.contains("may not read its log"), "{said}");
        away.sql("alter role reader replication").await;
        let said = trouble("create publication").await;
        // The statement that is told does it.
        let statement = said.split('`').nth(1).unwrap();
        assert!(statement.contains("for table only public.items with"), "{statement}");
        away.sql(statement).await;
        copier.has("items", "name", &["one", "two"]).await;
        away.sql("update items set name = 'zwei' where id = 2; insert into items values (3, 'three')").await;
        copier.has("items__changes", "_op", &["insert", "update"]).await;
        copier.has("items", "name", &["one", "three", "zwei"]).await;
        let status = copier.says(|status| status.remark.is_some()).await;
        assert!(status.remark.clone().unwrap().contains("`max_slot_wal_keep_size` is -1"));
        assert!(status.behind.unwrap().room_bytes.is_some_and(|room| room <= GIB));
        assert!(why(&status, "public.loose").contains("nothing identifies its rows"));
        assert!(why(&status, "public.quick").contains("it is unlogged"));
        // One that is new is not published by itself: the table is somebody else's.
        away.sql("create table more (id int primary key); grant select on more to reader").await;
        let status = copier.says(|status| !why(status, "public.more").is_empty()).await;
        let more = why(&status, "public.more");
        away.sql(more.split('`').nth(1).unwrap()).await;
        away.sql("insert into more values (1)").await;
        copier.has("more", "id", &["1"]).await;
        drop(copier);

        // It leaves: the slot goes, and the publication, which is not its own, stays.
        let mut leaving = settings;
        leaving.elsewhere.as_mut().unwrap().leaves = true;
        let status = away.says(&leaving, |status| status.left.is_some()).await;
        assert_eq!(status.left, Some(Left::Nothing));
        assert_eq!(away.one("select count(*) from pg_replication_slots").await, 0);
        assert_eq!(away.one("select count(*) from pg_publication").await, 1);
    }
}

#[tokio::test]
async fn whoever_owns_the_tables_publishes_them_himself() {
    let sql = format!(
        "{ITEMS}; alter role reader replication; alter table items owner to reader; grant create on database postgres to reader"
    );
    let away = Away::new(Listening::default(), &sql).await;
    let settings = away.reads(Mode::Stream);
    let copier = away.copier(&settings);
    copier.has("items", "name", &["one", "two"]).await;
    away.sql("create table more (id int primary key); insert into more values (1); alter table more owner to reader").await;
    copier.has("more", "id", &["1"]).await;
    // Without a key its owner could change no row of it any more, were it still published.
    away.sql("alter table more drop constraint more_pkey").await;
    copier.says(|status| why(status, "public.more").contains("nothing identifies")).await;
    away.sql("update more set id = 2").await;
    drop(copier);
    let mut leaving = settings;
    leaving.elsewhere.as_mut().unwrap().leaves = true;
    away.says(&leaving, |status| status.left == Some(Left::Nothing)).await;
    assert_eq!(
        away.one(
            "select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)"
        )
        .await,
        0
    );
}

#[tokio::test]
async fn a_server_that_tells_no_changes_says_what_to_set() {
    let owned = format!("{ITEMS}; alter role reader superuser");
    let with = |settings: &[&str]| Listening {
        settings: settings.iter().map(|is| (*is).to_owned()).collect(),
        tls: None,
    };
    let replica = Away::new(with(&["wal_level=replica", "max_replication_slots=0"]), &owned).await;
    let trouble = replica.trouble(&replica.reads(Mode::Stream)).await;
    assert!(trouble.contains("`wal_level` is replica") && trouble.contains("alter system"), "{trouble}");
    let full = Away::new(with(&["max_replication_slots=1"]), &owned).await;
    full.sql("select pg_create_physical_replication_slot('taken')").await;
    let trouble = full.trouble(&full.reads(Mode::Stream)).await;
    assert!(trouble.contains("no free replication slot"), "{trouble}");
    let half = Away::new(Listening::default(), &owned).await;
    half.sql("create publication stead_0123456789abcdef for table items with (publish = 'insert')").await;
    let copier = half.copier(&half.reads(Mode::Stream));
    let trouble = copier.says(|status| status.trouble.is_some()).await.trouble.unwrap();
    half.sql(trouble.split('`').nth(1).unwrap()).await;
    copier.has("items", "name", &["one", "two"]).await;
}

/// Beyond its limit it lets go by itself, and one command repairs it.
#[tokio::test]
async fn no_disk_of_somebody_else_is_filled() {
    let away = Away::new(Listening::default(), &format!("{ITEMS}; alter role reader superuser")).await;
    let mut settings = away.reads(Mode::Stream);
    let copier = away.copier(&settings);
    copier.has("items", "name", &["one", "two"]).await;
    drop(copier);
    // It stood still meanwhile.
    settings.elsewhere.as_mut().unwrap().most_kept_bytes = 1_000_000;
    away.sql("create table junk as select repeat('x', 1000) from generate_series(1, 10000)").await;
    let status = away.says(&settings, |status| status.stopped).await;
    assert!(status.trouble.unwrap().contains("more than it should"));
    assert_eq!(away.one("select count(*) from pg_replication_slots").await, 0);
    let status = away.says(&settings, |status| status.stopped).await;
    assert!(status.trouble.unwrap().contains("stead resync"));
    away.sql("drop table junk; insert into items values (3, 'three')").await;
    (settings.resyncs, settings.asked) = (1, 1);
    let copier = away.copier(&settings);
    copier.has("items", "name", &["one", "three", "two"]).await;
}

#[tokio::test]
async fn what_cannot_be_taken_away_is_told() {
    let away = Away::new(Listening::default(), ITEMS).await;
    let mut settings = away.reads(Mode::Stream);
    settings.elsewhere.as_mut().unwrap().leaves = true;
    settings.password = "wrong".into();
    assert_eq!(settings.password.expose_secret(), "wrong");
    let status = away.says(&settings, |status| status.left.is_some()).await;
    match status.left {
        Some(Left::Remains(what)) => {
            assert!(what.contains("select pg_drop_replication_slot('stead_0123456789abcdef')"), "{what}");
            assert!(what.contains("refuses the password"), "{what}");
        }
        other => panic!("{other:?}"),
    }
}
