//! DataFusion, as it is set up for the lake.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{GreedyMemoryPool, TrackConsumersPool};
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::session_state::SessionStateBuilder;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::Statement;
use datafusion_pg_catalog::pg_catalog::context::{PgCatalogContextProvider, Role};
use datafusion_pg_catalog::pg_catalog::setup_pg_catalog;
use pgwire::error::{PgWireError, PgWireResult};

use crate::catalog::Catalog;
use crate::refusal::{self, Refusal};
use crate::tables::Tables;
use crate::{Error, Settings};

/// How many of those who use the memory are named when it is full.
const NAMED: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN;

/// Functions that make a value of any size from two numbers: what a value takes is not asked of the memory pool, and where
/// there is no memory for it the process ends. The table function `generate_series` makes its rows as they are read.
const GREEDY: [&str; 6] = ["array_repeat", "array_resize", "generate_series", "range", "repeat", "space"];

/// What every statement's context is made from.
pub(crate) struct Engine {
    state: SessionState,
    catalog: Arc<Catalog>,
    tables: Arc<Tables>,
}

impl Engine {
    pub(crate) fn new(settings: &Settings) -> Result<Self, Error> {
        let tables = Arc::new(Tables::new(settings.lake.clone()));
        let catalog = Arc::new(Catalog::live(tables.clone(), settings.database.clone()));
        let memory = usize::try_from(settings.memory_bytes).unwrap_or(usize::MAX);
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(TrackConsumersPool::new(GreedyMemoryPool::new(memory), NAMED)))
            // The service has no disk of its own to write to.
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled))
            .build_arc()?;
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(&settings.database, "public")
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true);
        config.options_mut().execution.parquet.pushdown_filters = true;
        let state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_default_features()
            .with_catalog_list(catalog.clone())
            .build();
        let context = SessionContext::new_with_state(state);
        let roles = Roles(settings.verifiers.keys().cloned().collect());
        setup_pg_catalog(&context, &settings.database, roles).map_err(|error| *error)?;
        for name in GREEDY {
            context.deregister_udf(name);
        }
        Ok(Self { state: context.state(), catalog, tables })
    }

    /// A context for one statement.
    pub(crate) fn context(&self) -> Arc<SessionContext> {
        let state = SessionStateBuilder::new_from_existing(self.state.clone())
            .with_catalog_list(Arc::new(self.catalog.for_statement()))
            .build();
        Arc::new(SessionContext::new_with_state(state))
    }

    /// Plans a statement that asks and changes nothing.
    pub(crate) async fn plan(
        &self,
        context: &SessionContext,
        statement: &Statement,
    ) -> PgWireResult<LogicalPlan> {
        let parsed = Parsed::Statement(Box::new(statement.clone()));
        let plan = context.state().statement_to_plan(parsed).await.map_err(|error| self.told(error))?;
        let harmless =
            SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        let verified = harmless.verify_plan(&plan);
        verified.map_err(|_| refusal::plain(Refusal::ReadOnly("what changes something".to_owned())))?;
        Ok(plan)
    }

    /// A table that is not there may have been meant to be one that is.
    fn told(&self, error: DataFusionError) -> PgWireError {
        let Some([_, schema, name]) = refusal::missing(&error) else {
            return PgWireError::ApiError(Box::new(error));
        };
        let names = self.tables.names(schema).into_iter();
        let near = names.map(|there| (strsim::damerau_levenshtein(name, &there), there));
        let near = near.filter(|(distance, _)| *distance < 3).min().map(|(_, there)| there);
        refusal::plain(Refusal::NoTable { name: name.to_owned(), near })
    }
}

/// The names of those who may sign in, for `\du`.
#[derive(Debug, Clone)]
struct Roles(Arc<[String]>);

#[async_trait]
impl PgCatalogContextProvider for Roles {
    async fn roles(&self) -> Vec<String> {
        self.0.to_vec()
    }

    async fn role(&self, name: &str) -> Option<Role> {
        self.0.iter().any(|role| role == name).then(|| Role {
            name: name.to_owned(),
            is_superuser: false,
            can_login: true,
            can_create_db: false,
            can_create_role: false,
            can_create_user: false,
            can_replication: false,
            grants: Vec::new(),
            inherited_roles: Vec::new(),
        })
    }
}
