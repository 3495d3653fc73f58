//! SQL that people run in the console: as their own role, within limits, on record, through the inner door of the gateway.

use std::time::{Duration, Instant};

use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::installation::{Installation, until};
use crate::story::{Story, ask};

/// Somebody at the API.
#[derive(Clone)]
pub(crate) struct Person {
    http: reqwest::Client,
    component: String,
    token: String,
}

impl Person {
    pub(crate) fn of(story: &Story<'_>, scope: &str) -> Self {
        let made = story.json(&["token", "create", scope, "--scope", scope, "--tenant", "acme"]);
        Self::with(story, made["secret"].as_str().unwrap())
    }

    fn operator(story: &Story<'_>) -> Self {
        let token = std::fs::read_to_string(story.stead.home.join("operator.token")).unwrap();
        Self::with(story, token.trim())
    }

    fn with(story: &Story<'_>, token: &str) -> Self {
        // Has the process's TLS provider installed, which every HTTP client asks for.
        let _ = client::Client::new("http://localhost", secrecy::SecretString::from(""));
        let url = story.stead.running().unwrap()["url"].as_str().unwrap().to_owned();
        let component = format!("{url}/v1/tenants/acme/steads/{}/components/postgres.main", story.name);
        Self { http: reqwest::Client::new(), component, token: token.to_owned() }
    }

    /// The same, at another component.
    pub(crate) fn at(self, name: &str) -> Self {
        Self { component: self.component.replace("postgres.main", name), ..self }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}/{path}", self.component)).bearer_auth(&self.token)
    }

    async fn post(&self, body: &Value) -> Response {
        self.request(Method::POST, "query").json(body).send().await.unwrap()
    }

    /// Runs a body to its end; the lines of the answer.
    pub(crate) async fn lines(&self, body: &Value) -> Vec<Value> {
        let response = self.post(body).await;
        let status = response.status();
        let text = response.text().await.unwrap();
        assert!(status.is_success(), "{body}: {status} {text}");
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn sql(&self, sql: &str) -> Vec<Value> {
        self.lines(&json!({ "sql": sql })).await
    }

    /// The only value of the only row; or the SQLSTATE.
    pub(crate) async fn one(&self, sql: &str) -> Result<String, String> {
        let lines = self.sql(sql).await;
        if let Some(error) = lines.iter().find(|line| line["type"] == "error") {
            return Err(error["code"].as_str().unwrap().to_owned());
        }
        Ok(lines.iter().find_map(|line| Some(line.as_array()?[0].as_str()?.to_owned())).unwrap_or_default())
    }

    /// Begins, and answers the query's id with the rest of the answer.
    async fn begin(&self, sql: &str) -> (String, Response) {
        let response = self.post(&json!({ "sql": sql })).await;
        let id = response.headers()["x-query-id"].to_str().unwrap().to_owned();
        (id, response)
    }

    pub(crate) async fn json(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) async fn refused(&self, body: &Value) -> (u16, String) {
        let response = self.post(body).await;
        let status = response.status().as_u16();
        let problem: Value = serde_json::from_str(&response.text().await.unwrap()).unwrap();
        (status, problem["detail"].as_str().unwrap().to_owned())
    }
}

pub(crate) fn last(lines: &[Value]) -> &Value {
    let last = lines.last().unwrap();
    assert_eq!(last["type"], "summary", "{last}");
    last
}

/// What a line of the journal says.
fn told(line: &Value, field: &str) -> Value {
    let all = line["differences"].as_array().unwrap();
    all.iter().find(|one| one["field"] == field).map(|one| one["after"].clone()).unwrap_or_default()
}

fn rows(lines: &[Value]) -> usize {
    lines.iter().filter(|line| line.is_array()).count()
}

