//! What is read out of manifests, and what a person is told of bad ones.

use component::function::{Access, Digest, Runtime};
use component::manifest::{self, Manifest};
use component::postgres::{Major, Size};
use component::transfer::{Condition, Every, Mode, Tables};
use serde_json::json;

/// The stead that API bodies are put to.
pub(crate) fn app() -> component::SteadName {
    "flights".parse().expect("a name")
}

/// Every field once.
pub(crate) const FULL: &str = r#"
app = "flights"

[postgres.main]
engine = 18
size = "medium"
allow = ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"]
maintenance = "sun 03:00-05:00 Asia/Tokyo"
idle = "90s"
schema = "db/migrations"
extensions = ["pg_trgm", "uuid-ossp"]
protect = false
owner = "team-flights"
runbook = "https://wiki.example.com/flights"

[function.api]
code = "api"
runtime = "nodejs24.x"
handler = "src/index.handler"
memory = 512
timeout = 10
concurrency = 5
environment = { LOG_LEVEL = "debug" }
uses = ["postgres.main"]
url = "token"
schedule = "0 6 * * mon-fri Europe/Zurich"
egress = ["api.example.com", "*.example.org:8443"]
owner = "team-flights"
runbook = "https://wiki.example.com/api"

[transfer.lake]
from = "postgres.main"
mode = "snapshot"
tables = [
    "public.*",
    { name = "sales.order_*", without = ["note"], where = "status <> 'draft'" },
]
every = "15m"
allow = ["10.0.0.0/8"]
owner = "team-data"
consumers = ["team-finance", "team-ops"]
runbook = "https://wiki.example.com/lake"
"#;

#[test]
fn reads_every_field() {
    let Manifest { app, postgres, function, transfer } =
        manifest::parse("stead.toml", FULL).expect("a manifest");
    assert_eq!(app.as_str(), "flights");
    let server = &postgres[&"main".parse().expect("a name")];
    assert_eq!(server.wish.engine, Some(Major::new(18)));
    assert_eq!(server.wish.size, Some(Size::Medium));
    assert_eq!(server.wish.allow.as_ref().map(Vec::len), Some(3));
    assert_eq!(
        server.wish.maintenance.as_ref().map(ToString::to_string).as_deref(),
        Some("sun 03:00-05:00 Asia/Tokyo")
    );
    assert_eq!(server.wish.idle, Some("1m30s".parse().expect("a length")));
    assert_eq!(server.schema.as_deref(), Some("db/migrations".as_ref()));
    assert_eq!(server.wish.extensions, ["pg_trgm", "uuid-ossp"]);
    assert_eq!(server.wish.protect, Some(false));
    assert_eq!(server.wish.owner.as_deref(), Some("team-flights"));
    assert_eq!(server.wish.runbook.as_deref(), Some("https://wiki.example.com/flights"));
    let api = &function[&"api".parse().expect("a name")];
    assert_eq!(api.code.as_deref(), Some("api".as_ref()));
    assert_eq!(api.wish.runtime.map(Runtime::name), Some("nodejs24.x"));
    assert_eq!(api.wish.handler.as_deref(), Some("src/index.handler"));
    assert_eq!(
        (api.wish.memory_mib, api.wish.timeout_s, api.wish.concurrency),
        (Some(512), Some(10), Some(5))
    );
    assert_eq!(api.wish.environment["LOG_LEVEL"], "debug");
    assert_eq!(api.wish.uses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["postgres.main"]);
    assert_eq!(api.wish.url, Some(Access::Token));
    assert_eq!(api.wish.schedule.as_ref().map(|schedule| &*schedule.zone), Some("Europe/Zurich"));
    assert_eq!(api.wish.egress.len(), 2);
    let lake = &transfer[&"lake".parse().expect("a name")];
    assert_eq!(lake.from.as_ref().map(ToString::to_string).as_deref(), Some("postgres.main"));
    assert_eq!(lake.mode, Some(Mode::Snapshot));
    assert_eq!(lake.tables.as_ref().map(Tables::len), Some(2));
    let parts: Vec<_> = lake.tables.iter().flat_map(Tables::parts).collect();
    assert_eq!(parts.len(), 1);
    assert_eq!(parts[0].1.rows.as_ref().map(Condition::sql), Some("\"status\" <> 'draft'"));
    assert_eq!(lake.every.map(Every::as_secs), Some(900));
    assert_eq!((lake.allow.as_ref().map(Vec::len), lake.consumers.len()), (Some(1), 2));
    assert_eq!(lake.owner.as_deref(), Some("team-data"));
}

