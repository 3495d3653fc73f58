//! A stead from its making to its end.

use crate::installation::Installation;

const MANIFEST: &str =
    "app = \"shop\"\n[postgres.main]\nsize = \"nano\"\nprotect = false\nschema = \"schema\"\n";

#[test]
fn made_used_changed_and_removed_without_a_trace() {
    let stead = Installation::started();
    let app = stead.app("shop", MANIFEST, &[("0001_items.sql", "create table items (id int primary key);")]);
    let url = stead.ok_in(&app, &["up", "--tenant", "acme", "--yes"]);
    assert!(url.contains("postgresql://owner:"), "{url}");
    let out = stead.ok_in(&app, &["sql", "postgres.main", "-c", "select count(*) from items"]);
    assert!(out.contains("(1 row)"), "{out}");

    let again = stead.ok_in(&app, &["up", "--yes"]);
    assert!(again.contains("stays as it is"), "{again}");

    std::fs::write(app.join("schema/0002_more.sql"), "alter table items add name text;").unwrap();
    stead.ok_in(&app, &["up", "--yes"]);
    stead.ok_in(&app, &["sql", "-c", "insert into items values (1, 'one')"]);

    stead.ok_in(&app, &["down", "--yes"]);
    for folder in ["servers", "gateway/routes"] {
        assert_eq!(stead.list(folder), Vec::<String>::new(), "{folder}");
    }
    // A new spare may be in the making.
    let units: Vec<_> = stead.list("units").into_iter().filter(|unit| !unit.starts_with("spare-")).collect();
    assert_eq!(units, ["archiver.json", "control.json", "functions.json", "gateway.json"]);
    stead.finish();
}
