//! Which rows of a table are meant: an SQL condition of the simple kind.
//!
//! It becomes a part of a publication, which a superuser makes. So nothing of the text gets there: it is read as SQL, and
//! what is a comparison of columns with constants, or made of such, is written anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sqlparser::ast::{BinaryOperator, Expr, Ident, UnaryOperator, Value};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use super::Column;
use crate::manifest::{shown, unfit};

/// The longest, bytes.
const LONGEST: usize = 1_000;
/// How deep one may be in another.
const DEEPEST: usize = 30;

/// A condition, as PostgreSQL has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Condition {
    sql: String,
    columns: BTreeSet<Column>,
}

/// A text that is no such condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is no condition of rows: {why}; write it like status <> 'draft' and country in ('DE', 'FR')"
)]
pub struct BadCondition {
    text: String,
    why: String,
}

impl Condition {
    /// The condition as SQL, in which only columns have names, and these are quoted.
    #[must_use]
    pub fn sql(&self) -> &str {
        &self.sql
    }

    /// The columns that it names.
    #[must_use]
    pub fn columns(&self) -> &BTreeSet<Column> {
        &self.columns
    }

    fn read(text: &str) -> Result<Self, String> {
        if text.len() > LONGEST || text.chars().any(unfit) {
            return Err(format!("it is longer than {LONGEST} bytes, or of several lines"));
        }
        let dialect = PostgreSqlDialect {};
        let parser = Parser::new(&dialect).with_recursion_limit(DEEPEST);
        let mut parser = parser.try_with_sql(text).map_err(|error| error.to_string())?;
        let parsed = parser.parse_expr().map_err(|error| error.to_string())?;
        if parser.peek_token().token != Token::EOF {
            return Err(format!("it ends before `{}`", parser.peek_token()));
        }
        let mut condition = Self { sql: String::new(), columns: BTreeSet::new() };
        condition.truth(&parsed)?;
        Ok(condition)
    }

    /// Adds what is true or not.
    fn truth(&mut self, of: &Expr) -> Result<(), String> {
        match of {
            Expr::Nested(inner) => self.truth(inner),
            Expr::BinaryOp { left, op: op @ (BinaryOperator::And | BinaryOperator::Or), right } => {
                self.sql.push('(');
                self.truth(left)?;
                self.sql.push_str(if *op == BinaryOperator::And { " and " } else { " or " });
                self.truth(right)?;
                self.sql.push(')');
                Ok(())
            }
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => {
                self.sql.push_str("(not ");
                self.truth(expr)?;
                self.sql.push(')');
                Ok(())
            }
            Expr::BinaryOp { left, op, right } => {
                let op = compares(op).ok_or_else(|| format!("`{op}` compares nothing"))?;
                self.value(left)?;
                let _ = write!(self.sql, " {op} ");
                self.value(right)
            }
            Expr::IsNull(of) => self.is(of, "is null"),
            Expr::IsNotNull(of) => self.is(of, "is not null"),
            Expr::IsTrue(of) => self.is(of, "is true"),
            Expr::IsNotTrue(of) => self.is(of, "is not true"),
            Expr::IsFalse(of) => self.is(of, "is false"),
            Expr::IsNotFalse(of) => self.is(of, "is not false"),
            Expr::InList { expr, list, negated } => {
                self.value(expr)?;
                self.sql.push_str(if *negated { " not in (" } else { " in (" });
                for (place, item) in list.iter().enumerate() {
                    self.sql.push_str(if place == 0 { "" } else { ", " });
                    self.value(item)?;
                }
                self.sql.push(')');
                Ok(())
            }
            Expr::Between { expr, negated, low, high } => {
                self.value(expr)?;
                self.sql.push_str(if *negated { " not between " } else { " between " });
                self.value(low)?;
                self.sql.push_str(" and ");
                self.value(high)
            }
            Expr::Like { negated, any: false, expr, pattern, escape_char: None } => {
                self.value(expr)?;
                self.sql.push_str(if *negated { " not like " } else { " like " });
                self.value(pattern)
            }
            Expr::Identifier(name) => self.column(name),
            other => Err(format!("`{}` is not done here", shown(&other.to_string()))),
        }
    }

    fn is(&mut self, of: &Expr, what: &str) -> Result<(), String> {
        self.value(of)?;
        let _ = write!(self.sql, " {what}");
        Ok(())
    }

