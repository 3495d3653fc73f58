//! Events that are accepted now and worked at later.
//!
//! Accepted means on the disk, `functions/spool/events/<handle>/<id>`: a line of JSON about it, then the payload. Each is
//! worked at until it succeeds, has failed three times (the second and third time a minute and two after the one
//! before), or is six hours old; these are Lambda's numbers. What cannot be tried, because every worker is busy or none
//! can be made, is no failure and is tried again, more and more rarely. What has failed for good goes to the function
//! that the route names for that, as the record that Lambda would send, or is kept in `functions/spool/dead/<handle>`.
//!
//! Whoever is killed, an accepted event is worked at, and perhaps twice, as on Lambda: that it succeeded is known to
//! others before its file is removed.

mod spool;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;

use crate::engine::Engine;
use crate::environment;
use crate::fail_point;
use crate::function::Function;
use crate::invocation::{Answer, Call, Failure, Outcome, Piece, Refused};
use crate::route::Route;
use spool::Spool;
pub(crate) use spool::{Event, Origin};

/// What cannot be tried now is tried again after this, doubling.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Of the whole engine, so many events are worked at at once.
const AT_ONCE: usize = 256;

/// When failed events are tried again, and when no more.
#[derive(Debug, Clone)]
pub struct Retries {
    /// After each failure but the last.
    pub pauses: Vec<Duration>,
    /// Older ones are given up.
    pub age: Duration,
    /// Events of one function that wait, at most.
    pub waiting: usize,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            pauses: vec![Duration::from_secs(60), Duration::from_secs(120)],
            age: Duration::from_secs(6 * 60 * 60),
            waiting: 10_000,
        }
    }
}

/// All that wait.
pub(crate) struct Events {
    spool: Arc<Spool>,
    queues: Mutex<HashMap<String, Arc<Queue>>>,
    places: Arc<Semaphore>,
    /// Runs of the clock that an earlier process accepted, by the event's id.
    runs: OnceLock<HashSet<String>>,
}

/// Those of one function.
#[derive(Default)]
struct Queue {
    due: Mutex<BTreeMap<(Timestamp, String), Event>>,
    /// One came.
    changed: Notify,
}

/// What came of an attempt.
enum Attempt {
    Done,
    /// The function failed.
    Failed(Failure, u64),
    /// It could not be tried.
    NotNow,
}

impl Events {
    pub(crate) fn open(folder: &std::path::Path) -> std::io::Result<Self> {
        let spool = Arc::new(Spool::open(folder)?);
        let places = Arc::new(Semaphore::new(AT_ONCE));
        Ok(Self { spool, queues: Mutex::default(), places, runs: OnceLock::new() })
    }

    /// Goes on with what an earlier process accepted.
    pub(crate) fn take_up(&self, engine: &Arc<Engine>) {
        match self.spool.all() {
            Ok(events) => {
                let runs = events.iter().filter(|event| event.origin == Origin::Schedule);
                let _ = self.runs.set(runs.map(|event| event.id.clone()).collect());
                events.into_iter().for_each(|event| self.queue(engine, event));
            }
            Err(error) => {
                tracing::error!(%error, "cannot read the events that wait; they wait for the next start")
            }
        }
    }

    /// Whether an earlier process accepted a run of the clock; it is worked at then.
    pub(crate) fn has_run(&self, id: &str) -> bool {
        self.runs.get().is_some_and(|runs| runs.contains(id))
    }

    /// Accepts an event; when this returns it is on the disk.
    pub(crate) async fn accept(
        &self,
        engine: &Arc<Engine>,
        function: &Function,
        call: Call,
        origin: Origin,
    ) -> Result<(), Refused> {
        let event = self.keep(engine, function, call, origin).await?;
        fail_point!("functions::event.accepted");
        self.queue(engine, event);
        Ok(())
    }

    /// Puts an event on the disk; nobody works at it before it is queued, or another process takes it up.
    pub(crate) async fn keep(
        &self,
        engine: &Arc<Engine>,
        function: &Function,
        call: Call,
        origin: Origin,
    ) -> Result<Event, Refused> {
        let handle = function.route().function.clone();
        if self.waiting(&handle) >= engine.limits.retries.waiting {
            function.tally.throttled();
            return Err(Refused::Busy);
        }
        let now = Timestamp::now();
        let event = Event {
            id: call.id,
            function: handle,
            qualifier: call.qualifier,
            accepted_at: now,
            attempts: 0,
            due: now,
            trace: call.trace,
            client_context: call.client_context,
            origin,
        };
        let (spool, written) = (self.spool.clone(), event.clone());
        let write = tokio::task::spawn_blocking(move || spool.write(&written, &call.payload));
        match write.await {
            Ok(Ok(())) => Ok(event),
            Ok(Err(error)) => Err(Refused::Unavailable(format!("the event cannot be kept: {error}"))),
            Err(error) => Err(Refused::Unavailable(error.to_string())),
        }
    }

