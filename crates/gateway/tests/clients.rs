//! The clients people use, against the oldest and the newest server.

mod support;

use support::clients::psql;
use support::home::front_door;

#[tokio::test(flavor = "multi_thread")]
async fn psql_15_and_18_connect_with_verify_full_and_channel_binding() {
    for major in [15, 18] {
        let (_server, home, route, gateway) = front_door(major).await;
        for client in [15, 18] {
            assert_eq!(psql(client, &home, &route, "select 6 * 7").unwrap(), "42");
        }
        gateway.stop().await;
    }
}
