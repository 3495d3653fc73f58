//! Transfers from a server that is no part of the stead, by a secret: from the manifest to an answer, and away again.

use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use test_support::{Cluster, Listening};
use tokio_postgres::Client;

use crate::crash::dies_at;
use crate::function_secrets::set;
use crate::installation::{Installation, text, until};
use crate::story::{FIRST, SECOND, Story, manifest};
use crate::transfers::{ask, says};

/// Points that the making of one passes besides those of any transfer.
pub(crate) const MADE: [&str; 1] = ["driver-local::transfer-way-written"];
/// Points that its removal does.
pub(crate) const REMOVED: [&str; 1] = ["driver-local::transfer-leave-written"];

const PASSWORD: &str = "s3cret-and-long";
const ITEMS: &str = "create table items (id int primary key, name text, at timestamptz not null default clock_timestamp());
    insert into items (id, name) select n, 'item ' || n from generate_series(1, 1000) n; grant select on items to reader";

/// A server of somebody else's on this host, and its superuser's session.
async fn server(listening: Listening) -> (Cluster, Client) {
    let cluster = Cluster::listening(16, listening).await;
    let client = cluster.connect("postgres").await;
    let role =
        format!("set password_encryption = 'scram-sha-256'; create role reader login password '{PASSWORD}'");
    client.batch_execute(&role).await.unwrap();
    client.batch_execute(ITEMS).await.unwrap();
    (cluster, client)
}

/// Where transfers may reach this host itself.
pub(crate) fn installation() -> Installation {
    let mut stead = Installation::new();
    stead.environment.push(("STEAD_EGRESS_NETWORKS".into(), "127.0.0.0/8".into()));
    stead.start();
    stead
}

fn story<'a>(stead: &'a Installation, transfer: &str) -> Story<'a> {
    let text = format!("app = \"legacy\"\n[transfer.lake]\nevery = \"1s\"\n{transfer}");
    let folder = stead.app("legacy", &text, &[]);
    Story { stead, name: "legacy".into(), folder }
}

fn at<'a>(stead: &'a Installation, folder: &Path) -> Story<'a> {
    Story { stead, name: "legacy".into(), folder: folder.to_owned() }
}

fn url(cluster: &Cluster, password: &str, end: &str) -> String {
    format!("postgres://reader:{password}@127.0.0.1:{}/postgres{end}", cluster.port())
}

fn told(story: &Story<'_>, name: &str, value: &str) {
    let output = set(story.stead, &story.folder, name, value.as_bytes());
    assert!(output.status.success(), "{}", text(&output.stderr));
}

fn status_says(story: &Story<'_>, part: &str) {
    let mut last = String::new();
    until(&format!("the status to say: {part}"), || {
        let status = text(&story.run(&["status"]).stdout);
        let says = status.split_whitespace().collect::<Vec<_>>().join(" ").contains(part);
        last = status;
        says.then_some(())
    });
}

