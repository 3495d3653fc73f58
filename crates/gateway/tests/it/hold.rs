//! A server that is moved to another folder by another process, while clients are connected to it.

use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use futures::SinkExt;
use gateway::route::{Hold, Route};
use tokio::io::AsyncWriteExt;
use tokio_postgres::SimpleQueryMessage;

use crate::endings::spawn_of_rank;
use crate::support::clients::{
    Encrypted, connect, encrypted, message, program, psql, result, signed_in, sqlstate, tcp,
};
use crate::support::eventually;
use crate::support::home::{Home, front_door};
use crate::support::server::Server;

const PATIENCE: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(30);

/// The whole of it: hold, move, switch the route, release.
async fn relocate(server: &mut Server, home: &Home, route: &mut Route) -> (u32, u32) {
    let mut gateway = home.client().await;
    let held = gateway.hold(&route.server, PATIENCE, DEADLINE, false).await.unwrap();
    let Hold::Held { parked, ended } = held else { panic!("{held:?}") };
    eventually("everybody to leave", || async { (server.sessions().await == 0).then_some(()) }).await;
    server.relocate().await;
    switch(server, home, route).await;
    assert!(gateway.release(&route.server).await.unwrap());
    (parked, ended)
}

/// The route leads to where the server is now.
async fn switch(server: &Server, home: &Home, route: &mut Route) {
    (route.socket_dir, route.generation) = (server.socket_dir(), route.generation + 1);
    home.declare(route);
    assert_eq!(home.refresh(&route.server).await.unwrap().generation, route.generation);
}

async fn one(client: &tokio_postgres::Client, sql: &str) -> String {
    let rows = client.simple_query(sql).await.unwrap();
    let row = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    row.unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_at_rest_takes_along_what_it_has() {
    for major in [15, 18] {
        let (mut server, home, mut route, gateway) = front_door(major).await;
        server
            .admin()
            .await
            .batch_execute("create role dispatcher; grant dispatcher to flights_owner")
            .await
            .unwrap();
        let (client, _messages) = connect(&home, &route).await.unwrap();
        client.batch_execute("create table flights (id int, tail text)").await.unwrap();
        let insert = client.prepare("insert into flights values ($1, $2)").await.unwrap();
        let count = client.prepare("select count(*) from flights where id > $1").await.unwrap();
        client
            .batch_execute(
                "set timezone = 'Asia/Tokyo'; set search_path = public, pg_catalog; set work_mem = '5MB';
                 set my.own = 'it''s mine'; set datestyle = 'SQL, DMY'; set statement_timeout = 70000;
                 grant all on flights to dispatcher; select set_config('my.Other', '5', false);
                 create function be(who text) returns void language plpgsql
                 as $$ begin perform set_config('my.who', who, false); end $$; set role dispatcher",
            )
            .await
            .unwrap();
        client.batch_execute("prepare tails(int) as select tail from flights where id = $1").await.unwrap();
        client.execute("select be($1)", &[&"pilot"]).await.unwrap();
        let shown = "select concat_ws('|', current_setting('timezone'), current_setting('search_path'),
                        current_setting('work_mem'), current_setting('my.own'), current_setting('datestyle'),
                        current_setting('statement_timeout'), current_setting('my.other'), current_setting('my.who'),
                        current_user, session_user)";
        let before = one(&client, shown).await;
        let pid = one(&client, "select pg_backend_pid()").await;
        for round in 1..=3_i32 {
            assert_eq!(relocate(&mut server, &home, &mut route).await, (1, 0));
            assert_eq!(server.sessions().await, 0, "a session that says nothing needs no server");
            assert_eq!(client.execute(&insert, &[&round, &"N105UW"]).await.unwrap(), 1);
            assert_eq!(one(&client, shown).await, before);
            let rows: i64 = client.query_one(&count, &[&0]).await.unwrap().get(0);
            assert_eq!(rows, i64::from(round));
            assert_eq!(one(&client, &format!("execute tails({round})")).await, "N105UW");
        }
        assert_ne!(one(&client, "select pg_backend_pid()").await, pid);
        // The key that the client was given at first still cancels what it does now.
        let cancel = client.cancel_token();
        let long = tokio::spawn(async move { client.batch_execute("select pg_sleep(600)").await });
        eventually("the statement to run", || async { server.sleeps().await.then_some(()) }).await;
        let stream = tcp(&route).await;
        cancel.cancel_query_raw(stream, tokio_postgres::NoTls).await.unwrap();
        let error = long.await.unwrap().unwrap_err();
        assert_eq!(sqlstate(&error), Some("57014"), "{error}");
        let line = home.logged("the end", |line| line["event"] == "close" && line["moves"] == 3).await;
        assert_eq!(line["signed_in"], true);
        gateway.stop().await;
    }
}

