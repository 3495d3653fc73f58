//! Every form of the console with everything in it that nobody would write: no failure of the server's, nothing of
//! another tenant's, nothing that becomes markup, nowhere else to go.

use component::Role;
use serde_json::Value;

use crate::pages::{Browser, NASTY, Seen};
use crate::rig::Rig;

/// A form: its path as the router has it, and its fields with values that make sense.
type Form = (&'static str, &'static [(&'static str, &'static str)]);

const STEAD: &str = "/tenants/{tenant}/steads/{stead}/components/{component}";
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

const FORMS: &[Form] = &[
    ("/sign-in", &[("to", "/fleet"), ("name", "nobody@acme.example"), ("password", "not the password")]),
    ("/sign-in/code", &[("code", "000000")]),
    (
        "/invitations/{secret}",
        &[("name", "x"), ("password", "correct horse battery"), ("again", "correct horse battery")],
    ),
    (
        "/account/password",
        &[("name", "x"), ("old", "not the password"), ("new", "correct horse battery"), ("again", "other")],
    ),
    ("/account/second-factor", &[("code", "000000")]),
    ("/account/second-factor/remove", &[("password", "not the password")]),
    ("/account/sessions/{id}/end", &[]),
    ("/tenants/{tenant}/new", &[("name", "shop"), ("size", "small"), ("allow", "127.0.0.0/8")]),
    ("/tenants/{tenant}/members", &[("name", "bob@acme.example"), ("role", "viewer")]),
    ("/tenants/{tenant}/members/{id}", &[("role", "viewer")]),
    ("/tenants/{tenant}/invitations/{id}/withdraw", &[]),
    (
        "{STEAD}/settings",
        &[
            ("allow", "127.0.0.0/8"),
            ("size", "small"),
            ("maintenance", "sun 03:00-05:00 UTC"),
            ("idle", "5m"),
            ("every", "1d"),
            ("keep", "14d"),
            ("drill", "7d"),
            ("owner", "team"),
            ("runbook", "README.md"),
            ("protect", "on"),
            ("reason", "why"),
            ("apply", "7"),
        ],
    ),
    ("{STEAD}/database", &[("sql", "select 1"), ("read_only", "on")]),
    ("{STEAD}/database/query", &[]),
    ("{STEAD}/database/export", &[("sql", "select 1"), ("format", "parquet")]),
    ("{STEAD}/database/queries/{id}/cancel", &[]),
    ("{STEAD}/database/resync", &[("reason", "why")]),
    // The last one: it ends the session.
    ("/sign-out", &[]),
];

fn path(form: &str, tenant: &str) -> String {
    form.replace("{STEAD}", STEAD)
        .replace("{tenant}", tenant)
        .replace("{stead}", "flights")
        .replace("{component}", "postgres.main")
        .replace("{id}", NOBODY)
        .replace("{secret}", "nonsense")
}

