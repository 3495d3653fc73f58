//! Every way in which a manifest is refused, as a person reads it and as a program does.

use component::manifest;
use serde_json::json;

use crate::manifest::app;

/// The report as `stead` prints it where there is neither colour nor Unicode.
fn report(text: &str) -> String {
    let error = manifest::parse("stead.toml", text).expect_err("a manifest to refuse");
    let mut out = String::new();
    miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::none())
        .with_width(100)
        .render_report(&mut out, &error)
        .expect("a report");
    out
}

/// The report on a server with these lines.
fn of_server(lines: &str) -> String {
    report(&format!("app = \"flights\"\n\n[postgres.main]\n{lines}\n"))
}

#[test]
fn what_is_not_toml() {
    for (name, text) in [
        ("unquoted", "app = flights\n\n[postgres.main]\nsize = nano\nallow = [10.0.0.0/8]\nprotect = yes\n"),
        ("open_text", "app = \"flights\n"),
        ("open_list", "app = \"flights\"\n[postgres.main]\nallow = [\"10.0.0.0/8\"\nsize = \"nano\"\n"),
        ("open_heading", "app = \"flights\"\n[postgres.main\nsize = \"nano\"\n"),
        ("no_value", "app =\n"),
        ("colon", "app: flights\n"),
        ("json", "{\"app\": \"flights\"}\n"),
        ("curly_quotes", "app = “flights”\n"),
        ("no_comma", "app = \"flights\"\n[postgres.main]\nallow = [\"::1/128\" \"10.0.0.0/8\"]\n"),
        ("key_twice", "app = \"flights\"\n[postgres.main]\nsize = \"nano\"\nsize = \"large\"\n"),
        (
            "heading_twice",
            "app = \"flights\"\n[postgres.main]\nsize = \"nano\"\n[postgres.main]\nengine = 17\n",
        ),
        ("escape_codes", "app = \"\u{1b}[31mflights\"\n"),
        ("too_deep", &format!("app = \"flights\"\nx = {}\n", "[".repeat(100))),
    ] {
        insta::assert_snapshot!(format!("syntax_{name}"), report(text));
    }
}

#[test]
fn keys_and_names() {
    for (name, text) in [
        ("empty_file", ""),
        ("no_app", "[postgres.main]\nsize = \"nano\"\n"),
        ("bad_app", "app = \"My Shop\"\n"),
        ("app_type", "app = 12\n"),
        ("unknown_kind", "app = \"flights\"\n[postgre.main]\n[mysql.main]\n"),
        ("no_name", "app = \"flights\"\n[postgres]\nsize = \"nano\"\nallow = [\"::1/128\"]\n"),
        ("two_tables", "app = \"flights\"\n[[postgres]]\nsize = \"nano\"\n"),
        ("at_the_top", "app = \"flights\"\nsize = \"nano\"\n[postgres.main]\n"),
        (
            "bad_names",
            "app = \"flights\"\n[postgres.\"../x\"]\n[postgres.Main]\n[postgres.\"a;drop table\"]\n",
        ),
        ("reserved", "app = \"flights\"\n[postgres.postgres]\n[postgres.template1]\n"),
        ("server_type", "app = \"flights\"\npostgres.main = \"small\"\n"),
        (
            "unknown_keys",
            "app = \"flights\"\n[postgres.main]\nmaintainance = 1\nversion = 18\nscale-to-zero = true\npassword = \"x\"\nname = \"x\"\nzzz = 1\n",
        ),
    ] {
        insta::assert_snapshot!(format!("keys_{name}"), report(text));
    }
}

#[test]
fn engines_and_sizes() {
    for (name, lines) in [
        ("engine_text", "engine = \"18\""),
        ("engine_minor", "engine = 18.6"),
        ("engine_unknown", "engine = 9"),
        ("engine_huge", "engine = 99999999999999999999999999"),
        ("engine_list", "engine = [18]"),
        ("size_near", "size = \"Smal\""),
        ("size_far", "size = \"xxl\""),
        ("size_number", "size = 2"),
        ("protect_text", "protect = \"false\""),
        ("protect_number", "protect = 0"),
    ] {
        insta::assert_snapshot!(name, of_server(lines));
    }
}

#[test]
fn networks() {
    let bad = [
        "10.0.0.1/8",
        "10.1.2.3",
        "2001:db8::1",
        "10.0.0.0/33",
        "::/129",
        "10.0.0.0/",
        "10.0.0.0/+8",
        "10.0.0.0/08",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/255.0.255.0",
        "010.0.0.0/8",
        "10.0.0/8",
        "10.0.0.1-10.0.0.9",
        "example.com",
        "localhost",
        "*",
        "",
        " 10.0.0.0/8",
        "::ffff:10.0.0.0/104",
        "fe80::1%eth0/64",
        "999.0.0.0/8",
        "10.0.0.0/8; drop table x",
        "2001:0db8:0000::/32",
    ];
    let said = bad.map(|net| {
        let body = json!({"postgres": {"main": {"allow": [net]}}});
        match manifest::from_json(&body, &app()) {
            Ok(manifest) => {
                format!("{net} is {:?}", manifest.postgres.values().next().and_then(|s| s.wish.allow.clone()))
            }
            Err(errors) => errors[0].message.clone(),
        }
    });
    insta::assert_yaml_snapshot!(said);
    insta::assert_snapshot!(of_server("allow = [\n  \"10.0.0.1/8\",\n  \"0.0.0.0/0\",\n  10,\n]"));
    insta::assert_snapshot!(of_server("allow = \"10.0.0.0/8\""));
    insta::assert_snapshot!(of_server(&format!("allow = [\n{}]", "  \"::1/128\",\n".repeat(501))));
}

