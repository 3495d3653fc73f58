//! Functions that the clock calls.
//!
//! A run is an asynchronous event like any other, of the form that EventBridge sends. Which run was the last is
//! remembered in `functions/spool/schedules/<handle>`, written when the event is on the disk and before anybody works at
//! it: killed in between, the next process finds the event there, whose id follows from the run, and makes no second
//! one. Runs that fell into a time when nothing could run are, as the schedule says, left out or made up for by one,
//! that of the latest.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::sleep;

use crate::engine::Engine;
use crate::environment::REGION;
use crate::events::{Event, Origin};
use crate::fail_point;
use crate::function::Function;
use crate::invocation::Call;
use crate::route::{Missed, Route, Schedule};

/// How often it is looked what is due: a run begins at most so much late.
const LOOK: Duration = Duration::from_millis(500);
/// A run that is later than this was missed; until then the engine was only busy, or being started again.
const LATE: Duration = Duration::from_secs(60);

/// What is remembered of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Memory {
    cron: String,
    zone: String,
    /// The time of the last run, or since when the schedule holds.
    last: Timestamp,
}

/// What is to be done about a schedule now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Wait,
    /// A run of this time.
    Run(Timestamp),
    /// Runs up to this time are left out.
    Skip(Timestamp),
}

/// Calls functions when it is time, for ever.
pub(crate) async fn keep(engine: Arc<Engine>, folder: PathBuf) {
    let mut memories = HashMap::new();
    loop {
        for function in engine.table.all() {
            let route = function.route();
            if let Some(schedule) = &route.schedule
                && let Err(error) = look(&engine, &function, schedule, &folder, &mut memories).await
            {
                tracing::error!(function = route.function, %error, "a schedule was not looked at; trying again");
            }
        }
        sleep(LOOK).await;
    }
}

async fn look(
    engine: &Arc<Engine>,
    function: &Function,
    schedule: &Schedule,
    folder: &Path,
    memories: &mut HashMap<String, Memory>,
) -> Result<(), String> {
    let route = function.route();
    let path = folder.join(&route.function);
    let now = Timestamp::now();
    let memory = match memories.get(&route.function) {
        Some(memory) => memory.clone(),
        None => read(&path).map_err(|error| error.to_string())?.unwrap_or_else(|| begun(schedule, now)),
    };
    let mut next = memory.clone();
    if (&memory.cron, &memory.zone) != (&schedule.cron, &schedule.zone) {
        next = begun(schedule, now);
    }
    // As long as no version serves, runs are missed.
    let step = if route.live.is_some() { decide(schedule, next.last, now)? } else { Step::Wait };
    let mut run = None;
    match step {
        Step::Wait => {}
        Step::Skip(upto) => next.last = upto,
        Step::Run(time) => {
            run = keep_run(engine, function, call(&route, time)).await?;
            next.last = time;
        }
    }
    let mut written = Ok(());
    if next != memory || !memories.contains_key(&route.function) {
        written = write(&path, &next).map_err(|error| error.to_string());
        if written.is_ok() || run.is_some() {
            memories.insert(route.function.clone(), next);
        }
    }
    if let Some(run) = run {
        fail_point!("functions::schedule.remembered");
        engine.events.queue(engine, run);
    }
    written
}

/// Puts a run's event on the disk, unless it is there.
async fn keep_run(engine: &Arc<Engine>, function: &Function, call: Call) -> Result<Option<Event>, String> {
    if engine.events.has_run(&call.id) {
        return Ok(None);
    }
    let kept = engine.events.keep(engine, function, call, Origin::Schedule).await;
    let kept = kept.map_err(|refused| refused.to_string())?;
    fail_point!("functions::schedule.called");
    Ok(Some(kept))
}

fn begun(schedule: &Schedule, now: Timestamp) -> Memory {
    Memory { cron: schedule.cron.clone(), zone: schedule.zone.clone(), last: now }
}

/// What is due of a schedule whose last run was at `last`.
fn decide(schedule: &Schedule, last: Timestamp, now: Timestamp) -> Result<Step, String> {
    let cron = Cron::from_str(&schedule.cron).map_err(|error| format!("`{}`: {error}", schedule.cron))?;
    let zone = TimeZone::get(&schedule.zone).map_err(|error| error.to_string())?;
    let after = |moment: Timestamp| -> Result<Timestamp, String> {
        let found: Zoned = cron
            .find_next_occurrence(&moment.to_zoned(zone.clone()), false)
            .map_err(|error| format!("`{}`: {error}", schedule.cron))?;
        Ok(found.timestamp())
    };
    let first = after(last)?;
    if first > now {
        return Ok(Step::Wait);
    }
    let late = jiff::SignedDuration::try_from(LATE).unwrap_or_default();
    let latest = {
        let found: Zoned = cron
            .find_previous_occurrence(&now.to_zoned(zone.clone()), true)
            .map_err(|error| format!("`{}`: {error}", schedule.cron))?;
        found.timestamp().max(first)
    };
    let is_missed = now.duration_since(latest) > late;
    Ok(match schedule.missed {
        _ if !is_missed => Step::Run(latest),
        Missed::Once => Step::Run(latest),
        Missed::Skip => Step::Skip(latest),
    })
}