/// Parse and Sync, a move, then Bind, Execute and Sync: what libpq's `PQprepare` with an empty name does.
#[tokio::test(flavor = "multi_thread")]
async fn the_statement_without_a_name_is_taken_along() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    let mut stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    stream.write_all(b"P\0\0\0\x1d\0select $1 || ' twice'\0\0\0S\0\0\0\x04").await.unwrap();
    assert_eq!(answer(&mut stream).await, ("1Z".to_owned(), None));
    relocate(&mut server, &home, &mut route).await;
    let bind = b"B\0\0\0\x14\0\0\0\0\0\x01\0\0\0\x04once\0\0E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04";
    stream.write_all(bind).await.unwrap();
    let (kinds, row) = answer(&mut stream).await;
    assert_eq!(kinds, "2DCZ");
    assert!(row.unwrap().ends_with(b"once twice"));
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_taken_along_ends_the_session_and_the_log_says_why() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    let held = [
        ("create temporary table seats (n int)", "a temporary table"),
        ("select pg_advisory_lock(7)", "an advisory lock"),
        ("declare c cursor with hold for select 1", "a cursor with hold"),
        ("listen gates", "a LISTEN"),
    ];
    let mut sessions = Vec::new();
    for (sql, what) in held {
        let mut stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
        query(&mut stream, sql).await;
        sessions.push((stream, what));
    }
    let mut stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    query(&mut stream, "select set_config(name, '5', false) from (values ('my.own')) of (name)").await;
    sessions.push((stream, "a setting of its own whose name is not known"));
    let mut stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    query(&mut stream, "select 1; prepare one as select 1").await;
    sessions.push((stream, "a PREPARE that came together with other statements"));
    // What was held once and is no more is in nobody's way.
    let (client, _messages) = connect(&home, &route).await.unwrap();
    client
        .batch_execute(
            "create temporary table seats (n int); drop table seats; select pg_advisory_lock(8);
             select pg_advisory_unlock_all(); listen gates; unlisten *",
        )
        .await
        .unwrap();
    assert_eq!(relocate(&mut server, &home, &mut route).await, (1, 6));
    for (mut stream, what) in sessions {
        let (kind, body) = message(&mut stream).await.unwrap();
        let text = String::from_utf8_lossy(&body);
        assert!(kind == b'E' && text.contains("C57P01\0") && text.contains(what), "{text}");
        home.logged(what, |line| {
            line["outcome"] == "holds_state" && line["message"].as_str().unwrap_or_default().contains(what)
        })
        .await;
    }
    assert_eq!(one(&client, "select 1").await, "1");
    gateway.stop().await;
}

/// Sends a simple query and reads its answer.
async fn query(stream: &mut Encrypted, sql: &str) {
    let length = u32::try_from(sql.len() + 5).unwrap().to_be_bytes();
    stream.write_all(&[b"Q", &length[..], sql.as_bytes(), b"\0"].concat()).await.unwrap();
    answer(stream).await;
}

/// The kinds of messages up to ReadyForQuery, but for reports of settings, and the last row.
async fn answer(stream: &mut Encrypted) -> (String, Option<Vec<u8>>) {
    let (mut kinds, mut row) = (String::new(), None);
    while !kinds.ends_with('Z') {
        let (kind, body) = message(stream).await.unwrap();
        assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&body));
        if kind != b'S' {
            kinds.push(char::from(kind));
        }
        if kind == b'D' {
            row = Some(body);
        }
    }
    (kinds, row)
}

