//! One function: its route, its versions' workers, and which of them a call goes to.
//!
//! A flip is a route with another `live`: new calls go to that version's workers at once, and those of the old one go
//! when each has finished what it does. A canary gets a share of those who call, not of the calls: who calls is hashed
//! (at a URL: address and user agent), so whoever got it once gets it again, nothing has to be remembered or set in a
//! response, and a larger share keeps those who have it. Calls through the Invoke API come from nobody in particular,
//! and are shared out by chance. One that fails clearly more often is returned by itself ([`Trial`]).

use std::collections::{BTreeMap, BTreeSet};
use std::iter;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::database::Databases;
use crate::edition::{Declared, Edition};
use crate::engine::Engine;
use crate::inspection::{self, Inspection, NoInspection};
use crate::invocation::{Answer, Call, Outcome, Refused};
use crate::log::FunctionLog;
use crate::pool::Pool;
use crate::route::{Canary, FunctionStatus, Prepared, Route, Workers};
use crate::start::Unstarted;
use crate::trial::Trial;
use crate::usage::Tally;

/// See above.
pub(crate) struct Function {
    engine: Arc<Engine>,
    declared: Arc<Declared>,
    pub(crate) log: Arc<FunctionLog>,
    pub(crate) tally: Arc<Tally>,
    databases: Arc<Databases>,
    trial: Trial,
    pools: Mutex<Pools>,
}

/// By version.
type ByVersion = BTreeMap<u64, Arc<Pool>>;

#[derive(Default)]
struct Pools {
    serving: ByVersion,
    /// Calls go to these while somebody inspects the function.
    inspected: Option<(Arc<Inspection>, ByVersion)>,
}

impl Pools {
    fn all(&self) -> impl Iterator<Item = (&u64, &Arc<Pool>)> {
        self.serving.iter().chain(self.inspected.iter().flat_map(|(_, pools)| pools))
    }
}

impl Function {
    pub(crate) fn new(engine: Arc<Engine>, route: Arc<Route>) -> std::io::Result<Arc<Self>> {
        let log = Arc::new(engine.log.of(&route));
        let tally = engine.usage.of(&route)?;
        let trial = Trial::default();
        trial.apply(&route);
        let declared = Arc::new(Declared::new(route));
        Ok(Arc::new(Self {
            engine,
            declared,
            log,
            tally,
            databases: Arc::default(),
            trial,
            pools: Mutex::default(),
        }))
    }

    /// The route in force.
    pub(crate) fn route(&self) -> Arc<Route> {
        self.declared.route()
    }

    /// Puts a route in force.
    pub(crate) fn apply(&self, route: Arc<Route>) {
        let before = self.declared.route();
        self.declared.set(route.clone());
        self.trial.apply(&route);
        let mut pools = self.pools();
        let Pools { serving: plain, inspected } = &mut *pools;
        for pools in iter::once(plain).chain(inspected.iter_mut().map(|(_, pools)| pools)) {
            pools.retain(|number, pool| {
                let stays = route.versions.get(number) == Some(&pool.edition.version);
                if !stays {
                    pool.retire();
                    keep_until_emptied(pool.clone());
                }
                stays
            });
            if before.secrets != route.secrets {
                for pool in pools.values() {
                    pool.renew();
                }
            }
            for number in serving(&before) {
                if !serving(&route).any(|serves| serves == number)
                    && let Some(pool) = pools.get(&number)
                {
                    pool.drain();
                }
            }
        }
        if let Some((inspection, _)) = inspected {
            inspection.changed.notify_waiters();
        }
    }

    /// Has a call worked at by a version: the one named, or the one that serves the caller.
    pub(crate) async fn call(
        &self,
        qualifier: Option<u64>,
        caller: Option<&[&str]>,
        call: Call,
    ) -> Result<Outcome, Refused> {
        let pool = self.pool(qualifier, caller)?;
        let outcome = pool.call(call).await?;
        if caller.is_none() {
            self.count(outcome.version, matches!(outcome.answer, Answer::Failed(_)));
        }
        Ok(outcome)
    }

