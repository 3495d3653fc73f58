//! The page of a database, as far as it goes without a server behind it: who sees it, what it says no to, and that
//! nothing that somebody wrote becomes markup.

use component::Role;
use reqwest::{Method, StatusCode};
use secrecy::ExposeSecret;
use serde_json::json;
use store::person::Provided;

use crate::rig::{Answer, Rig, send};

const AT: &str = "/tenants/acme/steads/flights/components/postgres.main/database";
const HOSTILE: &str = "select '</textarea><script>alert(1)</script>' as \"a&b\"";

/// The cookie of somebody with a role: in every tenant, or in `acme`.
pub(crate) async fn visitor(rig: &Rig, name: &str, role: Role) -> String {
    let (staff, memberships) = match role {
        Role::Operator | Role::Support => (Some(role), Vec::new()),
        role => (None, vec![("acme".parse().unwrap(), role)]),
    };
    let provided = Provided {
        issuer: "https://id.example.com".into(),
        subject: name.into(),
        name: name.into(),
        staff,
        memberships,
    };
    let person = rig.store.put_provided("test", &provided).await.unwrap();
    let secret = rig.store.begin_session(person.id, "test", "test", None).await.unwrap();
    format!("stead_session={}", secret.expose_secret())
}

pub(crate) async fn visit(rig: &Rig, cookie: &str, path: &str) -> Answer {
    send(rig.anonymous(Method::GET, path).header("cookie", cookie)).await
}

pub(crate) fn form(rig: &Rig, cookie: &str, path: &str, site: &str, sql: &str) -> reqwest::RequestBuilder {
    let body = url::form_urlencoded::Serializer::new(String::new()).append_pair("sql", sql).finish();
    rig.anonymous(Method::POST, path)
        .header("cookie", cookie)
        .header("sec-fetch-site", site)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body)
}

