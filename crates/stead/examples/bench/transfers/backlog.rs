//! A backlog caught up with: by `stead transfer` into the lake, by `pg_recvlogical` to nowhere, and by Debezium to a file.
//!
//! All read the same backlog, each from a copy of one slot. The lake has the table before, and is put back to that for
//! every round.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio_postgres::Client;
use transfer::wire::Mode;

use super::copier::Copier;
use super::peers::Peers;
use super::process::Run;
use super::source::{KEY, Server, bytes_in, one};
use super::{Amounts, Kind, LIMIT, settle};

/// The slot that is copied.
const BASE: &str = "base";
/// Of the others.
const OTHER: &str = "other";

pub(crate) async fn backlogs(server: &Server, peers: Option<&Peers>, amounts: &Amounts) {
    for (number, changes, at_once) in [(11, amounts.single, 1), (12, amounts.thousands, 1000)] {
        let backlog = Backlog::made(server, number, amounts.followed, changes, at_once).await;
        let (mut limit, mut debezium, mut ours) = (Kind::default(), Kind::default(), Kind::default());
        let mut missing = None;
        for _ in 0..amounts.rounds {
            backlog.nowhere(&mut limit).await;
            backlog.by_stead(&mut ours).await;
            if let Some(peers) = peers.filter(|_| missing.is_none()) {
                missing = backlog.by_debezium(peers, &mut debezium).await.err();
            }
        }
        let kind = if at_once == 1 { "of one row" } else { "of 1,000 rows" };
        println!(
            "\n| a backlog of {changes} changes in transactions {kind}, half of them updates | n | time | changes/s | \
             quickest | of pg_recvlogical | its CPU | the server's CPU | its memory, most | written \
             |\n|---|---|---|---|---|---|---|---|---|---|"
        );
        limit.row("pg_recvlogical to /dev/null, Unix socket", changes, None);
        ours.row("`stead transfer`, until it is on the disk and the slot let go", changes, Some(&limit));
        debezium.row("Debezium to a file, TCP, JSON, from its start", changes, Some(&limit));
        if !debezium.from_first.is_empty() {
            let rate = super::thousands(changes) / crate::median(&debezium.from_first);
            println!("\nDebezium from its first event on: {rate:.0}k changes/s.");
        }
        if let Some(why) = missing {
            println!("\nDebezium could not be measured: {why}");
        }
        backlog.gone().await;
    }
}

/// A database with changes that were written before anybody reads them.
struct Backlog<'s> {
    server: &'s Server,
    database: String,
    copier: Copier,
    client: Client,
    changes: u64,
    /// The last transaction of it ends behind the first and at the second.
    before_last: String,
    end: String,
}

impl<'s> Backlog<'s> {
    async fn made(server: &'s Server, number: u64, rows: u64, changes: u64, at_once: u64) -> Self {
        let database = format!("backlog{number}");
        server.fill(&database, rows, KEY).await;
        let client = server.client(&database).await;
        let copier = Copier::declare(server, &database, Mode::Stream, number).await;
        let run = copier.start();
        let is_followed = async || copier.status()["tables"][0]["state"] == "following";
        copier.until(&run, "the first copy", LIMIT, is_followed).await;
        run.stop().await;
        free(&client, &copier.name).await;
        copier.keep();
        slot(&client, &copier.name, BASE).await;
        write(&client, rows, changes, at_once).await;
        let position = "select pg_current_wal_insert_lsn()";
        let before_last = one(&client, position).await;
        // One more, by which it is known that all before were taken.
        client
            .batch_execute(
                "update flights set distance = distance + 1 where day = '1996-01-01' and flight = 2",
            )
            .await
            .unwrap();
        let end = one(&client, position).await;
        client.batch_execute("checkpoint").await.unwrap();
        Self { server, database, copier, client, changes, before_last, end }
    }

    async fn nowhere(&self, kind: &mut Kind) {
        slot(&self.client, BASE, OTHER).await;
        settle();
        let mut command = self.server.tool("pg_recvlogical", &self.database);
        let publication = format!("publication_names={}", self.copier.name);
        command.args(["-d", &self.database, "-S", OTHER, "--start", "--no-loop", "-f", "/dev/null"]);
        command.args(["-o", "proto_version=1", "-o", &publication, "--endpos", &self.end]);
        command.stdout(Stdio::null());
        let before = self.server.cpu_seconds();
        let run = Run::start("pg_recvlogical", &mut command, self.server.file("recvlogical.log"));
        let used = run.ended(LIMIT).await.unwrap_or_else(|why| panic!("{why}"));
        free(&self.client, OTHER).await;
        kind.add(used.seconds, &used, self.server.cpu_seconds() - before);
    }

