//! What `stead advise` is told.

use clap::{Args, ValueEnum, value_parser};
use component::transfer::Pattern;
use component::transfer::advice::{Cursor, Cursors, Freshness, Grows, Situation, Team, WalLevel};

use super::Which;

/// Heading of the options that say what is known.
const KNOWN: &str = "What is known (what is left out is measured where there is a server)";

/// What is wanted, and what is known of the server.
#[derive(Debug, Args)]
pub(crate) struct AdviseArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Component, like postgres.main [default: the only server].
    #[arg(conflicts_with = "flags_only")]
    pub(crate) component: Option<String>,
    /// Look at no server, and go by these options alone.
    #[arg(long)]
    pub(crate) flags_only: bool,
    /// Which tables are wanted, like public.* or sales.orders; may be said more than once [default: public.*].
    #[arg(long, value_name = "SCHEMA.TABLE")]
    pub(crate) tables: Vec<Pattern>,
    /// How old rows may be, like 1s, 5m, 1h or 1d [default: 1h].
    #[arg(long, value_name = "TIME")]
    fresh: Option<Freshness>,
    /// Whether every change is wanted, also what the next one overwrites [default: no].
    #[arg(long, value_name = "YES-OR-NO", num_args = 0..=1, require_equals = true, default_missing_value = "yes", value_parser = yes_or_no)]
    history: Option<bool>,
    /// Who decides on the tables, seen from those who want the data.
    #[arg(long, value_name = "WHO")]
    team: Option<Who>,
    /// Who runs the server [default: as --team].
    #[arg(long, value_name = "WHO")]
    operator: Option<Who>,
    /// Rows of all tables, like 20000000 or 20M.
    #[arg(long, value_name = "NUMBER", value_parser = number, help_heading = KNOWN)]
    rows: Option<u64>,
    /// Size of all tables without indexes, like 500MB or 1.5TB.
    #[arg(long, value_name = "BYTES", value_parser = bytes, help_heading = KNOWN)]
    size: Option<u64>,
    /// Rows inserted, updated and deleted a day, like 200k.
    #[arg(long, value_name = "NUMBER", value_parser = number, help_heading = KNOWN)]
    changes_per_day: Option<u64>,
    /// What the server writes into its log a day, like 10GB.
    #[arg(long, value_name = "BYTES", value_parser = bytes, help_heading = KNOWN)]
    log_per_day: Option<u64>,
    /// Whether rows are updated.
    #[arg(long, value_name = "YES-OR-NO", num_args = 0..=1, require_equals = true, default_missing_value = "yes", value_parser = yes_or_no,
          help_heading = KNOWN)]
    updates: Option<bool>,
    /// Whether rows are deleted.
    #[arg(long, value_name = "YES-OR-NO", num_args = 0..=1, require_equals = true, default_missing_value = "yes", value_parser = yes_or_no,
          help_heading = KNOWN)]
    deletes: Option<bool>,
    /// The column that every insert and update sets, with an index in every table, like updated_at; or none.
    #[arg(long, value_name = "COLUMN", value_parser = cursor, help_heading = KNOWN)]
    cursor: Option<Cursors>,
    /// A table without a primary key, like public.log; may be said more than once.
    #[arg(long, value_name = "SCHEMA.TABLE", help_heading = KNOWN)]
    without_key: Vec<Pattern>,
    /// PostgreSQL's major version.
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u32).range(7..100), help_heading = KNOWN)]
    engine: Option<u32>,
    /// The server's wal_level.
    #[arg(long, value_name = "LEVEL", help_heading = KNOWN)]
    wal_level: Option<Level>,
    /// Replication slots of the server that are free.
    #[arg(long, value_name = "NUMBER", help_heading = KNOWN)]
    slots_free: Option<u32>,
    /// Whether a role with `replication` is to be had.
    #[arg(long, value_name = "YES-OR-NO", num_args = 0..=1, require_equals = true, default_missing_value = "yes", value_parser = yes_or_no,
          help_heading = KNOWN)]
    replication: Option<bool>,
    /// Whether the server is stopped while nobody uses it.
    #[arg(long, value_name = "YES-OR-NO", num_args = 0..=1, require_equals = true, default_missing_value = "yes", value_parser = yes_or_no,
          help_heading = KNOWN)]
    sleeps: Option<bool>,
}

