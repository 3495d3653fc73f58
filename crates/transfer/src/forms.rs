//! Which form a type of PostgreSQL's has in the lake.
//!
//! | PostgreSQL | the lake |
//! |---|---|
//! | `boolean`, `smallint`, `integer`, `bigint`, `real`, `double precision` | the same |
//! | `numeric(p, s)` of at most 38 digits | decimal |
//! | `date`, `timestamp`, `timestamptz` | date, timestamp without and with a zone; infinity is the last or first one there is |
//! | `bytea` | binary |
//! | an array of a built-in type | list of the element's form |
//! | a domain | the form of its base type, without what that is declared with |
//! | everything else | PostgreSQL's own text of it |
//!
//! A value that its column's form cannot hold (`NaN` in `numeric(10, 2)`, an array of two dimensions) is an error that
//! names the column. [`crate::Source::hold_as_text`] gives such a column the form that holds everything.

use std::collections::HashMap;
use std::sync::LazyLock;

use deltalake::kernel::{ArrayType, DataType, MetadataValue, PrimitiveType, StructField};
use postgres_types::{Kind, Type};

use crate::change::{Column, Relation};

/// Marks the columns that identify a row, in their metadata.
pub(crate) const KEY: &str = "stead.key";

/// The form of a column in the lake.
pub(crate) fn form(column: &Column) -> DataType {
    let Some(of) = Type::from_oid(column.type_id) else { return DataType::STRING };
    match of.kind() {
        // These two are written like no other array, and a box has commas of its own.
        Kind::Array(_) if [Type::INT2_VECTOR, Type::OID_VECTOR, Type::BOX_ARRAY].contains(&of) => {
            DataType::STRING
        }
        Kind::Array(element) => ArrayType::new(scalar(element, column.modifier), true).into(),
        _ => scalar(&of, column.modifier),
    }
}

fn scalar(of: &Type, modifier: i32) -> DataType {
    DataType::Primitive(match *of {
        Type::BOOL => PrimitiveType::Boolean,
        Type::INT2 => PrimitiveType::Short,
        Type::INT4 => PrimitiveType::Integer,
        Type::INT8 => PrimitiveType::Long,
        Type::FLOAT4 => PrimitiveType::Float,
        Type::FLOAT8 => PrimitiveType::Double,
        Type::DATE => PrimitiveType::Date,
        Type::TIMESTAMP => PrimitiveType::TimestampNtz,
        Type::TIMESTAMPTZ => PrimitiveType::Timestamp,
        Type::BYTEA => PrimitiveType::Binary,
        Type::NUMERIC => return decimal(modifier),
        _ => PrimitiveType::String,
    })
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

/// A column of a table in the lake.
pub(crate) fn field(column: &Column) -> StructField {
    let field = StructField::nullable(column.name.clone(), form(column));
    if column.is_key { field.with_metadata([(KEY, MetadataValue::Boolean(true))]) } else { field }
}

/// The columns of a table in the lake.
pub(crate) fn fields(relation: &Relation) -> impl Iterator<Item = StructField> {
    relation.columns.iter().map(field)
}

/// PostgreSQL's number of a built-in type of this name.
pub(crate) fn built_in(name: &str) -> Option<u32> {
    static NUMBERS: LazyLock<HashMap<&str, u32>> = LazyLock::new(|| {
        // What a server gives to types of its own begins at 16384; built-in ones end far before.
        let all = (1..16_384).filter_map(Type::from_oid);
        all.map(|of| (of.name().to_owned().leak() as &str, of.oid())).collect()
    });
    NUMBERS.get(name).copied()
}

/// The form that holds what a column of the lake's has held and what it is to hold now; `None` where there is none, and
/// the rows have to be copied anew.
pub(crate) fn widened(held: &DataType, wanted: &DataType) -> Option<DataType> {
    use PrimitiveType::{Decimal, Double, Float, Integer, Long, Short};
    if held == wanted {
        return Some(held.clone());
    }
    let (DataType::Primitive(held), DataType::Primitive(wanted)) = (held, wanted) else { return None };
    let whole = |of: &PrimitiveType| [Short, Integer, Long].iter().position(|known| known == of);
    match (held, wanted) {
        (Float, Double) => Some(DataType::DOUBLE),
        (Decimal(held), Decimal(wanted)) => {
            let scale = held.scale().max(wanted.scale());
            let whole = (held.precision() - held.scale()).max(wanted.precision() - wanted.scale());
            DataType::decimal(whole + scale, scale).ok()
        }
        _ => {
            let widest = whole(held)?.max(whole(wanted)?);
            [Short, Integer, Long].get(widest).cloned().map(DataType::Primitive)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form_of(of: &Type, modifier: i32) -> DataType {
        form(&Column { name: "c".into(), type_id: of.oid(), modifier, is_key: false })
    }

    #[test]
    fn what_numeric_is_declared_with_is_read() {
        assert_eq!(form_of(&Type::NUMERIC, (10 << 16 | 2) + 4), DataType::decimal(10, 2).unwrap());
        assert_eq!(form_of(&Type::NUMERIC, -1), DataType::STRING);
        // numeric(5, -3), and numeric(50, 2).
        assert_eq!(form_of(&Type::NUMERIC, (5 << 16 | (-3 & 0x7FF)) + 4), DataType::STRING);
        assert_eq!(form_of(&Type::NUMERIC, (50 << 16 | 2) + 4), DataType::STRING);
    }

    #[test]
    fn arrays_are_lists_of_their_elements_form() {
        let list = |of: DataType| DataType::from(ArrayType::new(of, true));
        assert_eq!(form_of(&Type::INT4_ARRAY, -1), list(DataType::INTEGER));
        assert_eq!(form_of(&Type::JSONB_ARRAY, -1), list(DataType::STRING));
        assert_eq!(
            form_of(&Type::NUMERIC_ARRAY, (10 << 16 | 2) + 4),
            list(DataType::decimal(10, 2).unwrap())
        );
        assert_eq!(form_of(&Type::INT2_VECTOR, -1), DataType::STRING);
    }

    #[test]
    fn types_are_known_by_name() {
        assert_eq!(built_in("int4"), Some(23));
        assert_eq!(built_in("_text"), Some(1_009));
        assert_eq!(built_in("mood"), None);
    }

    #[test]
    fn what_grows_keeps_its_column() {
        let decimal = |precision, scale| DataType::decimal(precision, scale).unwrap();
        for (held, wanted, holds) in [
            (DataType::SHORT, DataType::LONG, Some(DataType::LONG)),
            (DataType::LONG, DataType::INTEGER, Some(DataType::LONG)),
            (DataType::FLOAT, DataType::DOUBLE, Some(DataType::DOUBLE)),
            (DataType::DOUBLE, DataType::FLOAT, None),
            (decimal(10, 2), decimal(12, 2), Some(decimal(12, 2))),
            (decimal(10, 2), decimal(10, 4), Some(decimal(12, 4))),
            (decimal(38, 0), decimal(38, 10), None),
            (DataType::INTEGER, DataType::STRING, None),
            (DataType::STRING, DataType::STRING, Some(DataType::STRING)),
        ] {
            assert_eq!(widened(&held, &wanted), holds, "{held} {wanted}");
        }
    }
}
