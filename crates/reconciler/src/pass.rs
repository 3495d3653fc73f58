//! One pass over one component, under one lease: observe, plan, act, until nothing is left to do for now.

use std::sync::Arc;
use std::time::{Duration, Instant};

use component::{
    Condition, ConditionKind, Decision, Difference, Driver, DriverError, Observed, Phase, Standing, Status,
    Step, drift, plan,
};
use jiff::Timestamp;
use rand::RngExt;
use serde_json::json;
use store::Store;
use store::journal::{Actor, Entry, Outcome};
use store::lease::{Lease, Record};

use crate::fail_point;

/// Between two looks at a component at which nothing is to be done, milliseconds; up to a quarter less, so
/// that a thousand servers are not looked at in one breath.
const SETTLED_MS: u64 = 60_000;
/// The same while its first backup is under way, milliseconds.
const FIRST_BACKUP_MS: u64 = 1_000;
/// While a release is tried: it may have been returned by itself, and whoever tries it looks.
const TRIED_MS: u64 = 5_000;
/// While a transfer goes on: what its process says of it is told by these looks.
const FOLLOWED_MS: u64 = 20_000;
/// A wait up to this long is waited out inside the pass, milliseconds.
const SHORT_MS: u64 = 50;
/// How long a pass may go on waiting for something short before it gives its lease back.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two passes that wait for something overdue, milliseconds.
const OVERDUE_MS: u64 = 2_000;
/// An act that has to be repeated more often than this is not taking effect.
const REPEATS: u32 = 5;
/// An observation or act that takes longer is given up (the lease lasts longer than this).
const ACT_LIMIT: Duration = Duration::from_secs(20);
/// From how many failures in a row on a person is told.
const TELL_AFTER: i32 = 3;

/// How a pass ended.
enum End {
    Settled,
    Gone,
    Again { ms: u64, condition: Option<Condition> },
    Blocked(Condition),
    Failed(String),
    Overtaken,
}

struct Pass {
    store: Store,
    driver: Arc<dyn Driver>,
    lease: Lease,
    status: Status,
    step: Option<String>,
    /// What differed though nobody asked.
    drift: Vec<Difference>,
    lines: Vec<Entry>,
}

/// Runs a pass and records what came of it.
pub(crate) async fn run(store: Store, driver: Arc<dyn Driver>, lease: Lease) {
    let status = lease.component.status.clone();
    let name = format!("{}/{} {}", lease.tenant.1, lease.stead, lease.component.name);
    let mut pass = Pass { store, driver, lease, status, step: None, drift: Vec::new(), lines: Vec::new() };
    let end = pass.go().await;
    let driver = Arc::clone(&pass.driver);
    let target = pass.lease.target.clone();
    if let Err(error) = pass.finish(end).await {
        // Fenced or disconnected: the component stays due, and whoever claims it next starts from what is.
        tracing::warn!(component = name, %error, "what was found could not be recorded");
    }
    driver.release(&target);
}

impl Pass {
    fn deleting(&self) -> bool {
        self.lease.component.deletion_requested_at.is_some()
    }

    /// Whether this very spec was brought about before.
    fn was_settled(&self) -> bool {
        let component = &self.lease.component;
        component.observed_generation == component.generation && self.status.phase == Phase::Ready
    }

    /// Whether its backups have not been tried for as long as its spec says; the first time counts from when it was
    /// made.
    fn drill_due(&self) -> bool {
        let last = self.status.drill.as_ref().map(|drill| drill.at).or(self.status.ready_at);
        let Some(every) = self.lease.component.spec.drill_s() else { return false };
        let every = i64::try_from(every).unwrap_or(i64::MAX);
        last.is_some_and(|last| Timestamp::now().duration_since(last).as_secs() >= every)
    }