/// Sessions are asked what they hold before anybody waits. What they come by after that counts all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_session_comes_by_after_it_was_asked_counts() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    let (open, _open_messages) = connect(&home, &route).await.unwrap();
    let (changed, _changed_messages) = connect(&home, &route).await.unwrap();
    let (ended, _ended_messages) = connect(&home, &route).await.unwrap();
    let (quiet, _quiet_messages) = connect(&home, &route).await.unwrap();
    quiet.batch_execute("set my.own = 'before'").await.unwrap();
    let (late, _late_messages) = connect(&home, &route).await.unwrap();
    for session in [&open, &late] {
        session.batch_execute("begin").await.unwrap();
    }
    let (mut control, handle) = (home.client().await, route.server.clone());
    let hold = tokio::spawn(async move { control.hold(&handle, PATIENCE, DEADLINE, false).await });
    let admin = server.admin().await;
    let asked = "select count(*) from pg_stat_activity where query like '%pg_show_all_settings%'
                 and state = 'idle' and pid <> pg_backend_pid()";
    eventually("all but two to be asked", || async { (one(&admin, asked).await == "3").then_some(()) }).await;
    // A setting whose name stands in a function that is newer than the question, and nowhere else.
    let make = "create function be(who text) returns void language plpgsql
                as $$ begin perform set_config('my.who', who, false); end $$";
    ended.batch_execute(make).await.unwrap();
    ended.batch_execute("create temporary table seats (n int)").await.unwrap();
    changed.query("select be('pilot')", &[]).await.unwrap();
    // It is asked after the functions were, and then says nothing more.
    late.query("select be('steward')", &[]).await.unwrap();
    late.batch_execute("commit").await.unwrap();
    eventually("it to be asked", || async { (one(&admin, asked).await == "2").then_some(()) }).await;
    changed.batch_execute("set work_mem = '5MB'").await.unwrap();
    open.batch_execute("commit").await.unwrap();
    assert_eq!(hold.await.unwrap().unwrap(), Hold::Held { parked: 4, ended: 1 });
    server.relocate().await;
    switch(&server, &home, &mut route).await;
    assert!(home.client().await.release(&route.server).await.unwrap());
    assert_eq!(one(&late, "select current_setting('my.who')").await, "steward");
    let error = ended.batch_execute("select").await.unwrap_err();
    assert!(ended.is_closed(), "{error}");
    let shown = "select concat_ws('|', current_setting('my.who'), current_setting('work_mem'))";
    assert_eq!(one(&changed, shown).await, "pilot|5MB");
    assert_eq!(one(&quiet, "select current_setting('my.own')").await, "before");
    gateway.stop().await;
}

/// Sessions that say nothing after they were asked are not asked again while clients wait.
#[tokio::test(flavor = "multi_thread")]
async fn who_says_nothing_is_asked_once() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    let admin = server.admin().await;
    admin.batch_execute("alter system set log_statement = 'all'").await.unwrap();
    admin.batch_execute("select pg_reload_conf()").await.unwrap();
    let (mut sessions, mut messages) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        let (session, said) = connect(&home, &route).await.unwrap();
        sessions.push(session);
        messages.push(said);
    }
    eventually("the setting to be in force", || async {
        (one(&sessions[0], "show log_statement").await == "all").then_some(())
    })
    .await;
    assert_eq!(relocate(&mut server, &home, &mut route).await, (4, 0));
    assert_eq!(server.log().matches("pg_show_all_settings").count(), 4, "{}", server.log());
    assert_eq!(one(&sessions[3], "select 'back'").await, "back");
    gateway.stop().await;
}

/// While sessions are asked nobody waits, not even who has no server since the last move.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_parked_goes_on_while_the_others_are_asked() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    let (parked, _parked_messages) = connect(&home, &route).await.unwrap();
    assert_eq!(relocate(&mut server, &home, &mut route).await, (1, 0));
    let (open, _open_messages) = connect(&home, &route).await.unwrap();
    let (asked, _asked_messages) = connect(&home, &route).await.unwrap();
    open.batch_execute("begin").await.unwrap();
    let (mut control, handle) = (home.client().await, route.server.clone());
    let hold = tokio::spawn(async move { control.hold(&handle, PATIENCE, DEADLINE, false).await });
    let admin = server.admin().await;
    let asking = "select count(*) from pg_stat_activity where query like '%pg_show_all_settings%'
                  and pid <> pg_backend_pid()";
    eventually("one to be asked", || async { (one(&admin, asking).await == "1").then_some(()) }).await;
    assert_eq!(one(&parked, "select 'here'").await, "here");
    open.batch_execute("commit").await.unwrap();
    assert_eq!(hold.await.unwrap().unwrap(), Hold::Held { parked: 3, ended: 0 });
    assert!(home.client().await.release(&route.server).await.unwrap());
    assert_eq!(one(&asked, "select 'here'").await, "here");
    gateway.stop().await;
}

