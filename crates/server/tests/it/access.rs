//! Who may do what: every action, for every scope, in the own tenant and in another's.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use store::token::Scope;

use crate::rig::{Answer, Rig, send};

/// Every route behind the sign-in, for a tenant with the stead `flights`: what it takes, and how a viewer, a
/// developer and an operator are answered.
const MATRIX: &[(&str, &str, Option<&str>, [u16; 3])] = &[
    ("GET", "/v1/tenants/{t}", None, [200, 200, 200]),
    ("GET", "/v1/tenants/{t}/steads", None, [200, 200, 200]),
    ("GET", "/v1/tenants/{t}/steads/flights", None, [200, 200, 200]),
    ("POST", "/v1/tenants/{t}/steads/flights/plan", Some("{\"postgres\": {\"main\": {}}}"), [200, 200, 200]),
    ("GET", "/v1/tenants/{t}/steads/flights/components/postgres.main", None, [200, 200, 200]),
    ("GET", "/v1/tenants/{t}/steads/flights/components/postgres.main/logs", None, [200, 200, 200]),
    ("GET", "/v1/tenants/{t}/logs", None, [200, 200, 200]),
    ("GET", "/v1/tenants/{t}/logs/stream", None, [200, 200, 200]),
    ("GET", "/v1/tenants/{t}/logs/histogram", None, [200, 200, 200]),
    ("GET", "/v1/tenants/{t}/steads/flights/components/postgres.main/credentials", None, [403, 200, 200]),
    ("POST", "/v1/tenants/{t}/steads/flights/components/postgres.main/rotate", None, [403, 202, 202]),
    ("POST", "/v1/tenants/{t}/steads/flights/components/postgres.main/move", None, [403, 202, 202]),
    (
        "POST",
        "/v1/tenants/{t}/steads/flights/components/postgres.main/clone?as=postgres.try",
        None,
        [403, 422, 422],
    ),
    (
        "POST",
        "/v1/tenants/{t}/steads/flights/components/postgres.main/swap?with=postgres.try",
        None,
        [403, 404, 404],
    ),
    ("DELETE", "/v1/tenants/{t}/steads/flights/components/postgres.main", None, [403, 409, 409]),
    ("GET", "/v1/tenants/{t}/operations", None, [200, 200, 200]),
    ("GET", "/v1/tenants/{t}/history", None, [200, 200, 200]),
    ("PUT", "/v1/tenants/{t}", Some("{}"), [403, 403, 200]),
    ("PUT", "/v1/tenants/{t}/steads/flights", Some("{\"postgres\": {\"main\": {}}}"), [403, 200, 200]),
    (
        "PUT",
        "/v1/tenants/{t}/steads/flights",
        Some("{\"postgres\": {\"main\": {\"owner\": \"me\"}}}"),
        [403, 202, 202],
    ),
    ("PUT", "/v1/tenants/{t}/steads/more", Some("{}"), [403, 201, 201]),
    ("DELETE", "/v1/tenants/{t}", None, [403, 403, 409]),
    ("DELETE", "/v1/tenants/{t}/steads/flights", None, [403, 409, 409]),
    ("DELETE", "/v1/tenants/{t}/steads/flights?unprotect=true", None, [403, 202, 202]),
];

/// Routes that are about no tenant.
const INSTALLATION: &[(&str, &str, Option<&str>, [u16; 3])] = &[
    ("GET", "/v1/tenants", None, [200, 200, 200]),
    ("GET", "/v1/steads", None, [200, 200, 200]),
    ("GET", "/v1/tokens", None, [200, 200, 200]),
    ("GET", "/v1/history", None, [403, 403, 200]),
    ("GET", "/v1/logs", None, [403, 403, 200]),
    ("POST", "/v1/tokens", Some("{\"name\": \"x\", \"scope\": \"operator\"}"), [403, 403, 201]),
    ("DELETE", "/v1/tokens/00000000-0000-4000-8000-000000000000", None, [403, 403, 404]),
];

async fn ask(
    rig: &Rig,
    token: &str,
    (method, path, body): (&str, &str, Option<&str>),
    tenant: &str,
) -> Answer {
    let request = rig.request_as(token, method.parse().unwrap(), &path.replace("{t}", tenant));
    send(match body {
        Some(body) => request.header("content-type", "application/json").body(body.to_owned()),
        None => request,
    })
    .await
}

async fn with_flights() -> Rig {
    let rig = Rig::start().await;
    for tenant in ["acme", "globex"] {
        let body = json!({"postgres": {"main": {}}});
        rig.put(&format!("/v1/tenants/{tenant}/steads/flights"), &body).await.is(StatusCode::ACCEPTED);
    }
    rig.reconcile().await;
    rig
}

#[tokio::test]
async fn every_scope_may_what_the_table_says_and_no_more() {
    let rig = with_flights().await;
    let scopes = [
        rig.token("v", Scope::Viewer, Some("acme")).await,
        rig.token("d", Scope::Developer, Some("acme")).await,
        rig.operator.clone(),
    ];
    for (method, path, body, statuses) in MATRIX.iter().chain(INSTALLATION) {
        for (token, status) in scopes.iter().zip(statuses) {
            // Each row finds the stead as it was; the third of a row may find what the second did.
            let answer = ask(&rig, token, (method, path, *body), "acme").await;
            let right = answer.status == *status || (*status == 201 && answer.status == 200);
            assert!(right, "{method} {path} as {token}: {} {}", answer.status, answer.body);
            if *status == 403 {
                let problem = answer.problem(403, "forbidden");
                let detail = problem["detail"].as_str().unwrap();
                assert!(detail.contains("developer") || detail.contains("operator"), "{detail}");
            }
            rig.reconcile().await;
            let body = json!({"postgres": {"main": {}}});
            rig.put("/v1/tenants/acme/steads/flights", &body).await;
            rig.reconcile().await;
        }
    }
}

