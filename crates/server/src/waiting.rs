//! Waiting for the end of an operation.
//!
//! One task listens to the database and wakes everybody who waits; a waiter holds no connection. Notifications
//! get lost when the connection does, so a waiter also looks by itself now and then.

use std::time::Duration;

use component::{OperationId, TenantId};
use store::Store;
use store::operation::Operation;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::problem::Problem;

/// The longest that a request waits.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);
/// How often a waiter looks by itself.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);
/// Pause before listening again after the database did not answer.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Where those who wait hear that something was recorded.
#[derive(Clone)]
pub(crate) struct Seen {
    changes: watch::Receiver<u64>,
    stopping: watch::Receiver<bool>,
}

impl Seen {
    /// Starts to listen; it ends with the last copy of what is returned. `stopping` turning true ends all waits.
    pub(crate) fn listen(store: Store, stopping: watch::Receiver<bool>) -> Self {
        let (sender, changes) = watch::channel(0);
        tokio::spawn(async move {
            tokio::select! {
                () = relay(&store, &sender) => {}
                () = sender.closed() => {}
            }
        });
        Self { changes, stopping }
    }

    /// The operation once it has ended, or as it stands when the time is over.
    pub(crate) async fn end_of(
        &self,
        store: &Store,
        tenant: TenantId,
        id: OperationId,
        wait: Duration,
    ) -> Result<Option<Operation>, Problem> {
        let deadline = Instant::now() + wait.min(LONGEST);
        let (mut changes, mut stopping) = (self.changes.clone(), self.stopping.clone());
        loop {
            // Marked as seen before the look, so that what is recorded during it wakes at once.
            changes.mark_unchanged();
            let operation = store.operation(tenant, id).await?;
            let running = operation.as_ref().is_some_and(|operation| operation.state == "running");
            if !running || Instant::now() >= deadline || *stopping.borrow() {
                return Ok(operation);
            }
            let next_look = deadline.min(Instant::now() + LOOK_ANYWAY);
            tokio::select! {
                changed = changes.changed() => {
                    if changed.is_err() {
                        tokio::time::sleep_until(next_look).await;
                    }
                }
                () = stop(&mut stopping) => {}
                () = tokio::time::sleep_until(next_look) => {}
            }
        }
    }
}

/// Ends when the server stops; never, where it cannot be stopped.
async fn stop(stopping: &mut watch::Receiver<bool>) {
    if stopping.wait_for(|stopping| *stopping).await.is_err() {
        std::future::pending().await
    }
}

async fn relay(store: &Store, sender: &watch::Sender<u64>) {
    let tell = || sender.send_modify(|count| *count = count.wrapping_add(1));
    loop {
        match store.listen(store::SEEN_CHANNEL).await {
            Ok(mut listener) => {
                // What was recorded before we listened, nobody told us of.
                tell();
                while let Ok(heard) = listener.try_recv().await {
                    // `None`: the connection broke, and something may have been missed.
                    tell();
                    if heard.is_none() {
                        break;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen to the store; waiting requests look by themselves")
            }
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}
