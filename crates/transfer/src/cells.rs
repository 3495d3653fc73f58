//! Values: how PostgreSQL's become those of the lake, column by column. A stream says texts, a copy mostly bytes.

use std::sync::Arc;

use deltalake::arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Decimal128Builder, Float32Builder,
    Float64Builder, Int16Builder, Int32Builder, Int64Builder, ListArray, StringBuilder,
    TimestampMicrosecondBuilder,
};
use deltalake::arrow::buffer::{NullBuffer, OffsetBuffer};
use deltalake::arrow::datatypes::{DataType, FieldRef, Schema, TimeUnit};
use postgres_types::Type;

use crate::binary::{self, Wire};
use crate::change::{Cell, Relation, Row};
use crate::moments::{days, micros};
use crate::{Error, lists, numeric};

/// The values of all columns of a table.
pub(crate) struct Columns(Vec<Cells>);

impl Columns {
    /// Of the forms that the lake's table has for them, which may be wider than the source's.
    pub(crate) fn of(relation: &Relation, lake: &Schema) -> Result<Self, Error> {
        let cells = relation.columns.iter().map(|column| {
            let field = lake.field_with_name(&column.name)?;
            let is_single = [Type::FLOAT4.oid(), Type::FLOAT4_ARRAY.oid()].contains(&column.type_id);
            Ok(Cells::of(field.data_type(), is_single))
        });
        cells.collect::<Result<_, Error>>().map(Self)
    }

    /// Takes a row; what has no text is null, and everything is where there is no row.
    pub(crate) fn push(&mut self, relation: &Relation, row: Option<&Row>) -> Result<(), Error> {
        for (at, (column, cells)) in relation.columns.iter().zip(&mut self.0).enumerate() {
            let text = match row.and_then(|row| row.get(at)) {
                Some(Cell::Text(text)) => Some(text.as_ref()),
                Some(Cell::Null | Cell::Unchanged) | None => None,
            };
            cells.push_bytes(text).map_err(|why| Error::Value {
                table: relation.full_name(),
                column: column.name.clone(),
                why,
            })?;
        }
        Ok(())
    }

    /// Takes a row of a copy, whose values are told one after the other; `None` within is null.
    pub(crate) fn push_binary<'v>(
        &mut self,
        relation: &Relation,
        wires: &[Wire],
        mut next: impl FnMut() -> Option<Option<&'v [u8]>>,
    ) -> Result<(), Error> {
        for (at, (cells, wire)) in self.0.iter_mut().zip(wires).enumerate() {
            let value = next().ok_or_else(|| Error::Strange("half a row".to_owned()))?;
            cells.push_binary(*wire, value).map_err(|why| Error::Value {
                table: relation.full_name(),
                column: relation.columns.get(at).map(|column| column.name.clone()).unwrap_or_default(),
                why,
            })?;
        }
        Ok(())
    }

    pub(crate) fn finish(self) -> Result<Vec<ArrayRef>, Error> {
        self.0.into_iter().map(Cells::finish).collect()
    }
}

/// The values of a column, one after the other.
enum Cells {
    Boolean(BooleanBuilder),
    Short(Int16Builder),
    Integer(Int32Builder),
    Long(Int64Builder),
    Float(Float32Builder),
    /// Whether they are the source's `real`, whose texts say no more digits than that has.
    Double(Float64Builder, bool),
    Decimal(Decimal128Builder, usize),
    Date(Date32Builder),
    Timestamp(TimestampMicrosecondBuilder),
    Binary(BinaryBuilder),
    Text(StringBuilder),
    List(Box<Lists>),
}

/// Lists: the values of all, how many each has, and which are null.
struct Lists {
    field: FieldRef,
    values: Cells,
    lengths: Vec<usize>,
    is_there: Vec<bool>,
}

impl Cells {
    fn of(form: &DataType, is_single: bool) -> Self {
        match form {
            DataType::Boolean => Self::Boolean(BooleanBuilder::new()),
            DataType::Int16 => Self::Short(Int16Builder::new()),
            DataType::Int32 => Self::Integer(Int32Builder::new()),
            DataType::Int64 => Self::Long(Int64Builder::new()),
            DataType::Float32 => Self::Float(Float32Builder::new()),
            DataType::Float64 => Self::Double(Float64Builder::new(), is_single),
            DataType::Date32 => Self::Date(Date32Builder::new()),
            DataType::Timestamp(TimeUnit::Microsecond, zone) => {
                Self::Timestamp(TimestampMicrosecondBuilder::new().with_timezone_opt(zone.clone()))
            }
            DataType::Binary => Self::Binary(BinaryBuilder::new()),
            DataType::Decimal128(_, scale) => {
                let builder = Decimal128Builder::new().with_data_type(form.clone());
                Self::Decimal(builder, usize::try_from(*scale).unwrap_or_default())
            }
            DataType::List(field) => Self::List(Box::new(Lists {
                values: Self::of(field.data_type(), is_single),
                field: field.clone(),
                lengths: Vec::new(),
                is_there: Vec::new(),
            })),
            _ => Self::Text(StringBuilder::new()),
        }
    }

    fn push_bytes(&mut self, text: Option<&[u8]>) -> Result<(), String> {
        let text = text.map(|text| std::str::from_utf8(text).map_err(|_| "it is no UTF-8".to_owned()));
        self.push(text.transpose()?)
    }

