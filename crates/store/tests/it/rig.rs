//! A store with a host, and edits in short.

use std::collections::BTreeMap;

use component::postgres::{Major, Size, Wish, resolve};
use component::{ComponentName, Spec, SteadName, TenantName};
use store::Store;
use store::edit::{EditError, Edited, SteadEdit};
use store::host::Host;
use store::journal::Actor;
use store::lease::{Lease, Record};
use test_support::ControlDatabase;

pub(crate) const HOST: &str = "here";

pub(crate) struct Rig {
    pub(crate) db: ControlDatabase,
    pub(crate) store: Store,
    pub(crate) tenant: TenantName,
    pub(crate) stead: SteadName,
    pub(crate) name: ComponentName,
}

pub(crate) fn actor() -> Actor {
    Actor { name: "ann".into(), source: "test".into() }
}

impl Rig {
    pub(crate) async fn start() -> Self {
        let db = ControlDatabase::start().await;
        let store = db.store().await;
        let host = Host {
            name: HOST.into(),
            address: "127.0.0.1".into(),
            ports: (30_000, 30_099),
            engines: [Major::new(15)].into(),
            runtimes: ["nodejs24.x".to_owned()].into(),
            isolated: true,
        };
        store.put_host(&host).await.unwrap();
        let (tenant, stead) = ("acme".parse().unwrap(), "flights".parse().unwrap());
        Self { db, store, tenant, stead, name: "postgres.main".parse().unwrap() }
    }

    /// Makes or edits `acme/flights`: one unprotected server of a size.
    pub(crate) async fn apply(&self, size: Size) -> Result<Edited, EditError> {
        let decide = |current: &BTreeMap<ComponentName, Spec>, engines: &_| {
            let wish = Wish { size: Some(size), protect: Some(false), ..Wish::default() };
            let current = current.get(&self.name).and_then(|spec| match spec {
                Spec::Postgres(spec) => Some(spec),
                Spec::Function(_) | Spec::Transfer(_) => None,
            });
            let spec = resolve(&wish, current, engines).map_err(|refused| (self.name.clone(), refused))?;
            Ok(BTreeMap::from([(self.name.clone(), Spec::Postgres(spec))]))
        };
        let edit = SteadEdit {
            tenant: &self.tenant,
            stead: &self.stead,
            app: &self.stead,
            make_tenant: true,
            decide: &decide,
            files: &BTreeMap::new(),
            canary: None,
            if_generation: None,
            reason: None,
        };
        self.store.apply(&actor(), &edit).await
    }

    pub(crate) async fn claim(&self) -> Option<Lease> {
        self.store.claim(HOST).await.unwrap()
    }

    /// Runs SQL as somebody who goes around the store.
    pub(crate) async fn sql(&self, sql: &str) -> Result<u64, tokio_postgres::Error> {
        self.db.connect().await.execute(sql, &[]).await
    }

    /// One number.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.db.connect().await.query_one(sql, &[]).await.unwrap().get(0)
    }
}

/// A look that found all as wanted, and comes again in a minute.
pub(crate) fn settled() -> Record {
    Record {
        status: component::Status::default(),
        settled: true,
        step: None,
        again_ms: 60_000,
        error: None,
        fail_operation: None,
        lines: Vec::new(),
    }
}
