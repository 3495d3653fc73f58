//! Values: which form a column of PostgreSQL's has in the lake, and how its texts become that.
//!
//! | PostgreSQL | the lake |
//! |---|---|
//! | `boolean`, `smallint`, `integer`, `bigint`, `real`, `double precision` | the same |
//! | `numeric(p, s)` up to 38 digits | decimal |
//! | `date`, `timestamp`, `timestamptz` | date, timestamp without and with a zone; infinity is the last or first one there is |
//! | `bytea` | binary |
//! | everything else | PostgreSQL's own text of it |

use std::sync::Arc;

use deltalake::arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use deltalake::kernel::{DataType, MetadataValue, PrimitiveType, StructField};
use postgres_types::Type;

use crate::Error;
use crate::change::{Cell, Relation, Row};
use crate::later::KEY;

/// The form of a column in the lake.
fn form(type_id: u32, modifier: i32) -> DataType {
    let primitive = match Type::from_oid(type_id) {
        Some(Type::BOOL) => PrimitiveType::Boolean,
        Some(Type::INT2) => PrimitiveType::Short,
        Some(Type::INT4) => PrimitiveType::Integer,
        Some(Type::INT8) => PrimitiveType::Long,
        Some(Type::FLOAT4) => PrimitiveType::Float,
        Some(Type::FLOAT8) => PrimitiveType::Double,
        Some(Type::DATE) => PrimitiveType::Date,
        Some(Type::TIMESTAMP) => PrimitiveType::TimestampNtz,
        Some(Type::TIMESTAMPTZ) => PrimitiveType::Timestamp,
        Some(Type::BYTEA) => PrimitiveType::Binary,
        Some(Type::NUMERIC) => return decimal(modifier),
        _ => PrimitiveType::String,
    };
    DataType::Primitive(primitive)
}

/// What `numeric` is declared with: precision and scale, four more than they are encoded as; the scale may be negative.
fn decimal(modifier: i32) -> DataType {
    let declared = modifier.checked_sub(4).filter(|packed| *packed >= 0);
    let bounds = declared.and_then(|packed| {
        // Eleven bits, of which the first is the sign.
        let scale = ((packed & 0x7FF) ^ 1024) - 1024;
        Some((u8::try_from(packed >> 16 & 0xFFFF).ok()?, u8::try_from(scale).ok()?))
    });
    bounds.and_then(|(precision, scale)| DataType::decimal(precision, scale).ok()).unwrap_or(DataType::STRING)
}

/// The columns of a table in the lake.
pub(crate) fn fields(relation: &Relation) -> impl Iterator<Item = StructField> {
    let columns = relation.columns.iter();
    columns.map(|column| {
        let field = StructField::nullable(column.name.clone(), form(column.type_id, column.modifier));
        if column.is_key { field.with_metadata([(KEY, MetadataValue::Boolean(true))]) } else { field }
    })
}

/// The values of all columns of a table.
pub(crate) struct Columns(Vec<Cells>);

impl Columns {
    pub(crate) fn of(relation: &Relation) -> Self {
        let columns = relation.columns.iter();
        Self(columns.map(|column| Cells::of(&form(column.type_id, column.modifier))).collect())
    }