    /// Adds what is compared.
    fn value(&mut self, of: &Expr) -> Result<(), String> {
        match of {
            Expr::Nested(inner) => self.value(inner),
            Expr::Identifier(name) => self.column(name),
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } if is_number(expr) => {
                self.sql.push('-');
                self.value(expr)
            }
            Expr::Value(value) => match &value.value {
                Value::Number(digits, false) => {
                    self.sql.push_str(digits);
                    Ok(())
                }
                Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => {
                    self.text(text);
                    Ok(())
                }
                Value::Boolean(is_true) => {
                    let _ = write!(self.sql, "{is_true}");
                    Ok(())
                }
                Value::Null => Err("nothing is equal to null; write `is null` or `is not null`".to_owned()),
                other => Err(format!("`{}` is not done here", shown(&other.to_string()))),
            },
            other => Err(format!("`{}` is neither a column nor a constant", shown(&other.to_string()))),
        }
    }

    fn column(&mut self, name: &Ident) -> Result<(), String> {
        // As PostgreSQL has a name that is not quoted.
        let name = match name.quote_style {
            None => name.value.to_ascii_lowercase(),
            Some(_) => name.value.clone(),
        };
        let column: Column = name.parse().map_err(|bad: super::BadColumn| bad.to_string())?;
        let _ = write!(self.sql, "\"{}\"", name.replace('"', "\"\""));
        self.columns.insert(column);
        Ok(())
    }

    fn text(&mut self, text: &str) {
        let quoted = text.replace('\'', "''");
        // Whatever a server takes a backslash for.
        if text.contains('\\') {
            let _ = write!(self.sql, "E'{}'", quoted.replace('\\', "\\\\"));
        } else {
            let _ = write!(self.sql, "'{quoted}'");
        }
    }
}

fn compares(op: &BinaryOperator) -> Option<&'static str> {
    Some(match op {
        BinaryOperator::Eq => "=",
        BinaryOperator::NotEq => "<>",
        BinaryOperator::Lt => "<",
        BinaryOperator::LtEq => "<=",
        BinaryOperator::Gt => ">",
        BinaryOperator::GtEq => ">=",
        _ => return None,
    })
}

fn is_number(of: &Expr) -> bool {
    matches!(of, Expr::Value(value) if matches!(value.value, Value::Number(_, false)))
}

impl FromStr for Condition {
    type Err = BadCondition;
    fn from_str(text: &str) -> Result<Self, BadCondition> {
        Self::read(text).map_err(|why| BadCondition { text: shown(text), why })
    }
}

impl TryFrom<String> for Condition {
    type Error = BadCondition;
    fn try_from(text: String) -> Result<Self, BadCondition> {
        text.parse()
    }
}

impl From<Condition> for String {
    fn from(condition: Condition) -> Self {
        condition.sql
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(text: &str) -> String {
        let condition: Condition = text.parse().unwrap();
        assert_eq!(condition.sql().parse(), Ok(condition.clone()), "it is read as it is written");
        condition.sql().to_owned()
    }

    #[test]
    fn a_condition_is_written_anew() {
        assert_eq!(sql("Status <> 'draft' and n >= -5"), "(\"status\" <> 'draft' and \"n\" >= -5)");
        assert_eq!(sql("not (a in (1, 2) or \"B\" is null)"), "(not (\"a\" in (1, 2) or \"B\" is null))");
        assert_eq!(
            sql("is_test is not true and at between '2020-01-01' and '2021-01-01'"),
            "(\"is_test\" is not true and \"at\" between '2020-01-01' and '2021-01-01')"
        );
        assert_eq!(sql("name not like 'o''x%' or active"), "(\"name\" not like 'o''x%' or \"active\")");
        let condition: Condition = "a = 1 or b = a".parse().unwrap();
        assert_eq!(condition.columns().iter().map(Column::as_str).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn a_backslash_is_one_whatever_the_server_takes_it_for() {
        assert_eq!(sql(r"name = '\'"), r#""name" = E'\\'"#);
    }

    #[test]
    fn nothing_else_gets_through() {
        for bad in [
            "",
            "1",
            "a = 1); drop table x; --",
            "a = 1; select 1",
            "a = (select 1)",
            "f(a) = 1",
            "a = now()",
            "a::text = 'x'",
            "a = null",
            "a = $1",
            "x.a = 1",
            "exists (select 1)",
            "a = any(array[1])",
            "a ~ 'x'",
            "a + 1 = 2",
            "a = 1 and",
            "a like 'x' escape '!'",
            "'x'",
            "a = $$x$$",
            "case when a then b end",
            "a\n= 1",
            "a is of (text)",
            "a collate \"C\" = 'x'",
            "a at time zone 'UTC' = b",
        ] {
            assert!(bad.parse::<Condition>().is_err(), "{bad}");
        }
        assert!("(".repeat(500).parse::<Condition>().is_err());
        assert!(format!("{}a = 1{}", "(".repeat(100), ")".repeat(100)).parse::<Condition>().is_err());
        assert!(format!("a = '{}'", "x".repeat(LONGEST)).parse::<Condition>().is_err());
    }
}
