//! What the page of a lake shows beside: what its transfer promises, how far it has come, and a new beginning.

use askama::Template;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::Method;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use client::wire::{Component, Operation, TransferTable};
use serde::Deserialize;

use super::super::Site;
use super::super::api::escaped;
use super::super::failure::{At, shown};
use super::super::frame::unreadable;
use super::super::stead::{bucket, bytes, tables_and_server};
use super::words::{self, grouped};
use super::{Place, Visit};
use crate::sign_in::Signed;

/// The condition of what stands still.
const STOPPED: [&str; 2] = ["transfer_stopped", "table_stopped"];

/// A transfer, as it says it stands.
pub(super) struct Lake {
    /// What a person should know, in words.
    pub(super) told: Vec<String>,
    /// What it is set to and how far it has come: a name, and words.
    pub(super) facts: Vec<(&'static str, String)>,
    /// Those that need somebody come first.
    pub(super) tables: Vec<TransferTable>,
    /// The bucket that its tables are in, when they are in no lake of the stead's.
    pub(super) bucket: Option<String>,
}

impl Lake {
    pub(super) fn of(component: Component) -> Self {
        let mode = component.spec["mode"].as_str().unwrap_or_default().to_owned();
        // What stops the transfer, or a table of it, is told by the transfer itself.
        let conditions =
            component.conditions.into_iter().filter(|condition| !STOPPED.contains(&condition.kind.as_str()));
        let mut told: Vec<String> = conditions.map(|condition| condition.message).collect();
        let bucket = bucket(&component.spec);
        let mut facts = vec![("Copies", tables_and_server(&component.spec))];
        facts.extend(bucket.clone().map(|bucket| ("Into", bucket)));
        let Some(transfer) = component.transfer else {
            facts.push(("Mode", mode));
            return Self { told, facts, tables: Vec::new(), bucket };
        };
        told.extend(transfer.trouble);
        told.extend(transfer.remark);
        facts.push(("Mode", format!("{mode}: {}", transfer.promise)));
        if let Some(ms) = transfer.behind_ms {
            let log = transfer.behind_bytes.filter(|log| *log > 0);
            let log = log.map_or_else(String::new, |log| format!(", {} of the server's log", bytes(&log)));
            facts.push((
                "Behind",
                if ms == 0 { "nothing".to_owned() } else { format!("{}{log}", seconds(ms)) },
            ));
        }
        if let Some(kept) = transfer.kept_bytes {
            let room = transfer.room_bytes.map_or_else(String::new, |room| {
                format!("; {} more at most, then it lets go of it and the transfer stops", bytes(&room))
            });
            facts.push(("Log that the server keeps for it", format!("{}{room}", bytes(&kept))));
        }
        let mut tables = transfer.tables;
        tables.sort_by_key(|table| match colour(&table.state) {
            "bad" => 0,
            "busy" => 1,
            _ => 2,
        });
        Self { told, facts, tables, bucket }
    }

    /// How its tables stand, in a line.
    pub(super) fn summary(&self) -> String {
        let mut states: Vec<(&str, u64)> = Vec::new();
        for table in &self.tables {
            match states.iter_mut().find(|(state, _)| *state == table.state) {
                Some((_, count)) => *count += 1,
                None => states.push((&table.state, 1)),
            }
        }
        let states: Vec<String> =
            states.into_iter().map(|(state, count)| format!("{} {state}", grouped(count))).collect();
        if states.is_empty() { "none told of yet".to_owned() } else { states.join(", ") }
    }

    /// The word that colours a table's state.
    pub(super) fn colour(&self, table: &TransferTable) -> &'static str {
        colour(&table.state)
    }

    /// A number, where there is one.
    pub(super) fn count(&self, count: &Option<u64>) -> String {
        count.map_or_else(String::new, grouped)
    }
}

fn colour(state: &str) -> &'static str {
    match state {
        "stopped" => "bad",
        "waiting" | "copying" => "busy",
        _ => "good",
    }
}

/// How long ago the lake had everything.
fn seconds(ms: u64) -> String {
    match ms.div_ceil(1_000) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", grouped(seconds / 3_600)),
    }
}

#[derive(Template)]
#[template(path = "lake.html")]
struct Part {
    lake: Option<Lake>,
}

/// `GET …/database/lake`: the part of the page that changes by itself.
pub(crate) async fn part(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
) -> Response {
    let visit = Visit::new(&site, &signed, &at);
    match visit.page().await {
        Ok(page) => shown(&Part { lake: page.lake }),
        Err(refused) => visit.frame.failure(refused).into_response(),
    }
}

/// What somebody says of a new beginning.
#[derive(Deserialize)]
pub(crate) struct Anew {
    #[serde(default)]
    reason: String,
}

/// `POST …/database/resync`: has everything copied anew, and shows how that goes.
pub(crate) async fn resync(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
    sent: Result<Form<Anew>, FormRejection>,
) -> Response {
    let visit = Visit::new(&site, &signed, &at);
    let Form(sent) = match sent {
        Ok(sent) => sent,
        Err(error) => return visit.frame.failure(unreadable(&error.body_text())).into_response(),
    };
    let reason = escaped(sent.reason.trim());
    let query = if reason.is_empty() { String::new() } else { format!("?reason={reason}") };
    let path = format!("{}/resync{query}", visit.path);
    match visit.api.send::<Operation>(Method::POST, &path, None, None).await {
        Ok((_, operation)) => {
            Redirect::to(&format!("{}/runs/{}", visit.frame.of_tenant(), operation.id)).into_response()
        }
        Err(refused) => visit.frame.failure(refused).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn a_lake_is_behind_in_words() {
        let said = [1, 1_001, 119_000, 120_000, 7_199_000, 7_200_000, 36_000_000_000].map(seconds);
        assert_eq!(said, ["1 s", "2 s", "119 s", "2 min", "119 min", "2 h", "10,000 h"]);
    }
}
