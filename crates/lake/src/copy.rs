//! `COPY … TO STDOUT`: an answer as a file.
//!
//! To somebody who is connected, and by nothing but what they may read anyway. What would be read from a client, or put
//! into a file or a program of the service's, is refused where statements are let in.

use std::fmt::Debug;

use datafusion::execution::SendableRecordBatchStream;
use datafusion::sql::sqlparser::ast::{
    CopyLegacyCsvOption, CopyLegacyOption, CopyOption, CopySource, Ident, ObjectName, Statement,
};
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::parser::Parser;
use futures::{Sink, SinkExt, StreamExt};
use pgwire::api::results::{Response, Tag};
use pgwire::error::{PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};

use crate::file::{File, Form, Pieces};
use crate::lines::{Guard, Lines};
use crate::refusal::Refusal;
use crate::work::Work;

/// What is to be copied, and how it is written.
pub(crate) struct Copy {
    pub(crate) question: Statement,
    pub(crate) form: Form,
}

impl Copy {
    /// Reads a statement that was let in.
    pub(crate) fn of(statement: &Statement) -> Result<Self, Refusal> {
        let Statement::Copy { source, options, legacy_options, .. } = statement else {
            return Err(Refusal::NotDone(statement.to_string()));
        };
        let question = match source {
            CopySource::Query(query) => Statement::Query(query.clone()),
            CopySource::Table { table_name, columns } => whole(table_name, columns)?,
        };
        let mut asked = Asked::default();
        options.iter().try_for_each(|option| asked.option(option))?;
        legacy_options.iter().try_for_each(|option| asked.legacy(option))?;
        Ok(Self { question, form: asked.form()? })
    }
}

/// Everything of a table, or some of its columns.
fn whole(table: &ObjectName, columns: &[Ident]) -> Result<Statement, Refusal> {
    let columns: Vec<String> = columns.iter().map(ToString::to_string).collect();
    let columns = if columns.is_empty() { "*".to_owned() } else { columns.join(", ") };
    let parsed = Parser::parse_sql(&PostgreSqlDialect {}, &format!("select {columns} from {table}"));
    let mut statements = parsed.map_err(|error| Refusal::Syntax(error.to_string()))?;
    statements.pop().ok_or_else(|| Refusal::NotDone(table.to_string()))
}

/// What the options say, of which not all go with each form.
#[derive(Default)]
struct Asked {
    form: Option<String>,
    header: bool,
    delimiter: Option<char>,
    null: Option<String>,
    quote: Option<char>,
    escape: Option<char>,
}

impl Asked {
    fn option(&mut self, option: &CopyOption) -> Result<(), Refusal> {
        match option {
            CopyOption::Format(name) => self.form = Some(name.value.to_lowercase()),
            CopyOption::Header(header) => self.header = *header,
            CopyOption::Delimiter(letter) => self.delimiter = Some(*letter),
            CopyOption::Null(text) => self.null = Some(text.clone()),
            CopyOption::Quote(letter) => self.quote = Some(*letter),
            CopyOption::Escape(letter) => self.escape = Some(*letter),
            CopyOption::Encoding(name) if is_utf8(name) => {}
            other => return Err(Refusal::NotDone(other.to_string())),
        }
        Ok(())
    }

    /// `CSV HEADER`, as people have typed it for long.
    fn legacy(&mut self, option: &CopyLegacyOption) -> Result<(), Refusal> {
        match option {
            CopyLegacyOption::Binary => self.form = Some("binary".to_owned()),
            CopyLegacyOption::Delimiter(letter) => self.delimiter = Some(*letter),
            CopyLegacyOption::Null(text) => self.null = Some(text.clone()),
            CopyLegacyOption::Header => self.header = true,
            CopyLegacyOption::Csv(options) => {
                self.form = Some("csv".to_owned());
                for option in options {
                    match option {
                        CopyLegacyCsvOption::Header => self.header = true,
                        CopyLegacyCsvOption::Quote(letter) => self.quote = Some(*letter),
                        CopyLegacyCsvOption::Escape(letter) => self.escape = Some(*letter),
                        other => return Err(Refusal::NotDone(other.to_string())),
                    }
                }
            }
            other => return Err(Refusal::NotDone(other.to_string())),
        }
        Ok(())
    }

