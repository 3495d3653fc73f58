//! The API over a journal of ten million lines and a fleet of ten thousand steads, in a control database of its own:
//! what a page of history, a search that finds nothing, and a page of the fleet take, through HTTP.
//!
//! The database is the tests' own (engine 15, 16 MiB of shared buffers), which has less memory than the control
//! plane's. A tenant has more than half of all lines, another has written nothing for a year, one has three. To fill it
//! takes ten minutes; `STEAD_BENCH_RECORDS=postgres://…` names one that has such a journal already.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use component::Role;
use component::postgres::{Major, Wish, resolve};
use component::status::{Backups, Drill, Endpoint};
use component::{ComponentId, Condition, ConditionKind, Offer, Phase, Status};
use jiff::Timestamp;
use secrecy::ExposeSecret;
use server::{Sessions, Settings, Stream};
use store::journal::Actor;
use store::{InstallationKey, Store};
use test_support::ControlDatabase;

use crate::{ms, row};

/// Lines of the journal.
const LINES: u32 = 10_000_000;
/// Steads of the fleet, and the tenants that they belong to.
const STEADS: u32 = 10_000;
const TENANTS: u32 = 300;
/// Times that each call is made.
const ROUNDS: usize = 50;

struct NoServers;

#[async_trait]
impl Sessions for NoServers {
    async fn open(&self, _: ComponentId, _: &str) -> std::io::Result<Stream> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

/// A server of the whole API over a database that is full.
struct Full {
    url: String,
    token: String,
    cookie: String,
    http: reqwest::Client,
    // Dropped last: it ends the database.
    _db: Option<ControlDatabase>,
}

impl Full {
    async fn start() -> Self {
        let (db, store) = match std::env::var("STEAD_BENCH_RECORDS") {
            Ok(url) => {
                let folder = tempfile::tempdir().unwrap();
                let key = InstallationKey::read_or_make(&folder.path().join("key")).unwrap();
                let store = Store::open(url.parse().unwrap(), key).await.unwrap();
                let (sql, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
                tokio::spawn(connection);
                if sql.query("select from steads limit 1", &[]).await.unwrap().is_empty() {
                    fill_fleet(&sql).await;
                }
                (None, store)
            }
            Err(_) => {
                let db = ControlDatabase::start().await;
                let store = db.store().await;
                let sql = db.connect().await;
                fill_journal(&sql).await;
                fill_fleet(&sql).await;
                writes(&sql).await;
                (Some(db), store)
            }
        };
        let actor = Actor { name: "bench".into(), source: "bench".into() };
        let made = store.create_token(&actor, "bench", None, Role::Operator, None).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            listen: address,
            ca_path: "/nonexistent".into(),
            logs: Arc::new(logs::Store::open(folder.path(), logs::Options::default()).unwrap()),
            version: "bench",
            shared: None,
            sessions: Arc::new(NoServers),
            functions: Arc::new(server::functions::NoEngine),
            console: server::ConsoleSettings {
                url: format!("http://{address}").parse().unwrap(),
                provider: None,
            },
        };
        // Somebody in the console, for its pages.
        let (_, link) = store.invite(&actor, "bench@localhost", None, Role::Operator, true).await.unwrap();
        let person = store.accept_invitation(&link, None, "bench").await.unwrap().unwrap();
        let cookie = format!("stead_session={}", person.session.unwrap().expose_secret());
        tokio::spawn(server::serve(listener, store, settings, std::future::pending()));
        let http = reqwest::Client::builder().build().unwrap();
        let token = made.1.expose_secret().to_owned();
        Self { url: format!("http://{address}"), token, cookie, http, _db: db }
    }

    /// How long each of many calls of a path takes, milliseconds; the first, for which nothing is in memory, is not
    /// among them. Pages are measured by the same.
    async fn times(&self, path: &str) -> Vec<f64> {
        let mut times = Vec::new();
        for round in 0..=ROUNDS {
            let began = Instant::now();
            let url = format!("{}{path}", self.url);
            let answer = self
                .http
                .get(url)
                .bearer_auth(&self.token)
                .header("cookie", &self.cookie)
                .send()
                .await
                .unwrap();
            assert!(answer.status().is_success(), "{path}: {}", answer.status());
            answer.bytes().await.unwrap();
            if round > 0 {
                times.push(ms(began));
            }
        }
        times
    }

