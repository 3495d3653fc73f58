//! Spares: sandboxes that were made ahead of need.
//!
//! What is slow about a cold start is making namespaces and starting an interpreter, and neither depends on whose
//! function it will be. So for each interpreter that some function uses a few of them are kept, started with our
//! bootstrap, sealed, and waiting for one line on their standard input; and a few empty ones, for packages that bring
//! their own program. Who finds the shelf empty waits for one to be made, which is a cold start like anybody's.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use keeper::wire::{WorkerLimits, WorkerMessage};
use tokio::time::{Instant, sleep};

use crate::environment;
use crate::route::{Interpreter, Language};
use crate::sandboxes::{Failed, Kind, Sandbox, Sandboxes};

/// What an interpreter may use while it waits.
const WHILE_WAITING: WorkerLimits = WorkerLimits { memory_bytes: 512 << 20, tmp_bytes: 16 << 20, pids: 256 };
/// The next one is made this much after one was taken: the function that took it needs the processor now.
const AFTER_TAKING: Duration = Duration::from_millis(200);
/// After one could not be made.
const AFTER_FAILING: Duration = Duration::from_secs(5);

/// The bootstraps as a sandbox shows them in `/var/runtime`.
const BOOTSTRAPS: [(&str, &str); 4] = [
    ("bootstrap.mjs", include_str!("bootstrap/bootstrap.mjs")),
    ("bootstrap.py", include_str!("bootstrap/bootstrap.py")),
    ("warm.mjs", include_str!("bootstrap/warm.mjs")),
    ("warm.cjs", include_str!("bootstrap/warm.cjs")),
];

/// The program that runs a bootstrap: it is the same whether it is a spare or not.
pub(crate) fn program(interpreter: &Interpreter) -> Vec<String> {
    let arguments: &[&str] = match interpreter.language {
        Language::Node => &["/var/runtime/bootstrap.mjs"],
        Language::Python => &["-s", "/var/runtime/bootstrap.py"],
    };
    std::iter::once(interpreter.program.as_str())
        .chain(arguments.iter().copied())
        .map(str::to_owned)
        .collect()
}

/// The shelf.
pub(crate) struct Spares {
    sandboxes: Arc<Sandboxes>,
    shelves: Mutex<HashMap<Kind, Shelf>>,
}

#[derive(Default)]
struct Shelf {
    ready: VecDeque<Sandbox>,
    making: usize,
    wanted: usize,
    /// Nothing is made before.
    not_before: Option<Instant>,
}

impl Spares {
    pub(crate) fn new(sandboxes: Arc<Sandboxes>) -> Self {
        Self { sandboxes, shelves: Mutex::default() }
    }

    /// How many of which kind are to be there from now on; others are thrown away.
    pub(crate) fn want(self: &Arc<Self>, wanted: &BTreeMap<Kind, usize>) {
        let mut surplus = Vec::new();
        {
            let mut shelves = self.lock();
            for kind in wanted.keys() {
                shelves.entry(kind.clone()).or_default();
            }
            for (kind, shelf) in shelves.iter_mut() {
                shelf.wanted = wanted.get(kind).copied().unwrap_or(0);
                while shelf.ready.len() > shelf.wanted {
                    surplus.extend(shelf.ready.pop_back());
                }
            }
            shelves.retain(|_, shelf| shelf.wanted > 0 || shelf.making > 0);
        }
        for spare in surplus {
            self.throw_away(spare);
        }
        self.refill();
    }

    /// One of that kind, off the shelf or made now.
    pub(crate) async fn take(self: &Arc<Self>, kind: &Kind) -> Result<Sandbox, Failed> {
        while let Some(mut spare) = self.off_the_shelf(kind) {
            if is_alive(&mut spare) {
                return Ok(spare);
            }
            tell_why(&mut spare);
            // One of a keeper that has ended lives still, and cannot be claimed any more.
            self.throw_away(spare);
        }
        self.make(kind).await
    }

    fn off_the_shelf(self: &Arc<Self>, kind: &Kind) -> Option<Sandbox> {
        let spare = {
            let mut shelves = self.lock();
            let shelf = shelves.get_mut(kind)?;
            let spare = shelf.ready.pop_front();
            shelf.not_before = Some(Instant::now() + AFTER_TAKING);
            spare
        };
        self.refill_after(AFTER_TAKING);
        spare
    }

    fn refill_after(self: &Arc<Self>, pause: Duration) {
        let spares = Arc::downgrade(self);
        tokio::spawn(async move {
            sleep(pause).await;
            if let Some(spares) = spares.upgrade() {
                spares.refill();
            }
        });
    }

    /// Has what is missing made, in the background.
    fn refill(self: &Arc<Self>) {
        let now = Instant::now();
        let mut missing = Vec::new();
        for (kind, shelf) in self.lock().iter_mut() {
            if shelf.not_before.is_some_and(|moment| moment > now) {
                continue;
            }
            while shelf.ready.len() + shelf.making < shelf.wanted {
                shelf.making += 1;
                missing.push(kind.clone());
            }
        }
        for kind in missing {
            let spares = self.clone();
            tokio::spawn(async move { spares.stock(kind).await });
        }
    }

    async fn stock(self: Arc<Self>, kind: Kind) {
        let made = self.make(&kind).await;
        let mut surplus = None;
        let failed = made.as_ref().err().cloned();
        {
            let mut shelves = self.lock();
            let shelf = shelves.entry(kind.clone()).or_default();
            shelf.making = shelf.making.saturating_sub(1);
            match made {
                Ok(spare) if shelf.ready.len() < shelf.wanted => shelf.ready.push_back(spare),
                Ok(spare) => surplus = Some(spare),
                Err(_) => shelf.not_before = Some(Instant::now() + AFTER_FAILING),
            }
        }
        if let Some(error) = failed {
            tracing::warn!(%error, program = ?kind.program, "cannot make a spare worker; trying again");
            self.refill_after(AFTER_FAILING);
        }
        if let Some(spare) = surplus {
            self.throw_away(spare);
        }
    }

    async fn make(&self, kind: &Kind) -> Result<Sandbox, Failed> {
        let files = BOOTSTRAPS.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        self.sandboxes.start(kind, files, environment::of_spare(), WHILE_WAITING).await
    }

    fn throw_away(&self, spare: Sandbox) {
        let sandboxes = self.sandboxes.clone();
        tokio::spawn(async move {
            if let Err(error) = sandboxes.stop(spare.name).await {
                tracing::debug!(%error, "a spare worker was not stopped");
            }
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Kind, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing was said of its end; what else was said is kept for its owner.
fn is_alive(spare: &mut Sandbox) -> bool {
    loop {
        match spare.control.receive().now_or_never() {
            None => return true,
            Some(Ok(Some((WorkerMessage::Ended { .. } | WorkerMessage::Failed(_), _)) | None) | Err(_)) => {
                return false;
            }
            Some(Ok(Some(message))) => spare.said.push(message),
        }
    }
}

/// A spare ends when its interpreter cannot even read a line: whoever operates the host wants to know why.
fn tell_why(spare: &mut Sandbox) {
    let mut said = vec![0; 2048];
    let length = spare.errors.try_read(&mut said).unwrap_or(0);
    said.truncate(length);
    let said = String::from_utf8_lossy(&said).into_owned();
    tracing::warn!(worker = %spare.name, said, "a spare worker ended before it was needed");
}
