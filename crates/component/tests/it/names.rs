//! Names, ids and what is no name.

use component::postgres::{Migration, MigrationName};
use component::{ComponentId, ComponentName, LocalName, SteadName, TenantName, manifest};

#[test]
fn names_keep_to_the_alphabet() {
    for good in ["a", "acme", "a1", "a-b-c", "x".repeat(40).as_str()] {
        assert_eq!(good.parse::<TenantName>().map(String::from).as_deref(), Ok(good));
    }
    let long = "x".repeat(41);
    for bad in [
        "",
        "-",
        "a-",
        "-a",
        "1a",
        "A",
        "a_b",
        "a b",
        "a.b",
        "../x",
        "a/b",
        "a;drop table x",
        "ä",
        "a\0",
        "a\n",
        &long,
    ] {
        assert!(bad.parse::<SteadName>().is_err(), "{bad:?}");
        assert!(bad.parse::<LocalName>().is_err(), "{bad:?}");
        assert!(serde_json::from_value::<TenantName>(bad.into()).is_err(), "{bad:?}");
    }
}

#[test]
fn a_refused_name_is_shown_harmlessly() {
    let hostile = format!("\u{1b}[31m\u{202e}{}", "x".repeat(1_000_000));
    let message = hostile.parse::<TenantName>().expect_err("no name").to_string();
    assert!(message.len() < 300 && !message.contains(['\u{1b}', '\u{202e}']), "{message}");
    insta::assert_snapshot!("No Name".parse::<TenantName>().expect_err("no name"));
}

#[test]
fn component_names_read_and_write() {
    let name: ComponentName = "postgres.main".parse().expect("a name");
    assert_eq!(name.to_string(), "postgres.main");
    let said: Vec<String> = ["main", "mysql.main", "postgres.", "postgres.Main", "postgres.a.b"]
        .iter()
        .map(|text| text.parse::<ComponentName>().expect_err("no name").to_string())
        .collect();
    insta::assert_yaml_snapshot!(said);
}

#[test]
fn a_handle_is_derived_and_short() {
    let id: ComponentId = "67e55044-10b1-426f-9247-bb680e5fe0c8".parse().expect("an id");
    assert_eq!(id.handle(), "67e5504410b1426f");
    assert_eq!(id.to_string().parse::<ComponentId>().as_ref(), Ok(&id));
}

#[test]
fn migration_names_are_file_names() {
    for good in ["1.sql", "0001_tables.sql", "a-b.c.sql"] {
        assert!(good.parse::<MigrationName>().is_ok(), "{good}");
    }
    for bad in [".sql", "x", "x.txt", "a/b.sql", "../a.sql", "-a.sql", "a b.sql", "ä.sql", ".a.sql", "x.SQL"]
    {
        assert!(bad.parse::<MigrationName>().is_err(), "{bad}");
    }
}

fn read(files: &[(&str, &str)]) -> Result<Vec<Migration>, Vec<manifest::FieldError>> {
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    manifest::migrations(files).map(|(schema, _)| schema)
}

#[test]
fn migrations_are_sorted_and_hashed() {
    let files = vec![("0002_b.sql".into(), "select 1".into()), ("0001_a.sql".into(), "abc".into())];
    let (schema, texts) = manifest::migrations(files).expect("migrations");
    assert_eq!(schema[0].name.as_str(), "0001_a.sql");
    // FIPS 180-2, appendix B.1.
    assert_eq!(schema[0].sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_eq!(texts[&schema[0].sha256], "abc");
    assert_eq!(read(&[]), Ok(vec![]));
    assert!(read(&[("0009_a.sql", "a"), ("0010_b.sql", "b"), ("seed.sql", "c")]).is_ok());
}

#[test]
fn migrations_that_would_hurt_are_refused() {
    let refused = [
        read(&[("notes.txt", "a"), ("../x.sql", "a"), ("0001_a.sql", " \n"), ("0002_b.sql", "select\n'\0'")]),
        read(&[("0001_a.sql", "a"), ("0001_a.sql", "b")]),
        read(&[("0001_a.sql", "a"), ("0001_A.sql", "b")]),
        read(&[("9_a.sql", "a"), ("10_b.sql", "b")]),
    ];
    insta::assert_yaml_snapshot!(refused.map(|result| result.expect_err("a refusal")));
}