    /// How long the command takes, from its start to its end.
    fn command(&self) -> Vec<f64> {
        let run = |_| {
            let began = Instant::now();
            let mut command = std::process::Command::new(crate::stead());
            command.args(["history", "--tenant", "big", "--since", "7d"]);
            let output =
                command.env("STEAD_URL", &self.url).env("STEAD_TOKEN", &self.token).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(!output.stdout.is_empty());
            ms(began)
        };
        (0..ROUNDS).map(run).collect()
    }

    /// Reads a file to its end: lines a second, and the memory that this process took for it.
    async fn export(&self, path: &str) {
        let began = Instant::now();
        let request = self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.token);
        let mut answer = request.send().await.unwrap();
        let (mut bytes, mut lines) = (0, 0);
        while let Some(piece) = answer.chunk().await.unwrap() {
            bytes += piece.len();
            lines += piece.iter().filter(|byte| **byte == b'\n').count();
        }
        let took = began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "millions")]
        let (rate, mib) = (lines as f64 / took, bytes as f64 / 1_048_576.0);
        println!("| export of {lines} lines, {mib:.0} MiB | 1 | {took:.1} s, {rate:.0} lines/s | | | |");
    }
}

pub(crate) async fn records() {
    let full = Full::start().await;
    let history = "/v1/tenants/big/history?";
    for (what, path) in [
        ("7 days of a tenant with 5.5 million lines, newest 100", format!("{history}since=7d")),
        ("the same, newest 500", format!("{history}since=7d&limit=500")),
        ("7 days, the engine's events", format!("{history}since=7d&category=engine")),
        ("7 days, one stead", format!("{history}since=7d&stead=stead-7")),
        ("7 days, one person", format!("{history}since=7d&actor=person-7")),
        ("7 days, refused", format!("{history}since=7d&outcome=refused")),
        ("all time, an action that is rare", format!("{history}action=component.removed")),
        ("all time, person and stead", format!("{history}actor=person-7&stead=stead-7")),
        ("two words that are nowhere (10,000 lines looked at)", format!("{history}q=nothing%20here")),
        ("7 days, two words that are nowhere", format!("{history}since=7d&q=nothing%20here")),
        ("a component that is nowhere", format!("{history}component=postgres.none")),
        ("who never did it (two common filters)", format!("{history}actor=stead&action=component.edited")),
        ("7 days of a tenant whose newest line is a year old", "/v1/tenants/old/history?since=7d".to_owned()),
        ("its newest 100", "/v1/tenants/old/history".to_owned()),
        ("a tenant with 3 lines", "/v1/tenants/tiny/history".to_owned()),
        ("its engine's events, none", "/v1/tenants/tiny/history?category=engine&since=7d".to_owned()),
        ("7 days of the whole installation", "/v1/history?since=7d".to_owned()),
        ("the same, two words that are nowhere", "/v1/history?since=7d&q=nothing%20here".to_owned()),
        ("fleet, first 100 of 10,000 steads", "/v1/steads".to_owned()),
        ("fleet, counts by health", "/v1/steads/health".to_owned()),
        ("fleet, search", "/v1/steads?q=stead-77".to_owned()),
        ("fleet, search that finds nothing", "/v1/steads?q=nothing".to_owned()),
        ("fleet, counts of a search", "/v1/steads/health?q=tenant-1".to_owned()),
        ("fleet, attention", "/v1/steads?health=attention".to_owned()),
        ("fleet, deleting (none is)", "/v1/steads?health=deleting".to_owned()),
        ("a tenant's steads", "/v1/tenants/tenant-7/steads".to_owned()),
        ("page: timeline, 7 days of the large tenant", "/tenants/big/timeline?since=7d".to_owned()),
        ("page: timeline, newest", "/tenants/big/timeline".to_owned()),
        ("page: timeline, 7 days, one person", "/tenants/big/timeline?since=7d&actor=person-7".to_owned()),
        (
            "page: timeline, words that are nowhere",
            "/tenants/big/timeline?since=7d&q=nothing+here".to_owned(),
        ),
        ("page: audit of the whole installation", "/audit?since=7d".to_owned()),
        ("page: fleet of 10,000 steads", "/fleet".to_owned()),
        ("page: fleet, search", "/fleet?q=stead-77".to_owned()),
        ("page: fleet, attention", "/fleet?health=attention".to_owned()),
        ("page: a tenant's steads", "/tenants/tenant-7".to_owned()),
    ] {
        row(what, &full.times(&path).await, None);
    }
    row("`stead history --tenant big --since 7d`, the command", &full.command(), None);
    full.export("/v1/tenants/old/history-export?format=csv").await;
}