    /// Takes a row; what has no text is null, and everything is where there is no row.
    pub(crate) fn push(&mut self, relation: &Relation, row: Option<&Row>) -> Result<(), Error> {
        for (at, (column, cells)) in relation.columns.iter().zip(&mut self.0).enumerate() {
            let text = match row.and_then(|row| row.get(at)) {
                Some(Cell::Text(text)) => Some(text.as_ref()),
                Some(Cell::Null | Cell::Unchanged) | None => None,
            };
            cells.push(text).map_err(|why| Error::Value {
                table: relation.full_name(),
                column: column.name.clone(),
                why,
            })?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> impl Iterator<Item = ArrayRef> {
        self.0.into_iter().map(Cells::finish)
    }
}

/// The values of a column, one after the other.
enum Cells {
    Boolean(BooleanBuilder),
    Short(Int16Builder),
    Integer(Int32Builder),
    Long(Int64Builder),
    Float(Float32Builder),
    Double(Float64Builder),
    Decimal(Decimal128Builder, u8),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
    Text(StringBuilder),
}

impl Cells {
    fn of(form: &DataType) -> Self {
        let DataType::Primitive(primitive) = form else { return Self::Text(StringBuilder::new()) };
        match primitive {
            PrimitiveType::Boolean => Self::Boolean(BooleanBuilder::new()),
            PrimitiveType::Short => Self::Short(Int16Builder::new()),
            PrimitiveType::Integer => Self::Integer(Int32Builder::new()),
            PrimitiveType::Long => Self::Long(Int64Builder::new()),
            PrimitiveType::Float => Self::Float(Float32Builder::new()),
            PrimitiveType::Double => Self::Double(Float64Builder::new()),
            PrimitiveType::Date => Self::Date(Date32Builder::new()),
            PrimitiveType::TimestampNtz => Self::Timestamp(TimestampMicrosecondBuilder::new()),
            PrimitiveType::Timestamp => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone("UTC"))
            }
            PrimitiveType::Binary => Self::Binary(BinaryBuilder::new()),
            PrimitiveType::Decimal(decimal) => {
                let (precision, scale) = (decimal.precision(), decimal.scale());
                let builder = i8::try_from(scale).map_err(|_| ()).and_then(|s| {
                    Decimal128Builder::new().with_precision_and_scale(precision, s).map_err(|_| ())
                });
                builder.map_or_else(|()| Self::Text(StringBuilder::new()), |b| Self::Decimal(b, scale))
            }
            _ => Self::Text(StringBuilder::new()),
        }
    }

    /// Takes a value; `None` is null. What cannot be held is told.
    fn push(&mut self, text: Option<&[u8]>) -> Result<(), String> {
        let text = text.map(|text| std::str::from_utf8(text).map_err(|_| "it is no UTF-8".to_owned()));
        let text = text.transpose()?;
        match self {
            Self::Boolean(cells) => cells.append_option(read(text, |text| Some(text == "t"))?),
            Self::Short(cells) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Integer(cells) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Long(cells) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Float(cells) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Double(cells) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Decimal(cells, scale) => cells.append_option(read(text, |text| scaled(text, *scale))?),
            Self::Date(cells) => cells.append_option(read(text, days)?),
            Self::Timestamp(cells) => cells.append_option(read(text, micros)?),
            Self::Binary(cells) => cells.append_option(read(text, bytes)?),
            Self::Text(cells) => cells.append_option(text),
        }
        Ok(())
    }

    fn finish(self) -> ArrayRef {
        match self {
            Self::Boolean(mut cells) => Arc::new(cells.finish()),
            Self::Short(mut cells) => Arc::new(cells.finish()),
            Self::Integer(mut cells) => Arc::new(cells.finish()),
            Self::Long(mut cells) => Arc::new(cells.finish()),
            Self::Float(mut cells) => Arc::new(cells.finish()),
            Self::Double(mut cells) => Arc::new(cells.finish()),
            Self::Decimal(mut cells, _) => Arc::new(cells.finish()),
            Self::Date(mut cells) => Arc::new(cells.finish()),
            Self::Timestamp(mut cells) => Arc::new(cells.finish()),
            Self::Binary(mut cells) => Arc::new(cells.finish()),
            Self::Text(mut cells) => Arc::new(cells.finish()),
        }
    }
}

