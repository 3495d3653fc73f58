//! Waiting for the end of an operation.
//!
//! One task listens to the database and wakes everybody who waits; a waiter holds no connection. Notifications
//! get lost when the connection does, so a waiter also looks by itself now and then.

use std::time::Duration;

use component::{OperationId, TenantId};
use store::Store;
use store::operation::Operation;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

use crate::problem::Problem;

/// The longest that a request waits.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);
/// How often a waiter looks by itself.
const LOOK_ANYWAY: Duration = Duration::from_secs(1);
/// Pause before listening again after the database did not answer.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// How many events are kept for a listener who is slow.
const NEWS_KEPT: usize = 1_024;

/// Something was recorded of a stead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    /// Whose; none where some news may have been missed, or belongs to nobody.
    pub(crate) tenant: Option<TenantId>,
    /// The tenant's name.
    pub(crate) tenant_name: String,
    /// The stead; empty for what is of the whole tenant.
    pub(crate) stead: String,
}

impl News {
    /// Reads `<tenant id> <tenant> <stead>`.
    fn read(text: &str) -> Self {
        let mut words = text.split(' ');
        let tenant = words.next().and_then(|id| id.parse().ok()).map(TenantId);
        let mut word = || words.next().unwrap_or_default().to_owned();
        Self { tenant, tenant_name: word(), stead: word() }
    }
}

/// Where those who wait hear that something was recorded.
#[derive(Clone)]
pub(crate) struct Seen {
    changes: watch::Receiver<u64>,
    news: broadcast::WeakSender<News>,
    stopping: watch::Receiver<bool>,
}

impl Seen {
    /// Starts to listen; it ends with the last copy of what is returned. `stopping` turning true ends all waits.
    pub(crate) fn listen(store: Store, stopping: watch::Receiver<bool>) -> Self {
        let (sender, changes) = watch::channel(0);
        let (teller, _) = broadcast::channel(NEWS_KEPT);
        let (news, mut over) = (teller.downgrade(), stopping.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = relay(&store, &sender, &teller) => {}
                () = sender.closed() => {}
                // Streams of events end with the news, so that they keep nobody from stopping.
                () = stop(&mut over) => {}
            }
            // Waits look by themselves once more, and end.
            drop(teller);
        });
        Self { changes, news, stopping }
    }

    /// What is recorded from now on.
    pub(crate) fn news(&self) -> broadcast::Receiver<News> {
        // Where the server stops, a channel that has ended.
        self.news.upgrade().map_or_else(|| broadcast::channel(1).1, |teller| teller.subscribe())
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

async fn relay(store: &Store, sender: &watch::Sender<u64>, teller: &broadcast::Sender<News>) {
    let tell = || sender.send_modify(|count| *count = count.wrapping_add(1));
    loop {
        match store.listen(store::SEEN_CHANNEL).await {
            Ok(mut listener) => {
                // What was recorded before we listened, nobody told us of.
                tell();
                while let Ok(heard) = listener.try_recv().await {
                    // `None`: the connection broke, and something may have been missed.
                    tell();
                    let Some(heard) = heard else { break };
                    // Nobody listens: nobody misses it.
                    let _ = teller.send(News::read(heard.payload()));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot listen to the store; waiting requests look by themselves")
            }
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}
