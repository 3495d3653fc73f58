//! PostgreSQL's text form of an array.

/// The elements of an array of one dimension: `{1,NULL,"a \"quoted\" one"}`.
pub(crate) fn elements(text: &str) -> Result<Vec<Option<String>>, String> {
    if text.starts_with('[') {
        return Err("its places do not begin with 1, which a list's do".to_owned());
    }
    let strange = || format!("`{}` is no array", text.chars().take(60).collect::<String>());
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).ok_or_else(strange)?;
    let mut elements = Vec::new();
    if inner.is_empty() {
        return Ok(elements);
    }
    let mut rest = inner.chars();
    loop {
        let mut element = String::new();
        let (mut is_quoted, mut is_over) = (false, true);
        while let Some(next) = rest.next() {
            match next {
                '"' => {
                    is_quoted = true;
                    quoted(&mut rest, &mut element).ok_or_else(strange)?;
                }
                '\\' => element.push(rest.next().ok_or_else(strange)?),
                '{' => return Err("it has more than one dimension".to_owned()),
                ',' => {
                    is_over = false;
                    break;
                }
                other => element.push(other),
            }
        }
        elements.push((is_quoted || element != "NULL").then_some(element));
        if is_over {
            return Ok(elements);
        }
    }
}

fn quoted(rest: &mut std::str::Chars<'_>, element: &mut String) -> Option<()> {
    loop {
        match rest.next()? {
            '"' => return Some(()),
            '\\' => element.push(rest.next()?),
            other => element.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_told_apart() {
        let read =
            |text| elements(text).map(|all| all.into_iter().map(|e| e.unwrap_or("∅".into())).collect());
        let all: Result<Vec<String>, String> = read(r#"{1,NULL,"NULL","a,\"b\\","",null x}"#);
        assert_eq!(all.unwrap(), ["1", "∅", "NULL", "a,\"b\\", "", "null x"]);
        assert_eq!(elements("{}"), Ok(vec![]));
        assert_eq!(elements("{NULL}"), Ok(vec![None]));
        for bad in ["", "1", "{1", "{\"1}", "{{1},{2}}", "[0:0]={1}"] {
            assert!(elements(bad).is_err(), "{bad}");
        }
    }
}
