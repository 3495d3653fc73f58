//! The workers of one version of a function: as many as calls need, no more than declared, none when nobody calls.
//!
//! A call goes to the worker that rested last, so that those in excess have time to become old. Where none rests, it
//! queues, and a worker is started for it unless one is starting already or about to be free: a worker that has
//! answered asks for the next invocation within a moment, and a client that calls again at once must not cost a cold
//! start. Whoever gets free takes the front of the queue.
//!
//! A queue is bounded in length and in time. Beyond either a call is told Lambda's 429: a caller that waits holds a
//! connection, and one that is refused can do something else. A call for which a worker is being started waits for
//! that, however long.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use crate::database::Databases;
use crate::edition::Edition;
use crate::engine::Engine;
use crate::inspection::Inspection;
use crate::invocation::{Answer, Call, Outcome, Refused};
use crate::log::FunctionLog;
use crate::output::Closing;
use crate::route::Workers;
use crate::start::{self, Unstarted};
use crate::usage::Tally;
use crate::worker::{Job, State, Worker};

/// A worker that has answered asks again within less, unless its code still does something.
const SETTLING: Duration = Duration::from_millis(5);

/// See above.
pub(crate) struct Pool {
    pub(crate) engine: Arc<Engine>,
    pub(crate) edition: Arc<Edition>,
    pub(crate) log: Arc<FunctionLog>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) databases: Arc<Databases>,
    /// Its one worker is there to be inspected.
    pub(crate) inspection: Option<Arc<Inspection>>,
    crew: Mutex<Crew>,
    /// Somebody may have gone.
    changed: Notify,
}

#[derive(Default)]
struct Crew {
    /// All that are ready or were.
    workers: Vec<Arc<Worker>>,
    /// Those that rest, and since when; the last came last.
    idle: Vec<(Arc<Worker>, Instant)>,
    starting: usize,
    waiting: VecDeque<Box<Job>>,
    /// Workers that were there when the version was taken out of service end with what they are doing.
    leaving: Vec<Arc<Worker>>,
    /// One was ready once, and none was found broken since.
    ready: bool,
    /// How often workers had to be started anew; one that began to start before the last time is out of date.
    renewals: u64,
    /// The version is no more: who waits is served, and then everybody goes.
    retired: bool,
    /// Nothing is started any more.
    closed: bool,
}

impl Crew {
    /// Whether the version is no more, and nobody waits for an answer of it.
    fn is_over(&self) -> bool {
        self.retired && self.waiting.is_empty()
    }
}

impl Pool {
    pub(crate) fn new(
        engine: Arc<Engine>,
        edition: Arc<Edition>,
        log: Arc<FunctionLog>,
        tally: Arc<Tally>,
        databases: Arc<Databases>,
        inspection: Option<Arc<Inspection>>,
    ) -> Arc<Self> {
        let crew = Mutex::default();
        let changed = Notify::new();
        Arc::new(Self { engine, edition, log, tally, databases, inspection, crew, changed })
    }