    /// Takes a value; `None` is null. What cannot be held is told.
    fn push(&mut self, text: Option<&str>) -> Result<(), String> {
        match self {
            Self::Boolean(cells) => cells.append_option(read(text, truth)?),
            Self::Short(cells) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Integer(cells) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Long(cells) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Float(cells) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Double(cells, true) => {
                cells.append_option(read(text, |text| text.parse::<f32>().ok().map(f64::from))?);
            }
            Self::Double(cells, false) => cells.append_option(read(text, |text| text.parse().ok())?),
            Self::Decimal(cells, scale) => cells.append_option(read(text, |text| scaled(text, *scale))?),
            Self::Date(cells) => cells.append_option(read(text, days)?),
            Self::Timestamp(cells) => cells.append_option(read(text, micros)?),
            Self::Binary(cells) => cells.append_option(read(text, bytes)?),
            Self::Text(cells) => cells.append_option(text),
            Self::List(lists) => lists.push(text)?,
        }
        Ok(())
    }

    /// The same in binary.
    fn push_binary(&mut self, wire: Wire, value: Option<&[u8]>) -> Result<(), String> {
        let Some(bytes) = value.filter(|_| wire != Wire::Text) else { return self.push_bytes(value) };
        let strange = || "what the server says of it is not understood".to_owned();
        match self {
            Self::Boolean(cells) => cells.append_value(binary::truth(bytes).ok_or_else(strange)?),
            Self::Short(cells) => cells.append_value(i16::from_be_bytes(exactly(bytes)?)),
            Self::Integer(cells) => cells.append_value(i32::from_be_bytes(exactly(bytes)?)),
            Self::Long(cells) => cells.append_value(i64::from_be_bytes(exactly(bytes)?)),
            Self::Float(cells) => cells.append_value(f32::from_be_bytes(exactly(bytes)?)),
            Self::Double(cells, _) => cells.append_value(f64::from_be_bytes(exactly(bytes)?)),
            Self::Date(cells) => cells.append_value(binary::days(bytes).ok_or_else(strange)?),
            Self::Timestamp(cells) => {
                let late = || "a moment after the year 294246 has no form there".to_owned();
                cells.append_value(binary::micros(bytes).ok_or_else(late)?);
            }
            Self::Binary(cells) => cells.append_value(bytes),
            Self::Decimal(cells, scale) => {
                let number = numeric::scaled(bytes, *scale).ok_or_else(|| {
                    let mut text = String::new();
                    numeric::write(bytes, &mut text).map_or_else(strange, |()| formless(&text))
                });
                cells.append_value(number?);
            }
            Self::Text(cells) => {
                let written = match wire {
                    Wire::Uuid => binary::write_uuid(bytes, cells),
                    Wire::Time => binary::write_time(bytes, cells),
                    Wire::Numeric => numeric::write(bytes, cells),
                    Wire::Versioned => return self.push_bytes(bytes.get(1..)),
                    Wire::Own | Wire::Text => return self.push_bytes(value),
                };
                written.ok_or_else(strange)?;
                cells.append_value("");
            }
            Self::List(_) => return Err(strange()),
        }
        Ok(())
    }

    fn finish(self) -> Result<ArrayRef, Error> {
        Ok(match self {
            Self::Boolean(mut cells) => Arc::new(cells.finish()),
            Self::Short(mut cells) => Arc::new(cells.finish()),
            Self::Integer(mut cells) => Arc::new(cells.finish()),
            Self::Long(mut cells) => Arc::new(cells.finish()),
            Self::Float(mut cells) => Arc::new(cells.finish()),
            Self::Double(mut cells, _) => Arc::new(cells.finish()),
            Self::Decimal(mut cells, _) => Arc::new(cells.finish()),
            Self::Date(mut cells) => Arc::new(cells.finish()),
            Self::Timestamp(mut cells) => Arc::new(cells.finish()),
            Self::Binary(mut cells) => Arc::new(cells.finish()),
            Self::Text(mut cells) => Arc::new(cells.finish()),
            Self::List(lists) => {
                let Lists { field, values, lengths, is_there } = *lists;
                let offsets = OffsetBuffer::from_lengths(lengths);
                let nulls = NullBuffer::from(is_there);
                Arc::new(ListArray::try_new(field, offsets, values.finish()?, Some(nulls))?)
            }
        })
    }
}

impl Lists {
    fn push(&mut self, text: Option<&str>) -> Result<(), String> {
        let elements = text.map(lists::elements).transpose()?;
        self.is_there.push(elements.is_some());
        let elements = elements.unwrap_or_default();
        self.lengths.push(elements.len());
        elements.iter().try_for_each(|element| self.values.push(element.as_deref()))
    }
}

fn read<T>(text: Option<&str>, read: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>, String> {
    let Some(text) = text else { return Ok(None) };
    read(text).map(Some).ok_or_else(|| formless(text))
}

fn formless(text: &str) -> String {
    format!("`{}` has no form there", text.chars().take(60).collect::<String>())
}

fn exactly<const N: usize>(bytes: &[u8]) -> Result<[u8; N], String> {
    bytes.try_into().map_err(|_| format!("it has {} bytes, not {N}", bytes.len()))
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "t" => Some(true),
        "f" => Some(false),
        _ => None,
    }
}

/// A number without its point: `12.50` of scale 2 is 1250.
fn scaled(text: &str, scale: usize) -> Option<i128> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_lose_their_point_and_nothing_else() {
        assert_eq!(scaled("12.5", 2), Some(1_250));
        assert_eq!(scaled("-0.01", 2), Some(-1));
        assert_eq!(scaled("7", 0), Some(7));
        assert_eq!((scaled("NaN", 2), scaled("1.234", 2)), (None, None));
    }

    #[test]
    fn bytes_are_pairs_of_digits() {
        assert_eq!(bytes("\\x00ff"), Some(vec![0, 255]));
        assert_eq!((bytes("\\x0"), bytes("00"), bytes("\\xgg")), (None, None, None));
    }
}
