//! Before and after: what an edit, or drift, changed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One field that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Dotted path of the field: `size`, `allow`, `schema`.
    pub field: String,
    /// What it was; `null` where it was not there.
    pub before: Value,
    /// What it is or shall be; `null` where it is taken away.
    pub after: Value,
}

/// The fields in which two specs (or any two objects) differ, in the order of their names. Objects are
/// compared field by field, everything else as a whole.
pub fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk("", before, after, &mut found);
    found
}

fn walk(path: &str, before: &Value, after: &Value, found: &mut Vec<Difference>) {
    if before == after {
        return;
    }
    let empty = serde_json::Map::new();
    let (left, right) = match (before, after) {
        (Value::Object(left), Value::Object(right)) => (left, right),
        (Value::Null, Value::Object(right)) => (&empty, right),
        (Value::Object(left), Value::Null) => (left, &empty),
        _ => {
            found.push(Difference { field: path.to_owned(), before: before.clone(), after: after.clone() });
            return;
        }
    };
    let mut names: Vec<&String> = left.keys().chain(right.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let inner = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        walk(&inner, left.get(name).unwrap_or(&Value::Null), right.get(name).unwrap_or(&Value::Null), found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_every_changed_field_once() {
        let before = json!({"size": "nano", "allow": ["::1/128"], "same": 1, "gone": true});
        let after = json!({"size": "small", "allow": ["::1/128", "10.0.0.0/8"], "same": 1});
        let fields: Vec<_> = differences(&before, &after).into_iter().map(|d| d.field).collect();
        assert_eq!(fields, ["allow", "gone", "size"]);
    }

    #[test]
    fn a_creation_lists_every_field() {
        assert_eq!(
            differences(&Value::Null, &json!({"a": 1})),
            [Difference { field: "a".into(), before: Value::Null, after: json!(1) }]
        );
    }
}