/// Fills the journal: 500 days, of which the last seven have a tenth of all lines.
async fn fill_journal(sql: &tokio_postgres::Client) {
    sql.batch_execute(&format!(
        "insert into tenants (id, name, quota_servers, quota_memory_mib, quota_disk_mib)
         select gen_random_uuid(), case n when 1 then 'big' when 2 then 'old' when 3 then 'tiny' else 'tenant-' || n end,
                1000, 1000000, 10000000 from generate_series(1, {TENANTS}) n;
         set session_replication_role = replica;
         create temp table named as select array_agg(id order by name) ids, array_agg(name order by name) names,
             array_position(array_agg(name order by name), 'big') big,
             array_position(array_agg(name order by name), 'old') old,
             array_position(array_agg(name order by name), 'tiny') tiny from tenants;
         {DROP}
         insert into journal (at, tenant_id, tenant, stead, component, actor, source, action, outcome, reason,
                              operation_id, salt, payload_hash)
         select at, ids[t], names[t], 'stead-' || s, 'postgres.main',
             case when a like 'component.%' or a like 'session.%' or a like 'credentials.%'
                  then 'person-' || who else 'stead' end,
             '10.0.0.7 stead/0.1.0', a,
             case when a not like 'component.%' then 'noted' when n % 97 = 0 then 'refused' else 'done' end,
             case when n % 5 = 0 then 'because of ticket ' || n end,
             case when a = 'component.edited' then gen_random_uuid() end,
             decode(md5(n::text), 'hex'), sha256(n::text::bytea)
         from (
             select n, case
                 when n <= {LINES} * 0.9 then now() - interval '500 days' + interval '493 days' * (n / ({LINES} * 0.9))
                 else now() - interval '7 days' * (({LINES} - n) / ({LINES} * 0.1)) end as at,
                 case when n % ({LINES} / 3) = 17 then tiny
                      when random() < 0.55 then big
                      when n < {LINES} * 0.2 and random() < 0.4 then old
                      else 3 + (power(random(), 3) * ({TENANTS} - 4))::int end as t,
                 1 + (power(random(), 2) * 40)::int as s, (random() * 400)::int as who,
                 case when n % 1700000 = 3 then 'component.removed'
                      else (array['server.asleep', 'server.woken', 'server.asleep', 'server.woken', 'server.asleep',
                                  'server.woken', 'drift.found', 'drift.repaired', 'condition.raised',
                                  'condition.cleared', 'backup.drilled', 'component.edited', 'component.edited',
                                  'session.started', 'credentials.shown'])[1 + (random() * 14)::int] end as a
             from generate_series(1, {LINES}) n, named offset 0) made, named;
         insert into journal_payloads select id, case when action = 'component.edited'
             then '{{\"before\": {{\"size\": \"small\", \"allow\": [\"10.0.0.0/8\"]}}, \"after\": {{\"size\": \"medium\", \"allow\": [\"10.0.0.0/8\"]}}}}'
             else '{{\"before\": null, \"after\": null}}' end::jsonb from journal;
         {CREATE}
         set session_replication_role = default;"
    ))
    .await
    .unwrap();
    // One at a time: none of them may stand in a transaction.
    for table in ["journal", "journal_payloads"] {
        sql.batch_execute(&format!("vacuum analyze {table}")).await.unwrap();
    }
    let sizes = "select pg_size_pretty(pg_table_size('journal')), pg_size_pretty(pg_indexes_size('journal')),
                        pg_size_pretty(pg_total_relation_size('journal_payloads'))";
    let sizes = sql.query_one(sizes, &[]).await.unwrap();
    let size = |column: usize| sizes.get::<_, String>(column);
    println!("| journal {}, its indexes {}, payloads {} | 1 | | | | |", size(0), size(1), size(2));
}

/// Fills the fleet: a stead in fifty is blocked.
async fn fill_fleet(sql: &tokio_postgres::Client) {
    let [spec, status, trouble] = texts();
    sql.batch_execute(&format!(
        "set session_replication_role = replica;
         insert into hosts (name, address, port_first, port_last, engines, isolated)
         values ('elsewhere', 'db.example.com', 10000, 30000, '{{18}}', true);
         insert into steads (id, tenant_id, name, app)
         select gen_random_uuid(), t.ids[1 + n % cardinality(t.ids)], 'stead-' || n, 'app-' || n % 40
         from generate_series(1, {STEADS}) n, (select array_agg(id) ids from tenants) t;
         insert into components (id, stead_id, name, spec, status, health, host, port)
         select gen_random_uuid(), s.id, 'postgres.main', '{spec}',
                case when n % 50 = 0 then '{trouble}' else '{status}' end::jsonb,
                (array['ready', 'asleep', 'asleep', 'busy'])[1 + n % 4]::health, 'elsewhere', 10000 + n
         from (select id, row_number() over () n from steads) s;
         update components set health = 'attention' where status @> '{{\"phase\": \"blocked\"}}';
         set session_replication_role = default;"
    ))
    .await
    .unwrap();
    for table in ["steads", "components", "tenants"] {
        sql.batch_execute(&format!("vacuum analyze {table}")).await.unwrap();
    }
}