impl AdviseArgs {
    /// Puts what was said in the place of what was measured.
    pub(crate) fn told(&self, situation: &mut Situation) {
        fn put<T: Copy>(said: Option<T>, place: &mut Option<T>) {
            *place = said.or(*place);
        }
        let team = self.team.map(Team::from);
        situation.patterns.extend(self.tables.iter().cloned());
        put(self.fresh, &mut situation.fresh);
        put(self.history, &mut situation.history);
        put(team, &mut situation.owner);
        put(self.operator.map(Team::from).or(team), &mut situation.operator);
        put(self.rows, &mut situation.volume.rows);
        put(self.size, &mut situation.volume.bytes);
        put(self.changes_per_day, &mut situation.changes.rows_a_day);
        put(self.log_per_day, &mut situation.changes.log_a_day);
        put(self.updates, &mut situation.changes.updates);
        put(self.deletes, &mut situation.changes.deletes);
        put(self.engine, &mut situation.server.engine);
        put(self.wal_level.map(WalLevel::from), &mut situation.server.wal_level);
        put(self.slots_free, &mut situation.server.slots_free);
        put(self.replication, &mut situation.server.may_replicate);
        put(self.sleeps, &mut situation.server.sleeps);
        if let Some(cursor) = &self.cursor {
            situation.cursor = cursor.clone();
        }
        if !self.without_key.is_empty() {
            situation.keyless = Some(self.without_key.iter().map(ToString::to_string).collect());
        }
    }
}

/// Who somebody is to those who want the data.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Who {
    /// The same team.
    Same,
    /// Another team of the company.
    Other,
    /// Another company.
    Outside,
}

impl From<Who> for Team {
    fn from(who: Who) -> Self {
        match who {
            Who::Same => Self::Same,
            Who::Other => Self::Other,
            Who::Outside => Self::Outside,
        }
    }
}

/// PostgreSQL's `wal_level`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Level {
    /// What a crash needs.
    Minimal,
    /// What a copy of the whole server needs.
    Replica,
    /// What a reader of changes needs.
    Logical,
}

impl From<Level> for WalLevel {
    fn from(level: Level) -> Self {
        match level {
            Level::Minimal => Self::Minimal,
            Level::Replica => Self::Replica,
            Level::Logical => Self::Logical,
        }
    }
}

/// `yes` or `no`.
pub(crate) fn yes_or_no(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "y" => Ok(true),
        "no" | "n" => Ok(false),
        _ => Err("say yes or no".into()),
    }
}

/// `20000000`, `20M`.
fn number(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 4] = [("", 1), ("k", 1_000), ("M", 1_000_000), ("G", 1_000_000_000)];
    amount(text, &UNITS).ok_or_else(|| "write it like 20000000, 200k, 20M or 1.5G".into())
}

/// `500MB`, `1.5TB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("B", 1),
        ("kB", 1_000),
        ("KB", 1_000),
        ("MB", 1_000_000),
        ("GB", 1_000_000_000),
        ("TB", 1_000_000_000_000),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
        ("TiB", 1 << 40),
    ];
    amount(text, &UNITS).ok_or_else(|| "write it with its unit, like 500MB, 20GB or 1.5TB".into())
}

/// A number with at most three places behind the point, times a unit.
fn amount(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
    let unit = text.get(digits.len()..)?.trim();
    let unit = units.iter().find(|(name, _)| *name == unit)?.1;
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 3 {
        return None;
    }
    let thousandths: u128 = format!("{part:0<3}").parse().ok()?;
    let whole: u128 = whole.parse().ok()?;
    let all = whole.checked_mul(1_000)?.checked_add(thousandths)?.checked_mul(unit.into())?;
    u64::try_from(all / 1_000).ok()
}

/// A column that serves every table, or none.
pub(crate) fn cursor(text: &str) -> Result<Cursors, String> {
    const LONGEST: usize = 63;
    match text {
        "none" => Ok(Cursors::Absent),
        column if column.is_empty() || column.len() > LONGEST || column.chars().any(char::is_control) => {
            Err("name a column, like updated_at, or say none".into())
        }
        column => Ok(Cursors::Column(Cursor {
            column: column.to_owned(),
            grows: Grows::WithUpdates,
            without: Default::default(),
            unindexed: Default::default(),
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        for (text, meant) in [("0", 0), ("200k", 200_000), ("1.5G", 1_500_000_000), ("20 M", 20_000_000)] {
            assert_eq!(number(text), Ok(meant));
        }
        for (text, meant) in [("757MB", 757_000_000), ("1.5 TB", 1_500_000_000_000), ("1GiB", 1 << 30)] {
            assert_eq!(bytes(text), Ok(meant));
        }
        for bad in ["", "k", "-1", "1e9", "1.2345M", "1,5M", ".5k", "99999999999999999999G", "5m", "１"] {
            assert!(number(bad).is_err(), "{bad}");
        }
        for bad in ["500", "5 M", "MB", "-1GB", "1.GB"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