    /// Has a call worked at, and waits for what comes of it. Whoever stops waiting does not stop the work.
    pub(crate) async fn call(self: &Arc<Self>, call: Call) -> Result<Outcome, Refused> {
        let id = call.id.clone();
        let (reply, mut answer) = oneshot::channel();
        let queued = self.submit(Box::new(Job { call, reply, unread: 0 }))?;
        let lost = || Refused::Unavailable("the engine is stopping; try again".to_owned());
        // While somebody looks at one call, the others have the time that he takes.
        if queued && self.inspection.is_none() {
            match timeout(self.engine.limits.queue_wait, &mut answer).await {
                Ok(answered) => return answered.unwrap_or_else(|_| Err(lost())),
                Err(_) if self.give_up(&id) => {
                    self.tally.throttled();
                    return Err(Refused::Busy);
                }
                // A worker has it, or is being started for it.
                Err(_) => {}
            }
        }
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    /// Answers whether it has to wait.
    fn submit(self: &Arc<Self>, mut job: Box<Job>) -> Result<bool, Refused> {
        let mut crew = self.lock();
        if crew.closed {
            return Err(removed());
        }
        while let Some((worker, _)) = crew.idle.pop() {
            match worker.give(job) {
                Ok(()) => return Ok(false),
                // It has just ended.
                Err(back) => job = back,
            }
        }
        if crew.waiting.len() >= self.engine.limits.queue {
            self.tally.throttled();
            return Err(Refused::Busy);
        }
        crew.waiting.push_back(job);
        self.scale(&mut crew, true);
        Ok(true)
    }

    /// Takes a call out of the queue, unless a worker has it or is being started for it.
    fn give_up(&self, id: &str) -> bool {
        let mut crew = self.lock();
        let at = crew.waiting.iter().position(|job| job.call.id == id);
        match at {
            Some(at) if at >= crew.starting => crew.waiting.remove(at).is_some(),
            _ => false,
        }
    }

    /// Starts as many workers as those who wait need; one that is about to be free counts for one, at first.
    fn scale(self: &Arc<Self>, crew: &mut Crew, patient: bool) {
        let mut coming = crew.starting;
        let mut settling = 0;
        if patient && crew.waiting.len() > coming {
            let answered = |worker: &&Arc<Worker>| matches!(*worker.lock(), State::Answered);
            settling = crew.workers.iter().filter(answered).count();
            coming += settling;
        }
        let most = usize::try_from(self.concurrency()).unwrap_or(usize::MAX);
        while crew.waiting.len() > coming && crew.workers.len() + crew.starting < most && !crew.closed {
            crew.starting += 1;
            coming += 1;
            let pool = self.clone();
            tokio::spawn(async move { pool.start(None).await });
        }
        if settling > 0 {
            let pool = self.clone();
            tokio::spawn(async move {
                sleep(SETTLING).await;
                pool.scale(&mut pool.lock(), false);
            });
        }
    }

    fn concurrency(&self) -> u32 {
        if self.inspection.is_some() { 1 } else { self.edition.version.concurrency.max(1) }
    }

    /// Starts one worker; where that fails, the front of the queue is told why.
    async fn start(self: Arc<Self>, told: Option<oneshot::Sender<Result<(), Unstarted>>>) {
        let renewals = self.lock().renewals;
        let started = start::start(&self).await;
        let mut crew = self.lock();
        crew.starting = crew.starting.saturating_sub(1);
        let result = match started {
            Ok(worker) => {
                crew.ready = true;
                if crew.closed || crew.renewals != renewals || crew.is_over() {
                    self.engine.stop_worker(&worker);
                } else {
                    crew.workers.push(worker.clone());
                    self.employ(&mut crew, &worker);
                }
                Ok(())
            }
            Err(unstarted) => {
                crew.ready &= !matches!(unstarted, Unstarted::Broken { .. });
                if told.is_none()
                    && let Some(job) = crew.waiting.pop_front()
                {
                    self.refuse(*job, &unstarted);
                }
                Err(unstarted)
            }
        };
        self.scale(&mut crew, false);
        drop(crew);
        self.changed.notify_waiters();
        if let Some(told) = told {
            let _ = told.send(result);
        }
    }

    fn refuse(&self, job: Job, unstarted: &Unstarted) {
        let answer = match unstarted {
            Unstarted::Broken { failure, .. } => {
                self.tally.invocation(Duration::ZERO, self.edition.version.memory_mib, true);
                let answer = Answer::Failed(failure.clone().of_request(&job.call.id));
                Ok(Outcome { answer, tail: None, version: self.edition.number })
            }
            Unstarted::Unavailable(why) => Err(Refused::Unavailable(why.clone())),
        };
        let _ = job.reply.send(answer);
    }

    /// Gives a worker that rests the front of the queue, or nothing to do.
    fn employ(self: &Arc<Self>, crew: &mut Crew, worker: &Arc<Worker>) {
        while let Some(job) = crew.waiting.pop_front() {
            if job.reply.is_closed() {
                // Nobody waits for it any more, and nobody has begun.
                continue;
            }
            if let Err(back) = worker.give(job) {
                crew.waiting.push_front(back);
                return;
            }
            return;
        }
        crew.idle.push((worker.clone(), Instant::now()));
        // Of a version that is no more nobody else will call.
        if crew.retired {
            let resting = std::mem::take(&mut crew.idle);
            let pool = self.clone();
            // Not while the crew is held.
            tokio::spawn(async move { resting.iter().for_each(|(worker, _)| pool.dismiss(worker)) });
        }
    }

    /// A worker asks for its next invocation.
    pub(crate) fn rested(self: &Arc<Self>, worker: &Arc<Worker>) {
        let mut crew = self.lock();
        let leaves =
            crew.closed || crew.is_over() || crew.leaving.iter().any(|leaving| Arc::ptr_eq(leaving, worker));
        if leaves {
            drop(crew);
            self.dismiss(worker);
        } else {
            self.employ(&mut crew, worker);
        }
    }

    /// A worker ended before it had read an invocation: another one gets it, before all that wait. The worker is still
    /// counted here, and [`Self::gone`] finds another.
    pub(crate) fn again(&self, job: Box<Job>) {
        let mut crew = self.lock();
        if crew.closed {
            let _ = job.reply.send(Err(removed()));
        } else {
            crew.waiting.push_front(job);
        }
    }

    /// A worker is no more.
    pub(crate) fn gone(self: &Arc<Self>, worker: &Worker) {
        let mut crew = self.lock();
        let is_another = |other: &Arc<Worker>| !std::ptr::eq(Arc::as_ptr(other), worker);
        crew.workers.retain(is_another);
        crew.leaving.retain(is_another);
        crew.idle.retain(|(other, _)| is_another(other));
        self.scale(&mut crew, false);
        drop(crew);
        self.changed.notify_waiters();
    }

    fn dismiss(self: &Arc<Self>, worker: &Arc<Worker>) {
        worker.end();
        self.engine.stop_worker(worker);
        self.gone(worker);
    }

    /// Counts an invocation that has ended.
    pub(crate) fn count(&self, closing: &Closing) {
        self.tally.invocation(closing.duration, self.edition.version.memory_mib, closing.failure.is_some());
    }

    /// Brings a worker up, unless one is there.
    pub(crate) async fn prepare(self: &Arc<Self>) -> Result<(), Unstarted> {
        let (told, result) = oneshot::channel();
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut crew = self.lock();
                if crew.ready && !crew.workers.is_empty() {
                    return Ok(());
                }
                if self.inspection.is_none() || crew.starting == 0 {
                    crew.starting += 1;
                    break;
                }
            }
            // There must not be two to be inspected.
            changed.await;
        }
        let pool = self.clone();
        tokio::spawn(async move { pool.start(Some(told)).await });
        result.await.unwrap_or_else(|_| Err(Unstarted::Unavailable("the engine is stopping".to_owned())))
    }

    /// Lets one worker go, once it has finished what it does.
    pub(crate) fn release(self: &Arc<Self>, worker: &Arc<Worker>) {
        let mut crew = self.lock();
        let resting = crew.idle.len();
        crew.idle.retain(|(idle, _)| !Arc::ptr_eq(idle, worker));
        let rested = crew.idle.len() < resting;
        crew.leaving.push(worker.clone());
        drop(crew);
        if rested {
            self.dismiss(worker);
        }
    }

    /// Lets every worker go that is there now, once it has finished what it does; those who wait are served first.
    pub(crate) fn drain(self: &Arc<Self>) {
        let mut crew = self.lock();
        let resting = std::mem::take(&mut crew.idle);
        crew.leaving = crew.workers.clone();
        drop(crew);
        for (worker, _) in resting {
            self.dismiss(&worker);
        }
    }

    /// What workers are started with has changed: none that is there now gets another call.
    pub(crate) fn renew(self: &Arc<Self>) {
        self.lock().renewals += 1;
        self.drain();
    }

    /// The version is no more. Calls that have come to it are answered by it; then everybody goes for good, and whoever
    /// keeps the pool until then may let it go ([`Pool::emptied`]).
    pub(crate) fn retire(self: &Arc<Self>) {
        let resting = {
            let mut crew = self.lock();
            crew.retired = true;
            std::mem::take(&mut crew.idle)
        };
        for (worker, _) in resting {
            self.dismiss(&worker);
        }
    }

    /// Lets everybody go for good; who waits is told, as nobody will come.
    pub(crate) fn close(self: &Arc<Self>) {
        for job in self.shut() {
            let _ = job.reply.send(Err(removed()));
        }
        self.drain();
    }

    fn shut(&self) -> VecDeque<Box<Job>> {
        let mut crew = self.lock();
        crew.closed = true;
        std::mem::take(&mut crew.waiting)
    }

    /// The same; those who wait go on waiting in another pool.
    pub(crate) fn close_for(self: &Arc<Self>, other: &Arc<Self>) {
        let waiting = self.shut();
        self.drain();
        for job in waiting {
            // One that finds no place there is told so, its reply being dropped.
            let _ = other.submit(job);
        }
    }

    /// One that is there.
    pub(crate) fn any(&self) -> Option<Arc<Worker>> {
        self.lock().workers.last().cloned()
    }

    /// Waits until nobody works here.
    pub(crate) async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let crew = self.lock();
                if crew.workers.is_empty() && crew.starting == 0 && crew.waiting.is_empty() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// Lets go who has rested too long.
    pub(crate) fn tidy(self: &Arc<Self>, idle: Duration) {
        let mut crew = self.lock();
        let now = Instant::now();
        let old = crew.idle.iter().take_while(|(_, since)| now.duration_since(*since) >= idle).count();
        let surplus: Vec<_> = crew.idle.drain(..old).collect();
        drop(crew);
        for (worker, _) in surplus {
            self.dismiss(&worker);
        }
    }

    /// How many work and how many wait for work.
    pub(crate) fn workers(&self) -> Workers {
        let crew = self.lock();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let idle = crew.idle.len();
        Workers { busy: count(crew.workers.len().saturating_sub(idle)), idle: count(idle) }
    }

    /// Whether a worker was ready, and none was broken since.
    pub(crate) fn is_ready(&self) -> bool {
        self.lock().ready
    }

    fn lock(&self) -> MutexGuard<'_, Crew> {
        self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn removed() -> Refused {
    Refused::Unavailable("the function was removed".to_owned())
}
