//! One port for every server: told apart by the host name, and by nothing that a stranger could guess.

use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::installation::{Installation, text, until};
use crate::story::{Story, ask, manifest, psql};

/// What psql was told, without the names and addresses that it puts before it.
fn told(refused: &str) -> String {
    refused.split("FATAL:").last().unwrap().trim().to_owned()
}

#[test]
fn one_port_leads_to_every_server_by_its_name() {
    let stead = Installation::started();
    let (shop, store) = (Story::up(&stead, "shop", ""), Story::up(&stead, "store", ""));
    let url = |story: &Story<'_>| story.ok(&["url", "--shared"]).trim().to_owned();
    let (to_shop, to_store) = (url(&shop), url(&store));
    for to in [&to_shop, &to_store] {
        assert!(to.contains(&format!(":{}/main", stead.shared_port())), "{to}");
    }
    ask(&to_shop, "create table things as select 'of the shop' as whose").unwrap();
    assert_eq!(ask(&to_shop, "select whose from things").unwrap(), "of the shop");
    assert_eq!(shop.sql("select whose from things").unwrap(), "of the shop", "the same through its own port");
    let refused = ask(&to_store, "select whose from things").unwrap_err();
    assert!(refused.contains("does not exist"), "{refused}");
    // The password of one is none of the other.
    let refused = ask(&to_store.replace(&store.password(), &shop.password()), "select 1").unwrap_err();
    assert!(refused.contains("password authentication failed"), "{refused}");
    // A client that does not say whom it wants.
    let refused = ask(&format!("{to_shop}&sslsni=0"), "select 1").unwrap_err();
    assert!(refused.contains("needs the server's name"), "{refused}");
    let refused = ask(&to_shop.replace("verify-full", "disable").replace("require", "disable"), "select 1");
    assert!(refused.unwrap_err().contains("encrypted connections only"));
    // A name that leads nowhere, and one that this address may not use: nobody can tell which is which.
    let guessed = ask(&to_shop.replace(&shop.handle(), "0123456789abcdef"), "select 1").unwrap_err();
    shop.write_manifest(&manifest("shop", "allow = [\"10.0.0.0/8\"]\n"));
    shop.ok(&["up", "--yes"]);
    let barred = ask(&to_shop, "select 1").unwrap_err();
    assert_eq!(told(&guessed), told(&barred));
    assert!(barred.contains("not on the allow-list"), "{barred}");
    // What has gone is one more name that leads nowhere.
    shop.ok(&["down", "--yes"]);
    assert_eq!(told(&ask(&to_shop, "select 1").unwrap_err()), told(&guessed));
    assert_eq!(ask(&to_store, "select 1").unwrap(), "1");
    stead.finish();
}

/// Clients up to 16 cancel in the clear and without a name: the key alone finds the statement.
#[test]
fn a_statement_is_cancelled_through_the_shared_port() {
    let stead = Installation::started();
    let story = Story::up(&stead, "shop", "");
    let url = story.ok(&["url", "--shared"]).trim().to_owned();
    let mut client = Command::new(psql());
    client.args(["-XAtq", "-c", "select pg_sleep(600)", &url]).stdout(Stdio::null()).stderr(Stdio::piped());
    let client = client.spawn().unwrap();
    let active =
        "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'";
    until("the statement to run", || (story.admin("postgres", active) == "1").then_some(()));
    kill_process(Pid::from_raw(client.id().cast_signed()).unwrap(), Signal::INT).unwrap();
    let said = text(&client.wait_with_output().unwrap().stderr);
    assert!(said.contains("canceling statement due to user request"), "{said}");
    stead.finish();
}