    /// Counts a call for the judgement of a version that is tried. At a URL it is the status that tells whether it
    /// failed, so who answers there counts.
    pub(crate) fn count(&self, version: u64, failed: bool) {
        self.trial.count(self.declared.route().live, version, failed);
    }

    /// The version that a call of somebody goes to.
    pub(crate) fn pool(&self, qualifier: Option<u64>, caller: Option<&[&str]>) -> Result<Arc<Pool>, Refused> {
        let route = self.route();
        let tried = route.canary.as_ref().filter(|canary| self.trial.goes_on(canary));
        let number = qualifier.or_else(|| choose(&route, tried, caller));
        let arn = || crate::environment::arn(&route, qualifier);
        let number = number.ok_or_else(|| Refused::NotFound(arn()))?;
        self.pool_of(&route, number).ok_or_else(|| Refused::NotFound(arn()))
    }

    fn pool_of(&self, route: &Route, number: u64) -> Option<Arc<Pool>> {
        let version = route.versions.get(&number)?;
        let mut pools = self.pools();
        let Pools { serving, inspected } = &mut *pools;
        let (pools, inspection) = match inspected {
            Some((inspection, pools)) if inspection::has_inspector(&self.engine, version) => {
                (pools, Some(inspection.clone()))
            }
            _ => (serving, None),
        };
        if let Some(pool) = pools.get(&number) {
            return Some(pool.clone());
        }
        let edition = Arc::new(Edition::new(self.declared.clone(), number, version.clone()));
        let (engine, databases) = (self.engine.clone(), self.databases.clone());
        let pool = Pool::new(engine, edition, self.log.clone(), self.tally.clone(), databases, inspection);
        pools.insert(number, pool.clone());
        Some(pool)
    }

    /// From now on calls go to one worker with an inspector, until [`Self::end_inspection`].
    pub(crate) fn begin_inspection(&self) -> Result<Arc<Inspection>, NoInspection> {
        let route = self.route();
        let version =
            route.live.and_then(|live| route.versions.get(&live)).ok_or(NoInspection::NothingLive)?;
        if !inspection::has_inspector(&self.engine, version) {
            return Err(NoInspection::NoInspector(version.runtime.clone()));
        }
        let mut pools = self.pools();
        if pools.inspected.is_some() {
            return Err(NoInspection::Taken);
        }
        let inspection = Inspection::new();
        pools.inspected = Some((inspection.clone(), ByVersion::new()));
        Ok(inspection)
    }

    /// The inspection under way.
    pub(crate) fn inspection(&self) -> Option<Arc<Inspection>> {
        self.pools().inspected.as_ref().map(|(inspection, _)| inspection.clone())
    }

    /// The pool of the live version, where it can be inspected; else why not.
    pub(crate) fn inspected_pool(&self) -> Result<Arc<Pool>, String> {
        let route = self.route();
        let live = route.live.ok_or("no version of it answers calls")?;
        let pool = self.pool_of(&route, live).ok_or("no version of it answers calls")?;
        match pool.inspection {
            Some(_) => Ok(pool),
            None => Err(format!("`{}` has no inspector", pool.edition.version.runtime)),
        }
    }

    /// Ends it: the call under way goes on, with the whole time that it may take, those that wait go where all go.
    pub(crate) fn end_inspection(&self, inspection: &Inspection) {
        inspection.end();
        let inspected = self.pools().inspected.take_if(|(taken, _)| taken.id == inspection.id);
        let route = self.route();
        for (number, pool) in inspected.into_iter().flat_map(|(_, pools)| pools) {
            match self.pool_of(&route, number) {
                Some(other) => pool.close_for(&other),
                None => pool.close(),
            }
            keep_until_emptied(pool);
        }
    }

    /// Brings a version up beside the one that serves.
    pub(crate) async fn prepare(&self, number: u64) -> Prepared {
        let Some(pool) = self.pool_of(&self.route(), number) else {
            return Prepared::Unavailable { why: format!("the route has no version {number}") };
        };
        match pool.prepare().await {
            Ok(()) => Prepared::Ready,
            Err(Unstarted::Broken { failure, log }) => {
                let message = failure.message();
                Prepared::Broken { error_type: failure.error_type, message, log }
            }
            Err(Unstarted::Unavailable(why)) => Prepared::Unavailable { why },
        }
    }

