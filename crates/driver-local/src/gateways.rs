//! The gateway of the host, and how another takes its place without a dropped session.
//!
//! Each gateway is a unit of its own: `gateway`, and after it `gateway-2`, `gateway-3` and so on, each with its
//! number as rank. To replace one, the next is declared and started; it takes the place of the one in force by
//! itself (`gateway::handover`), which then drains. Once it serves, those before it are declared *retired*: the
//! keeper lets them end by themselves and starts them no more. What has ended is forgotten.
//!
//! A look goes on wherever an earlier one was killed. Between the two declarations both gateways are wanted, and
//! may be started in any order: one of a lower rank never takes the place of a higher one, so at most it waits.

use std::collections::BTreeMap;
use std::time::Duration;

use component::DriverError;
use gateway::FIRST_RANK;
use gateway::route::Status;
use keeper::wire::{Limits, Name, Restart, Runs, Stop, StopSignal, Unit, UnitState, Wanted};
use tokio::time::{Instant, sleep, timeout};

use crate::{Error, Local, files};

/// How long a new one may take to its place. It asks the one in force for half a minute.
const TAKE_OVER: Duration = Duration::from_secs(60);
/// How long one that serves may take to say so.
const ANSWER: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// How one that was started ended up.
enum Attempt {
    Serves(Box<Status>),
    /// It has gone; why.
    Failed(String),
}

fn name(rank: u64) -> Result<Name, Error> {
    let text = if rank == FIRST_RANK { "gateway".to_owned() } else { format!("gateway-{rank}") };
    Name::parse(text).map_err(|error| Error::Gateway(error.to_string()))
}

/// The rank of a unit by its name.
fn rank(unit: &str) -> Option<u64> {
    match unit.strip_prefix("gateway") {
        Some("") => Some(FIRST_RANK),
        Some(number) => number.strip_prefix('-')?.parse().ok().filter(|rank| *rank > FIRST_RANK),
        None => None,
    }
}

/// What is declared of a gateway.
fn wanted(rank: u64) -> Result<Unit, Error> {
    Ok(Unit {
        name: name(rank)?,
        generation: 1,
        wanted: Wanted::Running,
        runs: Runs::Gateway,
        args: if rank == FIRST_RANK { Vec::new() } else { vec!["--rank".to_owned(), rank.to_string()] },
        env: files::environment(),
        limits: Limits::default(),
        stop: Stop { signal: StopSignal::Term, timeout_ms: 10_000 },
        restart: Restart::Always,
        sleeps: false,
    })
}

fn failed(error: DriverError) -> Error {
    Error::Gateway(error.to_string())
}

impl Local {
    /// Has a gateway run, with the certificate that is in place. One that serves is left alone, also where it is
    /// of another binary or declaration: [`Local::renew_gateway`] replaces it.
    ///
    /// # Errors
    /// When the keeper does not start it.
    pub async fn gateway(&self) -> Result<(), Error> {
        let declared = self.gateways();
        let in_force = self.gateway_status().await.map(|status| status.rank);
        let newest = declared.iter().rfind(|(_, unit)| unit.wanted == Wanted::Running);
        let unit = match (in_force.and_then(|rank| declared.get(&rank)), newest) {
            // Whatever was declared of it since: it is wanted.
            (Some(serving), _) => Unit { wanted: Wanted::Running, ..serving.clone() },
            (None, Some((rank, _))) => wanted(*rank)?,
            (None, None) => wanted(declared.keys().max().map_or(FIRST_RANK, |last| last + 1))?,
        };
        self.ensure(unit).await.map_err(failed)
    }

    /// Has the gateway of the binary that the keeper runs serve, as it is declared now: where another one does,
    /// or always with `anyway`, the next takes its place. Says who serves, and who still drains.
    ///
    /// # Errors
    /// [`Error::Gateway`] when the one in force kept its place, and why; it serves on.
    pub async fn renew_gateway(&self, anyway: bool) -> Result<Status, Error> {
        let Some(in_force) = self.gateway_in_force().await else {
            return Err(Error::Gateway("none serves now; start one with `stead server`".to_owned()));
        };
        let program = self.keeper(|keeper| Ok(keeper.host()?.program)).await.map_err(failed)?;
        if in_force.rank == 0 || program.is_empty() {
            return Err(Error::Gateway(
                "gateway or keeper are of a version that knows no hand-over; `stead server stop --all` and \
                 `stead server` replace them"
                    .to_owned(),
            ));
        }
        let mut declared = self.gateways();
        let serving = declared.entry(in_force.rank).or_insert(wanted(in_force.rank)?);
        if serving.wanted == Wanted::Retired {
            // It was given up, took over all the same, and whoever had started it was killed.
            serving.wanted = Wanted::Running;
            self.run_unit(serving).await.map_err(failed)?;
        }
        let as_wanted = *serving == Unit { generation: serving.generation, ..wanted(in_force.rank)? };
        let newest = declared.iter().rfind(|(_, unit)| unit.wanted == Wanted::Running);
        let newest = newest.map_or(in_force.rank, |(rank, _)| *rank);
        let next = if newest > in_force.rank {
            // An earlier look was killed before it knew how this went.
            newest
        } else if anyway || !as_wanted || in_force.program != program {
            tracing::info!(from = in_force.rank, "replacing the gateway");
            declared.keys().fold(in_force.rank, |last, rank| last.max(*rank)) + 1
        } else {
            self.retire_gateways(in_force.rank).await?;
            return Ok(in_force);
        };
        let status = self.start_gateway(next).await?;
        crate::fail_point!("driver-local::gateway-replaced");
        self.retire_gateways(next).await?;
        Ok(status)
    }

