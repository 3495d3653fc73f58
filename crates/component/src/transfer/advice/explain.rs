//! Why a mode, why not the others, and what to write.

use std::fmt::Write as _;

use super::choose::{self, Choice, NEWEST_ENGINE, OLDEST_ENGINE, Way, fresh, team};
use super::words::{bytes, names, time};
use super::{Cursors, Situation, Team, load};
use crate::postgres::written;

/// The block of the manifest.
pub(super) fn manifest(situation: &Situation, way: Way) -> String {
    let from = match &situation.from {
        Some(server) => format!("\"{server}\""),
        None => "{ secret = \"SOURCE_URL\" }".to_owned(),
    };
    let mut block = format!("[transfer.lake]\nfrom = {from}\nmode = \"{}\"\n", way.mode().as_str());
    if let (Way::Query, Cursors::Column(cursor)) = (way, &situation.cursor) {
        let column = toml::Value::String(cursor.column.clone());
        let overlap = time(load::OVERLAP_S.into());
        let _ = writeln!(block, "cursor = {column}\noverlap = \"{overlap}\"");
    }
    if way != Way::Stream {
        let _ = writeln!(block, "every = \"{}\"", every(way.reaches_s(situation)));
    }
    let patterns: Vec<String> = situation
        .patterns
        .iter()
        .map(|pattern| toml::Value::String(pattern.to_string()).to_string())
        .collect();
    let patterns = if patterns.is_empty() { "\"public.*\"".to_owned() } else { patterns.join(", ") };
    let _ = writeln!(block, "tables = [{patterns}]");
    block
}

/// As a manifest takes it, 30 days at most; in whole minutes from an hour on, so that it can be read.
fn every(seconds: u64) -> String {
    let step = if seconds > 3_600 { 60 } else { 1 };
    let seconds = seconds.next_multiple_of(step).min(30 * load::DAY_S);
    written(u32::try_from(seconds).unwrap_or(u32::MAX))
}

/// What makes a stream certain, or a copy fresh.
pub(super) fn beside(situation: &Situation, way: Way) -> Option<String> {
    let keyless = situation.keyless.as_ref().filter(|tables| !tables.is_empty());
    match (way, keyless) {
        (Way::Stream, Some(tables)) => Some(format!(
            "a snapshot transfer for {}, which the stream leaves alone until they have a key",
            names(tables)
        )),
        (Way::Stream, None) => Some(
            "where figures have to be certain, a snapshot transfer of the same tables, at night say: it depends on \
             nothing that the stream depends on, and the two can be compared"
                .to_owned(),
        ),
        (Way::Query, _) => Some(
            "a snapshot transfer of the same tables, once a week say: it has what the queries have missed, and tells how \
             much that is"
                .to_owned(),
        ),
        _ => None,
    }
}

fn copy(situation: &Situation) -> String {
    let takes = time(load::copy_s(situation));
    match situation.volume.bytes {
        Some(size) => format!("a copy of {} takes {takes} at best", bytes(size)),
        None => format!("a copy takes {takes} at best"),
    }
}

/// Why, the weightiest first.
pub(super) fn reasons(situation: &Situation, choice: Choice) -> Vec<String> {
    let wanted = fresh(situation);
    let mut reasons = Vec::new();
    if situation.history == Some(true) {
        reasons.push("every change is wanted, and only a stream sees what is overwritten".to_owned());
    }
    let reaches = time(choice.way.reaches_s(situation));
    if !choice.is_fresh {
        reasons.push(format!("nothing that is possible gets to {wanted}; this is the freshest, {reaches}"));
    }
    match choice.way {
        Way::Light => {
            reasons.push(format!("rows may be {wanted} old, and {}", copy(situation)));
            reasons
                .push("each copy is the whole truth of one moment: nothing can have been missed".to_owned());
            reasons.push(
                "it needs `select` and nothing else of the server, and nobody waits for anybody".to_owned(),
            );
        }
        Way::Heavy => {
            if choice.is_fresh {
                reasons
                    .push(format!("rows may be {wanted} old, and {}: often, but bearable", copy(situation)));
            }
            reasons
                .push("each copy is the whole truth of one moment: nothing can have been missed".to_owned());
        }
        Way::Query => {
            if choice.is_fresh {
                reasons.push(format!("rows may be {wanted} old, and {}", copy(situation)));
            }
            reasons.push("what is new is found by a column, so each run reads little".to_owned());
            reasons.push(coupling(situation));
        }
        Way::Stream => {
            if choice.is_fresh {
                reasons.push(format!("rows may be {wanted} old, and a stream takes a second"));
            }
            reasons.push("every committed change is there exactly once and in order, deletes too".to_owned());
            if team(situation) == Team::Same {
                reasons.push(
                    "the same team has both ends, so a slot that fills is seen by who can help".to_owned(),
                );
            }
        }
    }
    if let Some(table) = alone(situation, choice.way) {
        reasons.push(table);
    }
    reasons
}

fn coupling(situation: &Situation) -> String {
    match team(situation) {
        Team::Same => "it needs `select` and nothing else, and the server keeps nothing for it".to_owned(),
        team => format!(
            "the server is {}'s: it needs `select` and nothing else, and keeps nothing on their disk",
            team.words()
        ),
    }
}

/// Whether it is for one table that everything cannot simply be copied.
fn alone(situation: &Situation, way: Way) -> Option<String> {
    let (volume, largest) = (&situation.volume, situation.volume.largest.as_ref()?);
    if way == Way::Light || situation.history == Some(true) || volume.tables == Some(1) {
        return None;
    }
    let rest_rows = volume.rows?.saturating_sub(largest.rows);
    let rest = load::light_s(load::seconds_to_copy(rest_rows, volume.bytes?.saturating_sub(largest.bytes)));
    let wanted = u64::from(fresh(situation).as_secs());
    let whole = load::light_s(load::copy_s(situation));
    (rest <= wanted && whole > wanted).then(|| {
        format!(
            "it is for {} alone, {} of {}: the other tables could be a snapshot of their own",
            names([&largest.name]),
            bytes(largest.bytes),
            bytes(volume.bytes.unwrap_or_default())
        )
    })
}