/// Every file of Stead's that is there for others than a transfer's own process.
pub(crate) fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&path, found);
        } else {
            found.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_server_elsewhere_come_by_a_secret() {
    let (cluster, client) = server(Listening::default()).await;
    let stead = installation();
    let story = story(&stead, "from = { secret = \"LEGACY_URL\" }\nmode = \"query\"\ncursor = \"at\"\n");
    // It waits for its secret, which is believed when it is of use.
    let waits = story.run(&["up", "--yes", "--tenant", "acme"]);
    let said = text(&waits.stderr);
    assert!(
        said.contains("there is no secret LEGACY_URL; set it with `stead secret set LEGACY_URL`"),
        "{said}"
    );
    let _ = set(&stead, &story.folder, "LEGACY_URL", b"mysql://reader:s3cret@db/shop");
    status_says(&story, "the secret LEGACY_URL is no URL of a PostgreSQL server");
    told(&story, "LEGACY_URL", &url(&cluster, PASSWORD, "?sslmode=disable"));
    let lake = story.ok(&["url", "lake"]).trim().to_owned();
    says(&lake, "select count(*) from items", "1000");
    client
        .batch_execute("update items set name = 'another', at = clock_timestamp() where id = 7")
        .await
        .unwrap();
    says(&lake, "select name from items where id = 7", "another");
    status_says(&story, "public.* of the server at LEGACY_URL, by query of at every 1s");
    let listed = story.ok(&["secret", "list"]);
    assert!(listed.contains("transfer.lake"), "{listed}");
    assert!(story.refused(&["secret", "remove", "LEGACY_URL"]).contains("transfer.lake uses the secret"));

    // As any transfer.
    story.ok(&["pause", "lake"]);
    client.batch_execute("insert into items values (2000, 'unread')").await.unwrap();
    assert_eq!(ask(&lake, "select count(*) from items").unwrap(), "1000");
    story.ok(&["resume", "lake"]);
    says(&lake, "select count(*) from items", "1001");
    client.batch_execute("delete from items where id = 2000").await.unwrap();
    story.ok(&["resync", "lake"]);
    says(&lake, "select count(*) from items", "1000");
    let answers = story.json(&["sql", "lake", "-c", "select count(*) from items"]);
    assert_eq!(answers[0]["rows"], serde_json::json!([["1000"]]));

    // Another password, there and then here.
    client.batch_execute("alter role reader password 'an0ther-s3cret'").await.unwrap();
    status_says(&story, "the server refuses the password of reader");
    told(&story, "LEGACY_URL", &url(&cluster, "an0ther-s3cret", ""));
    client.batch_execute("insert into items values (3000, 'after')").await.unwrap();
    says(&lake, "select count(*) from items", "1001");

    it_is_alone(&stead);
    // Nobody was told a password but the process that signs in.
    let mut found = Vec::new();
    for folder in ["units", "relay", "logs", "spool", "gateway/routes", "keeper/state"] {
        files(&stead.home.join(folder), &mut found);
    }
    let everything: Vec<String> =
        found.iter().filter_map(|path| std::fs::read(path).ok()).map(|bytes| text(&bytes)).collect();
    let said =
        [story.ok(&["history", "--json"]), text(&story.run(&["status", "--json"]).stdout), stead.said()];
    for text in said.iter().chain(&everything) {
        assert!(!text.contains(PASSWORD) && !text.contains("an0ther-s3cret"), "a password is told: {text}");
    }
    story.ok(&["down", "--yes"]);
    stead.nothing_left_over();
    assert!(std::fs::read_dir(stead.home.join("relay/sockets")).unwrap().next().is_none());
    stead.finish();
}

/// The copier has no network, and the relay may look at nothing.
fn it_is_alone(stead: &Installation) {
    let network = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let own = network(i32::try_from(std::process::id()).unwrap());
    let copiers = stead.pids(" transfer /stead/conf/");
    assert!(!copiers.is_empty());
    for pid in copiers {
        assert_ne!(network(pid), own);
        // There is no interface but its own loopback, which is down.
        let routes = std::fs::read_to_string(format!("/proc/{pid}/net/route")).unwrap();
        assert_eq!(routes.lines().nth(1), None);
        // Of all ways it sees its own.
        let seen = std::fs::read_dir(format!("/proc/{pid}/root/source")).unwrap().flatten();
        let seen: Vec<_> = seen.map(|entry| entry.file_name()).collect();
        assert_eq!(seen, ["relay"]);
    }
    let relays = stead.pids(" relay --home");
    assert_eq!(relays.len(), 1);
    let host: serde_json::Value =
        serde_json::from_slice(&std::fs::read(stead.home.join("host.json")).unwrap()).unwrap();
    let uid = host["uid_first"].as_u64().unwrap() + 3;
    let status = std::fs::read_to_string(format!("/proc/{}/status", relays[0])).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!((field("Uid:")[0].clone(), field("Gid:")[0].clone()), (uid.to_string(), uid.to_string()));
    assert!(field("Groups:").is_empty(), "{status}");
    let can = |folder: &Path| {
        let mut list = Command::new("setpriv");
        list.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "ls"]).arg(folder);
        list.output().unwrap().status.success()
    };
    for folder in
        ["servers", "units", "keeper", "gateway/routes", "functions/routes", "ca", "logs", "control"]
    {
        assert!(!can(&stead.home.join(folder)), "{folder}");
    }
    assert!(can(&stead.home.join("relay/routes")));
}

