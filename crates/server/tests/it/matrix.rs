//! Who may do what: every route of the document, for every role, in the own tenant and in another's.

use std::collections::BTreeSet;

use component::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Answer, Rig, send};

/// A way to ask a route: method, path as the document has it, query, body, the roles that may (first letters: operator,
/// support, oWner, developer, auditor, viewer), and how those are answered; all others are told 403.
type Row = (&'static str, &'static str, &'static str, Option<&'static str>, &'static str, u16);

const ALL: &str = "oswdav";
const EDIT: &str = "owd";
const C: &str = "/v1/tenants/{tenant}/steads/{stead}/components/{component}";

const ONE: &str = r#"{"postgres": {"main": {}}}"#;
const NOBODY: &str = "4ead0000-0000-4000-8000-000000000000";

fn rows() -> Vec<Row> {
    let of_component = |method, rest: &'static str, query, body, roles, status| -> Row {
        (method, Box::leak(format!("{C}{rest}").into_boxed_str()), query, body, roles, status)
    };
    let mut rows: Vec<Row> = vec![
        ("GET", "/v1/tenants", "", None, ALL, 200),
        ("GET", "/v1/tenants/{tenant}", "", None, ALL, 200),
        ("PUT", "/v1/tenants/{tenant}", "", Some("{}"), "o", 200),
        ("DELETE", "/v1/tenants/{tenant}", "", None, "o", 409),
        ("GET", "/v1/steads", "", None, ALL, 200),
        ("GET", "/v1/steads", "q=flights&health=ready", None, ALL, 200),
        ("GET", "/v1/steads/health", "", None, ALL, 200),
        ("GET", "/v1/steads/health", "tenant=acme", None, ALL, 200),
        ("GET", "/v1/tenants/{tenant}/steads", "", None, ALL, 200),
        ("GET", "/v1/tenants/{tenant}/steads/{stead}", "", None, ALL, 200),
        ("PUT", "/v1/tenants/{tenant}/steads/{stead}", "", Some(ONE), EDIT, 200),
        ("PUT", "/v1/tenants/{tenant}/steads/more", "", Some("{}"), EDIT, 201),
        (
            "PATCH",
            "/v1/tenants/{tenant}/steads/{stead}",
            "",
            Some(r#"{"postgres": {"main": {"owner": "me"}}}"#),
            EDIT,
            202,
        ),
        ("DELETE", "/v1/tenants/{tenant}/steads/{stead}", "", None, EDIT, 409),
        ("DELETE", "/v1/tenants/{tenant}/steads/{stead}", "unprotect=true", None, EDIT, 202),
        ("POST", "/v1/tenants/{tenant}/steads/{stead}/plan", "", Some(ONE), ALL, 200),
        ("PATCH", "/v1/tenants/{tenant}/steads/{stead}/plan", "", Some(ONE), ALL, 200),
        ("GET", "/v1/tenants/{tenant}/operations", "", None, ALL, 200),
        ("GET", "/v1/tenants/{tenant}/operations/{id}", "", None, ALL, 200),
        ("GET", "/v1/tenants/{tenant}/history", "", None, ALL, 200),
        ("GET", "/v1/tenants/{tenant}/history/{line}", "", None, ALL, 200),
        ("GET", "/v1/tenants/{tenant}/history-export", "", None, "oswa", 200),
        ("GET", "/v1/tenants/{tenant}/history-export", "format=csv", None, "oswa", 200),
        ("GET", "/v1/history", "", None, "os", 200),
        ("GET", "/v1/history-export", "", None, "os", 200),
        ("GET", "/v1/tenants/{tenant}/logs", "", None, ALL, 200),
        ("GET", "/v1/tenants/{tenant}/logs/stream", "", None, ALL, 200),
        ("GET", "/v1/tenants/{tenant}/logs/histogram", "", None, ALL, 200),
        ("GET", "/v1/logs", "", None, "os", 200),
        ("GET", "/v1/tenants/{tenant}/members", "", None, "ow", 200),
        ("PUT", "/v1/tenants/{tenant}/members/{person}", "", Some(r#"{"role": "viewer"}"#), "ow", 404),
        ("DELETE", "/v1/tenants/{tenant}/members/{person}", "", None, "ow", 404),
        ("GET", "/v1/tenants/{tenant}/invitations", "", None, "ow", 200),
        (
            "POST",
            "/v1/tenants/{tenant}/invitations",
            "",
            Some(r#"{"name": "bob@acme.example", "role": "viewer"}"#),
            "ow",
            201,
        ),
        ("DELETE", "/v1/tenants/{tenant}/invitations/{id}", "", None, "ow", 404),
        (
            "POST",
            "/v1/invitations",
            "",
            Some(r#"{"name": "eve@stead.example", "role": "support"}"#),
            "o",
            201,
        ),
        ("GET", "/v1/tokens", "", None, ALL, 200),
        ("POST", "/v1/tokens", "", Some(r#"{"name": "x", "scope": "operator"}"#), "o", 201),
        ("DELETE", "/v1/tokens/{id}", "", None, "o", 404),
    ];
    rows.extend([
        of_component("GET", "", "", None, ALL, 200),
        of_component("DELETE", "", "", None, EDIT, 409),
        of_component("GET", "/logs", "", None, ALL, 200),
        of_component("GET", "/credentials", "", None, EDIT, 200),
        of_component("POST", "/rotate", "", None, EDIT, 202),
        of_component("POST", "/move", "", None, EDIT, 202),
        of_component("POST", "/resync", "", None, EDIT, 422),
        of_component("POST", "/pause", "", None, EDIT, 422),
        of_component("POST", "/resume", "", None, EDIT, 422),
        of_component("POST", "/clone", "as=postgres.try", None, EDIT, 422),
        of_component("POST", "/swap", "with=postgres.try", None, EDIT, 404),
        of_component("GET", "/queries", "", None, "owdv", 200),
        of_component("DELETE", "/queries/{id}", "", None, "owdv", 404),
        // There is no server behind it: who is let through is told so.
        of_component("POST", "/query", "", Some(r#"{"sql": "select 1"}"#), "owdv", 503),
        of_component("GET", "/schema", "", None, "owdv", 503),
        // It is no function: who is let through is told so.
        of_component("GET", "/releases", "", None, ALL, 200),
        of_component("POST", "/rollback", "", None, EDIT, 422),
        of_component("POST", "/promote", "", None, EDIT, 422),
        of_component("POST", "/invocations", "", Some("{}"), EDIT, 422),
        of_component("POST", "/inspections", "", None, EDIT, 422),
        of_component("POST", "/inspections/{id}", "", None, EDIT, 422),
        ("GET", "/v1/tenants/{tenant}/steads/{stead}/secrets", "", None, ALL, 200),
        ("DELETE", "/v1/tenants/{tenant}/steads/{stead}/secrets/{secret}", "", None, EDIT, 404),
        (
            "PUT",
            "/v1/tenants/{tenant}/steads/{stead}/secrets/{secret}",
            "",
            Some(r#"{"value": "s3cret"}"#),
            EDIT,
            200,
        ),
        ("GET", "/v1/tenants/{tenant}/packages/{package}", "", None, EDIT, 404),
        // No zip has this hash.
        ("PUT", "/v1/tenants/{tenant}/packages/{package}", "", Some("{}"), EDIT, 422),
    ]);
    rows
}

/// What stands for the names in a path.
struct Named {
    line: String,
    operation: String,
}

impl Named {
    async fn of(rig: &Rig, tenant: &str) -> Self {
        let first = async |list: &str| {
            rig.get(&format!("/v1/tenants/{tenant}/{list}")).await.body["items"][0]["id"].clone()
        };
        Self {
            line: first("history").await.to_string(),
            operation: first("operations").await.as_str().unwrap().to_owned(),
        }
    }

    fn path(&self, (_, path, query, ..): &Row, tenant: &str) -> String {
        let path = path
            .replace("{tenant}", tenant)
            .replace("{stead}", "flights")
            .replace("{component}", "postgres.main")
            .replace("{line}", &self.line)
            .replace("/operations/{id}", &format!("/operations/{}", self.operation))
            .replace("{person}", NOBODY)
            .replace("{secret}", "NOBODY")
            .replace("{package}", &"0".repeat(64))
            .replace("{id}", NOBODY);
        let query = query.replace("tenant=acme", &format!("tenant={tenant}"));
        if query.is_empty() { path } else { format!("{path}?{query}") }
    }
}

async fn ask(rig: &Rig, token: &str, row: &Row, path: &str) -> Answer {
    let request = rig.request_as(token, row.0.parse().unwrap(), path);
    send(match row.3 {
        Some(body) => request.header("content-type", "application/json").body(body),
        None => request,
    })
    .await
}

async fn token_of(rig: &Rig, role: Role) -> String {
    rig.token("own", role, (!role.is_staff()).then_some("acme")).await
}

fn letter(role: Role) -> char {
    if role == Role::Owner { 'w' } else { role.as_str().chars().next().unwrap() }
}

#[tokio::test]
async fn every_role_may_what_the_table_says_and_no_more() {
    let rig = Rig::with_flights().await;
    for role in Role::ALL {
        let token = token_of(&rig, role).await;
        for row in rows() {
            let named = Named::of(&rig, "acme").await;
            let (roles, status) = (row.4, row.5);
            let path = named.path(&row, "acme");
            let answer = ask(&rig, &token, &row, &path).await;
            let may = roles.contains(letter(role));
            let wanted = if may { status } else { 403 };
            // What one role made, the next finds.
            let right = answer.status == wanted || (wanted == 201 && answer.status == 200);
            assert!(right, "{} {path} as {role}: {} {}", row.0, answer.status, answer.body);
            if !may {
                let problem = answer.problem(403, "forbidden");
                assert!(problem["detail"].as_str().unwrap().contains("takes a token of scope"), "{problem}");
            } else if row.0 != "GET" {
                rig.reconcile().await;
                rig.put("/v1/tenants/acme/steads/flights", &serde_json::from_str(ONE).unwrap()).await;
                rig.reconcile().await;
            }
        }
    }
}

#[tokio::test]
async fn another_tenant_cannot_be_told_from_none() {
    let rig = Rig::with_flights().await;
    let theirs = Named::of(&rig, "globex").await;
    let before = rig.history("globex").await;
    for role in Role::OF_MEMBERS {
        let token = token_of(&rig, role).await;
        for row in rows() {
            let path = theirs.path(&row, "globex");
            if !path.contains("globex") {
                let answer = ask(&rig, &token, &row, &path).await;
                assert!(!answer.body.to_string().contains("globex"), "{path}: {}", answer.body);
                continue;
            }
            let answer = ask(&rig, &token, &row, &path).await;
            let nobodys = ask(&rig, &token, &row, &path.replace("globex", "nobody")).await;
            assert_eq!(answer.status, 404, "{} {path} as {role}: {}", row.0, answer.body);
            let same = answer.body.to_string().replace("globex", "nobody");
            assert_eq!(same, nobodys.body.to_string(), "{} {path}", row.0);
            let names = |answer: &Answer| {
                let mut names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
                names.sort_unstable();
                names
            };
            assert_eq!(names(&answer), names(&nobodys), "{path}");
            // What is another's, asked for in the own tenant.
            if row.1.contains("{line}") || row.1.contains("/operations/{id}") {
                let stolen = theirs.path(&row, "acme");
                ask(&rig, &token, &row, &stolen).await.problem(404, "not-found");
            }
        }
    }
    assert_eq!(rig.history("globex").await, before, "nothing of it is in the other's history");
    rig.get("/v1/tenants/nobody").await.problem(404, "not-found");
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_in_force() {
    let rig = Rig::with_flights().await;
    let named = Named::of(&rig, "acme").await;
    for row in rows() {
        let (path, method) = (named.path(&row, "acme"), row.0.parse::<Method>().unwrap());
        let answer = send(rig.anonymous(method.clone(), &path)).await;
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"stead\"", "{path}");
        answer.problem(401, "unauthenticated");
        for header in ["Bearer stead_nope", "Bearer ", "Basic cm9vdDpyb290", "stead_nope", "Bearer \u{e4}"] {
            let answer = send(rig.anonymous(method.clone(), &path).header("authorization", header)).await;
            answer.problem(401, "unauthenticated");
        }
        // The API takes no cookie of the console's.
        let cookie = rig.anonymous(method, &path).header("cookie", "stead_session=x");
        send(cookie).await.problem(401, "unauthenticated");
    }
    // Even what cannot be understood is first asked for a token.
    send(rig.anonymous(Method::GET, "/v1/tenants/NOT-A-NAME?limit=x")).await.problem(401, "unauthenticated");
    for path in ["/v1/health", "/v1/openapi.json"] {
        send(rig.anonymous(Method::GET, path)).await.is(StatusCode::OK);
    }
}

#[test]
fn no_route_of_the_document_is_left_out() {
    let document = serde_json::to_value(server::openapi()).unwrap();
    let mut known = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            // What needs no token is nobody's to judge; and following logs ends by itself only after minutes.
            if path.ends_with("/logs/tail") {
                continue;
            }
            if operation
                .get("security")
                .and_then(Value::as_array)
                .is_none_or(|open| !open.contains(&json!({})))
            {
                known.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    let judged: BTreeSet<String> =
        rows().iter().map(|row| format!("{} {}", row.0, row.1.replace("/more", "/{stead}"))).collect();
    assert_eq!(known, judged);
}