/// Why a mode was not chosen.
pub(super) fn why_not(situation: &Situation, way: Way, choice: Option<Choice>) -> Vec<String> {
    let obstacles = choose::obstacles(situation, way.mode());
    if !obstacles.is_empty() {
        return obstacles;
    }
    let wanted = fresh(situation);
    if way.freshest_s(situation) > wanted.as_secs().into() {
        let because = match way {
            Way::Query => "so much changes that a run takes long".to_owned(),
            _ => copy(situation),
        };
        return vec![format!(
            "it gets to {} and not to {wanted}: {because}, and it may read for a tenth of the time",
            time(way.freshest_s(situation))
        )];
    }
    let chosen = choice.map(|choice| choice.way);
    let why = match (way, chosen) {
        (Way::Stream, Some(Way::Light)) => "a copy is fresh enough, and asks less of both sides: a stream needs a slot, for which the \
                                server keeps its log"
            .to_owned(),
        (Way::Stream, _) if situation.from.is_some() => format!(
            "the tables are {}'s, and a stream binds them: each needs a key, and the server keeps its log for as long as \
             this reader is away",
            team(situation).words()
        ),
        (Way::Stream, _) => format!(
            "the server is {}'s, and would keep its log for as long as this reader is away: its disk would depend on \
             somebody whom its operators do not know",
            team(situation).words()
        ),
        (Way::Query, Some(Way::Light)) => {
            "a copy is fresh enough, and certain; a query relies on every writer setting the column".to_owned()
        }
        (Way::Query, _) => {
            "a stream misses nothing; a query relies on every writer setting the column, and on no transaction taking long"
                .to_owned()
        }
        _ => format!("{}, and would do so every {wanted}", copy(situation)),
    };
    vec![why]
}

/// What needs somebody, or may surprise.
pub(super) fn warnings(situation: &Situation, choice: Option<Choice>) -> Vec<String> {
    let mut warnings = Vec::new();
    if choice.is_none() {
        warnings.push(
            "every change is wanted, which only a stream sees, and a stream is not possible; change what stands against \
             it, or do without the history"
                .to_owned(),
        );
    }
    let way = choice.map(|choice| choice.way);
    of_stream(situation, way, &mut warnings);
    if way == Some(Way::Query) {
        warnings.push(
            "have a trigger set the column at every insert and update: what a writer forgets is missing without a word"
                .to_owned(),
        );
    }
    if let Cursors::Column(cursor) = &situation.cursor
        && !cursor.unindexed.is_empty()
        && way != Some(Way::Query)
    {
        warnings.push(format!(
            "{} has no index in {}: queries for what is new are possible only with one",
            names([&cursor.column]),
            names(&cursor.unindexed)
        ));
    }
    match situation.server.engine {
        Some(engine) if engine < OLDEST_ENGINE => warnings.push(format!(
            "transfers are tested with PostgreSQL {OLDEST_ENGINE} to {NEWEST_ENGINE}, and this is {engine}: have it upgraded"
        )),
        Some(engine) if engine > NEWEST_ENGINE => warnings.push(format!(
            "transfers are tested with PostgreSQL {OLDEST_ENGINE} to {NEWEST_ENGINE}, and this is {engine}"
        )),
        _ => {}
    }
    if situation.from.is_none() && choice.is_some() {
        warnings.push(
            "the server's URL goes into a secret: `stead secret set SOURCE_URL`; one of the stead has a name"
                .to_owned(),
        );
    } else if situation.from.is_some() && situation.server.sleeps == Some(true) {
        warnings.push(
            "the server sleeps while nobody uses it, and is not woken for this: what falls due meanwhile waits, and the \
             lake answers without it"
                .to_owned(),
        );
    }
    if situation.from.is_none() && situation.server.sleeps == Some(true) {
        warnings.push(
            "whoever reads a server that sleeps keeps it awake, and its bill may go by that".to_owned(),
        );
    }
    warnings
}

fn of_stream(situation: &Situation, way: Option<Way>, warnings: &mut Vec<String>) {
    let is_stream = way == Some(Way::Stream);
    if let Some(tables) = situation.keyless.as_ref().filter(|tables| !tables.is_empty()) {
        warnings.push(format!(
            "nothing identifies a row of {}, and a stream leaves such a table alone; `alter table … add primary key (…)`",
            names(tables)
        ));
    }
    if !is_stream {
        return;
    }
    if situation.from.is_none() {
        let server = &situation.server;
        let mut ask = Vec::new();
        if server.wal_level.is_none() {
            ask.push("`wal_level = logical`");
        }
        if server.may_replicate.is_none() {
            ask.push("a role with `replication`");
        }
        if server.slots_free.is_none() {
            ask.push("a free replication slot");
        }
        if !ask.is_empty() {
            warnings.push(format!("ask who operates the server for {}", ask.join(", ")));
        }
        if server.log_room.is_none() {
            warnings.push(
                "without `max_slot_wal_keep_size` a reader that stays away fills the server's disk; have it set".to_owned(),
            );
        }
    }
    let lasts = super::costs::of(situation, Way::Stream).log_lasts_s;
    if let Some(seconds) = lasts.filter(|seconds| *seconds < load::DAY_S) {
        warnings.push(format!(
            "a reader that is away for {} has lost its place, and copies everything anew; a larger server keeps more of \
             its log",
            time(seconds)
        ));
    }
}
