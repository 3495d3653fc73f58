//! Rows in the binary form of PostgreSQL's `copy`, taken apart straight into columns.
//!
//! What comes as it is in memory is a number of bytes to be turned round, where its text would have to be written there
//! and read here. Types whose binary form is a matter of their own come as their text, which the server writes.

use std::fmt;
use std::sync::Arc;

use deltalake::arrow::array::RecordBatch;
use deltalake::arrow::datatypes::{DataType, SchemaRef};
use postgres_types::{Kind, Type};

use crate::Error;
use crate::cells::Columns;
use crate::change::Relation;
use crate::source::quoted;

/// How each copy begins: these bytes, flags, and how long what follows of a header is.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Rows of a batch, and bytes of it, about.
const ROWS: usize = 16 * 1024;
const BYTES: usize = 4 * 1024 * 1024;
/// From 1970 to 2000, where PostgreSQL begins to count.
const DAYS_TO_2000: i32 = 10_957;
const MICROS_TO_2000: i64 = 946_684_800_000_000;

/// How the values of a column come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// As the column's form is, but for the order of bytes and where days are counted from.
    Own,
    /// A byte that says which way the text behind it is written, of which there is one.
    Versioned,
    /// Sixteen bytes, which are a text in the lake.
    Uuid,
    /// Microseconds of a day, which are a text in the lake.
    Time,
    /// Digits by fours, which are a text in the lake.
    Numeric,
    /// PostgreSQL's text.
    Text,
}

impl Wire {
    /// Of a type that a query answers with, which is no domain, in a column of this form.
    pub(crate) fn of(of: &Type, form: &DataType) -> Self {
        let is_text = *form == DataType::Utf8;
        match *of {
            Type::TEXT | Type::VARCHAR | Type::BPCHAR | Type::NAME | Type::JSON if is_text => Self::Own,
            Type::JSONB | Type::JSONPATH if is_text => Self::Versioned,
            Type::UUID if is_text => Self::Uuid,
            Type::TIME if is_text => Self::Time,
            Type::NUMERIC if is_text => Self::Numeric,
            _ if is_text && matches!(of.kind(), Kind::Enum(_)) => Self::Own,
            // One that is held as text without being one.
            _ if is_text => Self::Text,
            Type::BOOL
            | Type::INT2
            | Type::INT4
            | Type::INT8
            | Type::FLOAT4
            | Type::FLOAT8
            | Type::DATE
            | Type::TIMESTAMP
            | Type::TIMESTAMPTZ
            | Type::NUMERIC
            | Type::BYTEA => Self::Own,
            _ => Self::Text,
        }
    }

    /// What a query has to ask for, so that a column comes like this.
    pub(crate) fn asked(self, column: &str) -> String {
        let name = quoted(column);
        match self {
            // Not a cast, which some types do in another way than they are written; and `is not null` asks of a
            // composite value for all that is in it.
            Self::Text => {
                format!("case when {name} is distinct from null then pg_catalog.format('%s', {name}) end")
            }
            _ => name,
        }
    }
}

/// Rows under way.
pub(crate) struct Rows {
    relation: Arc<Relation>,
    schema: SchemaRef,
    wires: Arc<[Wire]>,
    columns: Columns,
    rows: usize,
    bytes: usize,
    /// Where in what the server says the reader is.
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Header,
    Rows,
    End,
}

impl Rows {
    /// None yet; of the columns of a table that they are for.
    pub(crate) fn new(relation: Arc<Relation>, schema: SchemaRef, wires: Arc<[Wire]>) -> Result<Self, Error> {
        let columns = Columns::of(&relation, &schema)?;
        Ok(Self { relation, schema, wires, columns, rows: 0, bytes: 0, place: Place::Header })
    }

    /// Takes what a message holds: whole rows.
    pub(crate) fn take(&mut self, message: &[u8]) -> Result<(), Error> {
        let mut bytes = Bytes(message);
        if self.place == Place::Header {
            let header = bytes.take(SIGNATURE.len()).and_then(|signature| {
                bytes.take(4)?;
                let rest = bytes.length()?;
                bytes.take(rest.unwrap_or_default())?;
                (signature == SIGNATURE).then_some(())
            });
            header.ok_or_else(|| strange("a copy without a beginning"))?;
            self.place = Place::Rows;
        }
        self.bytes += message.len();
        while !bytes.0.is_empty() {
            match bytes.short().ok_or_else(|| strange("half a row"))? {
                -1 => self.place = Place::End,
                width if usize::try_from(width) == Ok(self.wires.len()) && self.place == Place::Rows => {
                    let Self { relation, columns, wires, .. } = self;
                    columns.push_binary(relation, wires, || bytes.value())?;
                    self.rows += 1;
                }
                _ => return Err(strange("a row of another width than its table")),
            }
        }
        Ok(())
    }

    /// Whether they are as many as one batch has.
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= ROWS || self.bytes >= BYTES
    }

    /// Whether the server said that there are no more; without that it broke off.
    pub(crate) fn is_whole(&self) -> bool {
        self.place == Place::End
    }

    /// What was taken since it was asked last.
    pub(crate) fn batch(&mut self) -> Result<RecordBatch, Error> {
        let next = Columns::of(&self.relation, &self.schema)?;
        let columns = std::mem::replace(&mut self.columns, next);
        (self.rows, self.bytes) = (0, 0);
        Ok(RecordBatch::try_new(self.schema.clone(), columns.finish()?)?)
    }
}

