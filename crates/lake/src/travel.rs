//! `flights@v12` and `flights@'2026-11-20 12:00'`: a table as it was.
//!
//! SQL knows no such names. So before a statement is parsed the three pieces become one quoted name, `"flights@v12"`, which
//! may also be written that way, and a name is taken apart again where the table is looked for.

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer, Word};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, civil::Date};

use crate::refusal::Refusal;

/// Which state of a table is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum At {
    /// As it is, with the changes that are not merged yet.
    Now,
    /// A version of Delta's.
    Version(u64),
    /// What was the newest version at a moment.
    Moment(Timestamp),
}

/// Takes a table's name apart. What does not follow an `@` is all name; what does and is not understood is told.
pub(crate) fn apart(name: &str) -> Result<(&str, At), String> {
    let Some((table, when)) = name.rsplit_once('@') else { return Ok((name, At::Now)) };
    let version = when.strip_prefix(['v', 'V']).and_then(|number| number.parse().ok()).map(At::Version);
    let at = version.or_else(|| moment(when).map(At::Moment));
    at.map(|at| (table, at)).ok_or_else(|| {
        format!(
            "`{when}` is neither a version nor a time: write {table}@v12 or {table}@'2026-11-20 12:00', which is UTC"
        )
    })
}

fn moment(text: &str) -> Option<Timestamp> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Some(moment);
    }
    let civil = text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(DateTime::from)).ok()?;
    civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// The statement with such names quoted; everything else stays as it was written.
pub(crate) fn quoted(sql: &str) -> Result<String, Refusal> {
    if !sql.contains('@') {
        return Ok(sql.to_owned());
    }
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize_with_location();
    let tokens = tokens.map_err(|error| Refusal::Syntax(error.to_string()))?;
    let mut written = String::with_capacity(sql.len() + 2);
    let mut copied = Place { rest: sql, at: Location::new(1, 1) };
    for three in tokens.windows(3) {
        let [table, at, when] = three else { continue };
        let when_text = match (&table.token, &at.token, &when.token) {
            (Token::Word(_), Token::AtSign, Token::Word(version)) if is_version(version) => &version.value,
            (Token::Word(_), Token::AtSign, Token::SingleQuotedString(moment)) => moment,
            _ => continue,
        };
        let Token::Word(table_name) = &table.token else { continue };
        written.push_str(copied.up_to(table.span.start));
        written.push_str(&joined(table_name, when_text));
        copied.up_to(when.span.end);
    }
    written.push_str(copied.rest);
    Ok(written)
}

/// What is left of a text, and the line and column where that begins.
struct Place<'t> {
    rest: &'t str,
    at: Location,
}

impl<'t> Place<'t> {
    /// Goes on to a place; gives what was passed.
    fn up_to(&mut self, to: Location) -> &'t str {
        let mut passed = 0;
        for letter in self.rest.chars() {
            if self.at >= to {
                break;
            }
            passed += letter.len_utf8();
            if letter == '\n' {
                self.at = Location::new(self.at.line + 1, 1);
            } else {
                self.at.column += 1;
            }
        }
        let (text, rest) = self.rest.split_at(passed);
        self.rest = rest;
        text
    }
}

fn is_version(word: &Word) -> bool {
    let digits = word.value.strip_prefix(['v', 'V']);
    word.quote_style.is_none()
        && digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()))
}

fn joined(table: &Word, when: &str) -> String {
    let name = if table.quote_style.is_some() { table.value.clone() } else { table.value.to_lowercase() };
    let quoted = format!("{name}@{when}").replace('"', "\"\"");
    format!("\"{quoted}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_at_a_time_is_one_name() {
        let cases = [
            ("select * from flights@v12", "select * from \"flights@v12\""),
            ("select * from Public.Flights@V12 f", "select * from Public.\"flights@V12\" f"),
            ("select * from \"Odd\"\"One\"@v1", "select * from \"Odd\"\"One@v1\""),
            (
                "select 'é', E'a\\'@v1'\n from flights@'2026-11-20 12:00',\n\tflights@v3 where true",
                "select 'é', E'a\\'@v1'\n from \"flights@2026-11-20 12:00\",\n\t\"flights@v3\" where true",
            ),
        ];
        for (said, meant) in cases {
            assert_eq!(quoted(said).unwrap(), meant);
        }
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        for same in [
            "select 1",
            "select '@v1', 'it''s a@v1', E'a\\'@v1' -- a@v1\n",
            "select a @> b, a <@ b, @ -5 from t /* a@v1 */ where x = $1",
            "select \"flights@v12\".x, $$a@v1$$, U&'\\0041@v1', B'01', X'1f' from \"flights@v12\"",
            "select a @ v1",
        ] {
            assert_eq!(quoted(same).unwrap(), same);
        }
        assert!(quoted("select '@").is_err());
    }

    #[test]
    fn names_are_taken_apart() {
        let moment = |text: &str| At::Moment(text.parse().unwrap());
        for (name, table, at) in [
            ("flights", "flights", At::Now),
            ("flights@v12", "flights", At::Version(12)),
            ("a@b@v1", "a@b", At::Version(1)),
            ("flights@2026-11-20", "flights", moment("2026-11-20T00:00:00Z")),
            ("flights@2026-11-20 12:30", "flights", moment("2026-11-20T12:30:00Z")),
            ("flights@2026-11-20T12:30:01+01:00", "flights", moment("2026-11-20T11:30:01Z")),
        ] {
            assert_eq!(apart(name).unwrap(), (table, at));
        }
        for wrong in
            ["flights@", "flights@v", "flights@v-1", "flights@yesterday", "flights@v99999999999999999999"]
        {
            assert!(apart(wrong).is_err(), "{wrong}");
        }
    }
}
