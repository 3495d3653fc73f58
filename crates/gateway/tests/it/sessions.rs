//! What goes on inside a session: nothing that the gateway could get wrong stays untried.

use std::time::Duration;

use futures::{SinkExt, StreamExt, TryStreamExt};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use tokio_postgres::AsyncMessage;

use crate::support::clients::{connect, encrypted, message, psql, signed_in, tcp};
use crate::support::home::front_door;
use crate::support::{DATABASE, PASSWORD, USER};

#[tokio::test(flavor = "multi_thread")]
async fn copy_goes_in_and_comes_out_whole() {
    let (_server, home, route, gateway) = front_door(18).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    client.batch_execute("create table t (n int, x text)").await.unwrap();
    let sink = client.copy_in::<_, bytes::Bytes>("copy t from stdin").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    let mut sent = Vec::new();
    for n in 0..40_000 {
        let line = format!("{n}\t{}\n", "x".repeat(n % 700));
        sent.extend_from_slice(line.as_bytes());
        sink.feed(line.into()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 40_000);
    let mut out =
        std::pin::pin!(client.copy_out("copy (select * from t order by n) to stdout").await.unwrap());
    let mut got = Vec::new();
    while let Some(part) = out.next().await {
        got.extend_from_slice(&part.unwrap());
    }
    assert!(sent == got, "{} bytes in, {} out", sent.len(), got.len());
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_far_larger_than_any_buffer() {
    let (_server, home, route, gateway) = front_door(15).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    for size in [0_usize, 1, 16_383, 16_384, 65_535, 65_536, 65_537, 30_000_000] {
        let value = "\u{e9}".repeat(size / 2);
        let row = client.query_one("select $1::text, octet_length($1)", &[&value]).await.unwrap();
        assert!(row.get::<_, String>(0) == value, "{size}");
        assert_eq!(usize::try_from(row.get::<_, i32>(1)).unwrap(), value.len());
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelines_keep_their_order_also_after_an_error() {
    let (_server, home, route, gateway) = front_door(18).await;
    let (client, _messages) = connect(&home, &route).await.unwrap();
    let statement = client.prepare("select 100 / ($1::int - 250)").await.unwrap();
    let answers = futures::future::join_all((0..500_i32).map(|n| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[&n]).await.map(|row| row.get::<_, i32>(0)) }
    }));
    for (n, answer) in (0..).zip(answers.await) {
        match answer {
            Ok(value) => assert_eq!(value, 100 / (n - 250)),
            Err(error) => assert_eq!((n, error.code().unwrap().code()), (250, "22012")),
        }
    }
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn listen_hears_what_another_session_notifies() {
    let (_server, home, route, gateway) = front_door(15).await;
    let (listener, mut messages) = connect(&home, &route).await.unwrap();
    let (speaker, _others) = connect(&home, &route).await.unwrap();
    listener.batch_execute("listen news").await.unwrap();
    let speaker_pid: i32 = speaker.query_one("select pg_backend_pid()", &[]).await.unwrap().get(0);
    for n in 0..20 {
        speaker.batch_execute(&format!("notify news, '{n}'")).await.unwrap();
        // The listener is idle: what comes, comes by itself.
        let message = tokio::time::timeout(Duration::from_secs(10), messages.recv()).await.unwrap();
        let Some(AsyncMessage::Notification(said)) = message else { panic!("{message:?}") };
        assert_eq!((said.payload(), said.process_id()), (n.to_string().as_str(), speaker_pid));
    }
    gateway.stop().await;
}

/// Results come a portal at a time, with pauses, errors and savepoints between.
#[tokio::test(flavor = "multi_thread")]
async fn cursors_portals_and_savepoints() {
    let (_server, home, route, gateway) = front_door(18).await;
    let (mut client, _messages) = connect(&home, &route).await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("select generate_series(1, 1000)", &[]).await.unwrap();
    let first: Vec<_> = transaction.query_portal_raw(&portal, 10).await.unwrap().try_collect().await.unwrap();
    assert_eq!(first.len(), 10);
    let savepoint = transaction.savepoint("s").await.unwrap();
    assert!(savepoint.batch_execute("select 1/0").await.is_err());
    savepoint.rollback().await.unwrap();
    let rest: Vec<_> = transaction.query_portal_raw(&portal, 0).await.unwrap().try_collect().await.unwrap();
    assert_eq!((rest.len(), rest[0].get::<_, i32>(0)), (990, 11));
    transaction.commit().await.unwrap();
    gateway.stop().await;
}

/// A client that reads nothing holds up itself alone, and the gateway keeps little of what it is owed.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_up_nobody() {
    let (_server, home, route, gateway) = front_door(18).await;
    let stream = encrypted(tcp(&route).await, &home).await.unwrap();
    let mut config = tokio_postgres::Config::new();
    config.user(USER).password(PASSWORD).dbname(DATABASE).ssl_mode(tokio_postgres::config::SslMode::Disable);
    let (client, connection) = config.connect_raw(stream, tokio_postgres::NoTls).await.unwrap();
    let mut connection = Box::pin(connection);
    let sql = "select repeat('x', 1000) from generate_series(1, 1000000)";
    let mut asked = std::pin::pin!(client.simple_query_raw(sql));
    // Until the question is out and the first of the answer is in; then the connection is left alone.
    let stream = tokio::select! {
        stream = &mut asked => stream.unwrap(),
        _ = &mut connection => panic!("the session ended"),
    };
    let before = resident();
    for _ in 0..50 {
        let (other, _messages) = connect(&home, &route).await.unwrap();
        assert_eq!(other.query_one("select 1", &[]).await.unwrap().get::<_, i32>(0), 1);
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 100 << 20, "{grown} bytes of a gigabyte are kept in memory");
    drop((stream, connection));
    gateway.stop().await;
}

/// The other way round: a server that reads nothing holds up its own client, which has to wait with what it
/// sends, and gets it all through in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_read_holds_up_its_client_alone() {
    let (server, home, route, gateway) = front_door(18).await;
    psql(18, &home, &route, "create table t (x text)").unwrap();
    let mut client = signed_in(encrypted(tcp(&route).await, &home).await.unwrap()).await;
    let query = b"Q\0\0\0\x16copy t from stdin\0";
    client.write_all(query).await.unwrap();
    assert_eq!(message(&mut client).await.unwrap().0, b'G');
    let question = "select pid from pg_stat_activity where application_name = 'by hand'";
    let backend: i32 = server.admin().await.query_one(question, &[]).await.unwrap().get(0);
    let backend = Pid::from_raw(backend).unwrap();
    kill_process(backend, Signal::STOP).unwrap();
    let line = [&b"d\0\0\x40\x04"[..], &[b'x'; 0x3fff], b"\n"].concat();
    let before = resident();
    let mut lines = 0_u64;
    // Until nothing moves any more. A line that is cut off half way goes on where it was.
    let mut sending = Box::pin(async {
        while lines < 1 << 14 {
            client.write_all(&line).await.unwrap();
            lines += 1;
        }
    });
    let all_taken = timeout(Duration::from_secs(2), &mut sending).await.is_ok();
    let grown = resident().saturating_sub(before);
    assert!(!all_taken, "a quarter of a gigabyte went to a server that reads nothing");
    assert!(grown < 100 << 20, "{grown} bytes of it are kept in memory");
    assert_eq!(psql(18, &home, &route, "select 1").unwrap(), "1", "others are served meanwhile");
    kill_process(backend, Signal::CONT).unwrap();
    sending.await;
    client.write_all(b"c\0\0\0\x04").await.unwrap();
    assert_eq!(message(&mut client).await.unwrap(), (b'C', b"COPY 16384\0".to_vec()));
    gateway.stop().await;
}

/// Resident memory of this process, which is the gateway's too, bytes.
pub(crate) fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