/// EventBridge's event. The id follows from the run.
fn call(route: &Route, time: Timestamp) -> Call {
    let hash = Sha256::digest(format!("{}\0{time}", route.function));
    let mut bytes = [0; 16];
    bytes.iter_mut().zip(hash).for_each(|(place, byte)| *place = byte);
    let id = uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string();
    let account = &route.tenant;
    let event = json!({
        "version": "0",
        "id": id,
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": account,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        "region": REGION,
        "resources": [format!("arn:aws:events:{REGION}:{account}:rule/{}", route.function)],
        "detail": {},
    });
    Call { id, ..Call::new(event.to_string().into()) }
}

fn read(path: &Path) -> io::Result<Option<Memory>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, memory: &Memory) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(memory)?)?;
    std::fs::File::open(&new)?.sync_all()?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn decided(cron: &str, missed: Missed, last: &str, now: &str) -> Step {
        let schedule = Schedule { cron: cron.to_owned(), zone: "Europe/Berlin".to_owned(), missed };
        decide(&schedule, moment(last), moment(now)).unwrap()
    }

    #[test]
    fn a_run_is_due_at_its_minute_in_its_zone() {
        let at = |now| decided("30 9 * * *", Missed::Once, "2026-01-10T12:00:00Z", now);
        assert_eq!(at("2026-01-11T08:29:59Z"), Step::Wait);
        assert_eq!(at("2026-01-11T08:30:00Z"), Step::Run(moment("2026-01-11T08:30:00Z")));
        // In summer the same hour of the day is another moment.
        let at = |now| decided("30 9 * * *", Missed::Once, "2026-07-10T12:00:00Z", now);
        assert_eq!(at("2026-07-11T07:30:01Z"), Step::Run(moment("2026-07-11T07:30:00Z")));
    }

    #[test]
    fn missed_runs_are_made_up_for_once_or_not_at_all() {
        let at = |missed| decided("0 * * * *", missed, "2026-01-10T08:00:00Z", "2026-01-10T12:30:00Z");
        assert_eq!(at(Missed::Once), Step::Run(moment("2026-01-10T12:00:00Z")));
        assert_eq!(at(Missed::Skip), Step::Skip(moment("2026-01-10T12:00:00Z")));
        let at = |missed| decided("0 * * * *", missed, "2026-01-10T08:00:00Z", "2026-01-10T09:00:20Z");
        assert_eq!(at(Missed::Skip), Step::Run(moment("2026-01-10T09:00:00Z")));
    }

    #[test]
    fn an_hour_that_does_not_exist_or_exists_twice_costs_no_run_and_doubles_none() {
        // On 29 March 2026 02:30 does not exist in Berlin, on 25 October it exists twice.
        let mut last = moment("2026-03-28T12:00:00Z");
        let mut runs = Vec::new();
        let schedule =
            Schedule { cron: "30 2 * * *".into(), zone: "Europe/Berlin".into(), missed: Missed::Once };
        for hour in 0..48 {
            let now = moment("2026-03-28T12:00:00Z") + jiff::SignedDuration::from_hours(hour);
            if let Step::Run(time) = decide(&schedule, last, now).unwrap() {
                runs.push(time);
                last = time;
            }
        }
        assert_eq!(runs.len(), 2, "{runs:?}");
    }

    #[test]
    fn what_is_no_schedule_is_told() {
        let bad = |cron: &str, zone: &str| {
            let schedule = Schedule { cron: cron.into(), zone: zone.into(), missed: Missed::Once };
            decide(&schedule, moment("2026-01-10T08:00:00Z"), moment("2026-01-10T08:00:00Z")).is_err()
        };
        assert!(bad("every day", "UTC") && bad("0 0 * * *", "Mars/Base") && !bad("0 0 * * *", "UTC"));
    }

    #[test]
    fn a_run_made_again_has_the_same_id() {
        let route = crate::route::tests::route("f1");
        let time = moment("2026-01-10T08:00:00Z");
        assert_eq!(call(&route, time).id, call(&route, time).id);
        assert_ne!(call(&route, time).id, call(&route, moment("2026-01-10T08:01:00Z")).id);
    }
}
