//! Rows as lines, in PostgreSQL's text and CSV forms; and in its binary one, whose rows are those of the wire.

use pgwire::messages::data::DataRow;

use crate::refusal::Refusal;

/// How a row becomes a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lines {
    /// Whether the names of the columns come first.
    pub(crate) header: bool,
    /// Between two values.
    pub(crate) delimiter: u8,
    /// What stands for null.
    pub(crate) null: String,
    /// What may hold a delimiter.
    pub(crate) guard: Guard,
}

/// What is done with a value that would be misread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Text: a backslash before each such letter.
    Backslash,
    /// CSV: quotes around it, and `escape` before each quote in it.
    Quotes { quote: u8, escape: u8 },
}

/// What begins a file of the binary form: its signature, no flags, nothing more of a header.
pub(crate) const BINARY_BEGIN: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// What ends it.
pub(crate) const BINARY_END: &[u8] = b"\xff\xff";

/// A row of the binary form.
pub(crate) fn binary(row: &DataRow) -> Vec<u8> {
    let mut written = Vec::with_capacity(row.data.len() + 2);
    written.extend_from_slice(&row.field_count.to_be_bytes());
    written.extend_from_slice(&row.data);
    written
}

impl Lines {
    /// PostgreSQL's defaults.
    pub(crate) fn text() -> Self {
        Self { header: false, delimiter: b'\t', null: "\\N".to_owned(), guard: Guard::Backslash }
    }

    /// The same of CSV.
    pub(crate) fn csv() -> Self {
        let guard = Guard::Quotes { quote: b'"', escape: b'"' };
        Self { header: false, delimiter: b',', null: String::new(), guard }
    }

    /// Refuses what could not be read back, as PostgreSQL does.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let ends_line = |letter: &u8| matches!(letter, b'\r' | b'\n');
        let is_misread = match self.guard {
            // `\n` and the like, and the digits of `\101`, mean something else.
            Guard::Backslash => {
                self.delimiter.is_ascii_lowercase()
                    || self.delimiter.is_ascii_digit()
                    || matches!(self.delimiter, b'\\' | b'.')
            }
            Guard::Quotes { quote, escape } => {
                quote == self.delimiter
                    || ends_line(&quote)
                    || ends_line(&escape)
                    || self.null.as_bytes().contains(&quote)
            }
        };
        let null = self.null.as_bytes();
        if is_misread
            || ends_line(&self.delimiter)
            || null.contains(&self.delimiter)
            || null.iter().any(ends_line)
        {
            let why = "these delimiter, quote and null could not be told apart when the lines are read";
            return Err(Refusal::Option(why.to_owned()));
        }
        Ok(())
    }

    /// The line of names.
    pub(crate) fn names<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<u8> {
        self.line(names.map(|name| Some(name.as_bytes())))
    }

    /// The line of a row.
    pub(crate) fn row(&self, row: &DataRow) -> Vec<u8> {
        self.line(values(&row.data))
    }

    fn line<'v>(&self, values: impl Iterator<Item = Option<&'v [u8]>>) -> Vec<u8> {
        let mut written = Vec::new();
        for (at, value) in values.enumerate() {
            if at > 0 {
                written.push(self.delimiter);
            }
            match (value, self.guard) {
                (None, _) => written.extend_from_slice(self.null.as_bytes()),
                (Some(value), Guard::Backslash) => self.with_backslashes(value, &mut written),
                (Some(value), Guard::Quotes { quote, escape }) => {
                    self.in_quotes(value, (quote, escape), &mut written);
                }
            }
        }
        written.push(b'\n');
        written
    }

    fn with_backslashes(&self, value: &[u8], written: &mut Vec<u8>) {
        for letter in value {
            let escaped = match letter {
                b'\\' => b'\\',
                b'\n' => b'n',
                b'\r' => b'r',
                b'\t' => b't',
                0x08 => b'b',
                0x0b => b'v',
                0x0c => b'f',
                letter if *letter == self.delimiter => *letter,
                letter => {
                    written.push(*letter);
                    continue;
                }
            };
            written.extend_from_slice(&[b'\\', escaped]);
        }
    }

    /// Null and an empty text differ: one of them has quotes. A `\.` alone would end the file.
    fn in_quotes(&self, value: &[u8], (quote, escape): (u8, u8), written: &mut Vec<u8>) {
        let special =
            |letter: &u8| matches!(letter, b'\r' | b'\n') || *letter == quote || *letter == self.delimiter;
        if value != self.null.as_bytes() && value != b"\\." && !value.iter().any(special) {
            written.extend_from_slice(value);
            return;
        }
        written.push(quote);
        for letter in value {
            if *letter == quote || *letter == escape {
                written.push(escape);
            }
            written.push(*letter);
        }
        written.push(quote);
    }
}

/// The values of a row as the wire has them: a length, -1 for null, and so many bytes.
fn values(mut row: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    std::iter::from_fn(move || {
        let (length, rest) = row.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            row = rest;
            return Some(None);
        };
        let (value, rest) = rest.split_at_checked(length)?;
        row = rest;
        Some(Some(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(lines: &Lines, values: &[Option<&str>]) -> String {
        String::from_utf8(lines.line(values.iter().map(|value| value.map(str::as_bytes)))).unwrap()
    }

    #[test]
    fn null_and_nothing_differ_and_what_would_be_misread_is_guarded() {
        let values = [None, Some(""), Some("a b"), Some("a,\"b\"\nc\td\\"), Some("\\."), Some("\\N")];
        assert_eq!(line(&Lines::csv(), &values), ",\"\",a b,\"a,\"\"b\"\"\nc\td\\\",\"\\.\",\\N\n");
        assert_eq!(line(&Lines::text(), &values), "\\N\t\ta b\ta,\"b\"\\nc\\td\\\\\t\\\\.\t\\\\N\n");
        let odd = Lines {
            delimiter: b';',
            null: "NULL".to_owned(),
            guard: Guard::Quotes { quote: b'\'', escape: b'\\' },
            ..Lines::csv()
        };
        assert_eq!(
            line(&odd, &[None, Some("NULL"), Some("it's\\;"), Some("")]),
            "NULL;'NULL';'it\\'s\\\\;';\n"
        );
    }

    #[test]
    fn values_are_found_in_a_row() {
        let row = b"\xff\xff\xff\xff\0\0\0\0\0\0\0\x02ab";
        assert_eq!(values(row).collect::<Vec<_>>(), [None, Some(&b""[..]), Some(b"ab")]);
        assert_eq!(values(b"\0\0\0\x09ab").count(), 0);
    }

    #[test]
    fn lines_that_could_not_be_read_are_refused() {
        let text = Lines::text();
        for delimiter in [b'\n', b'a', b'7', b'\\', b'.', b'N'] {
            let lines = Lines { delimiter, ..text.clone() };
            // The last is in the text for null.
            assert!(lines.check().is_err(), "{}", char::from(delimiter));
        }
        assert!(Lines { null: "\n".to_owned(), ..Lines::csv() }.check().is_err());
        assert!(Lines { delimiter: b'"', ..Lines::csv() }.check().is_err());
        for lines in [Lines::csv(), text, Lines { delimiter: b'|', ..Lines::text() }] {
            lines.check().unwrap();
        }
    }
}