/// A spec and two statuses, as large as such are.
fn texts() -> [String; 3] {
    let wish = Wish {
        allow: Some((0..8).map(|n| format!("10.{n}.0.0/16").parse().unwrap()).collect()),
        owner: Some("team-flights".into()),
        ..Wish::default()
    };
    let spec = resolve(&wish, None, &Offer { engines: [Major::new(18)].into(), ..Offer::default() }).unwrap();
    let at = Timestamp::now();
    let now = Some(at);
    let (host, database, role) = ("db.example.com".into(), "main".into(), "owner".into());
    let status = Status {
        phase: Phase::Ready,
        endpoint: Some(Endpoint { host, port: 20_000, database, role }),
        version: Some("18.6".into()),
        disk_bytes: Some(123_456_789),
        backups: Some(Backups {
            archive: "archives/0123456789abcdef".into(),
            oldest: now,
            newest: now,
            count: 14,
            last: now,
            bytes: 123_456_789,
            behind_bytes: 0,
            trouble: None,
        }),
        drill: Some(Drill { at, took_ms: 4_321, reached: now, error: None }),
        provisioned_at: now,
        ready_at: now,
        observed_at: now,
        ..Status::default()
    };
    let message =
        "migration 0007_prices.sql failed: relation \"prices\" already exists; edit it and apply again";
    let condition = Condition { kind: ConditionKind::MigrationFailed, message: message.into() };
    let trouble = Status { phase: Phase::Blocked, conditions: vec![condition], ..status.clone() };
    let text = |status: &Status| serde_json::to_string(status).unwrap();
    [serde_json::to_string(&component::Spec::Postgres(spec)).unwrap(), text(&status), text(&trouble)]
}

/// What the indexes cost a line that is written, without the wait for the disk: with those of this version, with the
/// three that there were before, and with none but the primary key.
async fn writes(sql: &tokio_postgres::Client) {
    let lines = 20_000;
    let insert = format!(
        "insert into journal (tenant_id, tenant, stead, component, actor, source, action, outcome, operation_id, salt,
                              payload_hash)
         select tenant_id, tenant, stead, component, actor, source, action, outcome, operation_id, salt, payload_hash
         from sample limit {lines}"
    );
    sql.batch_execute(
        "set session_replication_role = replica;
         create temp table sample as select * from journal tablesample system (0.5) order by random();",
    )
    .await
    .unwrap();
    for (what, before) in
        [("with every index", ""), ("with those of before", DROP_NEW), ("with the primary key alone", DROP)]
    {
        let mut times = Vec::new();
        for _ in 0..5 {
            sql.batch_execute(&format!("begin; {before}")).await.unwrap();
            let began = Instant::now();
            sql.batch_execute(&insert).await.unwrap();
            times.push(ms(began) * 1_000.0 / f64::from(lines));
            sql.batch_execute("rollback").await.unwrap();
        }
        println!("| a line written, {what} | 5 x {lines} | {:.1} us | | | |", crate::median(&times));
    }
    sql.batch_execute("set session_replication_role = default").await.unwrap();
}

const DROP: &str = "drop index journal_by_time, journal_of_tenant, journal_of_stead, journal_of_actor,
                    journal_of_action, journal_refused, journal_of_operation;";
const DROP_NEW: &str =
    "drop index journal_by_time, journal_of_actor, journal_of_action, journal_refused, journal_of_operation;";
const CREATE: &str = "create index journal_by_time on journal (at, id);
    create index journal_of_tenant on journal (tenant_id, at, id);
    create index journal_of_stead on journal (tenant_id, stead, at, id);
    create index journal_of_actor on journal (tenant_id, actor, at, id);
    create index journal_of_action on journal (tenant_id, action, at, id);
    create index journal_refused on journal (tenant_id, at, id) where outcome = 'refused';
    create index journal_of_operation on journal (operation_id, at, id) where operation_id is not null;";
