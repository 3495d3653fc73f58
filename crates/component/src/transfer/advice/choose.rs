//! Which mode fits.
//!
//! Each way to read has obstacles, which do not depend on how fresh the rows are to be, and a time below which it
//! cannot get. Of those without an obstacle that are fresh enough the first in an order is taken, and the order depends
//! on nothing but who owns and operates the server. So whoever asks for fresher rows never gets older ones.

use super::load;
use super::words::{amount, names};
use super::{Cursors, Freshness, Grows, Mode, Situation, Team, WalLevel};

/// The oldest server whose changes are read: those that the transfers are tested with begin here.
pub(super) const OLDEST_ENGINE: u32 = 15;
/// And the newest.
pub(super) const NEWEST_ENGINE: u32 = 18;

/// A way to read that is considered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Copies that take a hundredth of the time at most.
    Light,
    /// Copies that take a tenth of the time at most.
    Heavy,
    Query,
    Stream,
}

impl Way {
    pub(super) fn mode(self) -> Mode {
        match self {
            Self::Light | Self::Heavy => Mode::Snapshot,
            Self::Query => Mode::Query,
            Self::Stream => Mode::Stream,
        }
    }

    /// The freshest it can be, seconds.
    pub(super) fn freshest_s(self, situation: &Situation) -> u64 {
        let copy_s = load::copy_s(situation);
        match self {
            Self::Light => load::light_s(copy_s),
            Self::Heavy => load::heavy_s(copy_s),
            Self::Query => load::query_s(situation),
            Self::Stream => load::STREAM_S.into(),
        }
    }

    /// How old rows get, seconds, where they may be so old: nothing is read more often than is asked for.
    pub(super) fn reaches_s(self, situation: &Situation) -> u64 {
        match self {
            Self::Stream => load::STREAM_S.into(),
            _ => self.freshest_s(situation).max(fresh(situation).as_secs().into()),
        }
    }
}

/// What is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) way: Way,
    /// Whether it is as fresh as was asked for.
    pub(super) is_fresh: bool,
}

/// How old rows may be; an hour where nobody said.
pub(super) fn fresh(situation: &Situation) -> Freshness {
    situation.fresh.unwrap_or(Freshness::HOUR)
}

/// The farther of the two on whom the server depends. Who reads a server of his own stead is of the same team unless he
/// says otherwise; any other server is somebody else's.
pub(super) fn team(situation: &Situation) -> Team {
    let unsaid = if situation.from.is_some() { Team::Same } else { Team::Other };
    situation.owner.unwrap_or(unsaid).max(situation.operator.unwrap_or(unsaid))
}

/// The ways, those first that are to be preferred. A copy that hardly burdens the server is certain, and binds nobody.
/// Beyond that a slot is fine among the same people; on somebody else's server it is the last resort, because what
/// its reader does not fetch fills their disk.
fn order(situation: &Situation) -> [Way; 4] {
    match team(situation) {
        Team::Same => [Way::Light, Way::Stream, Way::Query, Way::Heavy],
        Team::Other | Team::Outside => [Way::Light, Way::Query, Way::Heavy, Way::Stream],
    }
}

/// Chooses; nothing where every way has an obstacle.
pub(super) fn choose(situation: &Situation) -> Option<Choice> {
    let wanted = u64::from(fresh(situation).as_secs());
    let open = order(situation).into_iter().filter(|way| obstacles(situation, way.mode()).is_empty());
    let fresh = open.clone().find(|way| way.freshest_s(situation) <= wanted);
    let fresh = fresh.map(|way| Choice { way, is_fresh: true });
    // The first of those that are equally fresh.
    fresh.or_else(|| {
        open.min_by_key(|way| way.freshest_s(situation)).map(|way| Choice { way, is_fresh: false })
    })
}

/// Why a mode will not do at all, each with what would have to change.
pub(super) fn obstacles(situation: &Situation, mode: Mode) -> Vec<String> {
    let mut found = Vec::new();
    if situation.history == Some(true) && mode != Mode::Stream {
        found.push(
            "every change is wanted, and what was overwritten between two looks is never seen by it"
                .to_owned(),
        );
    }
    match mode {
        Mode::Snapshot => {}
        Mode::Query => found.extend(of_query(situation)),
        Mode::Stream => found.extend(of_stream(situation)),
    }
    found
}

fn of_query(situation: &Situation) -> Vec<String> {
    let mut found = Vec::new();
    match situation.changes.deletes {
        Some(true) => found.push(
            "rows are deleted, which it never sees: they would stay in the lake; mark rows as deleted instead of deleting them"
                .to_owned(),
        ),
        Some(false) => {}
        None => found.push("whether rows are deleted is not known, and it would never see that".to_owned()),
    }
    let cursor = match &situation.cursor {
        Cursors::Unknown => {
            found.push("by which column new rows can be told is not known".to_owned());
            return found;
        }
        Cursors::Absent => {
            found.push(
                "no column tells which rows are new; add one that every insert and update sets, like `updated_at`, not \
                 null and with an index"
                    .to_owned(),
            );
            return found;
        }
        Cursors::Column(cursor) => cursor,
    };
    let column = names([&cursor.column]);
    if !cursor.without.is_empty() {
        found.push(format!(
            "{} lack{} {column}; add it, or have what lacks it in a snapshot transfer of its own",
            names(&cursor.without),
            if cursor.without.len() == 1 { "s" } else { "" },
        ));
    }
    if cursor.grows == Grows::WithInserts && situation.changes.updates != Some(false) {
        let are = if situation.changes.updates.is_none() { "may be" } else { "are" };
        found.push(format!(
            "{column} is set when a row is made, and rows {are} updated, which it would not see; add a column that \
             every update sets"
        ));
    }
    if !cursor.unindexed.is_empty() {
        found.push(format!(
            "no index begins with {column} in {}, so that every run would read all of it; `create index concurrently`",
            names(&cursor.unindexed)
        ));
    }
    found
}

fn of_stream(situation: &Situation) -> Vec<String> {
    let mut found = Vec::new();
    let server = &situation.server;
    if let Some(engine) = server.engine.filter(|engine| *engine < OLDEST_ENGINE) {
        found.push(format!(
            "it reads changes of PostgreSQL {OLDEST_ENGINE} and later, and this is {engine}; upgrade it"
        ));
    }
    if let Some(level) = server.wal_level.filter(|level| *level != WalLevel::Logical) {
        found.push(format!(
            "`wal_level` is `{}`; who operates the server can make it `logical`, which takes a restart",
            level.as_str()
        ));
    }
    if server.slots_free == Some(0) {
        found.push(
            "every replication slot is taken; drop one that nobody reads, or raise `max_replication_slots`, which takes \
             a restart"
                .to_owned(),
        );
    }
    if server.may_replicate == Some(false) {
        found.push("no role that may replicate is to be had; ask who operates the server for one".to_owned());
    }
    let keyless = situation.keyless.as_ref().map_or(0, |tables| amount(tables.len()));
    if keyless > 0 && situation.volume.tables == Some(keyless) {
        found.push("nothing identifies a row of any table; give them primary keys".to_owned());
    }
    let rows_s = situation.changes.rows_a_day.unwrap_or_default() / load::DAY_S;
    if rows_s > load::PULLED_ROWS {
        found.push(format!(
            "{rows_s} rows change every second, and it pulls {} in that time; it would never catch up",
            load::PULLED_ROWS
        ));
    }
    found
}