    /// Starts the gateway of a rank and waits until it has the place of the one in force.
    async fn start_gateway(&self, rank: u64) -> Result<Status, Error> {
        let mut unit = wanted(rank)?;
        unit.generation = self.declaration(&unit).1;
        self.run_unit(&unit).await.map_err(failed)?;
        crate::fail_point!("driver-local::gateway-declared");
        let why = match self.await_gateway(&unit.name, rank, false).await? {
            Attempt::Serves(status) => return Ok(*status),
            Attempt::Failed(why) => why,
        };
        // Not stopped, for it may be taking the place right now: left to end by itself.
        let retired = Unit { wanted: Wanted::Retired, ..unit.clone() };
        self.run_unit(&retired).await.map_err(failed)?;
        crate::fail_point!("driver-local::gateway-withdrawn");
        match self.await_gateway(&unit.name, rank, true).await? {
            Attempt::Serves(status) => {
                self.run_unit(&unit).await.map_err(failed)?;
                Ok(*status)
            }
            Attempt::Failed(_) => {
                self.forget_unit(&unit.name).await.map_err(failed)?;
                Err(Error::Gateway(why))
            }
        }
    }

    /// Until it serves, or ends; of one that is `retired`, until no process of it is left.
    async fn await_gateway(&self, unit: &Name, rank: u64, retired: bool) -> Result<Attempt, Error> {
        let until = Instant::now() + TAKE_OVER;
        loop {
            let asked = unit.clone();
            let state = self.keeper(move |keeper| keeper.unit(&asked)).await.map_err(failed)?;
            // Asked after the keeper was: one that has gone by then had its place, or never gets it.
            if let Some(status) = self.gateway_status().await.filter(|status| status.rank == rank) {
                return Ok(Attempt::Serves(Box::new(status)));
            }
            match state.map(|status| status.state) {
                Some(UnitState::Backoff { last_error, .. }) if !retired => {
                    return Ok(Attempt::Failed(last_word(&last_error)));
                }
                Some(UnitState::Stopped | UnitState::Exited { .. }) | None => {
                    return Ok(Attempt::Failed("it is gone".to_owned()));
                }
                Some(_) if Instant::now() >= until => {
                    let seconds = TAKE_OVER.as_secs();
                    return Ok(Attempt::Failed(format!("it had not taken over after {seconds} s")));
                }
                Some(_) => sleep(LOOK).await,
            }
        }
    }

    /// Leaves those below a rank to drain, and forgets those that have.
    async fn retire_gateways(&self, serving: u64) -> Result<(), Error> {
        for (_, unit) in self.gateways().into_iter().filter(|(rank, _)| *rank < serving) {
            let name = unit.name.clone();
            if unit.wanted != Wanted::Retired {
                self.run_unit(&Unit { wanted: Wanted::Retired, ..unit }).await.map_err(failed)?;
                crate::fail_point!("driver-local::gateway-retired");
            }
            let asked = name.clone();
            let state = self.keeper(move |keeper| keeper.unit(&asked)).await.map_err(failed)?;
            if state.is_none_or(|status| status.pid.is_none()) {
                self.forget_unit(&name).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Every gateway that is declared, by its rank.
    fn gateways(&self) -> BTreeMap<u64, Unit> {
        let Ok(entries) = std::fs::read_dir(self.0.home.join("units")) else { return BTreeMap::new() };
        entries
            .flatten()
            .filter_map(|entry| {
                let file = entry.file_name();
                let rank = rank(file.to_str()?.strip_suffix(".json")?)?;
                Some((rank, self.declared(&name(rank).ok()?)?))
            })
            .collect()
    }

    /// The same, of one that may just be starting.
    async fn gateway_in_force(&self) -> Option<Status> {
        let until = Instant::now() + ANSWER;
        loop {
            match self.gateway_status().await {
                None if Instant::now() < until => sleep(LOOK).await,
                status => return status,
            }
        }
    }

    /// What the gateway in force says; `None` where none answers.
    async fn gateway_status(&self) -> Option<Status> {
        let asking = async { gateway::Client::connect(&self.0.home).await.ok()?.status().await.ok() };
        timeout(ANSWER, asking).await.ok().flatten()
    }
}

/// The last line of what a process wrote that is no line of the log.
fn last_word(said: &str) -> String {
    let mut lines = said.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let word = lines.find(|line| !line.starts_with('{')).unwrap_or(said);
    word.strip_prefix("error: ").unwrap_or(word).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_and_ranks() {
        for number in [1, 2, 10] {
            assert_eq!(rank(name(number).unwrap().as_str()), Some(number));
        }
        for other in ["gateway-1", "gateway-", "gateway-x", "gateways", "control", "pg-gateway"] {
            assert_eq!(rank(other), None, "{other}");
        }
    }
}
