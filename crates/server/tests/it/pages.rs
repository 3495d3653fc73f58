//! The console's screens of the record and of the fleet: who sees what, that nothing that somebody wrote becomes
//! markup, and that nothing that is asked for makes a page fail.

use component::{Condition, ConditionKind, Role};
use reqwest::redirect::Policy;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use store::journal::{Actor, Entry, Outcome};

use crate::rig::{HOST, Rig, settled};

/// Somebody at a browser.
pub(crate) struct Browser {
    http: reqwest::Client,
    at: String,
    cookie: String,
}

/// What a browser got.
pub(crate) struct Seen {
    pub(crate) status: u16,
    headers: reqwest::header::HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Seen {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.bytes.clone()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn holds(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.text().contains(part), "{} without {part}: {}", self.status, self.text());
        }
        self
    }

    #[track_caller]
    pub(crate) fn lacks(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(!self.text().contains(part), "with {part}: {}", self.text());
        }
        self
    }
}

impl Browser {
    /// Signs somebody in by a link that does so once.
    pub(crate) async fn of(rig: &Rig, name: &str, role: Role, tenant: Option<&str>) -> Self {
        let actor = Actor { name: "test".into(), source: "test".into() };
        let tenant = match tenant {
            Some(tenant) => Some(rig.store.put_tenant(&actor, &tenant.parse().unwrap(), None).await.unwrap()),
            None => None,
        };
        let tenant = tenant.as_ref().map(|tenant| (tenant.id, &tenant.name));
        let (_, secret) = rig.store.invite(&actor, name, tenant, role, true).await.unwrap();
        let http = reqwest::Client::builder().redirect(Policy::none()).user_agent("test/1").build().unwrap();
        let at = rig.url("");
        let link = format!("{at}/invitations/{}", secret.expose_secret());
        let sent = http
            .post(link)
            .header("sec-fetch-site", "same-origin")
            .header("content-type", "application/x-www-form-urlencoded")
            .send();
        let answer = sent.await.unwrap();
        let cookie = answer.headers().get("set-cookie").unwrap().to_str().unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Self { http, at, cookie }
    }