    /// How many wait or are worked at.
    fn waiting(&self, handle: &str) -> usize {
        let queue = self.lock().get(handle).cloned();
        queue.map_or(0, |queue| queue.lock().len())
    }

    /// Has an event worked at that is on the disk.
    pub(crate) fn queue(&self, engine: &Arc<Engine>, event: Event) {
        let handle = event.function.clone();
        let mut queues = self.lock();
        let queue = queues.entry(handle.clone()).or_insert_with(|| {
            let queue = Arc::<Queue>::default();
            tokio::spawn(work(engine.clone(), handle, queue.clone()));
            queue
        });
        queue.put(event);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Queue>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn put(&self, event: Event) {
        self.lock().insert((event.due, event.id.clone()), event);
        self.changed.notify_one();
    }

    /// The first that is due, or how long until one is.
    fn next(&self) -> Result<Event, Option<Duration>> {
        let mut due = self.lock();
        let Some(entry) = due.first_entry() else { return Err(None) };
        let wait = entry.key().0.duration_since(Timestamp::now());
        match Duration::try_from(wait) {
            Ok(wait) if wait > Duration::ZERO => Err(Some(wait)),
            _ => Ok(entry.remove()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Timestamp, String), Event>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works at the events of one function, as many at once as it may have workers.
async fn work(engine: Arc<Engine>, handle: String, queue: Arc<Queue>) {
    let mut busy = tokio::task::JoinSet::new();
    loop {
        let most = engine.table.get(&handle).map_or(1, |function| concurrency(&function.route()));
        let next = if busy.len() < most { queue.next() } else { Err(None) };
        match next {
            Ok(event) => {
                let Ok(place) = engine.events.places.clone().acquire_owned().await else { return };
                let (engine, queue) = (engine.clone(), queue.clone());
                busy.spawn(async move {
                    if let Some(again) = attend(&engine, event).await {
                        queue.put(again);
                    }
                    drop(place);
                });
            }
            Err(wait) => tokio::select! {
                () = queue.changed.notified() => {}
                () = async {
                    match wait {
                        // A clock that is set forward is noticed within a while.
                        Some(wait) => sleep(wait.min(Duration::from_secs(30))).await,
                        None => std::future::pending().await,
                    }
                } => {}
                Some(_) = busy.join_next() => {}
            },
        }
    }
}

fn concurrency(route: &Route) -> usize {
    let version = route.live.and_then(|live| route.versions.get(&live));
    version.map_or(1, |version| usize::try_from(version.concurrency).unwrap_or(usize::MAX)).max(1)
}

/// Tries an event once; the same to be tried again, or nothing where its time here has ended.
async fn attend(engine: &Arc<Engine>, mut event: Event) -> Option<Event> {
    let retries = &engine.limits.retries;
    let age = Timestamp::now().duration_since(event.accepted_at);
    let is_old = age >= SignedDuration::try_from(retries.age).unwrap_or(SignedDuration::MAX);
    let function = engine.table.get(&event.function);
    let payload = {
        let (spool, event) = (engine.events.spool.clone(), event.clone());
        tokio::task::spawn_blocking(move || spool.payload(&event)).await
    };
    let payload = match payload {
        Ok(Ok(payload)) => payload,
        other => {
            let why = other.map_or_else(|error| error.to_string(), |read| format!("{:?}", read.err()));
            tracing::error!(why, id = event.id, "an event cannot be read; it is left where it is");
            return None;
        }
    };
    let (failure, version) = match &function {
        _ if is_old => (None, None),
        None => return Some(later(event)),
        Some(function) => match attempt(function, &event, payload.clone()).await {
            Attempt::Done => {
                fail_point!("functions::event.done");
                forget(engine, &event).await;
                return None;
            }
            Attempt::NotNow => return Some(later(event)),
            Attempt::Failed(failure, version) => (Some(failure), Some(version)),
        },
    };
    if let Some(failure) = &failure {
        event.attempts += 1;
        let pause = usize::try_from(event.attempts - 1).ok().and_then(|failed| retries.pauses.get(failed));
        if let Some(pause) = pause {
            let pause = SignedDuration::try_from(*pause).unwrap_or_default();
            event.due = Timestamp::now().checked_add(pause).unwrap_or(event.due);
            let (spool, written) = (engine.events.spool.clone(), event.clone());
            let _ = tokio::task::spawn_blocking(move || spool.write_again(&written, &payload)).await;
            tell(
                function.as_deref(),
                &event,
                &format!("failed ({}), is tried again at {}", failure.error_type, event.due),
            );
            fail_point!("functions::event.postponed");
            return Some(event);
        }
    }
    bury(engine, function.as_deref(), &event, (failure, version), &payload).await;
    None
}

/// It could not be tried: after a while it can perhaps.
fn later(mut event: Event) -> Event {
    let waited = Timestamp::now().duration_since(event.accepted_at);
    let pause = Duration::try_from(waited).unwrap_or_default().clamp(FIRST_PAUSE, LONGEST_PAUSE);
    let pause = SignedDuration::try_from(pause).unwrap_or_default();
    event.due = Timestamp::now().checked_add(pause).unwrap_or(event.due);
    event
}

async fn attempt(function: &Function, event: &Event, payload: bytes::Bytes) -> Attempt {
    let call = Call {
        id: event.id.clone(),
        payload,
        trace: event.trace.clone(),
        client_context: event.client_context.clone(),
        qualifier: event.qualifier,
        tail: false,
    };
    let Outcome { answer, version, .. } = match function.call(event.qualifier, None, call).await {
        Ok(outcome) => outcome,
        Err(_) => return Attempt::NotNow,
    };
    match answer {
        Answer::Whole(_) => Attempt::Done,
        Answer::Failed(failure) => Attempt::Failed(failure, version),
        Answer::Streamed { mut body, .. } => {
            while let Some(piece) = body.recv().await {
                match piece {
                    Piece::Data(_) => {}
                    Piece::End(None) => return Attempt::Done,
                    Piece::End(Some(failure)) => return Attempt::Failed(failure, version),
                }
            }
            Attempt::NotNow
        }
    }
}

async fn forget(engine: &Engine, event: &Event) {
    let (spool, event) = (engine.events.spool.clone(), event.clone());
    let removed = tokio::task::spawn_blocking(move || spool.remove(&event)).await;
    if let Ok(Err(error)) = removed {
        tracing::error!(%error, "an event that is done cannot be removed; the next start works at it again");
    }
}

/// Gives an event up: to the function for that, or to a folder.
async fn bury(
    engine: &Arc<Engine>,
    function: Option<&Function>,
    event: &Event,
    (failure, version): (Option<Failure>, Option<u64>),
    payload: &[u8],
) {
    let record = record(function, event, failure.as_ref(), version, payload);
    let heir = function.filter(|_| event.origin != Origin::DeadLetter).and_then(|function| {
        let route = function.route();
        engine.table.named((&route.tenant, &route.stead), route.dead_letter.as_deref()?)
    });
    let bytes = bytes::Bytes::from(record.to_string());
    let inherited = match &heir {
        Some(heir) => {
            // The same id: whoever is killed before the file is removed sends no second one beside the first.
            let call = Call { id: event.id.clone(), ..Call::new(bytes.clone()) };
            Box::pin(engine.events.accept(engine, heir, call, Origin::DeadLetter)).await.is_ok()
        }
        None => false,
    };
    fail_point!("functions::event.buried");
    let (spool, buried) = (engine.events.spool.clone(), event.clone());
    let kept = tokio::task::spawn_blocking(move || {
        if !inherited {
            spool.keep(&buried, &bytes)?;
        }
        spool.remove(&buried)
    });
    match kept.await {
        Ok(Ok(())) => {}
        other => tracing::error!(?other, id = event.id, "an event that failed cannot be put away"),
    }
    let to = if inherited { "is handed on" } else { "is kept in functions/spool/dead" };
    let why = failure.map_or_else(|| "it is too old".to_owned(), |failure| failure.error_type);
    tell(function, event, &format!("has failed for good ({why}) and {to}"));
}

/// What Lambda sends to a destination for failures.
fn record(
    function: Option<&Function>,
    event: &Event,
    failure: Option<&Failure>,
    version: Option<u64>,
    payload: &[u8],
) -> Value {
    let parsed = |bytes: &[u8]| {
        serde_json::from_slice(bytes).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(bytes)))
    };
    let arn = function.map(|function| environment::arn(&function.route(), event.qualifier));
    let mut record = json!({
        "version": "1.0",
        "timestamp": Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        "requestContext": {
            "requestId": event.id,
            "functionArn": arn.unwrap_or_else(|| event.function.clone()),
            "condition": if failure.is_some() { "RetriesExhausted" } else { "EventAgeExceeded" },
            "approximateInvokeCount": event.attempts,
        },
        "requestPayload": parsed(payload),
    });
    if let (Some(failure), Some(object)) = (failure, record.as_object_mut()) {
        let version = version.map(|version| version.to_string());
        let context = json!({ "statusCode": 200, "executedVersion": version, "functionError": "Unhandled" });
        object.insert("responseContext".to_owned(), context);
        object.insert("responsePayload".to_owned(), parsed(&failure.body));
    }
    record
}

/// In the function's log.
fn tell(function: Option<&Function>, event: &Event, what: &str) {
    let Some(function) = function else { return };
    function.log.write(crate::log::Line {
        at: Timestamp::now(),
        level: "warning",
        version: None,
        request_id: Some(event.id.clone()),
        stream: crate::log::Stream::Platform,
        message: format!("asynchronous event {} {what}", event.id),
        report: None,
    });
}