/// A statement without a name that failed is no statement: the session goes on without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_that_failed_is_in_nobodys_way() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let mut stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    stream.write_all(b"P\0\0\0\x0f\0selct 1\0\0\0S\0\0\0\x04").await.unwrap();
    assert_eq!(message(&mut stream).await.unwrap().0, b'E');
    assert_eq!(message(&mut stream).await.unwrap().0, b'Z');
    assert_eq!(relocate(&mut server, &home, &mut route).await, (2, 0));
    query(&mut stream, "select 1").await;
    assert_eq!(one(&client, "select 1").await, "1");
    gateway.stop().await;
}

/// What was said to a session while it was asked reaches it, where it stays at its server after all.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_given_up_loses_no_notification() {
    let (_server, home, route, gateway) = front_door(18).await;
    let (listening, mut messages) = connect(&home, &route).await.unwrap();
    listening.batch_execute("listen gates").await.unwrap();
    let (busy, _messages) = connect(&home, &route).await.unwrap();
    for round in 0..20 {
        busy.batch_execute(&format!("begin; notify gates, '{round}'; select 1")).await.unwrap();
        let mut control = home.client().await;
        let server = route.server.clone();
        let short = Duration::from_millis(20);
        let hold = tokio::spawn(async move { control.hold(&server, short, DEADLINE, false).await });
        // While they come to rest; the next transaction keeps one from it.
        busy.batch_execute("commit and chain").await.unwrap();
        assert!(matches!(hold.await.unwrap().unwrap(), Hold::Busy { .. }));
        busy.batch_execute("commit").await.unwrap();
        let told = tokio::time::timeout(PATIENCE, messages.recv()).await.unwrap().unwrap();
        let tokio_postgres::AsyncMessage::Notification(told) = told else { panic!("{told:?}") };
        assert_eq!(told.payload(), round.to_string());
    }
    gateway.stop().await;
}

/// A session that is idle in a transaction: the hold is given up, or the session is.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_blocks_no_hold_for_ever() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let (other, _messages) = connect(&home, &route).await.unwrap();
    other.batch_execute("create table t (n int)").await.unwrap();
    client.batch_execute("begin; insert into t values (1)").await.unwrap();
    let mut control = home.client().await;
    let short = Duration::from_millis(200);
    let held = control.hold(&route.server, short, DEADLINE, false).await.unwrap();
    let Hold::Busy { in_transaction: true, why } = held else { panic!("{held:?}") };
    assert!(why.contains("1 of its sessions had not ended their transactions"), "{why}");
    assert!(!control.release(&route.server).await.unwrap(), "there is no hold");
    // Nobody was harmed.
    other.batch_execute("insert into t values (2)").await.unwrap();
    client.batch_execute("insert into t values (3); commit").await.unwrap();
    assert_eq!(one(&other, "select count(*) from t").await, "3");

    client.batch_execute("begin; insert into t values (4)").await.unwrap();
    let held = control.hold(&route.server, short, DEADLINE, true).await.unwrap();
    assert_eq!(held, Hold::Held { parked: 1, ended: 1 });
    server.relocate().await;
    switch(&server, &home, &mut route).await;
    assert!(control.release(&route.server).await.unwrap());
    let error = client.batch_execute("commit").await.unwrap_err();
    assert!(error.is_closed() || sqlstate(&error) == Some("57P01"), "{error}");
    home.logged("why", |line| line["outcome"] == "in_the_way").await;
    assert_eq!(one(&other, "select count(*) from t").await, "3", "what was not committed is not there");
    gateway.stop().await;
}

/// Whoever asked for the hold is gone: sessions go on all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_ends_at_its_deadline() {
    let (_server, home, route, gateway) = front_door(18).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let mut control = home.client().await;
    let held = control.hold(&route.server, PATIENCE, Duration::from_millis(300), false).await.unwrap();
    assert_eq!(held, Hold::Held { parked: 1, ended: 0 });
    drop(control);
    let newcomer = tokio::task::spawn_blocking({
        let mut newcomer = program(18, "psql", &home, &route);
        move || result(newcomer.args(["-XAtqc", "select 'in'"]))
    });
    assert_eq!(one(&client, "select 'on'").await, "on");
    assert_eq!(newcomer.await.unwrap().unwrap(), "in");
    assert!(!home.client().await.release(&route.server).await.unwrap(), "it had ended by itself");
    gateway.stop().await;
}

