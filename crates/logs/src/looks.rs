//! Asking for a look at the log files now, and waiting for its end: who asks for lines sees what was written before.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use crate::Store;

/// Looks of a collector.
pub(crate) struct Looks {
    asked: Notify,
    begun: AtomicU64,
    done: watch::Sender<u64>,
}

impl Default for Looks {
    fn default() -> Self {
        Self { asked: Notify::new(), begun: AtomicU64::new(0), done: watch::Sender::new(0) }
    }
}

impl Store {
    /// A look begins; the number is given back when it has ended.
    pub fn look_begins(&self) -> u64 {
        self.looks.begun.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// A look has ended, and what it found can be searched.
    pub fn look_ended(&self, number: u64) {
        self.looks.done.send_replace(number);
    }

    /// Until somebody asks for a look.
    pub async fn look_asked(&self) {
        self.looks.asked.notified().await;
    }

    /// Has the collector look, and waits until it has: what was in a file before can be searched afterwards. Waits for
    /// ever where nobody collects; put a limit on it.
    pub async fn fresh(&self) {
        let mut done = self.looks.done.subscribe();
        // A look that is under way may have passed a file already.
        let wanted = self.looks.begun.load(Ordering::SeqCst) + 1;
        self.looks.asked.notify_one();
        // The sender is part of this store.
        let _ = done.wait_for(|done| *done >= wanted).await;
    }

    /// Whether anybody has collected into this store since it was opened.
    #[must_use]
    pub fn is_collected(&self) -> bool {
        self.looks.begun.load(Ordering::SeqCst) > 0
    }
}
