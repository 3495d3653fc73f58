//! The queries that run now: how many, whose, and how each is told to stop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use component::TenantId;
use tokio::sync::watch;
use uuid::Uuid;

use crate::problem::{Kind, Problem};

/// Queries of one person at once.
const OF_PERSON: usize = 4;
/// Queries of one tenant at once.
const OF_TENANT: usize = 16;

/// Every query that runs in this process.
#[derive(Clone, Default)]
pub(crate) struct Running(Arc<Mutex<HashMap<Uuid, One>>>);

struct One {
    tenant: TenantId,
    person: String,
    cancel: watch::Sender<bool>,
}

/// The right to run one. Given back when dropped.
pub(crate) struct Place {
    running: Running,
    id: Uuid,
    /// Turns true when somebody ends it.
    pub(super) cancelled: watch::Receiver<bool>,
}

impl Running {
    /// A place for one more, under its id.
    pub(crate) fn begin(&self, id: Uuid, tenant: TenantId, person: &str) -> Result<Place, Problem> {
        let mut all = self.lock();
        let count = |wanted: &dyn Fn(&One) -> bool| all.values().filter(|one| wanted(one)).count();
        let refuse = |detail: String| Err(Problem::new(Kind::InUse, detail));
        if count(&|one| one.tenant == tenant && one.person == person) >= OF_PERSON {
            return refuse(format!(
                "{OF_PERSON} of your queries are running; cancel one, or wait for its end"
            ));
        }
        if count(&|one| one.tenant == tenant) >= OF_TENANT {
            return refuse(format!("{OF_TENANT} queries of this tenant are running; retry in a few seconds"));
        }
        let (cancel, cancelled) = watch::channel(false);
        all.insert(id, One { tenant, person: person.to_owned(), cancel });
        Ok(Place { running: self.clone(), id, cancelled })
    }

    /// Ends one of a tenant's; of a person's own where one is named. Whether there was such a one.
    pub(crate) fn cancel(&self, id: Uuid, tenant: TenantId, person: Option<&str>) -> bool {
        let all = self.lock();
        let found = all
            .get(&id)
            .filter(|one| one.tenant == tenant && person.is_none_or(|person| one.person == person));
        found.is_some_and(|one| one.cancel.send(true).is_ok())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, One>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.running.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_few_and_given_back() {
        let running = Running::default();
        let (tenant, other) = (TenantId(Uuid::new_v4()), TenantId(Uuid::new_v4()));
        let id = Uuid::new_v4();
        let first = running.begin(id, tenant, "ann").unwrap();
        let more: Vec<_> =
            (1..OF_PERSON).map(|_| running.begin(Uuid::new_v4(), tenant, "ann").unwrap()).collect();
        assert!(running.begin(Uuid::new_v4(), tenant, "ann").is_err());
        assert!(running.begin(Uuid::new_v4(), other, "ann").is_ok());
        assert!(!running.cancel(id, other, None) && !running.cancel(id, tenant, Some("bob")));
        assert!(!*first.cancelled.borrow());
        assert!(running.cancel(id, tenant, Some("ann")) && *first.cancelled.borrow());
        drop(more);
        let bobs = |n: usize| (0..n).map(|n| running.begin(Uuid::new_v4(), tenant, &format!("bob {n}")));
        assert_eq!(bobs(OF_TENANT).filter(Result::is_err).count(), 0, "each was given back at once");
        let held: Vec<_> = bobs(OF_TENANT - 1).collect();
        assert!(held.iter().all(Result::is_ok) && running.begin(Uuid::new_v4(), tenant, "eve").is_err());
        drop(first);
        assert!(!running.cancel(id, tenant, None));
    }
}