fn escaped(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn body(fields: &[(&str, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

/// Bodies of a form, each with one thing wrong.
fn bodies(fields: &[(&'static str, &'static str)]) -> Vec<String> {
    let right: Vec<(&str, String)> = fields.iter().map(|(name, value)| (*name, escaped(value))).collect();
    let mut bodies =
        vec![body(&right), String::new(), "%ff%fe".into(), "=&=&&%zz".into(), "{\"sql\":1}".into()];
    for at in 0..fields.len() {
        let long = "!".repeat(300_000);
        let values = NASTY.iter().copied().chain([long.as_str(), "//evil.example", "https://evil.example/"]);
        let raw = values.map(escaped).chain(["%00".into(), "%ff%fe".into(), "%zz".into(), String::new()]);
        for value in raw {
            let mut wrong = right.clone();
            wrong[at].1 = value;
            bodies.push(body(&wrong));
        }
        let mut missing = right.clone();
        missing.remove(at);
        bodies.push(body(&missing));
        let mut twice = right.clone();
        twice.push(right[at].clone());
        bodies.push(body(&twice));
    }
    bodies
}

/// What holds of every answer.
#[track_caller]
fn decent(seen: &Seen, form: &str, sent: &str) {
    let short: String = sent.chars().take(200).collect();
    let what = || format!("{form} {short}: {} {}", seen.status, String::from_utf8_lossy(&seen.bytes));
    // A server that is not there is told as what it is.
    let away = form.contains("/database") && [502, 503].contains(&seen.status);
    assert!(away || seen.status < 500, "{}", what());
    let to = seen.header("location");
    assert!(
        to.is_empty() || (to.starts_with('/') && !to.starts_with("//") && !to.contains('\\')),
        "{}",
        what()
    );
    let text = String::from_utf8_lossy(&seen.bytes);
    assert!(!text.contains("<script>") && !text.contains("onmouseover='"), "{}", what());
    if seen.status != 303 && !seen.bytes.is_empty() {
        let kind = seen.header("content-type");
        let known = ["text/html", "application/problem+json", "text/plain"]
            .iter()
            .any(|known| kind.starts_with(known));
        assert!(known, "{kind} of {}", what());
    }
}

async fn state(rig: &Rig) -> (Value, usize) {
    let stead = rig.get("/v1/tenants/acme/steads/flights").await.body;
    let members = rig.get("/v1/tenants/acme/members").await.body["items"].as_array().unwrap().len();
    (stead, members)
}

#[tokio::test]
async fn nothing_that_is_sent_makes_a_form_fail() {
    let rig = Rig::start().await;
    rig.flights().await;
    let browser = Browser::of(&rig, "ops@stead.example", Role::Operator, None).await;
    for (form, fields) in FORMS {
        for sent in bodies(fields) {
            decent(&browser.post(&path(form, "acme"), &sent, &[]).await, form, &sent);
        }
        for kind in ["application/json", "multipart/form-data", "text/plain; charset=x", "\"", ""] {
            let at = path(form, "acme");
            if *form != "/sign-out" {
                decent(&browser.post(&at, "a=b", &[("content-type", kind)]).await, form, kind);
            }
        }
        // A part of the path that is none.
        for (at, _) in form.match_indices('{').filter(|_| *form != "/sign-out") {
            let end = at + form[at..].find('}').unwrap() + 1;
            for nasty in ["%ff", "..%2f..", "%22%3E%3Cscript%3E", "%00", "🐘", "-1", &"x".repeat(3_000)] {
                if &form[at..end] == "{STEAD}" {
                    continue;
                }
                let broken = path(&format!("{}{nasty}{}", &form[..at], &form[end..]), "acme");
                decent(&browser.post(&broken, "", &[]).await, &broken, "");
            }
        }
    }
}

#[tokio::test]
async fn no_form_does_anything_for_who_may_not() {
    let rig = Rig::with_flights().await;
    let operator = Browser::of(&rig, "ops@stead.example", Role::Operator, None).await;
    let before = state(&rig).await;
    let support = Browser::of(&rig, "sam@stead.example", Role::Support, None).await;
    let other = Browser::of(&rig, "eve@globex.example", Role::Owner, Some("globex")).await;
    let (viewer, stranger) =
        (Browser::of(&rig, "vi@acme.example", Role::Viewer, Some("acme")).await, operator.stranger());
    let members = before.1 + 1;
    for (form, fields) in FORMS.iter().filter(|(form, _)| form.contains("STEAD") || form.contains("{tenant}"))
    {
        let (at, sent) =
            (path(form, "acme"), body(&fields.iter().map(|(n, v)| (*n, escaped(v))).collect::<Vec<_>>()));
        // To who is of another tenant there is nothing, in the words for what does not exist.
        let seen = other.post(&at, &sent, &[]).await;
        decent(&seen, form, &sent);
        assert_eq!(seen.status, 404, "{form}: {}", seen.text());
        let nowhere = other.post(&path(form, "nobody"), &sent, &[]).await;
        assert_eq!(seen.text().replace("acme", "nobody"), nowhere.text(), "{form}");
        assert!(!seen.text().contains("flights is"), "{form}");
        // Who helps all tenants reads no data and changes nothing.
        let seen = support.post(&at, &sent, &[]).await;
        decent(&seen, form, &sent);
        assert!([403, 404].contains(&seen.status), "{form}: {} {}", seen.status, seen.text());
        // Nobody is asked to sign in, and nothing comes of it.
        let seen = stranger.post(&at, &sent, &[]).await;
        assert_eq!((seen.status, seen.header("location")), (303, "/sign-in"), "{form}");
        // And what another site sends is not done for anybody.
        for site in ["cross-site", "same-site", "none", ""] {
            let seen = operator.post(&at, &sent, &[("sec-fetch-site", site)]).await;
            assert_eq!(seen.status, 403, "{form} from {site:?}: {}", seen.text());
        }
        if !form.contains("database") {
            assert!([403, 404].contains(&viewer.post(&at, &sent, &[]).await.status), "{form}");
        }
        assert_eq!(state(&rig).await, (before.0.clone(), members), "{form}");
    }
}

/// The table above has every form that there is.
#[test]
fn every_form_is_tried() {
    let routes = include_str!("../../src/pages/mod.rs").split(".route(").skip(1);
    let posts =
        routes.filter(|route| route.split(".route(").next().is_some_and(|route| route.contains("post(")));
    let paths: Vec<String> = posts
        .map(|route| {
            let path = route.split('"').nth(1).unwrap().to_owned();
            if route.trim_start().starts_with("&at(") { format!("{STEAD}/database{path}") } else { path }
        })
        .collect();
    let known: Vec<String> = FORMS.iter().map(|(form, _)| form.replace("{STEAD}", STEAD)).collect();
    for path in &paths {
        assert!(known.contains(path), "{path} is not in the table");
    }
    assert_eq!(paths.len(), known.len(), "{paths:?}");
}