    /// Lets workers go that have rested too long.
    pub(crate) fn tidy(&self, idle: Duration) {
        let live = self.route().live;
        // The one that is inspected rests while somebody reads.
        let rests = |(number, pool): (&u64, &Arc<Pool>)| {
            (pool.inspection.is_none() || Some(*number) != live).then(|| pool.clone())
        };
        let pools: Vec<_> = self.pools().all().filter_map(rests).collect();
        for pool in pools {
            pool.tidy(idle);
        }
        self.databases.tidy();
        self.tally.flush();
    }

    /// The function is no more.
    pub(crate) async fn close(&self) {
        let pools = std::mem::take(&mut *self.pools());
        if let Some((inspection, _)) = &pools.inspected {
            inspection.end();
        }
        let pools: Vec<_> = pools.all().map(|(_, pool)| pool.clone()).collect();
        for pool in &pools {
            pool.close();
        }
        for pool in pools {
            pool.emptied().await;
        }
    }

    /// What is known of it, but whether its port is open.
    pub(crate) fn status(&self) -> FunctionStatus {
        let route = self.route();
        let pools = self.pools();
        let mut workers = Workers::default();
        for (_, pool) in pools.all() {
            let of = pool.workers();
            workers.busy += of.busy;
            workers.idle += of.idle;
        }
        let ready: BTreeSet<_> =
            pools.all().filter(|(_, pool)| pool.is_ready()).map(|(number, _)| *number).collect();
        let ready = ready.into_iter().collect();
        let (generation, live) = (route.generation, route.live);
        let canary_returned = self.trial.returned();
        FunctionStatus { generation, live, ready, listening: false, trouble: None, workers, canary_returned }
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool's workers know it only as long as somebody has it, and one that works still has to be counted and dismissed.
fn keep_until_emptied(pool: Arc<Pool>) {
    tokio::spawn(async move { pool.emptied().await });
}

/// The versions that unqualified calls go to.
fn serving(route: &Route) -> impl Iterator<Item = u64> {
    route.live.into_iter().chain(route.canary.as_ref().map(|canary| canary.version))
}

/// Which version serves a caller.
fn choose(route: &Route, tried: Option<&Canary>, caller: Option<&[&str]>) -> Option<u64> {
    let live = route.live?;
    let Some(canary) = tried else { return Some(live) };
    let place = match caller {
        Some(caller) => {
            let mut hash = Sha256::new();
            for part in [route.function.as_str()].iter().chain(caller) {
                hash.update(part.as_bytes());
                hash.update([0]);
            }
            hash.update(canary.version.to_le_bytes());
            let hash = hash.finalize();
            let first = hash.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
            first % 100
        }
        None => rand::random_range(0..100),
    };
    Some(if place < u64::from(canary.percent) { canary.version } else { live })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::tests::route;

    #[test]
    fn a_canary_gets_its_share_of_callers_and_keeps_them_as_the_share_grows() {
        let mut route = route("f1");
        route.versions.insert(2, route.versions[&1].clone());
        let callers: Vec<String> = (0..2000).map(|n| format!("10.0.{}.{}", n / 250, n % 250)).collect();
        let share = |percent| {
            let canary = Canary { version: 2, percent, returned: None };
            callers
                .iter()
                .map(|caller| choose(&route, Some(&canary), Some(&[caller, "curl"])) == Some(2))
                .collect::<Vec<_>>()
        };
        let (tenth, half) = (share(10), share(50));
        let count = |chosen: &[bool]| chosen.iter().filter(|chosen| **chosen).count();
        assert!((140..=260).contains(&count(&tenth)), "{}", count(&tenth));
        assert!((900..=1100).contains(&count(&half)), "{}", count(&half));
        assert!(tenth.iter().zip(&half).all(|(before, after)| !before || *after));
        assert_eq!(share(10), tenth);
    }

    #[test]
    fn without_a_canary_the_live_version_serves_and_without_that_none() {
        let mut route = route("f1");
        assert_eq!(choose(&route, None, None), Some(1));
        route.live = None;
        assert_eq!(choose(&route, None, None), None);
    }
}