    async fn by_stead(&self, kind: &mut Kind) {
        let copier = &self.copier;
        copier.return_to_kept();
        slot(&self.client, BASE, &copier.name).await;
        settle();
        let (already, before) = (copier.log("flights__changes").rows, self.server.cpu_seconds());
        let run = copier.start();
        let is_there = async || copier.has_let_go(&self.client, &self.before_last).await;
        copier.until(&run, "the end of the backlog in the lake", LIMIT, is_there).await;
        let seconds = run.seconds();
        let used = run.stop().await;
        free(&self.client, &copier.name).await;
        kind.add(seconds, &used, self.server.cpu_seconds() - before);
        let taken = copier.log("flights__changes").rows - already;
        assert!(taken >= self.changes, "the lake has {taken} of {} changes", self.changes);
        kind.bytes = bytes_in(&copier.lake().join("public/flights__changes"));
    }

    async fn by_debezium(&self, peers: &Peers, kind: &mut Kind) -> Result<(), String> {
        slot(&self.client, BASE, OTHER).await;
        settle();
        let (into, before) = (self.server.file("events.json"), self.server.cpu_seconds());
        let places = (self.database.as_str(), self.copier.name.as_str(), OTHER);
        let used = match peers.debezium(self.server, places, self.changes, &into) {
            Ok(run) => run.ended(LIMIT).await,
            Err(why) => Err(why),
        };
        free(&self.client, OTHER).await;
        let bytes = std::fs::metadata(&into).map_or(0, |meta| meta.len());
        let _ = std::fs::remove_file(&into);
        let used = used?;
        kind.bytes = bytes;
        let first_to_last: f64 = used.said.trim().parse().map_err(|_| format!("it said {:?}", used.said))?;
        kind.from_first.push(first_to_last / 1000.0);
        kind.add(used.seconds, &used, self.server.cpu_seconds() - before);
        Ok(())
    }

    async fn gone(self) {
        for name in [BASE, OTHER, &self.copier.name] {
            free(&self.client, name).await;
            drop_slot(&self.client, name).await;
        }
        self.copier.forget();
        self.server.drop_database(&self.database).await;
    }
}

/// Writes changes, half of them updates of rows that are there and half new rows, so many in a transaction.
async fn write(client: &Client, rows: u64, changes: u64, at_once: u64) {
    // Planned by what it is: a few rows by their key. And nobody waits for the disk a million times.
    let settings = "set synchronous_commit = off; set enable_seqscan = off; set enable_hashjoin = off;
        set enable_mergejoin = off; set plan_cache_mode = force_generic_plan";
    client.batch_execute(settings).await.unwrap();
    let pairs = changes / 2 / at_once;
    let last = at_once - 1;
    let script = format!(
        "do $$ declare
            at bigint;
         begin
            for pair in 0 .. {pairs} - 1 loop
                at := 1 + pair::bigint * 7919 % ({rows} - {last});
                update flights f set dep_delay = m.dep_delay + 1, arr_delay = m.arr_delay + 1, tailnum = m.tailnum
                    from made(at, at + {last}) m
                    where f.day = m.day and f.origin = m.origin and f.carrier = m.carrier and f.flight = m.flight;
                commit;
                at := {rows} + 1 + pair::bigint * {at_once};
                insert into flights select * from made(at, at + {last});
                commit;
            end loop;
         end $$"
    );
    client.batch_execute(&script).await.unwrap();
    // What was not flushed a slot does not give.
    client.batch_execute("set synchronous_commit = on").await.unwrap();
}

/// Makes a slot as a copy of another, in the place of one that is there.
async fn slot(client: &Client, from: &str, name: &str) {
    drop_slot(client, name).await;
    one(client, &format!("select pg_copy_logical_replication_slot('{from}', '{name}')")).await;
}

async fn drop_slot(client: &Client, name: &str) {
    let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1";
    client.execute(drop, &[&name]).await.unwrap();
}

/// Waits until nobody reads a slot.
async fn free(client: &Client, name: &str) {
    let ask = format!("select count(*) from pg_replication_slots where slot_name = '{name}' and active");
    let began = Instant::now();
    while one(client, &ask).await != "0" {
        assert!(began.elapsed() < Duration::from_secs(60), "somebody reads the slot {name} for a minute");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