    fn form(self) -> Result<Form, Refusal> {
        let name = self.form.as_deref().unwrap_or("text");
        let has_quotes = self.quote.is_some() || self.escape.is_some();
        let has_lines = has_quotes || self.header || self.delimiter.is_some() || self.null.is_some();
        let form = match name {
            "text" if !has_quotes => return Ok(Form::Lines(self.lines(Lines::text())?)),
            "csv" => return Ok(Form::Lines(self.lines(Lines::csv())?)),
            "text" => None,
            "binary" => Some(Form::Binary),
            "arrow" => Some(Form::Arrow),
            "parquet" => Some(Form::Parquet),
            _ => {
                let why = format!(
                    "COPY format \"{name}\" not recognized; there are text, csv, binary, arrow and parquet"
                );
                return Err(Refusal::Option(why));
            }
        };
        form.filter(|_| !has_lines).ok_or_else(|| {
            Refusal::Option(format!("COPY format \"{name}\" does not go with what else is said of it"))
        })
    }

    fn lines(self, usual: Lines) -> Result<Lines, Refusal> {
        let one = |letter: Option<char>, usual: u8| {
            let byte = letter.map_or(Ok(usual), u8::try_from);
            byte.map_err(|_| Refusal::Option("delimiter, quote and escape are one byte each".to_owned()))
        };
        let guard = match usual.guard {
            Guard::Backslash => Guard::Backslash,
            Guard::Quotes { quote, .. } => {
                let quote = one(self.quote, quote)?;
                Guard::Quotes { quote, escape: one(self.escape, quote)? }
            }
        };
        let delimiter = one(self.delimiter, usual.delimiter)?;
        let lines = Lines { header: self.header, delimiter, null: self.null.unwrap_or(usual.null), guard };
        lines.check()?;
        Ok(lines)
    }
}

fn is_utf8(name: &str) -> bool {
    ["utf8", "utf-8", "unicode"].contains(&name.to_lowercase().as_str())
}

/// Sends rows as they are made; an error on the way ends the copy.
pub(crate) async fn send<C>(
    client: &mut C,
    mut work: Work,
    mut rows: SendableRecordBatchStream,
    mut file: File,
) -> PgWireResult<Response>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    let columns = rows.schema().fields().len();
    let binary = file.is_binary();
    let formats = vec![i16::from(binary); columns];
    let columns = i16::try_from(columns).unwrap_or(i16::MAX);
    let begun = CopyOutResponse::new(i8::from(binary), columns, formats);
    client.feed(PgWireBackendMessage::CopyOutResponse(begun)).await?;
    pass(client, &mut work, file.begin()).await?;
    let mut count = 0;
    while let Some(batch) = work.run(rows.next()).await? {
        let batch = batch.map_err(|error| PgWireError::ApiError(Box::new(error)))?;
        count += batch.num_rows();
        let pieces = work.step(|| file.rows(batch))??;
        pass(client, &mut work, pieces).await?;
    }
    let pieces = work.step(|| file.end())??;
    pass(client, &mut work, pieces).await?;
    client.feed(PgWireBackendMessage::CopyDone(CopyDone::new())).await?;
    Ok(Response::Execution(Tag::new("COPY").with_rows(count)))
}

async fn pass<C>(client: &mut C, work: &mut Work, mut pieces: Pieces<'_>) -> PgWireResult<()>
where
    C: Sink<PgWireBackendMessage> + Unpin + Send,
    C::Error: Debug,
    PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
{
    while let Some(piece) = work.step(|| pieces.next())? {
        client.feed(PgWireBackendMessage::CopyData(CopyData::new(piece?))).await?;
    }
    Ok(())
}
