//! The clients that people use, each over TLS as strict as it knows: sign-in, types, an error by its SQLSTATE,
//! transactions, prepared statements, notifications, and a wrong password refused. The connection log of the
//! gateway says whether the client has bound its sign-in to the certificate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use serde_json::Value;
use test_support::place;
use tokio_postgres::config::ChannelBinding;

use crate::database::{Database, feed, outcome, programs};
use crate::installation::{Installation, until};

/// What `script/setup --tests` puts on this machine, by the variable that `script/environment` sets.
fn provided(variable: &str, below: &str) -> PathBuf {
    let path = place(variable, below);
    assert!(path.exists(), "{} is not there: run script/setup --tests", path.display());
    path
}

fn found(program: &str) -> Command {
    let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status;
    assert!(there.success(), "{program} is not there: run script/setup --tests");
    let mut command = Command::new(program);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", "/nonexistent");
    command
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

fn started() -> Installation {
    let mut stead = Installation::new();
    stead.environment = vec![("STEAD_SPARES".into(), "0".into())];
    stead.start();
    stead
}

/// The URL that a kind of client is given, and the same with another password.
fn urls(stead: &Installation, server: &Database, format: &str) -> (String, String) {
    let url = stead.ok(&["url", "--tenant", "acme", "--stead", "shop", "--format", format]).trim().to_owned();
    let password = server.told("PGPASSWORD");
    assert!(url.contains(password), "{url}");
    (url.clone(), url.replace(password, "wrong"))
}

/// What the connection log says of the last session of a program that ended by itself.
fn logged(stead: &Installation, application: &str) -> Value {
    until("the connection log", || {
        let text = std::fs::read_to_string(stead.home.join("logs/gateway.jsonl")).ok()?;
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.rfind(|line| {
            line["application_name"] == application && line["event"] == "close" && line["signed_in"] == true
        })
    })
}

fn was_bound(stead: &Installation, application: &str) {
    let line = logged(stead, application);
    assert_eq!(line["channel_binding"], true, "{line}");
    assert_eq!(line["tls"], "TLSv1.3", "{line}");
}

const PSQL: &str = r"
\set ON_ERROR_STOP 1
select 41 + 1 = 42 as right, '{1,2}'::int[] = array[1,2] as typed;
\set ON_ERROR_STOP 0
select 1 / 0;
\echo state :LAST_ERROR_SQLSTATE
\set ON_ERROR_STOP 1
create table of_psql (n int);
begin; insert into of_psql values (1); commit;
begin; insert into of_psql values (2); rollback;
select 'rows ' || string_agg(n::text, ' ') from of_psql;
prepare twice(int) as select 'twice ' || $1 * 2;
execute twice(21);
\copy of_psql from program 'seq 1000'
select 'copied ' || count(*) from of_psql;
listen news;
notify news, 'hello';
select 'end';
drop table of_psql;
";

#[test]
fn psql_of_the_oldest_and_the_newest_engine() {
    let stead = started();
    let server = Database::up(&stead, "acme", 18, "", &[]);
    let (url, wrong) = urls(&stead, &server, "libpq");
    for engine in [15, 18] {
        let psql = |url: &str| {
            let mut psql = Command::new(programs(engine).join("psql"));
            psql.env_clear()
                .env("PATH", "/usr/bin:/bin")
                .env("HOME", "/nonexistent")
                .env("PGAPPNAME", format!("psql {engine}"));
            psql.args(["-XAtq", url]);
            psql
        };
        let said = feed(&mut psql(&url), PSQL).unwrap();
        for line in ["t|t", "state 22012", "rows 1", "twice 42", "copied 1001", "end"] {
            assert!(said.lines().any(|said| said == line), "psql {engine}, {line}: {said}");
        }
        assert!(said.contains("\"news\" with payload \"hello\""), "{said}");
        let refused = feed(&mut psql(&wrong), "select 1").unwrap_err();
        assert!(refused.contains("password authentication failed for user \"owner\""), "{refused}");
        was_bound(&stead, &format!("psql {engine}"));
        // The control: what it asks for it insists on. Another certificate than the gateway's is not taken.
        let other = stead.folder().join("other.pem");
        std::fs::write(&other, OTHER_CA).unwrap();
        let strange = url.replace(server.told("PGSSLROOTCERT"), &other.display().to_string());
        let refused = feed(&mut psql(&strange), "select 1").unwrap_err();
        assert!(
            refused.contains("certificate verify failed") || refused.contains("certificate"),
            "{refused}"
        );
        let clear = url
            .replace("sslmode=verify-full", "sslmode=disable")
            .replace("channel_binding=require", "channel_binding=disable");
        let refused = feed(&mut psql(&clear), "select 1").unwrap_err();
        assert!(refused.contains("encrypted connections only"), "{refused}");
    }
    stead.finish();
}

/// A certificate authority that is nobody's.
const OTHER_CA: &str = include_str!("../clients/other-ca.pem");

#[test]
fn pgbench_in_every_protocol() {
    let stead = started();
    for engine in [15, 18] {
        let tenant = if engine == 15 { "acme" } else { "bolt" };
        let server = Database::up(&stead, tenant, engine, "", &[]);
        outcome(&server.program("pgbench").args(["-i", "-s", "1", "-q"]).output().unwrap()).unwrap();
        for protocol in ["simple", "extended", "prepared"] {
            let said = server
                .program("pgbench")
                .args(["-n", "-M", protocol, "-c", "4", "-t", "50"])
                .output()
                .unwrap();
            let said = outcome(&said).unwrap();
            assert!(said.contains("number of transactions actually processed: 200/200"), "{said}");
            assert!(said.contains("number of failed transactions: 0 "), "{said}");
        }
        assert_eq!(server.sql("select count(*) from pgbench_history").unwrap(), "600");
    }
    was_bound(&stead, "pgbench");
    stead.finish();
}

/// A database with what people have in databases.
const FURNISHED: &str = "
create extension pg_trgm;
create type mood as enum ('sad', 'happy');
create table people (id int generated always as identity primary key, name text not null, mood mood, at timestamptz default now());
insert into people (name, mood) select 'person ' || n, case when n % 2 = 0 then 'sad' else 'happy' end::mood from generate_series(1, 5000) n;
create index people_name on people using gin (name gin_trgm_ops);
create view happy as select * from people where mood = 'happy';
create materialized view counts as select mood, count(*) from people group by mood;
create function shout(text) returns text language sql immutable as 'select upper($1)';
create table notes (id int primary key references people, word text collate \"C\");
insert into notes select id, shout(name) from people where id <= 100;
comment on table notes is 'a comment';
";

#[test]
fn a_dump_of_one_stead_goes_into_another() {
    let stead = started();
    // An extension of every kind: the owner's, Stead's, and what every server comes with.
    let extensions = "extensions = [\"hstore\", \"moddatetime\"]\n";
    // Not Debian's 15: since 15.20 its dumps set `pg_attver` on every column, which other servers do not know.
    let old = Database::up(&stead, "acme", 16, extensions, &[("0001.sql", FURNISHED)]);
    let new = Database::up(&stead, "bolt", 18, extensions, &[]);
    let dump = Command::new(programs(18).join("pg_dump"))
        .env_clear()
        .envs(old.environment.iter().cloned())
        .output()
        .unwrap();
    let dump = outcome(&dump).unwrap();
    let said = feed(new.psql().args(["-v", "ON_ERROR_STOP=1"]), &dump).unwrap();
    assert!(!said.contains("ERROR"), "{said}");
    for question in [
        "select count(*), md5(string_agg(p::text, '|' order by id)) from people p",
        "select count(*), md5(string_agg(n::text, '|' order by id)) from notes n",
        "select count(*), sum(count) from counts",
        "select count(*) from happy where name like '%7%'",
        "select string_agg(name || sha256, '|') from stead.migrations",
    ] {
        assert_eq!(old.sql(question).unwrap(), new.sql(question).unwrap(), "{question}");
    }
    stead.finish();
}

#[test]
fn node_pg() {
    let modules = provided("STEAD_TEST_NODE_MODULES", "node/node_modules");
    let stead = started();
    let server = Database::up(&stead, "acme", 18, "", &[]);
    let (url, wrong) = urls(&stead, &server, "libpq");
    let mut node = found("node");
    node.env("NODE_PATH", modules).arg(clients().join("client.js")).args([url, wrong]);
    assert_eq!(outcome(&node.output().unwrap()).unwrap(), "well");
    was_bound(&stead, "node pg");
    stead.finish();
}

#[test]
fn python_psycopg() {
    let python = provided("STEAD_TEST_PYTHON", "python/bin/python");
    let stead = started();
    let server = Database::up(&stead, "acme", 18, "", &[]);
    let (url, wrong) = urls(&stead, &server, "libpq");
    let mut python = Command::new(python);
    python.env_clear().env("HOME", "/nonexistent").arg(clients().join("client.py")).args([url, wrong]);
    assert_eq!(outcome(&python.output().unwrap()).unwrap(), "well");
    was_bound(&stead, "psycopg");
    stead.finish();
}

#[test]
fn java_pgjdbc() {
    let jar = provided("STEAD_TEST_JDBC", "/usr/share/java/postgresql.jar").display().to_string();
    let stead = started();
    let server = Database::up(&stead, "acme", 18, "", &[]);
    let (url, wrong) = urls(&stead, &server, "jdbc");
    let classes = stead.folder().join("classes");
    let mut javac = found("javac");
    javac.args(["-encoding", "UTF-8", "-cp", &jar, "-d"]).arg(&classes).arg(clients().join("Client.java"));
    outcome(&javac.output().unwrap()).unwrap();
    // The SCRAM library is a jar of its own beside Debian's driver.
    let path = format!("{}:{jar}:/usr/share/java/*", classes.display());
    let said =
        outcome(&found("java").args(["-cp", &path, "Client", &url, &wrong]).output().unwrap()).unwrap();
    let line = logged(&stead, "pgJDBC");
    match said.as_str() {
        "well, bound" => assert_eq!(line["channel_binding"], true, "{line}"),
        "well" => assert_eq!(line["tls"], "TLSv1.3", "{line}"),
        other => panic!("{other}"),
    }
    stead.finish();
}

#[test]
fn rust_tokio_postgres() {
    let stead = started();
    let server = Database::up(&stead, "acme", 18, "", &[]);
    tokio::runtime::Runtime::new().unwrap().block_on(tokio_postgres_over_rustls(&server));
    was_bound(&stead, "tokio-postgres");
    stead.finish();
}

async fn tokio_postgres_over_rustls(server: &Database) {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.told("PGSSLROOTCERT")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let tls = tls.with_root_certificates(roots).with_no_client_auth();
    let tls = tokio_postgres_rustls::MakeRustlsConnect::new(tls);
    let mut config = tokio_postgres::Config::new();
    config.host(server.told("PGHOST")).port(server.told("PGPORT").parse().unwrap());
    config.dbname(server.told("PGDATABASE")).user(server.told("PGUSER")).password(server.told("PGPASSWORD"));
    config.ssl_mode(tokio_postgres::config::SslMode::Require).channel_binding(ChannelBinding::Require);
    config.application_name("tokio-postgres");
    let (mut db, mut connection) = config.connect(tls.clone()).await.unwrap();
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        while let Some(message) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let Ok(tokio_postgres::AsyncMessage::Notification(news)) = message {
                told.send(news.payload().to_owned()).unwrap();
            }
        }
    });
    let row = db.query_one("select $1::int4 + 1, $2::text[]", &[&41, &vec!["ä", "b"]]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, Vec<String>>(1)), (42, vec!["ä".into(), "b".into()]));
    let error = db.execute("select 1 / 0", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "22012");
    db.batch_execute("create temp table of_rust (n int)").await.unwrap();
    let kept = db.transaction().await.unwrap();
    kept.execute("insert into of_rust values (1)", &[]).await.unwrap();
    kept.commit().await.unwrap();
    let lost = db.transaction().await.unwrap();
    lost.execute("insert into of_rust values (2)", &[]).await.unwrap();
    lost.rollback().await.unwrap();
    let rows = db.query("select n from of_rust", &[]).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [1]);
    let twice = db.prepare("select $1::int4 * 2").await.unwrap();
    for n in 0..20 {
        assert_eq!(db.query_one(&twice, &[&n]).await.unwrap().get::<_, i32>(0), 2 * n);
    }
    db.batch_execute("listen news; notify news, 'hello'").await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), "hello");
    drop(db);
    reading.await.unwrap();
    config.password("wrong");
    let refused = config.connect(tls).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "28P01");
}