fn strange(why: &str) -> Error {
    Error::Strange(why.to_owned())
}

/// What is left to be read of a message.
pub(crate) struct Bytes<'m>(&'m [u8]);

impl<'m> Bytes<'m> {
    fn take(&mut self, length: usize) -> Option<&'m [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn short(&mut self) -> Option<i16> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(i16::from_be_bytes(*taken))
    }

    /// A length; `None` within is null.
    fn length(&mut self) -> Option<Option<usize>> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        match i32::from_be_bytes(*taken) {
            -1 => Some(None),
            length => usize::try_from(length).ok().map(Some),
        }
    }

    /// A value; `None` within is null.
    fn value(&mut self) -> Option<Option<&'m [u8]>> {
        match self.length()? {
            None => Some(None),
            Some(length) => self.take(length).map(Some),
        }
    }
}

/// `true` or `false`.
pub(crate) fn truth(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [0] => Some(false),
        [1] => Some(true),
        _ => None,
    }
}

/// Days since 1970-01-01; infinity is the last or first one there is.
pub(crate) fn days(bytes: &[u8]) -> Option<i32> {
    match i32::from_be_bytes(bytes.try_into().ok()?) {
        i32::MAX => Some(i32::MAX),
        i32::MIN => Some(-i32::MAX),
        days => days.checked_add(DAYS_TO_2000),
    }
}

/// Microseconds since 1970; infinity is the last or first one there is.
pub(crate) fn micros(bytes: &[u8]) -> Option<i64> {
    match i64::from_be_bytes(bytes.try_into().ok()?) {
        i64::MAX => Some(i64::MAX),
        i64::MIN => Some(-i64::MAX),
        micros => micros.checked_add(MICROS_TO_2000),
    }
}

/// A time of day as PostgreSQL writes it: `24:00:00`, `12:34:56.789`.
pub(crate) fn write_time(bytes: &[u8], to: &mut impl fmt::Write) -> Option<()> {
    let micros = u64::from_be_bytes(bytes.try_into().ok()?);
    let (seconds, part) = (micros / 1_000_000, micros % 1_000_000);
    let digit = |number: u64| u8::try_from(number % 10).map_or(b'?', |digit| b'0' + digit);
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let text = [
        digit(hours / 10),
        digit(hours),
        b':',
        digit(minutes / 10),
        digit(minutes),
        b':',
        digit(seconds / 10),
        digit(seconds),
    ];
    to.write_str(std::str::from_utf8(&text).ok()?).ok()?;
    if part > 0 {
        let (mut part, mut first) = (part, 100_000);
        while part % 10 == 0 {
            (part, first) = (part / 10, first / 10);
        }
        to.write_char('.').ok()?;
        write_digits(part, first, to)?;
    }
    Some(())
}

/// A UUID as PostgreSQL writes it.
pub(crate) fn write_uuid(bytes: &[u8], to: &mut impl fmt::Write) -> Option<()> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    for (at, byte) in bytes.into_iter().enumerate() {
        if [4, 6, 8, 10].contains(&at) {
            to.write_char('-').ok()?;
        }
        for half in [byte >> 4, byte & 15] {
            to.write_char(char::from_digit(half.into(), 16)?).ok()?;
        }
    }
    Some(())
}

/// The digits of a number, from the place that the first counts on.
pub(crate) fn write_digits(number: u64, first: u64, to: &mut impl fmt::Write) -> Option<()> {
    let mut place = first;
    while place > 0 {
        let digit = u32::try_from(number / place % 10).ok()?;
        to.write_char(char::from_digit(digit, 10)?).ok()?;
        place /= 10;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut String) -> Option<()>) -> Option<String> {
        let mut text = String::new();
        write(&mut text).map(|()| text)
    }

    #[test]
    fn times_and_uuids_are_written_as_the_server_does() {
        let time = |micros: i64| written(|to| write_time(&micros.to_be_bytes(), to)).unwrap();
        assert_eq!(time(0), "00:00:00");
        assert_eq!(time(86_400_000_000), "24:00:00");
        assert_eq!(time(1), "00:00:00.000001");
        assert_eq!(time(45_296_789_000), "12:34:56.789");
        let uuid = 0xa0ee_bc99_9c0b_4ef8_bb6d_6bb9_bd38_0a11_u128.to_be_bytes();
        assert_eq!(written(|to| write_uuid(&uuid, to)).unwrap(), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        assert_eq!(written(|to| write_uuid(&[0; 15], to)), None);
    }

    #[test]
    fn days_and_moments_are_counted_from_1970() {
        assert_eq!(days(&0_i32.to_be_bytes()), Some(10_957));
        assert_eq!(days(&i32::MIN.to_be_bytes()), Some(-i32::MAX));
        assert_eq!(micros(&0_i64.to_be_bytes()), Some(946_684_800_000_000));
        assert_eq!(micros(&i64::MAX.to_be_bytes()), Some(i64::MAX));
        assert_eq!((micros(&(i64::MAX - 1).to_be_bytes()), days(&[1])), (None, None));
    }
}
