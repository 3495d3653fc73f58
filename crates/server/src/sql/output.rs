//! An answer as it goes out: NDJSON for the console, a file for an export.

use bytes::{BufMut, Bytes, BytesMut};
use client::wire::{QueryColumn, QueryEvent, QuerySummary, ServerMessage};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A line of JSON for each thing that happens; a row is an array.
    Json,
    /// The rows of one result, with a line of names.
    Csv,
    /// The rows of one result as a stream of Arrow's, which a lake writes itself.
    Arrow,
    /// The same as a Parquet file.
    Parquet,
}

impl Format {
    /// Those that are files.
    pub(crate) const FILES: [Self; 3] = [Self::Csv, Self::Arrow, Self::Parquet];

    /// Its word, which is also how such a file ends.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Arrow => "arrow",
            Self::Parquet => "parquet",
        }
    }

    /// As it is asked for, and answered with.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/x-ndjson",
            Self::Csv => "text/csv",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }

    /// Whether it is written behind the session, by `COPY`.
    pub(crate) fn is_copied(self) -> bool {
        matches!(self, Self::Arrow | Self::Parquet)
    }
}

/// Why an answer breaks off, where its form has no words for it. One that has not begun is a refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Broken {
    /// SQLSTATE, where the database says so.
    pub(crate) code: Option<String>,
    /// In words.
    pub(crate) message: String,
}

/// What is written and not sent yet.
pub(super) struct Output {
    format: Format,
    buffer: BytesMut,
    results: u32,
}

impl Output {
    pub(super) fn new(format: Format) -> Self {
        Self { format, buffer: BytesMut::new(), results: 0 }
    }

    pub(super) fn is_file(&self) -> bool {
        self.format != Format::Json
    }

    /// Whether what comes is the file itself.
    pub(super) fn is_copied(&self) -> bool {
        self.format.is_copied()
    }

    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    pub(super) fn take(&mut self) -> Bytes {
        // A row that was long must not leave a buffer behind it.
        std::mem::take(&mut self.buffer).freeze()
    }

    /// A result begins; an error where there may be none more.
    pub(super) fn columns(&mut self, columns: Vec<QueryColumn>) -> Result<(), Broken> {
        self.results += 1;
        match self.format {
            Format::Json => self.event(&QueryEvent::Columns { columns }),
            Format::Csv if self.results == 1 => {
                let names =
                    columns.into_iter().map(|column| Some(Bytes::from(column.name))).collect::<Vec<_>>();
                self.line_of_csv(&names);
            }
            Format::Csv | Format::Arrow | Format::Parquet => {
                let message = "a file holds one result, and there is another; export them one by one";
                return Err(Broken { code: None, message: message.to_owned() });
            }
        }
        Ok(())
    }

    /// A part of a file as it came.
    pub(super) fn piece(&mut self, piece: &[u8]) {
        self.buffer.put_slice(piece);
    }

    pub(super) fn row(&mut self, values: &[Option<Bytes>]) {
        match self.format {
            Format::Json => {
                let texts: Vec<_> = values
                    .iter()
                    .map(|value| value.as_ref().map(|text| String::from_utf8_lossy(text)))
                    .collect();
                self.line_of_json(&texts);
            }
            Format::Csv => self.line_of_csv(values),
            // There are none: what comes is the file.
            Format::Arrow | Format::Parquet => {}
        }
    }

    /// What has no place among the rows of an export is left out of it.
    pub(super) fn event(&mut self, event: &QueryEvent) {
        if self.format == Format::Json {
            self.line_of_json(event);
        }
    }

    fn line_of_json(&mut self, value: &impl serde::Serialize) {
        // Nothing here fails to be written: keys are strings, and the buffer grows.
        let _ = serde_json::to_writer((&mut self.buffer).writer(), value);
        self.buffer.put_u8(b'\n');
    }

    /// As PostgreSQL's own `copy … (format csv)`: null is nothing, an empty text is `""`.
    fn line_of_csv(&mut self, values: &[Option<Bytes>]) {
        for (n, value) in values.iter().enumerate() {
            if n > 0 {
                self.buffer.put_u8(b',');
            }
            let Some(value) = value else { continue };
            let plain = |byte: &u8| !matches!(byte, b'"' | b',' | b'\r' | b'\n');
            if !value.is_empty() && value.iter().all(plain) && &value[..] != b"\\." {
                self.buffer.put_slice(value);
                continue;
            }
            self.buffer.put_u8(b'"');
            for (n, part) in value.split(|byte| *byte == b'"').enumerate() {
                if n > 0 {
                    self.buffer.put_slice(b"\"\"");
                }
                self.buffer.put_slice(part);
            }
            self.buffer.put_u8(b'"');
        }
        self.buffer.put_u8(b'\n');
    }

    /// The last word; an export that is not whole must not look as if it were.
    pub(super) fn end(&mut self, summary: QuerySummary, error: Option<&ServerMessage>) -> Result<(), Broken> {
        if self.is_file() && (summary.outcome != "done" || summary.truncated) {
            return Err(Broken {
                code: error.map(|error| error.code.clone()),
                message: error.map(|error| error.message.clone()).or(summary.message).unwrap_or_else(|| {
                    format!("the result has more than {} rows; ask for fewer", summary.rows_shown)
                }),
            });
        }
        self.event(&QueryEvent::Summary(summary));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_tells_null_from_nothing_and_quotes_what_it_must() {
        let mut output = Output::new(Format::Csv);
        let text = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        output.row(&[None, text(""), text("a b"), text("a,\"b\"\nc"), text("\\.")]);
        assert_eq!(output.take(), ",\"\",a b,\"a,\"\"b\"\"\nc\",\"\\.\"\n");
    }

    #[test]
    fn a_row_is_an_array_and_bytes_that_are_no_text_are_replaced() {
        let mut output = Output::new(Format::Json);
        output.row(&[None, Some(Bytes::from_static(b"a\xff\n\""))]);
        assert_eq!(output.take(), "[null,\"a\u{fffd}\\n\\\"\"]\n");
    }
}
