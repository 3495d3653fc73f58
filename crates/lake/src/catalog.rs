//! The folder as DataFusion sees it: a catalog of schemas of tables.
//!
//! There are two of them. The *live* one looks at the folder whenever it is asked, and is what `pg_catalog` speaks of. A
//! *statement's* one keeps each table as it first found it.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider};
use datafusion::error::{DataFusionError, Result};
use tokio::sync::Mutex;

use crate::fresh::Fresh;
use crate::tables::{TableError, Tables};
use crate::travel::{At, apart};

/// The schema that `datafusion-postgres` makes.
pub(crate) const SYSTEM: &str = "pg_catalog";

/// What the changes of a table are called, behind its own name.
const CHANGES: &str = "__changes";

/// A catalog, and the list of it alone.
#[derive(Debug)]
pub(crate) struct Catalog {
    tables: Arc<Tables>,
    database: String,
    system: Arc<OnceLock<Arc<dyn SchemaProvider>>>,
    pinned: Option<Arc<Pinned>>,
}

/// The tables that a statement has found, by schema and name as it called them.
type Pinned = Mutex<HashMap<(String, String), Arc<dyn TableProvider>>>;

impl Catalog {
    /// The live one.
    pub(crate) fn live(tables: Arc<Tables>, database: String) -> Self {
        Self { tables, database, system: Arc::default(), pinned: None }
    }

    /// One for a statement.
    pub(crate) fn for_statement(&self) -> Self {
        let (tables, database, system) = (self.tables.clone(), self.database.clone(), self.system.clone());
        Self { tables, database, system, pinned: Some(Arc::default()) }
    }

    fn again(&self) -> Self {
        let Self { tables, database, system, pinned } = self;
        Self {
            tables: tables.clone(),
            database: database.clone(),
            system: system.clone(),
            pinned: pinned.clone(),
        }
    }
}

impl CatalogProviderList for Catalog {
    fn register_catalog(
        &self,
        _name: String,
        _catalog: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![self.database.clone()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == self.database).then(|| Arc::new(self.again()) as _)
    }
}

impl CatalogProvider for Catalog {
    fn schema_names(&self) -> Vec<String> {
        let mut names = self.tables.schemas();
        names.push(SYSTEM.to_owned());
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == SYSTEM {
            return self.system.get().cloned();
        }
        // `public` is there before its first table.
        let is_there = name == "public" || self.tables.schemas().iter().any(|schema| schema == name);
        is_there.then(|| {
            let (tables, name, pinned) = (self.tables.clone(), name.to_owned(), self.pinned.clone());
            Arc::new(Schema { tables, name, pinned }) as _
        })
    }

    fn register_schema(
        &self,
        name: &str,
        schema: Arc<dyn SchemaProvider>,
    ) -> Result<Option<Arc<dyn SchemaProvider>>> {
        if name != SYSTEM || self.system.set(schema).is_err() {
            return Err(DataFusionError::Plan("the lake's schemas are its folders".to_owned()));
        }
        Ok(None)
    }
}

#[derive(Debug)]
struct Schema {
    tables: Arc<Tables>,
    name: String,
    pinned: Option<Arc<Pinned>>,
}

#[async_trait]
impl SchemaProvider for Schema {
    fn table_names(&self) -> Vec<String> {
        self.tables.names(&self.name)
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(pinned) = &self.pinned else {
            // What cannot be read has no columns to tell of, and the others have.
            return Ok(self.find(name).await.unwrap_or_else(|error| {
                tracing::warn!(schema = self.name, table = name, %error, "a table is left out");
                None
            }));
        };
        let mut pinned = pinned.lock().await;
        let key = (self.name.clone(), name.to_owned());
        if let Some(table) = pinned.get(&key) {
            return Ok(Some(table.clone()));
        }
        let table = self.find(name).await?;
        if let Some(table) = &table {
            pinned.insert(key, table.clone());
        }
        Ok(table)
    }

    fn table_exist(&self, name: &str) -> bool {
        apart(name).is_ok_and(|(table, _)| self.tables.names(&self.name).iter().any(|name| name == table))
    }
}

impl Schema {
    async fn find(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let external = |error| DataFusionError::External(Box::new(error));
        let (table, at) = apart(name).map_err(|why| external(TableError::NoTime(why)))?;
        let opened = self.tables.open(&self.name, table, at).await.map_err(external)?;
        let Some(opened) = opened else { return Ok(None) };
        // Behind the table itself: so they have all that it has.
        let changes = match at {
            At::Now => {
                self.tables.open(&self.name, &format!("{table}{CHANGES}"), at).await.map_err(external)?
            }
            At::Version(_) | At::Moment(_) => None,
        };
        Ok(Some(Fresh::of(opened, changes).await?))
    }
}
