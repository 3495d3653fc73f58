//! Tables of which not all columns are meant.
//!
//! A publication could leave columns out too. But PostgreSQL refuses to drop a column that a publication names, so that
//! the application could not be changed as before; and what is named there has to be named again whenever a column is new.
//! So they are left out here, before anything of them is written.

use std::sync::Arc;

use wildmatch::WildMatchPattern;

use crate::change::Relation;
use crate::wire::Part;

/// What of tables is meant; of several that mean a table the first counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts(Arc<[Part]>);

/// Which columns of a row stay.
#[derive(Debug, Clone)]
pub(crate) struct Kept(Vec<bool>);

impl Parts {
    pub(crate) fn new(parts: Vec<Part>) -> Self {
        Self(parts.into())
    }

    /// Leaves out of a table what is not meant; nothing where all of it is.
    pub(crate) fn apply(&self, relation: &mut Relation) -> Option<Kept> {
        let fits = |pattern: &str, name: &str| WildMatchPattern::<'*', '\0'>::new(pattern).matches(name);
        let part = self
            .0
            .iter()
            .find(|part| fits(&part.names.0, &relation.schema) && fits(&part.names.1, &relation.name))?;
        let kept =
            Kept(relation.columns.iter().map(|column| part.keeps(&column.name, column.is_key)).collect());
        relation.columns = kept.of(std::mem::take(&mut relation.columns));
        if let Some(catalog) = &mut relation.catalog {
            catalog.columns = kept.of(std::mem::take(&mut catalog.columns));
        }
        Some(kept)
    }
}

impl Part {
    fn keeps(&self, column: &str, is_key: bool) -> bool {
        let names = |columns: &[String]| columns.iter().any(|name| name == column);
        !names(&self.without) && (self.columns.is_empty() || is_key || names(&self.columns))
    }
}

impl Kept {
    /// Those of whatever there is one of for each column.
    pub(crate) fn of<T>(&self, all: Vec<T>) -> Vec<T> {
        all.into_iter().zip(&self.0).filter_map(|(one, stays)| stays.then_some(one)).collect()
    }
}
