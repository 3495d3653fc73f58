//! What came of SQL that was run without script: read from the API's stream, cut to what a page can hold.

use axum::body::Body;
use client::wire::{QueryColumn, QueryEvent, QuerySummary, ServerMessage};
use futures::StreamExt;

use super::super::api::Refused;
use crate::problem::Problem;

/// Characters of a value.
const LONGEST_VALUE: usize = 1_000;
/// Characters of all values together; rows behind that are left out.
const LONGEST_PAGE: usize = 1024 * 1024;
/// Results of one text.
const RESULTS: usize = 100;
/// Types of which values are numbers.
const NUMBERS: [&str; 8] = ["int2", "int4", "int8", "numeric", "float4", "float8", "oid", "money"];

/// What came of it, in the order in which it came.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) parts: Vec<Part>,
    pub(super) summary: Option<QuerySummary>,
    /// Characters of all values.
    held: usize,
}

/// One thing that came.
pub(super) enum Part {
    Rows(Rows),
    /// A statement without rows, in PostgreSQL's words.
    Did(String),
    /// Something the database had to say, and where in the text: line and column.
    Said(Box<ServerMessage>, Option<(usize, usize)>),
}

/// Rows of one result.
pub(super) struct Rows {
    pub(super) columns: Vec<QueryColumn>,
    pub(super) rows: Vec<Vec<Option<String>>>,
    /// How many came back, shown or not; unknown where it did not come to its end.
    pub(super) count: Option<u64>,
}

impl Rows {
    /// Whether the values of the `n`th column are numbers.
    pub(super) fn is_number(&self, n: &usize) -> bool {
        let kind = self.columns.get(*n).and_then(|column| column.kind.as_deref());
        kind.is_some_and(|kind| NUMBERS.contains(&kind))
    }
}

impl Outcome {
    /// Reads what the API answers to a text.
    pub(super) async fn read(body: Body, sql: &str) -> Result<Self, Refused> {
        let mut outcome = Self::default();
        let mut stream = body.into_data_stream();
        let mut rest: Vec<u8> = Vec::new();
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(|error| Problem::internal(&error))?;
            let mut lines = piece.split(|byte| *byte == b'\n').peekable();
            while let Some(line) = lines.next() {
                rest.extend_from_slice(line);
                if lines.peek().is_some() {
                    outcome.line(&rest, sql).map_err(|error| Problem::internal(&error))?;
                    rest.clear();
                }
            }
        }
        Ok(outcome)
    }

    fn line(&mut self, line: &[u8], sql: &str) -> serde_json::Result<()> {
        if line.first() == Some(&b'[') {
            if self.held < LONGEST_PAGE {
                let row: Vec<Option<String>> = serde_json::from_slice(line)?;
                self.row(row);
            }
            return Ok(());
        }
        match serde_json::from_slice(line)? {
            QueryEvent::Started { .. } => {}
            QueryEvent::Columns { columns } if self.parts.len() < RESULTS => {
                self.parts.push(Part::Rows(Rows { columns, rows: Vec::new(), count: None }));
            }
            QueryEvent::Columns { .. } => {}
            QueryEvent::RowTooLong { bytes } => {
                self.row(vec![Some(format!("a row of {bytes} bytes, which is too long to be shown"))]);
            }
            QueryEvent::Notice(said) | QueryEvent::Error(said) => {
                let place = said.position.map(|position| place(sql, position));
                self.parts.push(Part::Said(Box::new(said), place));
            }
            QueryEvent::Done { command, rows } => {
                if let Some(result) = self.open() {
                    result.count = Some(rows);
                } else if !command.is_empty() && self.parts.len() < RESULTS {
                    self.parts.push(Part::Did(command));
                }
            }
            QueryEvent::Summary(summary) => self.summary = Some(summary),
        }
        Ok(())
    }

    fn row(&mut self, row: Vec<Option<String>>) {
        let Some(rows) = self.open() else { return };
        let row: Vec<_> = row.into_iter().map(|value| value.map(cut)).collect();
        let held = row.iter().flatten().map(String::len).sum::<usize>();
        rows.rows.push(row);
        self.held += held;
    }

    /// The result that has not come to its end. A notice may stand behind it.
    fn open(&mut self) -> Option<&mut Rows> {
        self.parts.iter_mut().rev().find_map(|part| match part {
            Part::Rows(rows) if rows.count.is_none() => Some(rows),
            Part::Rows(_) | Part::Did(_) | Part::Said(..) => None,
        })
    }
}

