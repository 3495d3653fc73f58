//! A collector for tests: reads the logs of a home into its store until it has read all, puts segments together, and
//! ends; or dies at a fail point.
//!
//! `collector <home> [blocks]`; every server is of the tenant of its handle's number.

#![expect(clippy::unwrap_used, reason = "an example for tests")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use component::TenantId;
use jiff::Timestamp;
use logs::{Collector, Label, Options, Owner, Owners, Source, Store};

fn main() {
    let _scenario = fail::FailScenario::setup();
    let mut args = std::env::args_os().skip(1);
    let home = PathBuf::from(args.next().unwrap());
    let blocks = args.next().map_or(4, |blocks| blocks.to_str().unwrap().parse().unwrap());
    let store = Store::open(&home.join("logs/store"), Options { blocks, bytes: u64::MAX }).unwrap();
    let store = Arc::new(store);
    let mut collector = Collector::new(&home, Arc::clone(&store));
    let mut owners = Owners::new();
    loop {
        let round = collector.round(&owners, Timestamp::now()).unwrap();
        owners.extend(round.unknown.iter().map(|handle| (handle.clone(), Some(owner(handle)))));
        // More often than a host would, so that the tests pass all of it.
        store.checkpoint(Timestamp::now()).unwrap();
        if !round.more && round.unknown.is_empty() {
            break;
        }
    }
    let tomorrow = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date().tomorrow().unwrap();
    let all: BTreeSet<Owner> = store.owners().unwrap().into_iter().collect();
    store.tidy(all.into_iter().collect(), tomorrow, |_| Some(30)).unwrap();
}

fn owner(handle: &str) -> (Owner, Label) {
    let number = u128::from(u64::from_str_radix(handle, 16).unwrap());
    let label = Label {
        source: Source::Postgres,
        stead: Some("shop".into()),
        component: Some("postgres.main".into()),
        server: Some(handle.to_owned()),
    };
    (Owner::Tenant(TenantId(uuid::Uuid::from_u128(number))), label)
}
