//! A table copied whole: by `stead transfer`, by duckdb into a Parquet file, and by `psql` to nowhere in PostgreSQL's
//! binary form, which is what the server can give one session.

use std::process::Stdio;

use transfer::wire::Mode;

use super::copier::Copier;
use super::peers::Peers;
use super::process::{Run, Used};
use super::source::{Server, bytes_in};
use super::{Amounts, Kind, LIMIT, megabytes, most, settle};

/// Runs of each whose memory is compared.
const MEMORY_ROUNDS: usize = 2;

pub(crate) async fn snapshots(server: &Server, peers: Option<&Peers>, amounts: &Amounts) {
    let rows = amounts.rows;
    let bytes = server.fill("rows", rows, "").await;
    let copier = Copier::declare(server, "rows", Mode::Snapshot, 1).await;
    let (mut limit, mut duckdb, mut ours) = (Kind::default(), Kind::default(), Kind::default());
    for _ in 0..amounts.copies {
        nowhere(server, "rows", &mut limit).await;
        if let Some(peers) = peers {
            by_duckdb(server, peers, "rows", rows, &mut duckdb).await;
        }
        by_stead(server, &copier, rows, &mut ours).await;
    }
    println!(
        "\n| a copy of {rows} rows, {} in the server | n | time | rows/s | quickest | of duckdb | its CPU | the \
         server's CPU | its memory, most | written |\n|---|---|---|---|---|---|---|---|---|---|",
        megabytes(bytes)
    );
    limit.row("limit: COPY in binary to /dev/null, one session", rows, Some(&duckdb));
    duckdb.row("duckdb to a Parquet file, without its start", rows, None);
    ours.row("`stead transfer`, from its start until it is on the disk", rows, Some(&duckdb));
    drop(copier);
    server.drop_database("rows").await;
    memory(server, peers, amounts).await;
}

/// The most memory, of few rows and of many.
async fn memory(server: &Server, peers: Option<&Peers>, amounts: &Amounts) {
    println!("\n| most memory of a copy, of {MEMORY_ROUNDS} | `stead transfer` | duckdb |\n|---|---|---|");
    for (number, rows) in [(2, amounts.few), (3, amounts.many)] {
        let database = format!("rows{number}");
        server.fill(&database, rows, "").await;
        let copier = Copier::declare(server, &database, Mode::Snapshot, number).await;
        let (mut duckdb, mut ours) = (Kind::default(), Kind::default());
        for _ in 0..MEMORY_ROUNDS {
            by_stead(server, &copier, rows, &mut ours).await;
            if let Some(peers) = peers {
                by_duckdb(server, peers, &database, rows, &mut duckdb).await;
            }
        }
        println!("| {rows} rows | {:.0} MiB | {:.0} MiB |", most(&ours.peak_mib), most(&duckdb.peak_mib));
        drop(copier);
        server.drop_database(&database).await;
    }
}

async fn nowhere(server: &Server, database: &str, kind: &mut Kind) {
    settle();
    let mut command = server.tool("psql", database);
    command.args(["-Xqc", "copy flights to stdout (format binary)"]).stdout(Stdio::null());
    let before = server.cpu_seconds();
    let used = ended(Run::start("psql", &mut command, server.file("psql.log"))).await;
    kind.add(used.seconds, &used, server.cpu_seconds() - before);
}

async fn by_duckdb(server: &Server, peers: &Peers, database: &str, rows: u64, kind: &mut Kind) {
    settle();
    let into = server.file("flights.parquet");
    let before = server.cpu_seconds();
    let used = ended(peers.duckdb(server, database, &into)).await;
    let spent = server.cpu_seconds() - before;
    let (seconds, copied) = used.said.trim().split_once(' ').unwrap();
    assert_eq!(copied, rows.to_string(), "duckdb copied others");
    kind.bytes = std::fs::metadata(&into).unwrap().len();
    kind.add(seconds.parse().unwrap(), &used, spent);
    std::fs::remove_file(&into).unwrap();
}

async fn by_stead(server: &Server, copier: &Copier, rows: u64, kind: &mut Kind) {
    copier.forget();
    settle();
    let before = server.cpu_seconds();
    let run = copier.start();
    copier.until(&run, "the copy", LIMIT, async || copier.has_copied()).await;
    let seconds = run.seconds();
    let used = run.stop().await;
    kind.add(seconds, &used, server.cpu_seconds() - before);
    assert_eq!(copier.log("flights").rows, rows, "it copied others");
    kind.bytes = bytes_in(&copier.lake());
    copier.forget();
}

async fn ended(run: Run) -> Used {
    run.ended(LIMIT).await.unwrap_or_else(|why| panic!("{why}"))
}