#[tokio::test]
async fn another_tenant_cannot_be_told_from_none() {
    let rig = with_flights().await;
    let own = [Scope::Viewer, Scope::Developer].map(|scope| rig.token("own", scope, Some("acme")));
    let before = rig.history("globex").await;
    for token in own {
        let token = token.await;
        for (method, path, body, _) in MATRIX {
            let theirs = ask(&rig, &token, (method, path, *body), "globex").await;
            let nobodys = ask(&rig, &token, (method, path, *body), "nobody").await;
            assert_eq!(theirs.status, 404, "{method} {path}: {}", theirs.body);
            let same = theirs.body.to_string().replace("globex", "nobody");
            assert_eq!(same, nobodys.body.to_string(), "{method} {path}");
            let names = |answer: &Answer| {
                let mut names: Vec<_> = answer.headers.keys().map(ToString::to_string).collect();
                names.sort_unstable();
                names
            };
            assert_eq!(names(&theirs), names(&nobodys));
        }
        for path in ["/v1/tenants", "/v1/steads", "/v1/tokens"] {
            let listed = send(rig.request_as(&token, Method::GET, path)).await.is(StatusCode::OK);
            assert!(!listed.body.to_string().contains("globex"), "{path}: {}", listed.body);
        }
    }
    assert_eq!(rig.history("globex").await, before, "nothing of it is in the other's history");
    rig.get("/v1/tenants/nobody").await.problem(404, "not-found");
}

#[tokio::test]
async fn an_operation_of_another_tenant_is_not_found() {
    let rig = with_flights().await;
    let theirs =
        rig.get("/v1/tenants/globex/operations").await.body["items"][0]["id"].as_str().unwrap().to_owned();
    let token = rig.token("d", Scope::Developer, Some("acme")).await;
    for path in
        [format!("/v1/tenants/globex/operations/{theirs}"), format!("/v1/tenants/acme/operations/{theirs}")]
    {
        send(rig.request_as(&token, Method::GET, &path)).await.problem(404, "not-found");
    }
    // A cursor of one list is of no use in another tenant's.
    let cursor = rig.get("/v1/steads?limit=1").await.body["next"].as_str().unwrap().to_owned();
    let path = format!("/v1/steads?cursor={cursor}");
    let rest = send(rig.request_as(&token, Method::GET, &path)).await.is(StatusCode::OK);
    assert_eq!(rest.body["items"], json!([]));
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_in_force() {
    let rig = with_flights().await;
    for (method, path, ..) in MATRIX.iter().chain(INSTALLATION) {
        let path = path.replace("{t}", "acme");
        let method: Method = method.parse().unwrap();
        let answer = send(rig.anonymous(method.clone(), &path)).await;
        assert_eq!(answer.header("www-authenticate"), "Bearer realm=\"stead\"", "{path}");
        answer.problem(401, "unauthenticated");
        for header in ["Bearer stead_nope", "Bearer ", "Basic cm9vdDpyb290", "stead_nope", "Bearer \u{e4}"] {
            let answer = send(rig.anonymous(method.clone(), &path).header("authorization", header)).await;
            answer.problem(401, "unauthenticated");
        }
    }
    // Even what cannot be understood is first asked for a token.
    send(rig.anonymous(Method::GET, "/v1/tenants/NOT-A-NAME?limit=x")).await.problem(401, "unauthenticated");
    for path in ["/v1/health", "/v1/openapi.json"] {
        send(rig.anonymous(Method::GET, path)).await.is(StatusCode::OK);
    }
}

#[tokio::test]
async fn the_certificate_and_the_health_need_no_token() {
    let rig = Rig::start().await;
    send(rig.anonymous(Method::GET, "/v1/ca")).await.problem(404, "not-found");
    std::fs::write(rig.folder.path().join("ca.pem"), "-----BEGIN CERTIFICATE-----\n").unwrap();
    let ca = send(rig.anonymous(Method::GET, "/v1/ca")).await.is(StatusCode::OK);
    assert_eq!(ca.header("content-type"), "application/x-pem-file");
    assert_eq!(ca.body, Value::String("-----BEGIN CERTIFICATE-----\n".into()));
    let health = send(rig.anonymous(Method::GET, "/v1/health")).await.is(StatusCode::OK);
    assert_eq!(health.body, json!({"status": "ok", "version": "0.0.0-test"}));
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_said_to_be_unavailable() {
    let rig = Rig::start().await;
    rig.store.close().await;
    for path in ["/v1/health", "/v1/tenants"] {
        let answer = rig.get(path).await;
        assert_eq!(answer.header("retry-after"), "1");
        answer.problem(503, "unavailable");
    }
}

#[tokio::test]
async fn what_is_broken_inside_is_not_told_outside() {
    let rig = Rig::start().await;
    rig.db.connect().await.batch_execute("alter table steads rename column app to ppa").await.unwrap();
    let answer = rig.get("/v1/steads").await;
    assert!(!answer.header("x-request-id").is_empty());
    let problem = answer.problem(500, "internal");
    let text = problem.to_string();
    assert!(!text.contains("app") && !text.contains("column"), "{text}");
}
