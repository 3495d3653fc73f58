//! The road that clients take: through the gateway, which finds a PostgreSQL server here.

use gateway::inner::{Call, connect};
use gateway::route::{Route, Settings};
use gateway::{Client, FIRST_RANK, Limits, Options};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use tokio_postgres::NoTls;

use crate::support::{Lake, PASSWORD, count, said};

/// A home with one route, to the lake.
fn home(lake: &Lake) -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(home.path().join("gateway/routes")).unwrap();
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let route = Route {
        server: "acme-flights-lake".to_owned(),
        generation: 1,
        tenant: "acme".to_owned(),
        stead: "flights".to_owned(),
        component: "lake".to_owned(),
        port,
        socket_dir: lake.home(),
        allow: Vec::new(),
        max_sessions: 40,
        sleep: None,
    };
    let settings = Settings { listen: vec![Ipv4Addr::LOCALHOST.into()], ..Settings::default() };
    write(home.path(), "gateway/gateway.json", &settings);
    write(home.path(), "gateway/routes/acme-flights-lake.json", &route);
    home
}

fn write(home: &Path, name: &str, what: &impl serde::Serialize) {
    std::fs::write(home.join(name), serde_json::to_string(what).unwrap()).unwrap();
}

async fn enter(home: &Path, password: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let call = Call { server: "acme-flights-lake".to_owned(), who: "ann".to_owned() };
    let stream = loop {
        match connect(home, &call).await {
            Ok(stream) => break stream,
            // The door is opened once the gateway has looked at its files.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound),
        }
        tokio::task::yield_now().await;
    };
    let mut config = tokio_postgres::Config::new();
    config.user("ann").password(password).dbname("lake");
    let (client, connection) = config.connect_raw(stream, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_signs_in_as_to_a_server() {
    let lake = Lake::start().await;
    lake.table("public", "flights").await.append(0..10).await;
    let home = home(&lake);
    let options = Options { home: home.path().to_owned(), rank: FIRST_RANK };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tokio::spawn(gateway::serve(options, Limits::default(), async {
        stopped.await.unwrap();
    }));
    // Once it answers it has looked at its files.
    while Client::connect(home.path()).await.is_err() {
        assert!(!serving.is_finished());
        tokio::task::yield_now().await;
    }
    let client = loop {
        match enter(home.path(), PASSWORD).await {
            Ok(client) => break client,
            // The route is not known yet.
            Err(error) => assert_eq!(said(&error).0, "57P03"),
        }
    };
    assert_eq!(count(&client, "select count(*) from flights").await, 10);
    assert_eq!(said(&enter(home.path(), "wrong").await.unwrap_err()).0, "28P01");
    let token = client.cancel_token();
    let long = "select count(*) from generate_series(1, 100000000000) t(a) where a % 7 = 8";
    let cancelling = async {
        loop {
            let call = Call { server: "acme-flights-lake".to_owned(), who: "ann".to_owned() };
            token.cancel_query_raw(connect(home.path(), &call).await.unwrap(), NoTls).await.unwrap();
        }
    };
    let ended =
        tokio::select! { ended = client.batch_execute(long) => ended, () = cancelling => unreachable!() };
    assert_eq!(said(&ended.unwrap_err()).0, "57014");
    drop(client);
    stop.send(()).unwrap();
    serving.await.unwrap().unwrap();
}