    async fn go(&mut self) -> End {
        let began = Instant::now();
        let mut last: Option<Step> = None;
        let mut repeats = 0;
        let mut first = true;
        loop {
            let observed = match self.observe().await {
                Ok(observed) => observed,
                Err(end) => return end,
            };
            if std::mem::take(&mut first) {
                self.note_drift(&observed);
            }
            let standing = Standing {
                deleting: self.deleting(),
                used: self.lease.used,
                provisioned: self.status.provisioned_at.is_some(),
                drill_due: self.drill_due(),
                settled: self.was_settled(),
            };
            self.driver.report(&self.lease.target, &observed, &mut self.status);
            match plan(&self.lease.component.spec, &observed, standing) {
                Decision::Settled => return End::Settled,
                Decision::Gone => return End::Gone,
                Decision::Blocked(condition) => return End::Blocked(condition),
                Decision::Wait { again_ms, condition: None, .. }
                    if again_ms <= SHORT_MS && began.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(again_ms)).await;
                    if let Some(step) = self.step.clone()
                        && self.store.renew(&self.lease, &step).await.is_err()
                    {
                        return End::Overtaken;
                    }
                }
                Decision::Wait { again_ms, condition, reason } => {
                    // A short wait that went on for long is no longer a matter of moments.
                    let overdue = condition.is_none() && again_ms <= SHORT_MS;
                    let told = || Condition {
                        kind: ConditionKind::Unreachable,
                        message: format!(
                            "{reason}, for more than {} s now; it is waited for",
                            PATIENCE.as_secs()
                        ),
                    };
                    let condition = if overdue { Some(told()) } else { condition };
                    self.step = Some(reason);
                    return End::Again { ms: again_ms.max(if overdue { OVERDUE_MS } else { 0 }), condition };
                }
                Decision::Act(step) => {
                    repeats = if last.as_ref() == Some(&step) { repeats + 1 } else { 0 };
                    if repeats > REPEATS {
                        return End::Failed(format!(
                            "the step `{}` was done {repeats} times and nothing came of it",
                            step.label()
                        ));
                    }
                    if let Err(end) = self.act(&step).await {
                        return end;
                    }
                    last = Some(step);
                }
            }
        }
    }

    async fn observe(&self) -> Result<Observed, End> {
        match tokio::time::timeout(ACT_LIMIT, self.driver.observe(&self.lease.target)).await {
            Ok(Ok(observed)) => Ok(observed),
            Ok(Err(error)) => Err(Self::failed(error)),
            Err(_) => Err(End::Failed("looking at the component took too long and was given up".into())),
        }
    }

    async fn act(&mut self, step: &Step) -> Result<(), End> {
        let label = step.label();
        tracing::debug!(component = %self.lease.component.name, handle = self.lease.component.id.handle(), step = label);
        // Also the fence: after an edit, or when the lease ran out, nothing more is done on old knowledge.
        if self.store.renew(&self.lease, &label).await.is_err() {
            return Err(End::Overtaken);
        }
        self.step = Some(label.clone());
        fail_point!("reconciler::before-act");
        for _ in 0..times() {
            self.effect(step, &label).await?;
        }
        fail_point!("reconciler::after-act");
        if let Some(after) = step.on_record() {
            self.note("component.step", Some(label), json!(null), after);
        }
        Ok(())
    }

    /// The act itself, with the lease kept up while it goes on. A migration may take as long as it takes.
    async fn effect(&self, step: &Step, label: &str) -> Result<(), End> {
        let mut act = self.driver.act(&self.lease.target, step);
        loop {
            match tokio::time::timeout(ACT_LIMIT, &mut act).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => return Err(Self::failed(error)),
                Err(_) if !step.is_long() => {
                    return Err(End::Failed(format!("the step `{label}` took too long and was given up")));
                }
                Err(_) if self.store.renew(&self.lease, label).await.is_err() => return Err(End::Overtaken),
                Err(_) => {}
            }
        }
    }

    fn failed(error: DriverError) -> End {
        match error {
            DriverError::Unavailable(why) => End::Failed(why),
            DriverError::Refused(condition) => End::Blocked(condition),
        }
    }

    fn note(
        &mut self,
        action: &'static str,
        reason: Option<String>,
        before: serde_json::Value,
        after: serde_json::Value,
    ) {
        let line = Entry { reason, before, after, ..self.line(action) };
        self.lines.push(line);
    }

    fn line(&self, action: &'static str) -> Entry {
        Entry {
            tenant: Some(self.lease.tenant.clone()),
            stead: Some(self.lease.stead.to_string()),
            component: Some(self.lease.component.name.to_string()),
            ..Entry::new(&Actor::stead(), action, Outcome::Noted)
        }
    }

    /// Puts on record what differs though nobody asked: only of a component that was as wanted before.
    fn note_drift(&mut self, observed: &Observed) {
        if self.deleting() || !self.was_settled() {
            return;
        }
        self.drift = drift(&self.lease.component.spec, observed);
        for found in self.drift.clone() {
            tracing::warn!(component = %self.lease.component.name, field = found.field, "drift");
            // What nobody asked for is a change too: from what is wanted to what was found.
            let (was, is) = (json!({ &found.field: found.after }), json!({ &found.field: found.before }));
            self.note("drift.found", None, was, is);
        }
    }

    async fn finish(mut self, end: End) -> Result<(), store::Error> {
        if let End::Gone = end {
            let removed = self.line("component.removed");
            self.lines.push(removed);
            fail_point!("reconciler::before-gone");
            return self.store.record_gone(self.lease, &self.lines).await;
        }
        if self.status.drill != self.lease.component.status.drill {
            let drilled = self.status.drill.clone();
            let why = drilled.as_ref().and_then(|drill| drill.error.clone());
            let action = if why.is_some() { "backup.drill_failed" } else { "backup.drilled" };
            self.note(action, why, json!(null), json!(drilled));
        }
        let before = std::mem::take(&mut self.status.conditions);
        self.status.observed_at = Some(Timestamp::now());
        let deleting = self.deleting();
        let unready = if deleting {
            Phase::Deleting
        } else if self.status.ready_at.is_some() {
            Phase::Updating
        } else {
            Phase::Creating
        };
        self.status.phase = unready;
        let (mut again_ms, mut error, mut fail_operation) = (0, None, None);
        let settled = matches!(end, End::Settled);
        match end {
            End::Settled | End::Gone => {
                let first = self.status.backups.as_ref().is_some_and(|backups| backups.oldest.is_none());
                let tried = self.status.canary.as_ref().is_some_and(|canary| canary.returned.is_none());
                again_ms = if first {
                    FIRST_BACKUP_MS
                } else if tried {
                    TRIED_MS
                } else if self.status.transfer.is_some() {
                    FOLLOWED_MS
                } else {
                    rand::rng().random_range(SETTLED_MS * 3 / 4..=SETTLED_MS)
                };
                self.settle();
            }
            End::Overtaken => {}
            End::Again { ms, condition } => {
                again_ms = ms;
                if let Some(condition) = condition {
                    if !deleting {
                        self.status.phase = Phase::Blocked;
                    }
                    if condition.kind == ConditionKind::PortTaken && self.status.ready_at.is_none() {
                        // Nobody was told of the port yet: take another.
                        if self.store.next_port(&self.lease).await? {
                            again_ms = 0;
                        }
                    } else {
                        fail_operation = Some(condition.message.clone());
                    }
                    self.status.conditions.push(condition);
                }
            }
            End::Blocked(condition) => {
                again_ms = SETTLED_MS;
                fail_operation = Some(condition.message.clone());
                if !deleting {
                    self.status.phase = Phase::Blocked;
                }
                self.status.conditions.push(condition);
            }
            End::Failed(why) => {
                tracing::warn!(component = %self.lease.component.name, why, attempt = self.lease.attempt);
                again_ms = backoff_ms(self.lease.attempt);
                if self.lease.attempt + 1 >= TELL_AFTER {
                    self.status
                        .conditions
                        .push(Condition { kind: ConditionKind::DriverFailed, message: why.clone() });
                }
                error = Some(why);
            }
        }
        self.driver.conditions(&self.lease.target, &mut self.status);
        self.note_conditions(&before);
        let step = if settled { None } else { self.step.take() };
        let record =
            Record { status: self.status, settled, step, again_ms, error, fail_operation, lines: self.lines };
        self.store.record(self.lease, record).await
    }

    fn settle(&mut self) {
        self.status.phase = Phase::Ready;
        if self.status.ready_at.is_none() {
            self.status.ready_at = self.status.observed_at;
            self.note("component.ready", None, json!(null), json!({ "version": self.status.version }));
        } else if self.lease.component.observed_generation < self.lease.component.generation {
            self.note("component.updated", None, json!(null), json!(null));
        }
        // Found in this pass, or in an earlier one that could not finish.
        let earlier = std::mem::take(&mut self.status.drift);
        for repaired in earlier.into_iter().chain(std::mem::take(&mut self.drift)) {
            let field = repaired.field;
            self.note(
                "drift.repaired",
                None,
                json!({ &field: repaired.before }),
                json!({ &field: repaired.after }),
            );
        }
    }

    /// Conditions that came and went are events.
    fn note_conditions(&mut self, before: &[Condition]) {
        let now = self.status.conditions.clone();
        for raised in now.iter().filter(|condition| !before.iter().any(|b| b.kind == condition.kind)) {
            self.note("condition.raised", Some(raised.message.clone()), json!(null), json!(raised.kind));
        }
        for cleared in before.iter().filter(|condition| !now.iter().any(|n| n.kind == condition.kind)) {
            self.note("condition.cleared", Some(cleared.message.clone()), json!(cleared.kind), json!(null));
        }
        if !self.drift.is_empty() {
            self.status.drift = std::mem::take(&mut self.drift);
        }
    }
}

/// How often each act is done: twice where a test asks for it, which must make no difference.
fn times() -> u32 {
    fail::fail_point!("reconciler::twice", |_| 2);
    1
}

/// 100 ms, doubling to 30 s.
fn backoff_ms(attempt: i32) -> u64 {
    let doublings = u32::try_from(attempt.clamp(0, 9)).unwrap_or(9);
    (100_u64 << doublings).min(30_000)
}
