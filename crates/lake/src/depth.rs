//! Statements that are too deep.
//!
//! Who parses and plans a statement calls himself for each part of it. `1 + 1 + 1` is as deep as it is long, and a stack
//! that is full ends the process, with everybody's sessions; so what makes a statement deep is counted before.

use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::refusal::Refusal;

/// Operators, joins and unions of a statement, at most. Lists, as of `in (1, 2, 3)`, are flat.
const MOST: usize = 400;

/// Refuses what is deeper. What cannot be read at all the parser tells better.
pub(crate) fn check(sql: &str) -> Result<(), Refusal> {
    let Ok(tokens) = Tokenizer::new(&PostgreSqlDialect {}, sql).tokenize() else { return Ok(()) };
    if tokens.iter().filter(|token| is_deepening(token)).count() > MOST {
        return Err(Refusal::TooDeep(MOST));
    }
    Ok(())
}

fn is_deepening(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::IS
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::JOIN
                | Keyword::CASE
                | Keyword::COLLATE
        ),
        Token::Whitespace(_)
        | Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::EscapedStringLiteral(_)
        | Token::Placeholder(_)
        | Token::Comma
        | Token::SemiColon
        | Token::Period
        // A list of pairs is flat and has a parenthesis for each; how deep these are the parser limits itself.
        | Token::LParen
        | Token::RParen
        | Token::RBracket
        | Token::EOF => false,
        _ => true,
    }
}
