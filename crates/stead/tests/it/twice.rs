//! Everything done twice: every act of the driver, and by two control planes that share their state.

use crate::installation::{Installation, until};
use crate::story::{Story, THIRD, ask, manifest};

/// Each step of a stead's life is acted twice in a row, which makes no difference.
#[test]
fn every_act_twice() {
    let mut stead = Installation::new();
    stead.environment.push(("FAILPOINTS".into(), "reconciler::twice=return".into()));
    stead.start();
    let story = Story::up(&stead, "shop", "extensions = [\"pg_trgm\"]\n");
    let whole = |migrations: &str| {
        let component = story.settled();
        assert_eq!(component["conditions"], serde_json::json!([]), "{component}");
        assert_eq!(story.sql("select string_agg(what, ' ' order by what) from ran").unwrap(), migrations);
        stead.nothing_left_over();
    };
    whole("0001_first 0002_second");
    story.write_manifest(
        &manifest("shop", "allow = [\"127.0.0.0/8\", \"::1/128\"]\n").replace("nano", "small"),
    );
    story.write_schema(THIRD);
    story.ok(&["up", "--yes"]);
    whole("0001_first 0002_second 0003_third");
    story.ok(&["rotate"]);
    whole("0001_first 0002_second 0003_third");
    story.admin("main", "alter role owner superuser");
    story.look();
    until("the role to be put right", || (!story.lines("drift.repaired").is_empty()).then_some(()));
    whole("0001_first 0002_second 0003_third");
    // Done twice or not, an act is one event.
    let steps: Vec<_> = story.lines("component.step").iter().map(|line| line["reason"].clone()).collect();
    let migrations = ["0001_first.sql", "0002_second.sql", "0003_third.sql"];
    assert_eq!(steps, migrations.map(|name| serde_json::json!(format!("migrate {name}"))));
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    stead.finish();
}

/// A state of before is put back, so that everything is begun again: what is there already is found.
#[test]
fn everything_begun_again() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let postmaster = || story.admin("main", "select pg_postmaster_start_time()");
    let (before, password) = (postmaster(), story.password());
    stead.control(
        "update components set observed_generation = 0, step = null, wake_at = now(),
                status = jsonb_build_object('phase', 'creating')",
    );
    stead.look();
    story.settled();
    assert_eq!((postmaster(), story.password()), (before, password));
    assert_eq!(story.sql("select count(*) from ran").unwrap(), "2");
    stead.nothing_left_over();
    stead.finish();
}

/// Two hosts with one state: each drives its own servers, either takes edits of both.
#[tokio::test(flavor = "multi_thread")]
async fn two_control_planes_share_one_state() {
    let state = test_support::ControlDatabase::start().await;
    tokio::task::spawn_blocking(move || two_hosts(&state)).await.unwrap();
}

fn two_hosts(state: &test_support::ControlDatabase) {
    let options = state.options();
    let folder = options.get_socket().unwrap();
    // Control planes are other users.
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let folder = folder.display();
    let url = format!("postgres://postgres@localhost/{}?host={folder}", options.get_database().unwrap());
    let [mut first, mut second] = [(); 2].map(|()| {
        let mut stead = Installation::new();
        stead.environment.push(("STEAD_STATE".into(), url.clone()));
        stead
    });
    first.start();
    assert!(!first.home.join("control").join("data").exists(), "it has no PostgreSQL of its own");
    // A host with another key is told so at once.
    second.spawn(&[]);
    assert_eq!(second.await_server_or_death(), None);
    assert!(second.said().contains("hosts that share a state need the same key"), "{}", second.said());
    second.kill_server();
    std::fs::copy(first.home.join("keys/installation.key"), second.home.join("keys/installation.key"))
        .unwrap();
    second.start();

    let stories: Vec<Story<'_>> = ["a", "b", "c", "d"].map(|name| Story::up(&first, name, "")).into();
    let counts = [&first, &second].map(|stead| stead.list("servers").len());
    assert_eq!(counts, [2, 2], "servers are spread over the hosts");
    let ran = || {
        for story in &stories {
            // The other host has another authority: which one is the client's to know.
            let url = story.url().replace("sslmode=verify-full", "sslmode=require");
            let url = url.split("&sslrootcert").next().unwrap().to_owned();
            assert_eq!(ask(&url, "select count(*) from ran").unwrap(), "2", "{}", story.name);
        }
    };
    ran();
    // The other control plane edits and removes what this one made.
    for story in &stories {
        let other = Story { stead: &second, name: story.name.clone(), folder: story.folder.clone() };
        other.write_manifest(&manifest(&other.name, "").replace("nano", "small"));
        other.ok(&["up", "--yes"]);
    }
    ran();
    for story in &stories {
        let other = Story { stead: &second, name: story.name.clone(), folder: story.folder.clone() };
        other.ok(&["down", "--yes"]);
    }
    for stead in [&first, &second] {
        assert_eq!(stead.list("servers"), Vec::<String>::new());
        assert_eq!(stead.list("units"), ["archiver.json", "functions.json", "gateway.json"]);
    }
    drop(stories);
    first.finish();
    second.finish();
}
