//! What is not known: what is taken for it, and what it would change.

use serde::Serialize;

use super::choose::{choose, team};
use super::words::bytes;
use super::{Cursor, Cursors, Grows, Mode, Situation, Team, WalLevel, load};

/// An answer to something that is not known, and what it would lead to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WouldChange {
    /// What is not known.
    pub unknown: &'static str,
    /// The answer.
    pub answer: String,
    /// The mode that would be recommended then; absent where none would do.
    pub mode: Option<Mode>,
}

/// What was taken for what nobody has said.
pub(super) fn assumed(situation: &Situation) -> Vec<String> {
    let mut assumed = Vec::new();
    let mut add = |is_unknown: bool, text: String| {
        if is_unknown {
            assumed.push(text);
        }
    };
    let volume = &situation.volume;
    let whose = format!("the server is {}'s", team(situation).words());
    add(situation.fresh.is_none(), "rows may be an hour old".to_owned());
    add(situation.history.is_none(), "what is overwritten need not be seen".to_owned());
    add(situation.owner.is_none() && situation.operator.is_none(), whose);
    add(volume.rows.is_none() && volume.bytes.is_none(), format!("there are {}", bytes(load::ASSUMED_BYTES)));
    add(situation.changes.deletes.is_none(), "rows are deleted".to_owned());
    assumed
}

/// A situation in which one thing more is known.
struct Probe {
    unknown: &'static str,
    answer: String,
    known: Situation,
}

/// Answers to what is not known that would lead to another mode.
pub(super) fn would_change(situation: &Situation) -> Vec<WouldChange> {
    let mode = |situation: &Situation| choose(situation).map(|choice| choice.way.mode());
    let now = mode(situation);
    let mut found: Vec<WouldChange> = Vec::new();
    for Probe { unknown, answer, known } in probes(situation) {
        let mode = mode(&known);
        // Of several answers that lead to the same the mildest, which comes first, says it.
        if mode != now && !found.iter().any(|other| other.unknown == unknown && other.mode == mode) {
            found.push(WouldChange { unknown, answer, mode });
        }
    }
    found
}

fn probes(situation: &Situation) -> Vec<Probe> {
    let mut probes = Vec::new();
    let mut probe = |unknown: &'static str, answer: &str, change: &dyn Fn(&mut Situation)| {
        let mut known = situation.clone();
        change(&mut known);
        probes.push(Probe { unknown, answer: answer.to_owned(), known });
    };
    if situation.fresh.is_none() {
        for text in ["15m", "1m", "1s", "1d", "7d"] {
            let answer = format!("they may be {text} old");
            probe("how old rows may be", &answer, &|known| known.fresh = text.parse().ok());
        }
    }
    if situation.history.is_none() {
        probe("whether every change is wanted", "it is", &|known| known.history = Some(true));
    }
    if situation.owner.is_none() && situation.operator.is_none() {
        for team in [Team::Same, Team::Other, Team::Outside] {
            let answer = format!("{} does", team.words());
            probe("who owns and operates the server", &answer, &|known| {
                (known.owner, known.operator) = (Some(team), Some(team));
            });
        }
    }
    if situation.volume.rows.is_none() && situation.volume.bytes.is_none() {
        for size in [1_000_000_000, 100_000_000_000, 2_000_000_000_000] {
            let answer = format!("it is {}", bytes(size));
            probe("how much data there is", &answer, &|known| known.volume.bytes = Some(size));
        }
    }
    if situation.changes.deletes.is_none() {
        probe("whether rows are deleted", "none are", &|known| known.changes.deletes = Some(false));
    }
    if situation.cursor == Cursors::Unknown {
        let (unknown, answer) = match situation.changes.deletes {
            None => (
                "whether rows are deleted, and by which column new ones can be told",
                "none are, and every table has an indexed one that each insert and update sets",
            ),
            Some(_) => (
                "by which column new rows can be told",
                "every table has an indexed one that each insert and update sets",
            ),
        };
        probe(unknown, answer, &|known| {
            let (without, unindexed) = Default::default();
            let column = "updated_at".to_owned();
            known.cursor = Cursors::Column(Cursor { column, grows: Grows::WithUpdates, without, unindexed });
            known.changes.deletes = known.changes.deletes.or(Some(false));
        });
    }
    if situation.changes.updates.is_none() {
        probe("whether rows are updated", "none are", &|known| known.changes.updates = Some(false));
    }
    let server = situation.server;
    if server.wal_level.is_none() && situation.from.is_none() {
        probe("`wal_level`", "it is not `logical`", &|known| {
            known.server.wal_level = Some(WalLevel::Replica);
        });
    }
    if server.may_replicate.is_none() && situation.from.is_none() {
        probe("whether a role that may replicate is to be had", "it is not", &|known| {
            known.server.may_replicate = Some(false);
        });
    }
    probes
}
