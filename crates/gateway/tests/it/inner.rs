//! The inner door: no list is asked there, and a password all the same; a stranger is not heard at all.

use gateway::inner::{Call, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_postgres::{Client, NoTls};

use crate::support::clients::{config, psql, sqlstate};
use crate::support::eventually;
use crate::support::home::{Home, front_door, limits};

fn call(server: &str) -> Call {
    Call { server: server.to_owned(), who: "ann\n".to_owned() }
}

async fn enter(
    home: &Home,
    server: &str,
    config: &tokio_postgres::Config,
) -> Result<Client, tokio_postgres::Error> {
    let stream = connect(home.path(), &call(server)).await.unwrap();
    let (client, connection) = config.connect_raw(stream, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_is_asked_and_a_password_is() {
    let (server, home, mut route, gateway) = front_door(18).await;
    route.allow = Vec::new();
    home.declare(&route);
    home.refresh(&route.server).await;
    assert!(psql(18, &home, &route, "select 1").unwrap_err().contains("not on the allow-list"));
    let client = enter(&home, &route.server, &config()).await.unwrap();
    client.batch_execute("create temp table held ()").await.unwrap();
    assert_eq!(home.refresh(&route.server).await.unwrap().sessions, 1);
    // An edit of the list ends none of these.
    home.declare(&gateway::route::Route { generation: 2, ..route.clone() });
    home.refresh(&route.server).await;
    client.batch_execute("table held").await.unwrap();
    for _ in 0..100 {
        let mut wrong = config();
        wrong.password("wrong");
        let refused = enter(&home, &route.server, &wrong).await.err().unwrap();
        assert_eq!(sqlstate(&refused), Some("28P01"));
    }
    let mut admin = config();
    admin.user("stead_admin").password("admin").dbname("postgres");
    assert_eq!(sqlstate(&enter(&home, &route.server, &admin).await.err().unwrap()), Some("28P01"));
    let refused = enter(&home, "another", &config()).await.err().unwrap();
    assert_eq!(sqlstate(&refused), Some("57P03"));
    // A cancel request comes the same way, and finds its session only.
    let token = client.cancel_token();
    let slow = tokio::spawn(async move { client.batch_execute("select pg_sleep(600)").await });
    eventually("the statement to run", async || server.sleeps().await.then_some(())).await;
    let stream = connect(home.path(), &call(&route.server)).await.unwrap();
    token.cancel_query_raw(stream, NoTls).await.unwrap();
    assert_eq!(sqlstate(&slow.await.unwrap().unwrap_err()), Some("57014"));
    let line = home.logged("the session in the log", |line| line["signed_in"] == true).await;
    assert_eq!((&line["client"], &line["server"]), (&"console: ann".into(), &route.server.as_str().into()));
    gateway.stop().await;
    assert!(!home.path().join("gateway/inner.sock").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_call_is_refused() {
    let (_server, home, route, gateway) = front_door(15).await;
    let socket = home.path().join("gateway/inner.sock");
    let long = [&2000_u32.to_be_bytes()[..], &[b' '; 2000]].concat();
    for (said, wanted) in [
        (&long[..], "too long"),
        (b"\xff\xff\xff\xff", "too long"),
        (b"\0\0\0\x02{}", "not understood"),
        (b"\0\0\0\x04null", "not understood"),
    ] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(said).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut told = Vec::new();
        let _ = stream.read_to_end(&mut told).await;
        let told = String::from_utf8_lossy(&told).into_owned();
        assert!(told.contains("C08P01") && told.contains(wanted), "{said:?}: {told}");
    }
    // Encryption is for networks.
    let mut stream = connect(home.path(), &call(&route.server)).await.unwrap();
    stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
    let mut told = Vec::new();
    let _ = stream.read_to_end(&mut told).await;
    assert!(String::from_utf8_lossy(&told).contains("C08P01"), "{told:?}");
    // One that says nothing is not waited for.
    let mut silent = UnixStream::connect(&socket).await.unwrap();
    let mut told = Vec::new();
    silent.read_to_end(&mut told).await.unwrap();
    enter(&home, &route.server, &config()).await.unwrap();
    gateway.stop().await;
}

/// Whose process calls is what counts, not that the file lets it in.
#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_not_heard() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (_server, home, route, gateway) = front_door(15).await;
    enter(&home, &route.server, &config()).await.unwrap();
    // From now on the routes are somebody else's, and so is the door.
    std::os::unix::fs::chown(home.path().join("gateway/routes"), Some(12345), None).unwrap();
    let mut told = Vec::new();
    // It may be gone before it has said for whom.
    if let Ok(mut stream) = connect(home.path(), &call(&route.server)).await {
        let _ = stream.read_to_end(&mut told).await;
    }
    assert_eq!(told, b"");
    home.logged("the stranger", |line| line["outcome"] == "not_allowed").await;
    gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_gateway_has_a_door_of_its_own_and_sessions_go_on() {
    let (server, home, route, old) = front_door(18).await;
    let client = enter(&home, &route.server, &config()).await.unwrap();
    let token = client.cancel_token();
    let new = home.gateway_of_rank(2, limits()).await;
    client.batch_execute("select 1").await.unwrap();
    let again = enter(&home, &route.server, &config()).await.unwrap();
    assert_eq!(home.refresh(&route.server).await.unwrap().sessions, 1, "it is the new one's");
    let slow = tokio::spawn(async move { client.batch_execute("select pg_sleep(600)").await });
    eventually("the statement to run", async || server.sleeps().await.then_some(())).await;
    let stream = connect(home.path(), &call(&route.server)).await.unwrap();
    token.cancel_query_raw(stream, NoTls).await.unwrap();
    assert_eq!(sqlstate(&slow.await.unwrap().unwrap_err()), Some("57014"));
    old.drained().await;
    again.batch_execute("select 1").await.unwrap();
    new.stop().await;
}
