//! Claims a component, observes it, plans one step, acts, records; again and again until what is wanted is so.
//!
//! The loop is level-triggered: it is told *who* to look at, never *why*. It fires when an edit announces
//! itself and on a timer, it may be killed anywhere and run twice at once, and it gets to the same end,
//! because every pass starts from what is really there. All decisions are [`component::plan`]'s; all effects
//! are a [`component::Driver`]'s; this crate knows neither SQL nor any concrete driver.

mod pass;

use std::sync::Arc;
use std::time::Duration;

use component::Driver;
use store::{Store, WAKE_CHANNEL};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Kills the process here when the named fail point is set to `return`; compiled away without the feature.
macro_rules! fail_point {
    ($name:literal) => {
        fail::fail_point!($name, |_| {
            std::process::abort();
        });
    };
}
pub(crate) use fail_point;

/// How many components are worked on at once.
const WORKERS: usize = 8;
/// How long passes under way may take when it is told to stop.
const LAST_PASSES: Duration = Duration::from_secs(10);
/// The longest wait between two looks at the queue: a lost announcement costs no more than this.
const POLL: Duration = Duration::from_secs(1);

/// Works on the components of one host until told to stop.
pub struct Reconciler {
    /// Where desired state is and observed state goes.
    pub store: Store,
    /// The host whose components it drives.
    pub host: String,
    /// What makes them real.
    pub driver: Arc<dyn Driver>,
}

impl Reconciler {
    /// Runs until `stop` turns true; passes under way are given some time to finish.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut passes = JoinSet::new();
        while !*stop.borrow() {
            // Listen before the first look, so that nothing is announced in between.
            let mut listener = match self.store.listen(WAKE_CHANNEL).await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::warn!(%error, "cannot listen for work; trying again");
                    tokio::select! { () = tokio::time::sleep(POLL) => {}, _ = stop.changed() => {} }
                    continue;
                }
            };
            while !*stop.borrow() {
                let due = self.claim_due(&mut passes).await;
                let wait = due.map_or(POLL, |ms| Duration::from_millis(ms).min(POLL));
                tokio::select! {
                    heard = listener.recv() => if heard.is_err() { break },
                    Some(_) = passes.join_next() => {}
                    () = tokio::time::sleep(wait) => {}
                    _ = stop.changed() => {}
                }
            }
        }
        // One that brings a terabyte back is broken off as by a kill: what it did is found by the next.
        let _ =
            tokio::time::timeout(LAST_PASSES, async { while passes.join_next().await.is_some() {} }).await;
    }

    /// Claims what is due, as far as workers are free; answers when the next is due.
    async fn claim_due(&self, passes: &mut JoinSet<()>) -> Option<u64> {
        while passes.len() < WORKERS {
            match self.store.claim(&self.host).await {
                Ok(Some(lease)) => {
                    passes.spawn(pass::run(self.store.clone(), Arc::clone(&self.driver), lease));
                }
                Ok(None) => {
                    // At least a moment, so that a component held by somebody else is not asked for in a spin.
                    let due = self.store.next_due_ms(&self.host).await.ok().flatten();
                    return due.map(|ms| ms.max(5));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot claim work; trying again");
                    return None;
                }
            }
        }
        None
    }
}