#[test]
fn the_api_body_reads_back_as_the_same_manifest() {
    let mut manifest = manifest::parse("stead.toml", FULL).expect("a manifest");
    let files = vec![("0002_b.sql".into(), "select 2".into()), ("0001_a.sql".into(), "select 1".into())];
    let (schema, texts) = manifest::migrations(files).expect("migrations");
    let server = manifest.postgres.get_mut(&"main".parse().expect("a name")).expect("a server");
    server.schema = None;
    server.wish.schema = schema;
    server.files = texts;
    let api = manifest.function.get_mut(&"api".parse().expect("a name")).expect("a function");
    api.code = None;
    api.wish.code = Some(Digest::new([7; 32]));
    let body = manifest::to_json(&manifest);
    assert_eq!(manifest::from_json(&body, &app()), Ok(manifest));
}

#[test]
fn an_empty_body_is_a_stead_without_servers() {
    let manifest =
        manifest::from_json(&json!({"postgres": {"main": {"size": null}}}), &app()).expect("a manifest");
    assert_eq!(manifest.app, app());
    assert_eq!(manifest.postgres.len(), 1);
    assert!(manifest::from_json(&json!({}), &app()).expect("a manifest").postgres.is_empty());
}

/// A server elsewhere is named by secrets, and a URL that is written in their place is not repeated.
#[test]
fn a_server_elsewhere_is_a_secret() {
    let text = "app = \"a\"\n[transfer.t]\nfrom = { secret = \"LEGACY_URL\", ca = \"LEGACY_CA\" }\n";
    let read = manifest::parse("stead.toml", text).expect("a manifest");
    let from = read.transfer.values().next().and_then(|wish| wish.from.clone()).expect("a server");
    assert_eq!(from.secrets().map(ToString::to_string).collect::<Vec<_>>(), ["LEGACY_URL", "LEGACY_CA"]);
    assert_eq!(manifest::from_json(&manifest::to_json(&read), &app()), Ok(read));
    let url = "postgres://a:s3cret@h/d";
    for (from, said) in [
        (json!(url), "is a URL, which belongs into a secret"),
        (json!({ "secret": url }), "is no name of a secret"),
        (json!({ "url": url }), "names no secret"),
        (json!({ "url": url }), "stead secret set"),
        (json!({ "secret": "A", "ca": "-----BEGIN s3cret" }), "is no name of a secret"),
        (json!({ "secret": "1" }), "cannot be the name of a variable"),
        (json!(["postgres.main"]), "is not a server"),
    ] {
        let bad = manifest::from_json(&json!({ "transfer": { "t": { "from": from } } }), &app()).unwrap_err();
        let bad: Vec<_> = bad.into_iter().map(|error| error.message).collect();
        assert!(bad.iter().any(|message| message.contains(said)), "{bad:?}");
        assert!(!bad.concat().contains("s3cret"), "{bad:?}");
    }
}

/// A bucket is named with the secrets that open it, and a key that is written in their place is not repeated.
#[test]
fn a_bucket_is_a_place_and_two_secrets() {
    let text = "app = \"a\"\n[transfer.t]\nfrom = \"postgres.main\"\nto = { bucket = \"s3://acme-lake/flights\", region = \"eu-central-1\", \
                endpoint = \"https://minio:9000\", key = \"K\", secret = \"S\", ca = \"C\" }\n";
    let read = manifest::parse("stead.toml", text).expect("a manifest");
    let to = read.transfer.values().next().and_then(|wish| wish.to.clone()).expect("a bucket");
    assert_eq!(to.secrets().map(ToString::to_string).collect::<Vec<_>>(), ["K", "S", "C"]);
    assert_eq!(manifest::from_json(&manifest::to_json(&read), &app()), Ok(read));
    let key = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYs3cretKEY0";
    for (to, said) in [
        (json!("s3://acme-lake/flights"), "is no bucket"),
        (json!({ "bucket": "acme-lake", "key": "K", "secret": "S" }), "is no place in a bucket"),
        (json!({ "bucket": "s3://K:s3cret@acme/x", "key": "K", "secret": "S" }), "says nobody's key"),
        (json!({ "bucket": "s3://acme/x", "secret": "S" }), "has no `key`"),
        (
            json!({ "bucket": "s3://acme/x", "key": "AKIAIOSFODNN7EXAMPLE", "secret": "S" }),
            "is no name of a secret",
        ),
        (json!({ "bucket": "s3://acme/x", "key": "K", "secret": key }), "is no name of a secret"),
        (json!({ "bucket": "s3://acme/x", "key": "K", "secret": "S", "region": "EU" }), "is no region"),
        (
            json!({ "bucket": "s3://acme/x", "key": "K", "secret": "S", "endpoint": "minio" }),
            "is no address of a store",
        ),
        (
            json!({ "bucket": "s3://acme/x", "key": "K", "secret": "S", "url": "x" }),
            "that is called `bucket` here",
        ),
    ] {
        let bad = manifest::from_json(&json!({ "transfer": { "t": { "to": to } } }), &app()).unwrap_err();
        let bad = format!("{bad:?}");
        assert!(bad.contains(said), "{said}: {bad}");
        assert!(!bad.contains("s3cret") && !bad.contains("AKIA"), "{bad}");
    }
}