/// The deadline passed and the server is not there: clients are told, and nothing waits for ever.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_find_no_server_end() {
    let (mut server, home, route, gateway) = front_door(18).await;
    let mut stream = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    let mut control = home.client().await;
    control.hold(&route.server, PATIENCE, Duration::from_millis(100), false).await.unwrap();
    server.stop();
    stream.write_all(b"Q\0\0\0\x0dselect 1\0").await.unwrap();
    let (kind, body) = message(&mut stream).await.unwrap();
    let text = String::from_utf8_lossy(&body);
    assert!(kind == b'E' && text.contains("C57P01\0") && text.contains("the server is not up"), "{text}");
    gateway.stop().await;
}

/// COPY in both directions and a pipeline are brought to their end first.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_is_brought_to_its_end() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    client.batch_execute("create table t (line text)").await.unwrap();
    let mut copy = Box::pin(client.copy_in::<_, Bytes>("copy t from stdin").await.unwrap());
    copy.send(Bytes::from_static(b"one\n")).await.unwrap();
    copy.flush().await.unwrap();
    let server_name = route.server.clone();
    let mut control = home.client().await;
    let hold = tokio::spawn(async move { control.hold(&server_name, PATIENCE, DEADLINE, false).await });
    for line in 0..2000 {
        copy.send(Bytes::from(format!("line {line}\n"))).await.unwrap();
    }
    assert_eq!(copy.as_mut().finish().await.unwrap(), 2001);
    assert_eq!(hold.await.unwrap().unwrap(), Hold::Held { parked: 1, ended: 0 });
    server.relocate().await;
    switch(&server, &home, &mut route).await;
    assert!(home.client().await.release(&route.server).await.unwrap());
    assert_eq!(one(&client, "select count(*) from t").await, "2001");
    gateway.stop().await;
}

/// What happens to a session while it has no server.
#[tokio::test(flavor = "multi_thread")]
async fn a_parked_session_can_be_sent_off_and_can_leave() {
    let (server, home, mut route, gateway) = front_door(18).await;
    let mut sent_off = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    let leaves = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    let mut control = home.client().await;
    control.hold(&route.server, PATIENCE, DEADLINE, false).await.unwrap();
    drop(leaves);
    home.logged("the one that left", |line| line["outcome"] == "closed_by_client").await;
    assert_eq!(home.refresh(&route.server).await.unwrap().sessions, 1);
    (route.generation, route.allow) = (2, Vec::new());
    home.declare(&route);
    home.refresh(&route.server).await;
    let (_, body) = message(&mut sent_off).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("no longer on the allow-list"));
    eventually("everybody to leave", || async { (server.sessions().await == 0).then_some(()) }).await;
    gateway.stop().await;
}

/// What a session proved itself by, or had prepared, is true no more.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_come_back_is_told_so() {
    let (mut server, home, mut route, gateway) = front_door(18).await;
    let (owner, _messages) = connect(&home, &route).await.unwrap();
    owner.batch_execute("create table t (n int)").await.unwrap();
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let gone = client.prepare("select n from t").await.unwrap();
    owner.batch_execute("drop table t").await.unwrap();
    relocate(&mut server, &home, &mut route).await;
    let error = client.query(&gone, &[]).await.unwrap_err();
    assert_eq!(sqlstate(&error), Some("57P01"), "{error}");
    assert_eq!(one(&owner, "select 1").await, "1");

    server.admin().await.batch_execute("alter role flights_owner password 'another'").await.unwrap();
    relocate(&mut server, &home, &mut route).await;
    let error = owner.simple_query("select 1").await.unwrap_err();
    assert_eq!(sqlstate(&error), Some("57P01"), "{error}");
    home.logged("why", |line| {
        line["outcome"] == "stranded"
            && line["message"].as_str().unwrap_or_default().contains("its password has changed")
    })
    .await;
    gateway.stop().await;
}

