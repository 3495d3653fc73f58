//! Rows that are newer than those that were read, told by a column that grows: the cursor.
//!
//! This asks nothing of the server but to be read, and so it cannot see everything: not a row that is gone, and not one
//! whose cursor was taken from long before it was committed. Against the latter each reading begins somewhat before the
//! place that the last one reached. A row without a cursor is read every time.
//!
//! No cursor is believed that lies behind the server's own clock: one row of the year 2099 would hide all others.

use postgres_types::Type;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::change::Relation;
use crate::publish::literal;
use crate::source::{Snapshot, named, quoted};
use crate::wire::{Cursor, Overlap};

/// What is read again unless another overlap was asked for.
const SECONDS: u32 = 600;
const COUNT: u32 = 1_000;

/// How far the rows of a table have been read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reached {
    /// The cursor.
    pub(crate) column: String,
    /// No row that was read has a greater one, but those that lie in the future; nothing where none had one.
    pub(crate) to: Option<String>,
}

/// What is newer than the last reading.
pub(crate) struct Window {
    /// Where this reading ends.
    pub(crate) reached: Reached,
    /// Where it begins, as the lake counts; absent where it begins with the first row.
    pub(crate) from: Option<i64>,
    /// Which rows are in it, as SQL.
    pub(crate) condition: Option<String>,
}

/// What a cursor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Moment { has_zone: bool },
    Day,
    Number,
}

impl Kind {
    fn of(relation: &Relation, cursor: &str) -> Result<Self, Error> {
        let unfit = |why: &str| Error::Cursor { table: relation.full_name(), why: why.to_owned() };
        let column = relation.columns.iter().find(|column| column.name == cursor);
        let column = column.ok_or_else(|| {
            unfit(&format!("it has no column `{cursor}`; add one, or leave the table out of `tables`"))
        })?;
        match Type::from_oid(column.type_id) {
            Some(Type::TIMESTAMPTZ) => Ok(Self::Moment { has_zone: true }),
            Some(Type::TIMESTAMP) => Ok(Self::Moment { has_zone: false }),
            Some(Type::DATE) => Ok(Self::Day),
            Some(Type::INT2 | Type::INT4 | Type::INT8) => Ok(Self::Number),
            _ => Err(unfit(&format!(
                "its column `{cursor}` is no moment, day or whole number; read it by a transfer of another mode"
            ))),
        }
    }

    /// The greatest cursor that is believed, as SQL.
    fn reached(self, column: &str) -> String {
        match self {
            Self::Moment { has_zone: true } => format!("least(max({column}), now())"),
            Self::Moment { has_zone: false } => format!("least(max({column}), now() at time zone 'UTC')"),
            Self::Day => format!("least(max({column}), current_date)"),
            Self::Number => format!("max({column})::int8"),
        }
    }

    /// Where a reading begins, as SQL; the overlap before what was reached.
    fn begin(self, to: &str, overlap: Option<Overlap>) -> Result<String, String> {
        let seconds = || match overlap {
            None => Ok(SECONDS),
            Some(Overlap::Seconds(seconds)) => Ok(seconds),
            Some(Overlap::Count(_)) => {
                Err("its cursor is a time, and so is what has to be read again: write overlap = \"10m\""
                    .to_owned())
            }
        };
        let to = literal(to);
        Ok(match self {
            Self::Moment { has_zone: true } => {
                format!("({to}::timestamptz - interval '{} seconds')", seconds()?)
            }
            Self::Moment { has_zone: false } => {
                format!("({to}::timestamp - interval '{} seconds')", seconds()?)
            }
            Self::Day => format!("({to}::date - {})", seconds()?.div_ceil(86_400)),
            Self::Number => {
                let count = match overlap {
                    None => COUNT,
                    Some(Overlap::Count(count)) => count,
                    Some(Overlap::Seconds(_)) => {
                        return Err("its cursor is a number, and so is what has to be read again: write overlap = 1000"
                            .to_owned());
                    }
                };
                // Not below the least that there is.
                format!("(greatest({to}::numeric - {count}, -9223372036854775808)::int8)")
            }
        })
    }

    /// The same as the lake counts it.
    fn counted(self, begin: &str) -> String {
        match self {
            Self::Moment { .. } => format!("(extract(epoch from {begin}) * 1000000)::int8"),
            Self::Day => format!("({begin} - date '1970-01-01')::int8"),
            Self::Number => begin.to_owned(),
        }
    }
}

impl Snapshot<'_> {
    /// What of a table is newer than what was reached before; everything where that was nothing, or another cursor's.
    pub(crate) async fn window(
        &self,
        relation: &Relation,
        cursor: &Cursor,
        before: Option<&Reached>,
    ) -> Result<Window, Error> {
        let kind = Kind::of(relation, &cursor.column)?;
        let column = quoted(&cursor.column);
        let to =
            before.filter(|before| before.column == cursor.column).and_then(|before| before.to.as_deref());
        let begin = to.map(|to| kind.begin(to, cursor.overlap)).transpose();
        let begin = begin.map_err(|why| Error::Cursor { table: relation.full_name(), why })?;
        let counted = begin.as_ref().map_or("null::int8".to_owned(), |begin| kind.counted(begin));
        let infinite = if kind == Kind::Number { "" } else { "and isfinite(reached)" };
        let ask = format!(
            "select case when true {infinite} then reached::text end, {counted}
             from (select {} as reached from {}) of_all",
            kind.reached(&column),
            named(relation)
        );
        let row = self.ask(&ask).await?;
        let condition = begin.map(|begin| format!("({column} >= {begin} or {column} is null)"));
        // What was reached stays so where the rows that said it are gone.
        let to: Option<String> = row.get(0);
        let to = to.or_else(|| before.and_then(|before| before.to.clone()));
        let reached = Reached { column: cursor.column.clone(), to };
        Ok(Window { reached, from: row.get(1), condition })
    }
}