#[test]
fn texts_and_folders() {
    for (name, lines) in [
        ("maintenance_zone", "maintenance = \"sun 03:00-05:00 Asia/Tokio\""),
        ("maintenance_day", "maintenance = \"sunday 03:00-05:00 UTC\""),
        ("maintenance_span", "maintenance = \"sun 3-5 UTC\""),
        ("maintenance_empty", "maintenance = \"sun 03:00-03:00 UTC\""),
        ("maintenance_shape", "maintenance = \"any time\""),
        ("maintenance_time", "maintenance = 03:00:00"),
        ("idle_number", "idle = 300"),
        ("idle_number_zero", "idle = 0"),
        ("idle_no_unit", "idle = \"1h 30\""),
        ("idle_unit", "idle = \"2h 5x\""),
        ("idle_month", "idle = \"1mo\""),
        ("idle_zero", "idle = \"0s\""),
        ("idle_negative", "idle = \"-5m\""),
        ("idle_long", "idle = \"31d\""),
        ("idle_fraction", "idle = \"500ms\""),
        ("idle_shape", "idle = \"a while; or so\""),
        ("idle_never", "idle = \"never\""),
        ("idle_false", "idle = false"),
        ("idle_time", "idle = 00:05:00"),
        ("schema_absolute", "schema = \"/etc\""),
        ("schema_outside", "schema = \"sql/../../other\""),
        ("schema_empty", "schema = \"\""),
        ("schema_list", "schema = [\"0001_a.sql\"]"),
        ("extension_names", "extensions = [\"PG_TRGM\", \"pg_trgm; drop\", \"\", 1]"),
        (
            "extension_refused",
            "extensions = [\"plpython3u\", \"hstore_plperlu\", \"pltclu\", \"file_fdw\", \"dblink\", \"postgres_fdw\", \
             \"adminpack\", \"pg_surgery\", \"pageinspect\"]",
        ),
        ("owner_empty", "owner = \"  \""),
        (
            "owner_long",
            "owner = \"123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890x\"",
        ),
        ("runbook_control", "runbook = \"a\\u001b[31m\""),
        ("owner_type", "owner = true"),
    ] {
        insta::assert_snapshot!(name, of_server(lines));
    }
}

#[test]
fn every_problem_at_once() {
    insta::assert_snapshot!(report(
        "app = \"My Shop\"\n\n[postgres.main]\nengine = \"18\"\nsize = \"smal\"\nallow = [\"10.0.0.1/8\", \"10.1.2.3\"]\n\
         maintenence = \"x\"\n\n[postgres.Other]\nprotect = 1\n"
    ));
    let many = (0..100).map(|n| format!("key{n} = 1\n")).collect::<String>();
    let error = manifest::parse("stead.toml", &format!("app = \"a\"\n{many}")).expect_err("a refusal");
    assert_eq!(error.to_string(), "stead.toml has 100 problems, these and 60 more");
}

#[test]
fn a_file_that_is_too_large_or_has_endless_lines() {
    insta::assert_snapshot!(report(&"#".repeat(manifest::LARGEST + 1)));
    insta::assert_snapshot!(report(&format!("app = \"flights\"\nx{} = 1\n", " ".repeat(5_000))));
}

#[test]
fn bodies() {
    let server = |server: serde_json::Value| json!({"postgres": {"main": server}});
    let bodies = [
        json!(null),
        json!([]),
        json!({"app": "No", "postgres": []}),
        json!({"postgres": {"main": 1, "../x": {}, "a/b": {}}, "mysql": {}}),
        server(
            json!({"engine": "18", "size": "smal", "allow": ["10.0.0.1/8", 1], "protect": "yes", "extra": 1}),
        ),
        server(json!({"engine": 18.0})),
        server(json!({"schema": "migrations"})),
        server(
            json!({"schema": [1, {"name": "0001_a.sql"}, {"name": 2, "sql": ""}, {"name": "a.sql", "sql": "x", "sha": ""}]}),
        ),
        server(json!({"schema": [
            {"name": "0001_a.sql", "sql": " "}, {"name": "x", "sql": "a"}, {"name": "0001_A.sql", "sql": "a\u{0}"},
        ]})),
        server(
            json!({"maintenance": "sun 03:00-05:00 Asia/Tokio", "idle": "5 Min", "extensions": ["plpython3u"], "owner": "\n", "runbook": "a\nb"}),
        ),
    ];
    let said: Vec<_> = bodies
        .iter()
        .map(|body| (body.to_string(), manifest::from_json(body, &app()).expect_err("a refusal")))
        .collect();
    insta::assert_yaml_snapshot!(said);
}