#[tokio::test]
async fn who_may_read_data_sees_the_page_and_is_told_as_whom_it_runs() {
    let rig = Rig::start().await;
    rig.flights().await;
    for (role, runs_as) in [
        (Role::Operator, Some("owner")),
        (Role::Owner, Some("owner")),
        (Role::Developer, Some("owner")),
        (Role::Viewer, Some("stead_reader")),
        (Role::Support, None),
        (Role::Auditor, None),
    ] {
        let cookie = visitor(&rig, &format!("{role}@example.com"), role).await;
        let page = visit(&rig, &cookie, AT).await;
        let text = page.body.as_str().unwrap().to_owned();
        let stead = visit(&rig, &cookie, "/tenants/acme/steads/flights").await.is(StatusCode::OK);
        assert_eq!(stead.body.as_str().unwrap().contains(AT), runs_as.is_some(), "{role}");
        match runs_as {
            Some(name) => {
                assert_eq!(page.status, 200, "{role}");
                assert!(text.contains(&format!("as the role <code>{name}</code>")), "{role}: {text}");
                assert_eq!(text.contains("name=\"read_only\""), name == "owner", "{role}");
                let policy = page.header("content-security-policy");
                assert!(policy.contains("script-src 'self'; style-src 'self';"), "{policy}");
                assert!(!text.contains(" style=") && !text.contains("<style") && !text.contains("<script>"));
            }
            None => {
                assert_eq!(page.status, 403, "{role}");
                assert!(text.contains("ask an owner of the tenant"), "{role}: {text}");
                for below in ["/schema", "/history", "/queries/00000000-0000-4000-8000-000000000000"] {
                    assert_eq!(
                        visit(&rig, &cookie, &format!("{AT}{below}")).await.status,
                        403,
                        "{role}{below}"
                    );
                }
                for below in ["", "/export", "/query"] {
                    let path = format!("{AT}{below}");
                    let sent = form(&rig, &cookie, &path, "same-origin", "select 1");
                    assert_eq!(send(sent).await.status, 403, "{role}{below}");
                }
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_there_or_not_theirs_is_not_found() {
    let rig = Rig::start().await;
    rig.flights().await;
    let mine = visitor(&rig, "ann@example.com", Role::Owner).await;
    rig.put("/v1/tenants/globex/steads/flights", &json!({"postgres": {"main": {}}})).await;
    rig.reconcile().await;
    for path in [
        AT.replace("acme", "globex"),
        AT.replace("acme", "nobody"),
        AT.replace("flights", "nothing"),
        AT.replace("main", "other"),
    ] {
        assert_eq!(visit(&rig, &mine, &path).await.status, 404, "{path}");
        for below in ["", "/export"] {
            let sent = form(&rig, &mine, &format!("{path}{below}"), "same-origin", "select 1");
            assert_eq!(send(sent).await.status, 404, "{path}{below}");
        }
    }
    // A query that never was, or is somebody else's.
    let id = "00000000-0000-4000-8000-000000000000";
    assert_eq!(visit(&rig, &mine, &format!("{AT}/queries/{id}")).await.status, 404);
    let sent = form(&rig, &mine, &format!("{AT}/queries/{id}/cancel"), "same-origin", "");
    assert_eq!(send(sent).await.problem(404, "not-found")["status"], 404);
}

#[tokio::test]
async fn what_other_pages_send_is_not_run() {
    let rig = Rig::start().await;
    rig.flights().await;
    let cookie = visitor(&rig, "ann@example.com", Role::Owner).await;
    for site in ["cross-site", "same-site", "none"] {
        for below in ["", "/query", "/export", "/queries/00000000-0000-4000-8000-000000000000/cancel"] {
            let sent = form(&rig, &cookie, &format!("{AT}{below}"), site, "select 1");
            assert_eq!(send(sent).await.status, 403, "{site}{below}");
        }
    }
    let runs = rig.history("acme").await.into_iter().filter(|line| line["action"] == "sql.run").count();
    assert_eq!(runs, 0);
    // The control: the same from a page of ours is tried.
    assert_eq!(send(form(&rig, &cookie, AT, "same-origin", "select 1")).await.status, 503);
}

#[tokio::test]
async fn a_text_that_was_not_run_is_still_there_and_is_no_markup() {
    let rig = Rig::start().await;
    rig.flights().await;
    let cookie = visitor(&rig, "ann@example.com", Role::Developer).await;
    for below in ["", "/export"] {
        let sent = form(&rig, &cookie, &format!("{AT}{below}"), "same-origin", HOSTILE);
        let page = send(sent).await;
        let text = page.body.as_str().unwrap();
        assert_eq!(page.status, 503, "{text}");
        assert!(text.contains("It was not run."), "{text}");
        assert!(text.contains("select &#39;&#60;/textarea&#62;") && !text.contains("<script>"), "{text}");
    }
    let empty = send(form(&rig, &cookie, AT, "same-origin", " ")).await;
    assert_eq!(empty.status, 422);
    assert!(empty.body.as_str().unwrap().contains("is empty; write a statement"));
    // Script is told in the API's own words.
    let sent = rig.anonymous(Method::POST, &format!("{AT}/query")).header("cookie", &cookie);
    let sent = sent.header("sec-fetch-site", "same-origin").json(&json!({"sql": HOSTILE}));
    send(sent).await.problem(503, "unavailable");

    let past = visit(&rig, &cookie, &format!("{AT}/history")).await.is(StatusCode::OK);
    let past = past.body.as_str().unwrap();
    assert!(past.contains("&#60;/textarea&#62;") && !past.contains("<script>"), "{past}");
    let id = past.split("data-query=\"").nth(1).unwrap().split('"').next().unwrap();
    let text = visit(&rig, &cookie, &format!("{AT}/queries/{id}")).await.is(StatusCode::OK);
    assert_eq!(text.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(text.body, HOSTILE);
    let page = visit(&rig, &cookie, &format!("{AT}?query={id}")).await.is(StatusCode::OK);
    assert!(page.body.as_str().unwrap().contains("&#60;/textarea&#62;"));
    // Nobody else has it.
    let other = visitor(&rig, "bob@example.com", Role::Owner).await;
    assert_eq!(visit(&rig, &other, &format!("{AT}/queries/{id}")).await.status, 404);
}

#[tokio::test]
async fn a_session_that_ended_is_sent_to_sign_in_and_back() {
    let rig = Rig::start().await;
    rig.flights().await;
    for (page, to) in [
        (
            rig.url(&format!("{AT}?show=history")),
            format!("/sign-in?to={}%3Fshow%3Dhistory", AT.replace('/', "%2F")),
        ),
        ("https://evil.example//evil.example".to_owned(), "/sign-in".to_owned()),
        ("nonsense".to_owned(), "/sign-in".to_owned()),
    ] {
        let sent =
            rig.anonymous(Method::POST, &format!("{AT}/query")).header("sec-fetch-site", "same-origin");
        let sent = sent.header("hx-request", "true").header("hx-current-url", page);
        let answer = send(sent.json(&json!({"sql": "select 1"}))).await;
        assert_eq!((answer.status, answer.header("hx-redirect")), (401, to.as_str()));
    }
}