fn read<T>(text: Option<&str>, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, String> {
    let Some(text) = text else { return Ok(None) };
    let short = || text.chars().take(60).collect::<String>();
    read(text).map(Some).ok_or_else(|| format!("`{}` has no form there", short()))
}

/// A number without its point: `12.50` of scale 2 is 1250.
fn scaled(text: &str, scale: u8) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let scale = usize::from(scale);
    if part.len() > scale || !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    let number: i128 = format!("{whole}{part:0<scale$}").parse().ok()?;
    Some(sign * number)
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("\\x")?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Days since 1970-01-01 of `2026-11-23`, `0044-03-15 BC`, `infinity`.
fn days(text: &str) -> Option<i32> {
    match text {
        "infinity" => Some(i32::MAX),
        "-infinity" => Some(i32::MIN),
        _ => {
            let (text, is_before_christ) = era(text);
            i32::try_from(day(text, is_before_christ)?).ok()
        }
    }
}

/// Microseconds since 1970 of `2026-11-23 04:28:53.123456+00`, with or without the zone, which is always UTC.
fn micros(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(-i64::MAX),
        _ => {}
    }
    let (text, is_before_christ) = era(text);
    let (date, time) = text.split_once(' ')?;
    let time = time.strip_suffix("+00").unwrap_or(time);
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut parts = time.split(':').map(|part| part.parse::<i64>().ok());
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() || fraction.len() > 6 {
        return None;
    }
    let fraction: i64 = format!("{fraction:0<6}").parse().ok()?;
    let seconds = day(date, is_before_christ)? * 86_400 + hours * 3_600 + minutes * 60 + seconds;
    seconds.checked_mul(1_000_000)?.checked_add(fraction)
}

fn era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, after [Howard Hinnant's `days_from_civil`][days].
///
/// [days]: https://howardhinnant.github.io/date_algorithms.html#days_from_civil
fn day(text: &str, is_before_christ: bool) -> Option<i64> {
    let mut parts = text.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if parts.next().is_some() {
        return None;
    }
    // The year before 1 is 1 BC.
    let year = if is_before_christ { 1 - year } else { year };
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_moments_are_counted_from_1970() {
        assert_eq!(days("1970-01-01"), Some(0));
        assert_eq!(days("2000-02-29"), Some(11_016));
        assert_eq!(days("0001-01-01"), Some(-719_162));
        assert_eq!(days("0001-12-31 BC"), Some(-719_163));
        assert_eq!(days("infinity"), Some(i32::MAX));
        assert_eq!(micros("1970-01-01 00:00:01.5+00"), Some(1_500_000));
        assert_eq!(micros("1969-12-31 23:59:59.999999"), Some(-1));
        assert_eq!(micros("294276-12-31 23:59:59.999999+00"), None);
        assert_eq!((micros("x"), days("2026-11"), micros("2026-11-23")), (None, None, None));
    }

    #[test]
    fn numbers_lose_their_point_and_nothing_else() {
        assert_eq!(scaled("12.5", 2), Some(1_250));
        assert_eq!(scaled("-0.01", 2), Some(-1));
        assert_eq!(scaled("7", 0), Some(7));
        assert_eq!((scaled("NaN", 2), scaled("1.234", 2)), (None, None));
    }

    #[test]
    fn what_numeric_is_declared_with_is_read() {
        let numeric = Type::NUMERIC.oid();
        assert_eq!(form(numeric, (10 << 16 | 2) + 4), DataType::decimal(10, 2).unwrap());
        assert_eq!(form(numeric, -1), DataType::STRING);
        // numeric(5, -3), and numeric(50, 2).
        assert_eq!(form(numeric, (5 << 16 | (-3 & 0x7FF)) + 4), DataType::STRING);
        assert_eq!(form(numeric, (50 << 16 | 2) + 4), DataType::STRING);
    }

    #[test]
    fn bytes_are_pairs_of_digits() {
        assert_eq!(bytes("\\x00ff"), Some(vec![0, 255]));
        assert_eq!((bytes("\\x0"), bytes("00"), bytes("\\xgg")), (None, None, None));
    }
}
