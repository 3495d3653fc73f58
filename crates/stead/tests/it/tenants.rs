//! A tenant's token against every route of the API, for another tenant: answered as for a tenant that is not
//! there. The routes are taken from the OpenAPI document, so that a new one is in here by itself.

use std::process::Command;

use serde_json::Value;

use crate::database::{Database, outcome};
use crate::installation::Installation;

struct Api {
    url: String,
}

impl Api {
    /// An answer: status, and body with what names the tenant taken out.
    fn ask(&self, token: &str, method: &str, path: &str) -> (String, String) {
        let body = r#"{"app": "shop", "postgres": {"main": {"size": "nano", "engine": 18}}}"#;
        let body = if path.ends_with("/tokens") {
            r#"{"name": "x", "scope": "viewer", "tenant": "bolt"}"#
        } else {
            body
        };
        let mut curl = Command::new("curl");
        curl.args(["-s", "-X", method, "-w", "\n%{http_code}"]).arg(format!("{}{path}", self.url));
        curl.args(["-H", "content-type: application/json"]);
        // Not an argument: those are for everybody to see.
        curl.args(["-H", "@/dev/stdin"]);
        if ["PUT", "POST"].contains(&method) && !path.ends_with("/rotate") {
            curl.args(["-d", if path.matches('/').count() == 3 && method == "PUT" { "{}" } else { body }]);
        }
        let answer = crate::database::feed(&mut curl, &format!("authorization: Bearer {token}\n")).unwrap();
        let (body, status) = answer.rsplit_once('\n').unwrap_or(("", &answer));
        (status.to_owned(), body.to_owned())
    }
}

/// A package of the tenant bolt; its hash.
fn upload(stead: &Installation, api: &Api, operator: &str) -> String {
    let code = stead.folder().join("code");
    std::fs::create_dir(&code).unwrap();
    std::fs::write(code.join("index.mjs"), "export const handler = async () => 1;").unwrap();
    let zip = package::build(&code).unwrap();
    let file = stead.folder().join("code.zip");
    std::fs::write(&file, &zip).unwrap();
    let hash = package::digest(&zip).hex();
    let mut curl = Command::new("curl");
    curl.args(["-fsS", "-X", "PUT", "-H", "@/dev/stdin", "--data-binary", &format!("@{}", file.display())]);
    curl.arg(format!("{}/v1/tenants/bolt/packages/{hash}", api.url));
    crate::database::feed(&mut curl, &format!("authorization: Bearer {operator}\n")).unwrap();
    hash
}

#[test]
fn another_tenant_is_not_there() {
    let mut stead = Installation::new();
    stead.environment = vec![("STEAD_SPARES".into(), "0".into())];
    stead.start();
    let api = Api { url: stead.running().unwrap()["url"].as_str().unwrap().to_owned() };
    for tenant in ["acme", "bolt"] {
        Database::up(&stead, tenant, 18, "", &[]);
    }
    let token = |scope: &str, tenant: &str| {
        let made = stead.ok(&["token", "create", "t", "--scope", scope, "--tenant", tenant, "--json"]);
        let made: Value = serde_json::from_str(&made).unwrap();
        (made["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
    };
    let operator = std::fs::read_to_string(stead.home.join("operator.token")).unwrap().trim().to_owned();
    let (own, _) = token("viewer", "bolt");
    let operations: Value =
        serde_json::from_str(&api.ask(&operator, "GET", "/v1/tenants/bolt/operations").1).unwrap();
    let operation = operations["items"][0]["id"].as_str().unwrap().to_owned();
    let history: Value =
        serde_json::from_str(&api.ask(&operator, "GET", "/v1/tenants/bolt/history").1).unwrap();
    let line = history["items"][0]["id"].to_string();
    let package = upload(&stead, &api, &operator);
    let document: Value = serde_json::from_str(&api.ask(&operator, "GET", "/v1/openapi.json").1).unwrap();
    let nobody = "4ead0000-0000-4000-8000-000000000000";

    for scope in ["developer", "viewer"] {
        let (_, secret) = token(scope, "acme");
        let mut of_tenants = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys().map(|method| method.to_uppercase()) {
                let at = |tenant: &str, id: &str| {
                    // What some of them cannot do without; the others pass it over.
                    format!("{path}?as=postgres.try&with=postgres.try")
                        .replace("{tenant}", tenant)
                        .replace("{stead}", "shop")
                        .replace("{component}", "postgres.main")
                        .replace("{line}", &line)
                        .replace("{person}", nobody)
                        .replace("{secret}", "STRIPE_KEY")
                        .replace("{package}", &package)
                        .replace("{id}", id)
                };
                if path.contains("{tenant}") {
                    let theirs = api.ask(&secret, &method, &at("bolt", &operation));
                    let none = api.ask(&secret, &method, &at("none", &operation));
                    assert_eq!(theirs.1.replace("bolt", "none"), none.1, "{scope} {method} {path}");
                    assert_eq!(theirs.0, none.0, "{scope} {method} {path}");
                    assert!(
                        ["404", "403"].contains(&theirs.0.as_str()),
                        "{scope} {method} {path}: {theirs:?}"
                    );
                    of_tenants += 1;
                    // Following logs has no end that one could wait for.
                    let looks = method == "GET" && !path.ends_with("/tail");
                    if looks || method == "POST" && path.ends_with("/plan") {
                        let (status, body) = api.ask(&operator, &method, &at("bolt", &operation));
                        assert_eq!(status, "200", "the control: {method} {path}: {body}");
                    }
                } else if path.contains("{id}") {
                    let (theirs, none) = (
                        api.ask(&secret, &method, &at("", &own)),
                        api.ask(&secret, &method, &at("", nobody)),
                    );
                    assert_eq!(theirs.1.replace(&own, nobody), none.1, "{scope} {method} {path}");
                    assert_eq!(theirs.0, none.0);
                } else {
                    let (status, body) = api.ask(&secret, &method, path);
                    assert!(!body.contains("bolt"), "{scope} {method} {path}: {status} {body}");
                }
            }
        }
        assert!(of_tenants >= 14, "{of_tenants}");
        // Another's operation under one's own name.
        assert_eq!(api.ask(&secret, "GET", &format!("/v1/tenants/acme/operations/{operation}")).0, "404");
        // Names that try a path.
        for name in ["..%2fbolt", "acme%2f..%2fbolt", "BOLT", "bolt%00", "bolt%20", "%62olt"] {
            let (status, body) = api.ask(&secret, "GET", &format!("/v1/tenants/{name}"));
            assert!(["404", "422", "400"].contains(&status.as_str()), "{name}: {status} {body}");
        }
    }
    // The command line is no other way.
    let (_, secret) = token("developer", "acme");
    for verb in [&["status"][..], &["url"], &["logs"], &["history"], &["rotate"], &["down", "--yes"]] {
        let ask = |tenant: &str| {
            let mut command = stead.command(verb);
            command
                .args(["--tenant", tenant, "--stead", "shop"])
                .env("STEAD_TOKEN", &secret)
                .env("STEAD_URL", &api.url);
            outcome(&command.output().unwrap()).map_err(|why| why.replace(tenant, "none"))
        };
        let theirs = ask("bolt");
        assert!(theirs.is_err(), "{verb:?}: {theirs:?}");
        assert_eq!(theirs, ask("none"), "{verb:?}");
    }
    let theirs = Database::of(&stead, "bolt", 18);
    assert_eq!(theirs.sql("select 1").unwrap(), "1", "nothing of it was touched");
    stead.finish();
}