fn cut(mut value: String) -> String {
    if let Some((end, _)) = value.char_indices().nth(LONGEST_VALUE) {
        value.truncate(end);
        value.push_str(" …");
    }
    value
}

/// Line and column, from 1, of a character that PostgreSQL counts from 1.
fn place(sql: &str, position: u32) -> (usize, usize) {
    let before = usize::try_from(position.saturating_sub(1)).unwrap_or(usize::MAX);
    let (mut line, mut column) = (1, 1);
    for c in sql.chars().take(before) {
        if c == '\n' {
            (line, column) = (line + 1, 1);
        } else {
            column += 1;
        }
    }
    (line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_a_line_and_a_column() {
        let text = "select ä\nfrom 🐘x";
        assert_eq!(
            [1, 8, 9, 10, 16].map(|position| place(text, position)),
            [(1, 1), (1, 8), (1, 9), (2, 1), (2, 7)]
        );
        assert_eq!((place(text, 0), place(text, 999)), ((1, 1), (2, 8)));
    }

    #[tokio::test]
    async fn an_answer_in_pieces_is_read_like_a_whole_one() {
        let answer = concat!(
            "{\"type\":\"started\",\"id\":\"6a1f8a50-1111-4111-8111-111111111111\",\"role\":\"owner\",\"read_only\":false}\n",
            "{\"type\":\"columns\",\"columns\":[{\"name\":\"a\",\"type\":\"int4\",\"oid\":23},{\"name\":\"b\",\"type\":null,\"oid\":9}]}\n",
            "[\"1\",null]\n[\"2\",\"\\n<b>\"]\n{\"type\":\"row_too_long\",\"bytes\":9}\n",
            "{\"type\":\"done\",\"command\":\"SELECT 3\",\"rows\":3}\n{\"type\":\"done\",\"command\":\"CREATE TABLE\",\"rows\":0}\n",
            "{\"type\":\"error\",\"severity\":\"ERROR\",\"code\":\"42601\",\"message\":\"no\",\"position\":2}\n",
        );
        for size in [1, 7, 1000] {
            let pieces: Vec<_> =
                answer.as_bytes().chunks(size).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
            let body = Body::from_stream(futures::stream::iter(pieces));
            let outcome = Outcome::read(body, "ab").await.unwrap();
            let [Part::Rows(rows), Part::Did(did), Part::Said(said, place)] = &outcome.parts[..] else {
                panic!("{} parts", outcome.parts.len());
            };
            assert_eq!(
                rows.rows[..2],
                [vec![Some("1".into()), None], vec![Some("2".into()), Some("\n<b>".into())]]
            );
            assert_eq!(
                (rows.rows.len(), rows.count, rows.is_number(&0), rows.is_number(&1)),
                (3, Some(3), true, false)
            );
            assert_eq!((did.as_str(), said.code.as_str(), *place), ("CREATE TABLE", "42601", Some((1, 2))));
        }
    }

    #[test]
    fn what_is_shown_has_a_limit() {
        assert_eq!(cut("é".repeat(LONGEST_VALUE)).chars().count(), LONGEST_VALUE);
        assert_eq!(cut("é".repeat(LONGEST_VALUE + 1)).chars().count(), LONGEST_VALUE + 2);
        let mut outcome = Outcome::default();
        outcome.line(br#"{"type":"columns","columns":[]}"#, "").unwrap();
        let row = serde_json::to_vec(&vec!["x".repeat(LONGEST_VALUE); 100]).unwrap();
        for _ in 0..100 {
            outcome.line(&row, "").unwrap();
        }
        let Some(Part::Rows(rows)) = outcome.parts.first() else { panic!("no rows") };
        assert!(rows.rows.len() < 12, "{}", rows.rows.len());
    }
}