/// Statements of the console that are at work in a server.
fn at_work(url: &str) -> usize {
    let question = "select count(*) from pg_stat_activity where application_name like 'stead console:%' and state = 'active'";
    ask(url, question).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_developer_owns_and_a_viewer_looks() {
    let stead = Installation::started();
    // Nobody may come in from a network; the console does.
    let story = Story::up(&stead, "shop", "");
    let (developer, viewer) = (Person::of(&story, "developer"), Person::of(&story, "viewer"));
    let lines = developer.sql("select 1 as a, null as b, 'x' as c").await;
    assert_eq!(lines[0]["type"], "started");
    assert_eq!((&lines[0]["role"], &lines[0]["read_only"]), (&json!("owner"), &json!(false)));
    assert_eq!(lines[1]["columns"][0], json!({"name": "a", "type": "int4", "oid": 23}));
    assert_eq!(lines[2], json!(["1", null, "x"]));
    assert_eq!(lines[3], json!({"type": "done", "command": "SELECT 1", "rows": 1}));
    assert_eq!((&last(&lines)["outcome"], &last(&lines)["rows"]), (&json!("done"), &json!(1)));

    let several = "create table kept (n int); insert into kept values (1), (2); \
                   do $$ begin raise notice 'hello %', 1; end $$; table kept; ";
    let lines = developer.sql(several).await;
    let commands: Vec<_> = lines.iter().filter_map(|line| line["command"].as_str()).collect();
    assert_eq!(commands, ["CREATE TABLE", "INSERT 0 2", "DO", "SELECT 2"]);
    assert!(lines.iter().any(|line| line["type"] == "notice" && line["message"] == "hello 1"), "{lines:?}");
    let lines = developer.sql("select *\nfrom kept where n = 'x'").await;
    let error = lines.iter().find(|line| line["type"] == "error").unwrap();
    assert_eq!((&error["code"], &error["position"]), (&json!("22P02"), &json!(30)));
    assert_eq!(last(&lines)["outcome"], "failed");

    assert_eq!(viewer.one("select current_user").await.as_deref(), Ok("stead_reader"));
    assert_eq!(viewer.one("select sum(n) from kept").await.as_deref(), Ok("3"));
    assert_eq!(Person::operator(&story).one("select current_user").await.as_deref(), Ok("owner"));
    assert_eq!(
        viewer.one("select current_setting('application_name')").await.as_deref(),
        Ok("stead console: viewer")
    );

    // Each has a history of their own; the journal has that it was run, and no text.
    let own = viewer.json("queries").await;
    let texts: Vec<_> =
        own["items"].as_array().unwrap().iter().map(|item| item["sql"].as_str().unwrap()).collect();
    assert_eq!(
        texts,
        ["select current_setting('application_name')", "select sum(n) from kept", "select current_user"]
    );
    assert_eq!(own["items"][0]["outcome"], "done");
    assert_eq!(developer.json("queries?limit=1").await["items"].as_array().unwrap().len(), 1);
    let lines = story.lines("sql.run");
    assert_eq!(lines.len(), 7);
    assert_eq!((&lines[0]["actor"], &told(&lines[0], "role")), (&json!("developer"), &json!("owner")));
    assert_eq!(told(&lines[2], "sqlstate"), "22P02");
    assert!(lines.iter().all(|line| !line.to_string().contains("kept")), "{lines:?}");
    assert_eq!(told(&lines[0], "text_hash").as_str().unwrap().len(), 64);
    assert_ne!(told(&lines[0], "text_hash"), told(&lines[1], "text_hash"));
    let stored =
        stead.control("select count(*) from queries where position('kept' in encode(sealed, 'escape')) > 0");
    assert_eq!(stored.trim(), "0", "texts are sealed");
    // A stream that is compressed comes to its end too.
    let asked = developer.request(Method::POST, "query").header("accept-encoding", "gzip");
    let many = json!({"sql": "select n, repeat('x', 100) from generate_series(1, 1000) n"});
    let packed = asked.json(&many).send().await.unwrap();
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    let packed = packed.bytes().await.unwrap();
    assert!(packed.starts_with(&[0x1f, 0x8b]) && (500..50_000).contains(&packed.len()), "{}", packed.len());
    stead.finish();
}

/// What a reader may try, and what it is told. Each would work for the owner, which is the control.
const ATTEMPTS: &[(&str, &str)] = &[
    ("insert into kept values (3)", "25006 42501"),
    ("update kept set n = 4", "25006 42501"),
    ("delete from kept", "25006 42501"),
    ("truncate kept", "25006 42501"),
    ("create table mine (n int)", "25006 42501"),
    ("create temp table mine (n int)", "25006 42501"),
    ("with made as (insert into kept values (3) returning n) select * from made", "25006 42501"),
    ("select writes()", "25006"),
    ("select nextval('counter')", "25006 42501"),
    ("call writes_and_commits()", "25006 25001 2D000"),
    ("do $$ begin perform writes(); end $$", "25006"),
    ("do $$ begin set transaction read write; perform writes(); end $$", "25001"),
    (
        "do $$ begin perform set_config('transaction_read_only', 'off', true); perform writes(); end $$",
        "25001",
    ),
    ("do $$ begin commit; perform writes(); end $$", "2D000"),
    ("select writes_after_setting()", "25001"),
    ("set transaction read write; insert into kept values (3)", "42601"),
    ("commit; begin read write; select writes()", "42601"),
    ("explain analyze insert into kept values (3)", "25006 42501"),
    ("alter table kept add column m int", "42501 25006"),
    ("grant insert on kept to stead_reader", "42501 25006"),
    ("set role owner", "42501"),
    ("set session authorization owner", "42501"),
    ("select lo_create(4711)", "25006"),
    ("comment on table kept is 'x'", "25006 42501"),
    ("copy kept to program 'cat'", "42501"),
    ("alter role stead_reader password 'x'", "25006 42501"),
    ("alter role stead_reader set default_transaction_read_only = off", "25006 42501"),
    ("select pg_read_file('PG_VERSION')", "42501"),
    ("copy kept to '/tmp/attempt'", "42501"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_writes_nothing_whatever_it_tries() {
    let stead = Installation::started();
    for engine in [15, 18] {
        let name = format!("shop{engine}");
        let story = Story::up(&stead, &name, &format!("engine = {engine}\n"));
        let (developer, viewer) = (Person::of(&story, "developer"), Person::of(&story, "viewer"));
        developer
            .sql(
                "create table kept (n int); create sequence counter;
                 grant all on kept to stead_reader; grant all on sequence counter to stead_reader;
                 grant all on schema public to stead_reader; grant temp on database main to stead_reader;
                 create function writes() returns int language sql security definer as 'insert into kept values (3) returning n';
                 create function writes_after_setting() returns int language plpgsql security definer as
                     'begin perform set_config(''transaction_read_only'', ''off'', false); return writes(); end';
                 create procedure writes_and_commits() language plpgsql as
                     'begin rollback; set transaction read write; perform writes(); commit; end'",
            )
            .await;
        let mut wrong = Vec::new();
        for (sql, wanted) in ATTEMPTS {
            let told = viewer.one(sql).await;
            // Up to 15 one may make large objects in a transaction that cannot write; it is rolled back.
            let undone = engine == 15 && sql.contains("lo_create") && told.is_ok();
            if !undone && !told.as_ref().is_err_and(|code| wanted.split(' ').any(|one| one == code)) {
                wrong.push(format!("engine {engine}: {sql}: {told:?}, not {wanted}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        // The one statement may be the end of the transaction; nothing comes behind it.
        for sql in ["commit", "rollback", "commit and chain", "set transaction read write"] {
            let _ = viewer.one(sql).await;
        }
        let left = "select (select count(*) from kept) + (select count(*) from pg_largeobject_metadata)
                           + (select count(*) from pg_class c join pg_roles r on r.oid = c.relowner where r.rolname = 'stead_reader')";
        assert_eq!(developer.one(left).await.as_deref(), Ok("0"), "engine {engine}");
        // What others ask to be read-only is so in the same way.
        let looks = developer.lines(&json!({"sql": "select writes()", "read_only": true})).await;
        assert!(looks.iter().any(|line| line["code"] == "25006"), "{looks:?}");
        // The control: the same function writes where it may.
        assert_eq!(developer.one("select writes()").await.as_deref(), Ok("3"));
        assert_eq!(viewer.one("select n from kept").await.as_deref(), Ok("3"));
        // A viewer is told what may not be asked for, and nobody of another tenant sees anything.
        for (grant, role) in [("grant owner to stead_reader", "owner")] {
            let _ = developer.one(grant).await;
            story.ok(&["rotate"]);
            assert_eq!(viewer.one(&format!("set role {role}")).await, Err("42501".into()));
        }
    }
    stead.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let developer = Person::of(&story, "developer");
    // Rows: shown up to the limit, and the rest of the script is done.
    let body = json!({"sql": "select generate_series(1, 500); create table after_it ()", "rows": 10});
    let lines = developer.lines(&body).await;
    assert_eq!((rows(&lines), &last(&lines)["rows"]), (10, &json!(500)));
    assert_eq!((&last(&lines)["truncated"], &last(&lines)["outcome"]), (&json!(true), &json!("done")));
    assert_eq!(developer.one("select count(*) from after_it").await.as_deref(), Ok("0"));
    // Rows of what is read-only are not even fetched.
    let body = json!({"sql": "select generate_series(1, 1000000000)", "rows": 10, "read_only": true});
    let lines = developer.lines(&body).await;
    assert_eq!(
        (rows(&lines), &last(&lines)["rows"], &last(&lines)["truncated"]),
        (10, &json!(11), &json!(true))
    );
    // Bytes: cancelled.
    let lines = developer.sql("select repeat('x', 1000), generate_series(1, 1000000000)").await;
    assert_eq!(last(&lines)["outcome"], "cut_off", "{}", last(&lines));
    assert!(last(&lines)["bytes"].as_u64().unwrap() < 70 << 20, "{}", last(&lines));
    // Time, also of one who switches the server's own limit off and catches what can be caught.
    let began = Instant::now();
    let sql = "set statement_timeout = 0; select pg_sleep(600)";
    let lines = developer.lines(&json!({"sql": sql, "timeout_ms": 500})).await;
    assert_eq!(last(&lines)["outcome"], "cut_off");
    assert!(began.elapsed() < Duration::from_secs(5));
    let sql = "set statement_timeout = 0; do $$ begin loop begin perform pg_sleep(600);
               exception when query_canceled then null; end; end loop; end $$";
    let lines = developer.lines(&json!({"sql": sql, "timeout_ms": 500})).await;
    assert_eq!(last(&lines)["outcome"], "cut_off");
    let url = story.url();
    until("the stubborn one to be gone", || (at_work(&url) == 0).then_some(()));
    // One giant row: its place is told, and memory stays where it was.
    let server = stead.running().unwrap()["pid"].as_u64().unwrap();
    let before = peak(server);
    let lines =
        developer.sql("select 'small' union all select repeat('x', 60000000) union all select 'after'").await;
    let long: Vec<_> = lines.iter().filter(|line| line["type"] == "row_too_long").collect();
    assert!(long.len() == 1 && long[0]["bytes"].as_u64().unwrap() > 60_000_000, "{long:?}");
    assert_eq!((rows(&lines), &last(&lines)["outcome"]), (2, &json!("done")));
    let lines = developer.sql("do $$ begin raise notice '%', repeat('x', 60000000); end $$").await;
    let notice = lines.iter().find(|line| line["type"] == "notice").unwrap();
    assert!(notice["message"].as_str().unwrap().len() < 70_000);
    let grown = peak(server).saturating_sub(before);
    assert!(grown < 30_000, "the control plane grew by {grown} kB");
    // Sessions at once.
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(developer.begin("select pg_sleep(600)").await);
    }
    let (status, detail) = developer.refused(&json!({"sql": "select 1"})).await;
    assert!(status == 409 && detail.contains("4 of your queries"), "{status} {detail}");
    assert_eq!(Person::of(&story, "viewer").one("select 1").await.as_deref(), Ok("1"));
    drop(held);
    until("those that nobody reads to be gone", || (at_work(&url) == 0).then_some(()));
    stead.finish();
}

/// The most memory that a process ever had, kB.
fn peak(pid: u64) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_ends_it_it_ends_in_the_database() {
    let mut stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (url, folder) = (story.url(), story.folder.clone());
    let (ann, operator) = (Person::of(&story, "developer"), Person::operator(&story));
    let bob = Person::of(&story, "developer");
    let sleeping = "create table if not exists undone (); select pg_sleep(600)";
    let cancel = async |who: &Person, id: &str| {
        who.request(Method::DELETE, &format!("queries/{id}")).send().await.unwrap().status().as_u16()
    };
    for who in [&ann, &operator] {
        let (id, response) = ann.begin(sleeping).await;
        until("it to run", || (at_work(&url) == 1).then_some(()));
        assert_eq!(cancel(&bob, &id).await, 404, "somebody else's");
        assert_eq!(cancel(who, &id).await, 204);
        let text = response.text().await.unwrap();
        assert!(text.lines().last().unwrap().contains("\"outcome\":\"cancelled\""), "{text}");
        assert_eq!(at_work(&url), 0);
        assert_eq!(cancel(&ann, &id).await, 404, "it is over");
    }
    assert_eq!(ann.one("select to_regclass('undone') is null").await.as_deref(), Ok("t"));
    // The browser goes away, also in the middle of a long answer that it does not read.
    for sql in [sleeping, "select repeat('x', 1000) from generate_series(1, 60000)"] {
        let (_, response) = ann.begin(sql).await;
        until("it to run", || (at_work(&url) == 1).then_some(()));
        drop(response);
        until("it to be gone", || (at_work(&url) == 0).then_some(()));
    }
    // A slow reader makes the server wait, and gets all of it.
    let (_, mut response) = ann.begin("select repeat('x', 1000) from generate_series(1, 20000)").await;
    let (mut pieces, mut length) = (0, 0);
    while let Some(piece) = response.chunk().await.unwrap() {
        (pieces, length) = (pieces + 1, length + piece.len());
        tokio::task::yield_now().await;
    }
    assert!(pieces > 1 && length > 1_000_000, "{pieces} {length}");
    // The control plane is killed.
    let (_, response) = ann.begin(sleeping).await;
    until("it to run", || (at_work(&url) == 1).then_some(()));
    stead.kill_server();
    drop(response);
    until("the server to notice", || (at_work(&url) == 0).then_some(()));
    stead.start();
    let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
    let ann = Person::operator(&story);
    assert_eq!(ann.one("select 1").await.as_deref(), Ok("1"));
    let open = "select count(*) from queries where outcome is null";
    assert_eq!(stead.control(open).trim(), "1");
    // It is told to stop.
    let (_, response) = ann.begin(sleeping).await;
    until("it to run", || (at_work(&url) == 1).then_some(()));
    stead.ok(&["server", "stop"]);
    let text = response.text().await.unwrap();
    assert!(text.lines().last().unwrap().contains("the control plane stops"), "{text}");
    assert_eq!(at_work(&url), 0);
    stead.kill_server();
    stead.start();
    assert_eq!(stead.control(open).trim(), "1", "what was stopped is on record as cancelled");
    // The time of the one that was killed passes, and it is closed.
    stead.control("update queries set ends_by = now() - interval '1 s' where outcome is null");
    stead.kill_server();
    stead.start();
    until("the lost one to be on record", || {
        let story = Story { stead: &stead, name: "shop".into(), folder: folder.clone() };
        story.lines("sql.run").iter().find(|line| told(line, "outcome") == "lost").cloned()
    });
    stead.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_run_is_told_in_plain_words() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let developer = Person::of(&story, "developer");
    for (sql, words) in [("", "is empty"), (" \n", "is empty"), ("select '\0'", "NUL")] {
        let (status, detail) = developer.refused(&json!({ "sql": sql })).await;
        assert!(status == 422 && detail.contains(words), "{status} {detail}");
    }
    let (status, detail) = developer.refused(&json!({"sql": "x".repeat(2_000_000)})).await;
    assert!(status == 422 && detail.contains("longer than"), "{status} {detail}");
    assert_eq!(developer.refused(&json!({"sql": "x".repeat(10_000_000)})).await.0, 413);
    for body in
        [json!({"sql": "select 1", "rows": 0}), json!({"sql": 1}), json!({"sql": "select 1", "more": 1})]
    {
        assert_eq!(developer.refused(&body).await.0, 422, "{body}");
    }
    for (sql, words) in [
        ("copy (select 1) to stdout", "COPY TO STDOUT"),
        ("create table t (n int); copy t from stdin", "COPY FROM STDIN"),
    ] {
        let lines = developer.sql(sql).await;
        let error = lines.iter().find(|line| line["type"] == "error").unwrap();
        assert!(error["message"].as_str().unwrap().contains(words), "{error}");
        assert_eq!(last(&lines)["outcome"], "failed");
    }
    let lines = developer.sql("begin; create table left_open ()").await;
    assert!(last(&lines)["message"].as_str().unwrap().contains("was rolled back"), "{lines:?}");
    assert_eq!(developer.one("select to_regclass('left_open') is null").await.as_deref(), Ok("t"));
    assert_eq!(developer.sql("-- nothing").await[1]["command"], "");
    assert_eq!(developer.one("select '\\xff00'::bytea").await.as_deref(), Ok("\\xff00"));
    assert_eq!(developer.one("select convert_from('\\xff', 'UTF8')").await, Err("22021".into()));
    assert_eq!(developer.one("select 'ä€😀'").await.as_deref(), Ok("ä€😀"));
    assert_eq!(developer.one("set client_encoding = 'LATIN1'; select 'ä'").await.as_deref(), Ok("\u{fffd}"));
    // An export.
    let csv = async |sql: &str| {
        let request = developer.request(Method::POST, "query").header("accept", "text/csv");
        let response = request.json(&json!({ "sql": sql })).send().await.unwrap();
        (response.status().as_u16(), response.text().await)
    };
    let (status, text) = csv("select 1 as \"a,b\", null as c, '' as d, 'x\"y' as e").await;
    assert_eq!((status, text.unwrap().as_str()), (200, "\"a,b\",c,d,e\n1,,\"\",\"x\"\"y\"\n"));
    let (status, text) = csv("select nothing").await;
    assert!(status == 422 && text.unwrap().contains("42703"));
    // Told with the rows before it, or behind them.
    let (status, text) = csv("select 1 / (3 - n) from generate_series(1, 3) n").await;
    assert!(status == 422 || status == 200 && text.is_err(), "{status} {text:?}");
    let (status, text) =
        csv("select repeat('x', 1000), 1 / (5000 - n) from generate_series(1, 5000) n").await;
    assert!(status == 200 && text.is_err(), "an export that is not whole breaks off");
    assert!(csv("select 1; select 2").await.0 == 422);
    stead.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_shown_to_who_may_look() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let (developer, viewer) = (Person::of(&story, "developer"), Person::of(&story, "viewer"));
    developer
        .sql(
            "create table airports (faa text primary key, name text not null default 'x', height numeric(10,2));
             create index by_name on airports (name); comment on table airports is 'where planes land';
             create table flights (id int8, origin text references airports);
             create view tall as select * from airports where height > 1000;
             create function twice(n int) returns int language sql as 'select n * 2';
             insert into airports select n::text from generate_series(1, 1000) n; analyze airports",
        )
        .await;
    let schema = viewer.json("schema?filter=Airp").await;
    assert_eq!(schema["relations"].as_array().unwrap().len(), 1);
    let airports = &schema["relations"][0];
    assert_eq!((&airports["kind"], &airports["comment"]), (&json!("table"), &json!("where planes land")));
    assert_eq!(airports["estimated_rows"], 1000);
    assert_eq!(
        airports["columns"][1],
        json!({"name": "name", "type": "text", "nullable": false, "default": "'x'::text"})
    );
    assert_eq!(airports["columns"][2]["type"], "numeric(10,2)");
    assert_eq!(airports["constraints"][0]["definition"], "PRIMARY KEY (faa)");
    assert_eq!(airports["indexes"].as_array().unwrap().len(), 2);
    let schema = developer.json("schema").await;
    let names: Vec<_> =
        schema["relations"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    // What extensions brought is told to who looks for it.
    assert_eq!(names, ["airports", "flights", "ran", "tall", "migrations"]);
    let brought = developer.json("schema?filter=pg_stat_statements").await;
    assert!(brought["relations"].as_array().unwrap().iter().any(|one| one["name"] == "pg_stat_statements"));
    let function = &schema["functions"][0];
    assert_eq!((&function["name"], &function["arguments"]), (&json!("twice"), &json!("n integer")));
    developer
        .sql(
            "do $$ begin for n in 1..600 loop execute format('create table many_%s ()', n); end loop; end $$",
        )
        .await;
    let schema = viewer.json("schema?filter=many").await;
    assert_eq!((schema["relations"].as_array().unwrap().len(), &schema["truncated"]), (500, &json!(true)));
    stead.finish();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_through_sleep_rotation_copies_and_another_gateway() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "idle = \"1s\"\n");
    let url = story.url();
    let (developer, viewer) = (Person::of(&story, "developer"), Person::of(&story, "viewer"));
    assert!(ask(&url, "create table t as select 1 as n").is_ok());
    // Asleep: the first look of a reader gives it its password, and every one wakes.
    story.until_asleep();
    assert_eq!(viewer.one("select n from t").await.as_deref(), Ok("1"));
    for who in [&viewer, &developer] {
        story.until_asleep();
        assert_eq!(who.one("select n from t").await.as_deref(), Ok("1"));
    }
    story.ok(&["rotate"]);
    for who in [&viewer, &developer] {
        assert_eq!(who.one("select n from t").await.as_deref(), Ok("1"), "after a rotation");
    }
    story.ok(&["server", "replace-gateway"]);
    for who in [&viewer, &developer] {
        assert_eq!(who.one("select n from t").await.as_deref(), Ok("1"), "by the next gateway");
    }
    story.ok(&["move", "postgres.main"]);
    assert_eq!(viewer.one("select n from t").await.as_deref(), Ok("1"), "after a move");
    story.backed_up("postgres.main");
    story.ok(&["clone", "postgres.main", "--as", "try"]);
    assert!(ask(&story.url_of("postgres.main"), "update t set n = 2").is_ok());
    story.ok(&["swap", "postgres.main", "postgres.try", "--yes"]);
    for who in [&developer, &viewer] {
        assert_eq!(who.one("select n from t").await.as_deref(), Ok("1"), "after a swap");
    }
    stead.finish();
}

/// An allow-list that names nobody lets the console in; and nobody but the control plane is let in by the inner door.
#[tokio::test(flavor = "multi_thread")]
async fn the_inner_door_is_the_control_planes_alone() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let url = story.url();
    story.write_manifest(&crate::story::manifest("shop", "allow = []\n"));
    story.ok(&["up", "--yes"]);
    assert!(ask(&url, "select 1").unwrap_err().contains("not on the allow-list"));
    let developer = Person::of(&story, "developer");
    assert_eq!(developer.one("select 1").await.as_deref(), Ok("1"));
    let socket = stead.home.join("gateway/inner.sock");
    let handle = story.handle();
    let call = format!("{{\"server\": \"{handle}\", \"who\": \"x\"}}");
    let script = format!(
        "import socket, struct, sys
call = {call:?}.encode()
s = socket.socket(socket.AF_UNIX); s.connect({socket:?})
hello = b'user\\0owner\\0database\\0main\\0\\0'
s.sendall(struct.pack('>I', len(call)) + call + struct.pack('>II', len(hello) + 8, 196608) + hello)
sys.stdout.write(repr(s.recv(1)))",
        socket = socket.to_str().unwrap(),
    );
    let as_uid = |uid: u32| {
        let mut command = std::process::Command::new("setpriv");
        // In the group, as others of Stead's users are: the file's mode lets them in.
        let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={}", stead.uid_first()));
        command.args([uid.as_str(), gid.as_str(), "--clear-groups", "/usr/bin/python3", "-c", &script]);
        let output = command.output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let control = as_uid(stead.uid_first());
    assert_eq!(control, "b'R'", "the control plane is asked for its proof");
    let stranger = as_uid(stead.uid_first() + 1);
    assert!(stranger == "b''" || stranger.contains("Error"), "{stranger}");
    let log = std::fs::read_to_string(stead.home.join("logs/gateway.jsonl")).unwrap();
    assert!(log.contains("\"client\":\"console: developer\""), "{log}");
    stead.finish();
}