/// A gateway that is killed in a hold leaves a server that nobody holds, and the next one serves.
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_a_hold() {
    use std::os::unix::process::ExitStatusExt;
    let server = Server::start(18).await;
    for point in ["gateway::held", "gateway::arrived"] {
        let home = Home::new();
        let route = home.route(&server);
        home.declare(&route);
        let mut doomed = spawn_of_rank(gateway::FIRST_RANK, &home, &format!("{point}=return"));
        eventually("the port", || async { psql(18, &home, &route, "select 1").ok() }).await;
        let (client, _messages) = connect(&home, &route).await.unwrap();
        client.batch_execute("create table if not exists t (n int); insert into t values (1)").await.unwrap();
        let mut control = home.client().await;
        // It dies in one of the two, or in what follows.
        let _ = control.hold(&route.server, PATIENCE, DEADLINE, false).await;
        let _ = control.release(&route.server).await;
        assert!(client.batch_execute("insert into t values (2)").await.is_err(), "{point}");
        let died = eventually("the kill", async || doomed.try_wait().unwrap()).await;
        assert_eq!(died.signal(), Some(9), "{point}");
        let mut whole = spawn_of_rank(gateway::FIRST_RANK, &home, "");
        let told = eventually(point, || async {
            psql(18, &home, &route, "select count(*) from t; drop table t").ok()
        });
        assert_eq!(told.await, "1", "{point}: what was acknowledged, and nothing else");
        whole.kill().unwrap();
        whole.wait().unwrap();
    }
}

/// Sessions in a gateway that was replaced, and drains, are held and moved with all others.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_reaches_a_gateway_that_drains() {
    let mut server = Server::start(18).await;
    let home = Home::new();
    let mut route = home.route(&server);
    home.declare(&route);
    let mut old = spawn_of_rank(gateway::FIRST_RANK, &home, "");
    eventually("the port", || async { psql(18, &home, &route, "select 1").ok() }).await;
    let (at_the_old, _messages) = connect(&home, &route).await.unwrap();
    at_the_old.batch_execute("set my.own = 'kept'").await.unwrap();
    let mut new = spawn_of_rank(gateway::FIRST_RANK + 1, &home, "");
    eventually("the new one", || async {
        let status = home.client().await.status().await.ok()?;
        (status.pid == new.id()).then_some(())
    })
    .await;
    let (at_the_new, _messages) = connect(&home, &route).await.unwrap();
    assert_eq!(relocate(&mut server, &home, &mut route).await, (2, 0));
    assert_eq!(one(&at_the_old, "select current_setting('my.own')").await, "kept");
    assert_eq!(one(&at_the_new, "select 1").await, "1");
    // And what is open in the one is in the way of the other.
    at_the_old.batch_execute("begin").await.unwrap();
    let short = Duration::from_millis(200);
    let held = home.client().await.hold(&route.server, short, DEADLINE, false).await.unwrap();
    assert!(matches!(&held, Hold::Busy { why, .. } if why.contains("1 of its sessions")), "{held:?}");
    assert_eq!(one(&at_the_new, "select 1").await, "1", "and nobody is held");
    at_the_old.batch_execute("commit").await.unwrap();
    for gateway in [&mut old, &mut new] {
        gateway.kill().unwrap();
        gateway.wait().unwrap();
    }
}

/// pgbench in its three protocols, and one that connects anew for each transaction, over three moves.
#[tokio::test(flavor = "multi_thread")]
async fn pgbench_notices_nothing() {
    for protocol in ["simple", "extended", "prepared"] {
        let (mut server, home, mut route, gateway) = front_door(18).await;
        result(program(18, "pgbench", &home, &route).args(["-iq", "--no-vacuum"])).unwrap();
        let bench = |arguments: &[&str]| {
            let mut bench = program(18, "pgbench", &home, &route);
            bench.args(["-n", "-M", protocol]).args(arguments);
            bench.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let benches = [bench(&["-c8", "-t400"]), bench(&["-S", "-C", "-c2", "-t100"])];
        // Past its first transactions, in which it prepares statements, and waits for each client's alone.
        eventually("pgbench to be under way", || async {
            let done = psql(18, &home, &route, "select count(*) > 200 from pgbench_history").unwrap();
            (done == "t").then_some(())
        })
        .await;
        for _ in 0..3 {
            relocate(&mut server, &home, &mut route).await;
            // Each move is to find them working.
            eventually("sessions to come back", || async { (server.sessions().await >= 1).then_some(()) })
                .await;
        }
        for bench in benches {
            let output = bench.wait_with_output().unwrap();
            let (said, wrong) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(output.status.success(), "{protocol}: {said}{wrong}");
            assert!(said.contains("number of failed transactions: 0 "), "{protocol}: {said}");
        }
        let told = psql(18, &home, &route, "select count(*) from pgbench_history").unwrap();
        assert_eq!(told, "3200", "each acknowledged commit once");
        gateway.stop().await;
    }
}