    pub(crate) async fn ask(&self, path: &str, headers: &[(&'static str, &str)]) -> Seen {
        self.send(self.http.get(format!("{}{path}", self.at)), headers).await
    }

    /// Sends a form, as a page of the same site would unless the headers say otherwise.
    pub(crate) async fn post(&self, path: &str, form: &str, headers: &[(&'static str, &str)]) -> Seen {
        let own = [("sec-fetch-site", "same-origin"), ("content-type", "application/x-www-form-urlencoded")];
        let missing = own.iter().filter(|(name, _)| !headers.iter().any(|(other, _)| other == name));
        let headers: Vec<_> = headers.iter().chain(missing).copied().collect();
        self.send(self.http.post(format!("{}{path}", self.at)).body(form.to_owned()), &headers).await
    }

    async fn send(&self, request: reqwest::RequestBuilder, headers: &[(&'static str, &str)]) -> Seen {
        let mut request = request.header("cookie", &self.cookie);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        Seen { status, headers, bytes: answer.bytes().await.unwrap().to_vec() }
    }

    /// Somebody who is not signed in.
    pub(crate) fn stranger(&self) -> Self {
        Self { http: self.http.clone(), at: self.at.clone(), cookie: "stead_session=none".into() }
    }

    pub(crate) async fn see(&self, path: &str, status: u16) -> Seen {
        let seen = self.ask(path, &[]).await;
        assert_eq!(seen.status, status, "{path}: {}", String::from_utf8_lossy(&seen.bytes));
        seen
    }
}

/// The newest line and the newest operation of a tenant.
async fn newest(rig: &Rig, tenant: &str) -> (String, String) {
    let first = async |list: &str| {
        rig.get(&format!("/v1/tenants/{tenant}/{list}?limit=1")).await.body["items"][0]["id"].clone()
    };
    (first("history").await.to_string(), first("operations").await.as_str().unwrap().to_owned())
}

/// A line about the stead `flights`.
async fn entry(rig: &Rig, tenant: &str, actor: &str, reason: &str) -> Entry {
    let tenant = rig.store.tenant(&tenant.parse().unwrap()).await.unwrap().unwrap();
    Entry {
        tenant: Some((tenant.id, tenant.name.to_string())),
        stead: Some("flights".into()),
        component: Some("postgres.main".into()),
        reason: Some(reason.into()),
        ..Entry::new(&Actor { name: actor.into(), source: actor.into() }, "component.edited", Outcome::Done)
    }
}

/// Screens, and how an operator, a supporter, an owner, a developer, an auditor and a viewer are answered.
const SCREENS: &[(&str, [u16; 6], &str)] = &[
    ("/fleet", [200; 6], "flights"),
    ("/fleet?q=flights&health=ready", [200; 6], "flights"),
    ("/tenants/{t}", [200; 6], "flights"),
    ("/tenants/{t}/steads/flights", [200; 6], "Component created"),
    ("/tenants/{t}/timeline", [200; 6], "Component created"),
    ("/tenants/{t}/timeline/{line}", [200; 6], "Proof"),
    ("/tenants/{t}/runs/{run}", [200; 6], "postgres.main"),
    ("/tenants/{t}/logs", [200; 6], "No lines in this time"),
    ("/tenants/{t}/audit", [200, 200, 200, 403, 200, 403], "NDJSON"),
    ("/tenants/{t}/audit/export", [200, 200, 200, 403, 200, 403], "component.created"),
    ("/tenants/{t}/audit/export?format=csv", [200, 200, 200, 403, 200, 403], "component.created"),
    ("/audit", [200, 200, 403, 403, 403, 403], "NDJSON"),
    ("/audit/export", [200, 200, 403, 403, 403, 403], "component.created"),
];

#[tokio::test]
async fn screens_are_seen_by_whom_the_table_says_and_nobody_else() {
    let rig = Rig::start().await;
    rig.flights().await;
    rig.put("/v1/tenants/globex/steads/flights", &json!({"postgres": {"main": {"protect": false}}})).await;
    rig.reconcile().await;
    let (own, theirs) = (newest(&rig, "acme").await, newest(&rig, "globex").await);
    let fill = |path: &str, tenant: &str, (line, run): &(String, String)| {
        path.replace("{t}", tenant).replace("{line}", line).replace("{run}", run)
    };
    let roles = [Role::Operator, Role::Support, Role::Owner, Role::Developer, Role::Auditor, Role::Viewer];
    for (at, role) in roles.into_iter().enumerate() {
        let tenant = (!role.is_staff()).then_some("acme");
        let browser = Browser::of(&rig, &format!("{}@acme.example", role.as_str()), role, tenant).await;
        for (screen, statuses, word) in SCREENS {
            let path = fill(screen, "acme", &own);
            let seen = browser.see(&path, statuses[at]).await;
            match statuses[at] {
                200 => drop(seen.holds(&[word])),
                _ => drop(seen.holds(&["Not for your role", "<!doctype html>", role.as_str()])),
            }
            if role.is_staff() || !screen.contains("{t}") {
                continue;
            }
            // Another's tenant is as one that is not there; and what is another's is not in the own one either.
            let (foreign, nobodys) = (fill(screen, "globex", &theirs), fill(screen, "nobody", &theirs));
            let foreign = browser.see(&foreign, 404).await.holds(&["<!doctype html>", "Not found"]).text();
            let nobodys = browser.see(&nobodys, 404).await.text();
            assert_eq!(foreign.replace("globex", "nobody"), nobodys, "{screen}");
            if screen.contains("{line}") || screen.contains("{run}") {
                browser.see(&fill(screen, "acme", &theirs), 404).await;
            }
        }
        let links = browser.see("/tenants/acme", 200).await.text();
        assert_eq!(links.contains("/tenants/acme/audit"), SCREENS[8].1[at] == 200, "{role:?}");
        assert_eq!(links.contains("/tenants/acme/new"), !matches!(at, 1 | 4 | 5), "{role:?}");
    }
    // Nobody is asked to sign in, and brought back then.
    let nobody =
        Browser { cookie: String::new(), ..Browser::of(&rig, "x@x.example", Role::Support, None).await };
    let seen = nobody.see("/tenants/acme/audit/export?format=csv", 303).await;
    assert_eq!(seen.header("location"), "/sign-in?to=%2Ftenants%2Facme%2Faudit%2Fexport%3Fformat%3Dcsv");
}

/// What people write who want to see what happens.
pub(crate) const NASTY: &[&str] = &[
    "\"><script>alert(1)</script>",
    "' onmouseover='alert(1)",
    "</title><script>alert(1)</script>",
    "{{ 7 * 7 }}",
    "\u{202e}dlrow",
    "\0",
    "\u{1}\n\r\t",
    "' or 1=1 --",
    "%",
    "-1",
    "9223372036854775808",
    "1e309",
    "2026-13-45",
    "0000-00-00T00:00:00Z",
    "-009999-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "999999w",
    "null",
    "[]",
    "../../etc/passwd",
    "🐘",
    "W10",
    "W3RydWUsIjIwMjYtMDEtMDFUMDA6MDA6MDBaIiwtMV0",
    "W2ZhbHNlLCItMDA5OTk5LTAxLTAxVDAwOjAwOjAwWiIsMF0",
    "WyIgIiwiICJd",
];

/// Screens that read their query.
const SEARCHES: &[&str] = &[
    "/fleet",
    "/tenants/acme",
    "/tenants/acme/timeline",
    "/tenants/acme/audit",
    "/tenants/acme/audit/export",
    "/audit",
    "/audit/export",
];

const PARAMETERS: &[&str] = &[
    "q",
    "health",
    "category",
    "outcome",
    "stead",
    "component",
    "actor",
    "action",
    "operation",
    "since",
    "until",
    "cursor",
    "way",
    "format",
];

#[tokio::test]
async fn nothing_that_is_asked_for_makes_a_page_fail() {
    let rig = Rig::start().await;
    rig.flights().await;
    let browser = Browser::of(&rig, "ops@stead.example", Role::Operator, None).await;
    let escaped = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let long = "!".repeat(20_000);
    for screen in SEARCHES {
        for parameter in PARAMETERS {
            let nasty = NASTY.iter().copied().chain([long.as_str()]).map(&escaped);
            let raw = [String::new(), "%ff%fe".into(), "!".repeat(50_000), "a&a=b;c=%zz".into()];
            for value in nasty.chain(raw) {
                let path = format!("{screen}?{parameter}={value}");
                let seen = browser.ask(&path, &[]).await;
                assert!([200, 400].contains(&seen.status), "{} {path}", seen.status);
                let export = screen.ends_with("export") && seen.status == 200;
                assert!(export || seen.header("content-type").starts_with("text/html"), "{path}");
                let text = seen.text();
                assert!(export || !text.contains("<script>") && !text.contains("onmouseover='"), "{path}");
            }
            // Twice the same is no mistake that a page is lost for.
            let twice = browser.ask(&format!("{screen}?{parameter}=&{parameter}="), &[]).await;
            assert_eq!(twice.status, 200, "{screen} {parameter}");
        }
    }
    for path in [
        "/tenants/acme/timeline/x",
        "/tenants/acme/timeline/99999999999999999999",
        "/tenants/acme/timeline/%ff",
        "/tenants/acme/runs/1",
        "/tenants/%3Cscript%3E/timeline",
        "/tenants/acme/runs/00000000-0000-4000-8000-000000000000",
        "/tenants/acme/steads/%22%3E",
    ] {
        browser.see(path, 404).await.holds(&["<!doctype html>", "Not found"]).lacks(&["<script>"]);
    }
}

#[tokio::test]
async fn nothing_that_somebody_wrote_becomes_markup() {
    let rig = Rig::start().await;
    rig.flights().await;
    let script = "<script>alert(1)</script>";
    let edited = json!({"postgres": {"main": {"owner": script, "runbook": "<b>x", "protect": false}}});
    let path = "/v1/tenants/acme/steads/flights?reason=%3Cscript%3Ealert(1)%3C/script%3E";
    rig.put(path, &edited).await.is(reqwest::StatusCode::ACCEPTED);
    let mut line = entry(&rig, "acme", &format!("\"'>{script}"), script).await;
    (line.before, line.after) = (json!({script: script}), json!({script: [script, {"a": script}]}));
    let id = rig.store.journal(&line).await.unwrap();
    let why = Condition { kind: ConditionKind::DiskFull, message: script.into() };
    let lease = rig.store.claim(HOST).await.unwrap().unwrap();
    let (_, run) = newest(&rig, "acme").await;
    let mut record = settled(&lease);
    record.status.conditions = vec![why];
    (record.settled, record.error, record.step) = (false, Some(script.into()), Some(script.into()));
    record.fail_operation = Some(script.into());
    rig.store.record(lease, record).await.unwrap();
    let browser = Browser::of(&rig, "ops@stead.example", Role::Operator, None).await;
    for path in [
        "/fleet".to_owned(),
        "/tenants/acme".into(),
        "/tenants/acme/steads/flights".into(),
        "/tenants/acme/timeline".into(),
        format!("/tenants/acme/timeline/{id}"),
        format!("/tenants/acme/runs/{run}"),
        "/tenants/acme/audit".into(),
        "/audit".into(),
    ] {
        let seen = browser.see(&path, 200).await.lacks(&["<script>", "<b>x", "'><"]);
        assert!(seen.header("content-security-policy").contains("script-src 'self'"), "{path}");
        let text = seen.text();
        assert!(!text.contains(" style=") && !text.contains(" onclick="), "{path}");
        let listed = ["/fleet", "/tenants/acme"].contains(&path.as_str());
        assert!(listed || text.contains("&#60;script&#62;alert(1)"), "{path} shows it: {text}");
    }
}

#[tokio::test]
async fn the_timeline_is_read_forth_and_back_and_kept_fresh() {
    let rig = Rig::start().await;
    rig.put("/v1/tenants/empty", &json!({})).await;
    rig.flights().await;
    let browser = Browser::of(&rig, "ann@acme.example", Role::Auditor, Some("acme")).await;
    let ops = Browser::of(&rig, "ops@stead.example", Role::Operator, None).await;
    ops.see("/tenants/empty/timeline?category=engine", 200).await.holds(&["Nothing fits", "Show all lines"]);
    for n in 0..60 {
        rig.store.journal(&entry(&rig, "acme", "ann", &format!("ticket {n}.")).await).await.unwrap();
    }
    let newest = browser.see("/tenants/acme/timeline?q=ticket", 200).await;
    let newest =
        newest.holds(&["ticket 59.", "ticket 10.", ">Older<", "Settings changed", "data-live=\"acme\""]);
    let older = link(&newest.lacks(&["ticket 9.", ">Newer<"]).text(), "next");
    let older = browser.see(&older, 200).await.holds(&["ticket 9.", "ticket 0.", ">Newest<"]);
    let newer = link(&older.lacks(&["ticket 10.", "data-live"]).text(), "prev");
    let newer = browser.see(&newer, 200).await.holds(&["ticket 59.", "ticket 10."]).text();
    browser.see(&link(&newer, "prev"), 200).await.holds(&["Nothing more this way"]);

    // What comes to be is fetched as a part of the page.
    rig.store.journal(&entry(&rig, "acme", "ann", "ticket 60.").await).await.unwrap();
    let part = browser.ask("/tenants/acme/timeline?q=ticket", &[("hx-request", "true")]).await;
    drop(part.holds(&["ticket 60."]).lacks(&["<html", "<form", "id=\"rows\""]));

    // What is wrong in the form is told beside it, and the form is kept.
    let wrong = browser.see("/tenants/acme/timeline?since=yesterday&q=keep-this", 400).await;
    drop(wrong.holds(&[
        "role=\"alert\"",
        "`since` is a moment",
        "value=\"yesterday\"",
        "value=\"keep-this\"",
    ]));
    let day = jiff::Timestamp::now().strftime("%Y-%m-%d").to_string();
    browser.see(&format!("/tenants/acme/timeline?since={day}&q=ticket"), 200).await.holds(&["ticket 60."]);

    // Each line has a place, with all that it tells and its proof.
    let line =
        rig.history("acme").await.into_iter().find(|line| line["action"] == "component.created").unwrap();
    let place = format!("/tenants/acme/timeline/{}", line["id"]);
    let shown = browser.see(&place, 200).await;
    let hash = line["payload_hash"].as_str().unwrap();
    drop(shown.holds(&[hash, "Component created", "<code>component.created</code>", "/runs/", "root"]));
}

/// The address of a link to another page.
pub(crate) fn link(text: &str, rel: &str) -> String {
    let (_, rest) =
        text.split_once(&format!("rel=\"{rel}\" href=\"")).unwrap_or_else(|| panic!("{rel}: {text}"));
    rest.split('"').next().unwrap().replace("&amp;", "&").replace("&#38;", "&")
}

#[tokio::test]
async fn a_run_tells_what_is_done_and_what_came_of_it() {
    let rig = Rig::start().await;
    let body = json!({"postgres": {"main": {"protect": false}}});
    let made = rig.put("/v1/tenants/acme/steads/flights?reason=for%20the%20spring", &body).await.body;
    let browser = Browser::of(&rig, "ann@acme.example", Role::Viewer, Some("acme")).await;
    let at = format!("/tenants/acme/runs/{}", made["operation"]["id"].as_str().unwrap());
    let lease = rig.store.claim(HOST).await.unwrap().unwrap();
    rig.store.renew(&lease, "migrate 0001_tables.sql").await.unwrap();
    let running = browser.see(&at, 200).await;
    drop(running.holds(&[
        "Changes",
        "Running",
        "runs the migration 0001_tables.sql",
        "not over yet",
        "for the spring",
        "data-live=\"acme/flights\"",
        "href=\"/tenants/acme/steads/flights\"",
        "root",
    ]));
    rig.settle(lease).await;
    let done = browser.ask(&at, &[("hx-request", "true")]).await;
    drop(done.holds(&["Done", "Component created", "Took"]).lacks(&["Running", "not over yet", "<html"]));
}

#[tokio::test]
async fn the_record_is_taken_along_whole() {
    let rig = Rig::start().await;
    rig.flights().await;
    let mut lines = 0;
    for n in 0..1_020 {
        let line = entry(&rig, "acme", "@sum(A1)", &format!("=cmd|' /C calc'!A0 {n}")).await;
        rig.store.journal(&line).await.unwrap();
        lines += 1;
    }
    let browser = Browser::of(&rig, "ann@acme.example", Role::Auditor, Some("acme")).await;
    let csv = browser.see("/tenants/acme/audit/export?format=csv&q=calc&component=postgres.main", 200).await;
    assert_eq!(csv.header("content-disposition"), "attachment; filename=\"acme-history.csv\"");
    assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8");
    let mut table = csv::Reader::from_reader(csv.bytes.as_slice());
    let rows: Vec<csv::StringRecord> = table.records().map(Result::unwrap).collect();
    assert_eq!(rows.len(), lines);
    let formula = |cell: &str| cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
    assert!(rows.iter().flatten().all(|cell| !formula(cell)), "no cell is a formula");
    assert!(rows.iter().any(|row| &row[10] == "'=cmd|' /C calc'!A0 7"));

    let whole = browser.see("/tenants/acme/audit/export?format=ndjson", 200).await;
    assert_eq!(whole.header("content-disposition"), "attachment; filename=\"acme-history.ndjson\"");
    let ids: Vec<i64> = whole
        .text()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].as_i64().unwrap())
        .collect();
    let sql = rig.db.connect().await;
    let kept: i64 = sql
        .query_one(
            "select count(*) from journal j join tenants t on t.id = j.tenant_id where t.name = 'acme'",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(i64::try_from(ids.len()).unwrap(), kept);
    assert!(ids.is_sorted_by(|newer, older| newer > older), "each is there once, newest first");

    // The links of the page lead to what is shown there; what cannot be exported is told as a page.
    let page = browser.see("/tenants/acme/audit?q=calc&until=9999-01-01", 200).await;
    drop(
        page.holds(&["/tenants/acme/audit/export?q=calc&#38;until=9999-01-01T00%3A00%3A00Z&#38;format=csv"]),
    );
    for query in ["format=xlsx", "since=never"] {
        let refused = browser.see(&format!("/tenants/acme/audit/export?{query}"), 400).await;
        drop(refused.holds(&["<!doctype html>", "cannot be understood"]));
    }
    let ops = Browser::of(&rig, "ops@stead.example", Role::Support, None).await;
    let all = ops.see("/audit/export?q=token.created", 200).await;
    assert_eq!(all.header("content-disposition"), "attachment; filename=\"stead-history.ndjson\"");
    drop(all.holds(&["\"action\":\"token.created\""]));
}

#[tokio::test]
async fn the_fleet_is_counted_and_picked_by_health() {
    let rig = Rig::start().await;
    let browser = Browser::of(&rig, "ops@stead.example", Role::Operator, None).await;
    browser.see("/fleet", 200).await.holds(&["No steads yet"]).lacks(&["By health"]);
    browser.see("/fleet?q=shop", 200).await.holds(&["Nothing fits", "Show all steads"]);
    let body = json!({"postgres": {"main": {"protect": false}}});
    let long = "a".repeat(40);
    for stead in ["shop", "blog", &long] {
        let made = rig.put(&format!("/v1/tenants/acme/steads/{stead}"), &body).await;
        assert!(made.status < 300, "{}", made.body);
    }
    while let Some(lease) = rig.store.claim(HOST).await.unwrap() {
        let mut record = settled(&lease);
        record.status.asleep = lease.stead.as_str() == "blog";
        if lease.stead.as_str() == "shop" {
            let message = "the disk is nearly full".to_owned();
            record.status.conditions = vec![Condition { kind: ConditionKind::DiskFull, message }];
        }
        rig.store.record(lease, record).await.unwrap();
    }
    for at in ["/fleet", "/tenants/acme"] {
        let all = browser.see(at, 200).await;
        drop(all.holds(&[
            "All <b>3</b>",
            "Needs attention</span> <b>1</b>",
            "Asleep</span> <b>1</b>",
            &long,
        ]));
        let some = browser.see(&format!("{at}?health=asleep"), 200).await;
        drop(
            some.holds(&["/steads/blog\"", "All <b>3</b>", "aria-current=\"true\""])
                .lacks(&["/steads/shop\""]),
        );
        let few = browser.see(&format!("{at}?health=ready&q=shop"), 200).await;
        drop(few.holds(&["Nothing fits", "All <b>1</b>", "Ready</span> <b>0</b>"]));
        browser.see(&format!("{at}?health=fine"), 400).await.holds(&["<!doctype html>"]);
        let part = browser.ask(at, &[("hx-request", "true")]).await;
        drop(part.holds(&["/steads/blog\"", "By health"]).lacks(&["<html", "<form"]));
    }
}

/// Most bytes of a page with all that it needs, as they are sent.
pub(crate) const LARGEST_PAGE: usize = 60 * 1024;

#[tokio::test]
async fn no_page_is_heavy() {
    let rig = Rig::start().await;
    rig.flights().await;
    for n in 0..60 {
        let mut line =
            entry(&rig, "acme", "somebody.with.a.long.name@acme.example", &format!("{n} ").repeat(90)).await;
        line.after =
            json!({"allow": ["203.0.113.0/24", format!("10.{n}.0.0/16")], "size": n, "owner": "x".repeat(n)});
        rig.store.journal(&line).await.unwrap();
    }
    let (line, run) = newest(&rig, "acme").await;
    let browser = Browser::of(&rig, "ops@stead.example", Role::Operator, None).await;
    for path in [
        "/fleet",
        "/tenants/acme",
        "/tenants/acme/steads/flights",
        "/tenants/acme/timeline",
        &format!("/tenants/acme/timeline/{line}"),
        &format!("/tenants/acme/runs/{run}"),
        "/tenants/acme/audit",
        "/audit",
    ] {
        let page = browser.see(path, 200).await.text();
        let files = page.split('"').filter(|text| text.starts_with("/assets/"));
        let files: std::collections::BTreeSet<&str> = files.collect();
        assert!(files.len() >= 4, "{files:?}");
        let mut sent = 0;
        for file in files.into_iter().chain([path]) {
            let packed = browser.ask(file, &[("accept-encoding", "gzip")]).await;
            assert!(packed.header("content-encoding") == "gzip" || packed.bytes.len() < 1_000, "{file}");
            sent += packed.bytes.len();
        }
        assert!(sent <= LARGEST_PAGE, "{path}: {sent} bytes");
    }
}