/// Whoever may set a secret does not get to what listens on this host.
#[tokio::test(flavor = "multi_thread")]
async fn this_host_is_reached_only_where_its_operator_says_so() {
    let (cluster, _client) = server(Listening::default()).await;
    let stead = Installation::started();
    let story = story(&stead, "from = { secret = \"LEGACY_URL\" }\nmode = \"snapshot\"\n");
    let _ = story.run(&["up", "--yes", "--tenant", "acme"]);
    let _ = set(&stead, &story.folder, "LEGACY_URL", url(&cluster, PASSWORD, "").as_bytes());
    status_says(&story, "127.0.0.1 cannot be reached: its address 127.0.0.1 is not a public one");
    story.ok(&["down", "--yes"]);
    stead.finish();
}

/// Changes, with TLS by an authority of one's own; and the slot goes with the transfer, or is told.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_server_elsewhere_are_followed_and_leave_nothing_behind() {
    let (ca, tls) = certificates();
    let (mut cluster, client) = server(Listening { tls: Some(tls), ..Listening::default() }).await;
    client
        .batch_execute("alter role reader replication; alter table items owner to reader; grant create on database postgres to reader")
        .await
        .unwrap();
    let mut stead = installation();
    let stream = "from = { secret = \"LEGACY_URL\", ca = \"LEGACY_CA\" }\n";
    // The stead has something else, and so it and its secrets stay.
    let (without, with) = (manifest("legacy", ""), format!("[transfer.lake]\nevery = \"1s\"\n{stream}"));
    let with = manifest("legacy", &with);
    let folder = stead.app("legacy", &without, &[FIRST, SECOND]);
    let made = at(&stead, &folder);
    made.ok(&["up", "--yes", "--tenant", "acme"]);
    told(&made, "LEGACY_URL", &url(&cluster, PASSWORD, "?sslmode=verify-full"));
    told(&made, "LEGACY_CA", &ca);
    made.write_manifest(&with);
    dies_at(&mut stead, MADE[0], &folder, &["up", "--yes"]);
    let made = at(&stead, &folder);
    made.ok(&["up", "--yes"]);
    let lake = made.ok(&["url", "lake"]).trim().to_owned();
    says(&lake, "select count(*) from items", "1000");
    client
        .batch_execute("update items set name = 'another' where id = 7; delete from items where id > 990")
        .await
        .unwrap();
    says(&lake, "select count(*) from items", "990");
    says(&lake, "select count(*) from items__changes where _op = 'delete'", "10");
    status_says(&made, "`max_slot_wal_keep_size` is -1");
    let slots = async |client: &Client| -> i64 {
        let slots =
            "select (select count(*) from pg_replication_slots) + (select count(*) from pg_publication)";
        client.query_one(slots, &[]).await.unwrap().get(0)
    };
    assert_eq!(slots(&client).await, 2);
    // Killed on the way out it goes on from there.
    std::fs::write(folder.join("stead.toml"), &without).unwrap();
    dies_at(&mut stead, REMOVED[0], &folder, &["up", "--yes"]);
    let made = at(&stead, &folder);
    made.ok(&["up", "--yes"]);
    assert_eq!(slots(&client).await, 0);
    // A server that does not answer keeps nobody: what is left is on record.
    made.write_manifest(&with);
    made.ok(&["up", "--yes"]);
    says(made.ok(&["url", "lake"]).trim(), "select count(*) from items", "990");
    drop(client);
    cluster.kill();
    made.write_manifest(&without);
    made.ok(&["up", "--yes"]);
    let history = made.ok(&["history", "--json"]);
    assert!(
        history.contains("left_behind") && history.contains("select pg_drop_replication_slot('stead_"),
        "{history}"
    );
    stead.nothing_left_over();
    stead.finish();
}

/// An authority's certificate, and one of it for this host with its key.
fn certificates() -> (String, (String, String)) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "the authority of these tests");
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    (ca, (leaf.pem(), key.serialize_pem()))
}
