//! Searching logs for somebody who asked over HTTP: in threads of their own, few at a time, and no longer than anybody
//! waits for the answer.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use client::wire;
use jiff::Timestamp;
use logs::{Damage, Histogram, Line, LineId, Search, Store};
use tokio::sync::{Semaphore, mpsc, watch};

use crate::problem::Problem;

/// Searches at once; each uses a few threads.
const AT_ONCE: usize = 4;
/// Longest wait for lines that are being collected.
const FRESH: Duration = Duration::from_secs(1);
/// Bytes of a stream that are sent together, once it is under way.
const TOGETHER: usize = 32 * 1024;
/// The first lines are sent each as they are found.
const AT_ONCE_LINES: u64 = 100;

/// The logs of this host, for those who ask.
#[derive(Clone)]
pub(crate) struct Logs {
    pub(crate) store: Arc<Store>,
    turns: Arc<Semaphore>,
    pub(crate) stopping: watch::Receiver<bool>,
}

/// Where a page ended.
pub(crate) type Key = (i64, LineId);

/// Ends a search when whoever waits for it has gone.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Logs {
    pub(crate) fn new(store: Arc<Store>, stopping: watch::Receiver<bool>) -> Self {
        Self { store, turns: Arc::new(Semaphore::new(AT_ONCE)), stopping }
    }

    /// Does a search in a thread that may block.
    async fn work<T: Send + 'static>(
        &self,
        search: Search,
        work: impl FnOnce(&Store, &Search) -> Result<T, logs::Error> + Send + 'static,
    ) -> Result<T, Problem> {
        let _waiting = Waiting(Arc::clone(&search.given_up));
        // What was written before the question is in the answer, unless that would keep it waiting.
        if self.store.is_collected() {
            let _ = tokio::time::timeout(FRESH, self.store.fresh()).await;
        }
        let turn =
            Arc::clone(&self.turns).acquire_owned().await.map_err(|error| Problem::internal(&error))?;
        let store = Arc::clone(&self.store);
        let work = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work(&store, &search)
        });
        work.await.map_err(|error| Problem::internal(&error))?.map_err(|error| Problem::internal(&error))
    }

    /// The newest lines that are meant, at most so many.
    pub(crate) async fn newest(
        &self,
        search: Search,
        most: usize,
    ) -> Result<(Vec<Line>, Vec<Damage>), Problem> {
        self.work(search, move |store, search| {
            let mut lines = Vec::new();
            let damage = store.search(search, most, |line| {
                lines.push(line);
                ControlFlow::Continue(())
            })?;
            Ok((lines, damage))
        })
        .await
    }

    pub(crate) async fn histogram(&self, search: Search, buckets: usize) -> Result<Histogram, Problem> {
        self.work(search, move |store, search| store.histogram(search, buckets)).await
    }

    /// All lines that are meant, a JSON object a line, as they are found; the last says that it is the last.
    pub(crate) fn stream(&self, search: Search) -> mpsc::Receiver<Bytes> {
        let (sender, receiver) = mpsc::channel(16);
        let logs = self.clone();
        tokio::spawn(async move {
            let given_up = Arc::clone(&search.given_up);
            let gone = sender.clone();
            let work = logs.work(search, move |store, search| {
                send_all(store, search, &sender);
                Ok(())
            });
            tokio::select! {
                ended = work => drop(ended),
                // Nothing was found for a while, and nobody reads any more.
                () = gone.closed() => given_up.store(true, Ordering::Relaxed),
            }
        });
        receiver
    }
}

fn send_all(store: &Store, search: &Search, sender: &mpsc::Sender<Bytes>) {
    let (mut text, mut lines) = (Vec::new(), 0_u64);
    let found = store.search(search, usize::MAX, |line| {
        lines += 1;
        if serde_json::to_writer(&mut text, &shown(&line)).is_ok() {
            text.push(b'\n');
        }
        if lines > AT_ONCE_LINES && text.len() < TOGETHER {
            return ControlFlow::Continue(());
        }
        match sender.blocking_send(std::mem::take(&mut text).into()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    let error = found.as_ref().err().map(|error| {
        tracing::error!(%error, "a search of logs failed");
        "the logs could not be read to the end; try again".to_owned()
    });
    let damaged = damaged(&found.unwrap_or_default());
    let end = wire::LogEnd { end: wire::LogSum { lines, damaged, error } };
    if serde_json::to_writer(&mut text, &end).is_ok() {
        text.push(b'\n');
    }
    // Whoever asked may have gone.
    let _ = sender.blocking_send(text.into());
}

/// A line as the API shows it.
pub(crate) fn shown(line: &Line) -> wire::LogLine {
    wire::LogLine {
        id: line.id.to_string(),
        at: line.moment().to_string(),
        source: line.label.source.as_str().to_owned(),
        stead: line.label.stead.clone(),
        component: line.label.component.clone(),
        level: line.severity.as_str().to_owned(),
        severity: line.word().to_owned(),
        message: line.message().to_owned(),
        cut: line.cut,
        fields: line.fields.clone(),
    }
}

/// Damage in words. Where the files are is for those who operate the host, and in its log.
pub(crate) fn damaged(damage: &[Damage]) -> Vec<String> {
    for found in damage {
        tracing::error!(path = %found.path.display(), offset = found.offset, bytes = found.length, found.why);
    }
    let name = |found: &Damage| {
        let parts = found.path.iter().rev().take(2).map(|part| part.to_string_lossy()).collect::<Vec<_>>();
        parts.into_iter().rev().collect::<Vec<_>>().join("/")
    };
    damage.iter().map(|found| format!("{}, byte {}: {}", name(found), found.offset, found.why)).collect()
}

/// A moment as the store counts it.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}
