//! What is done to units: started, found again, stopped, started anew.

use std::io::{self, Read, Seek};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::OFlags;
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::keeper::Keeper;
use crate::launch;
use crate::plan::{
    ARCHIVER_OUTPUT, FUNCTIONS_OUTPUT, GATEWAY_OUTPUT, LAKE_OUTPUT, OUTPUT, Planned, RELAY, RELAY_OUTPUT,
    held,
};
use crate::record::{Holder, Identity, Outcome, Record};
use crate::units::{Action, Entry, Escalation, Phase, Process, QUIT_PATIENCE};
use crate::wire::{Name, Reason, Refusal, Restart, Runs, Unit};
use crate::{fail_point, files, host};

/// An output file that grew larger than this while its process runs is emptied.
const OUTPUT_BYTES: u64 = 16 * 1024 * 1024;

/// How much of its end is told.
const TAIL_BYTES: u64 = 2048;

impl Keeper {
    /// Finds what an earlier keeper launched, then brings every declaration about.
    pub(crate) fn take_up(&mut self) -> io::Result<()> {
        for (file, record) in Record::all(&self.state)? {
            let Some(record) = record else {
                self.journal.log(
                    "warn",
                    None,
                    &format!("`keeper/state/{file}` cannot be read; it is removed"),
                );
                files::remove_file(&self.state, &file)?;
                continue;
            };
            let name = record.unit.name.clone();
            let entry = match record.identity.find()? {
                Some(pidfd) => {
                    let (generation, restarts) = (record.unit.generation, record.restarts);
                    self.journal.log("info", Some(&name), &format!("found process {}", record.identity.pid));
                    let process = Process {
                        pidfd,
                        identity: record.identity,
                        started_at: record.started_at,
                        unit: record.unit,
                        output_from: 0,
                    };
                    Entry::new(Phase::Running(process), generation, restarts)
                }
                None => {
                    Entry::new(self.phase_without_process(&record), record.unit.generation, record.restarts)
                }
            };
            self.units.insert(name, entry);
        }
        for name in crate::declared::names(&self.declared)? {
            let read = crate::declared::read(&self.declared, &name);
            let taken_up = read.and_then(|declared| {
                self.set_declaration(&name, declared);
                self.recall_sleep(&name);
                self.bring_about(&name)
            });
            if let Err(refusal) = taken_up {
                self.journal.log("error", Some(&name), &refusal.message);
            }
        }
        self.sweep_units()
    }

    /// What a unit is whose recorded process has gone: a job that ran has ended, we cannot know how.
    fn phase_without_process(&self, record: &Record) -> Phase {
        if let Some(outcome) = record.outcome {
            return Phase::Exited(outcome);
        }
        let lock = record.unit.tree().map(|tree| host::relative(tree).join("lock"));
        let ran = lock.is_some_and(|lock| {
            let file = files::open_file(&self.trees.root, lock, OFlags::RDONLY, 0);
            let holder = file.ok().and_then(Holder::read);
            holder.is_none_or(|(holder, ran)| ran || holder.identity != record.identity)
        });
        match record.unit.restart {
            Restart::Never if ran => Phase::Exited(Outcome::default()),
            _ => Phase::Stopped,
        }
    }

    /// Forgets units that are neither declared nor running, and groups that are nobody's.
    fn sweep_units(&mut self) -> io::Result<()> {
        let gone: Vec<Name> = self
            .units
            .iter()
            .filter(|(_, entry)| entry.declared.is_none() && entry.process().is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if !files::exists(&self.declared, format!("{name}.json"))? {
                self.units.remove(&name);
                files::remove_file(&self.state, format!("{name}.json"))?;
                files::remove_file(&self.trees.root, format!("keeper/locks/{name}"))?;
            }
        }
        for unit in self.cgroups.units() {
            if !self.units.keys().any(|name| name.as_str() == unit) {
                // One that something still lives in stays for the next time.
                let _ = self.cgroups.remove(&unit);
            }
        }
        Ok(())
    }

    /// Takes what a unit's file says into the table.
    pub(crate) fn set_declaration(&mut self, name: &Name, declared: Option<Unit>) {
        if let Some(entry) = self.units.get_mut(name) {
            entry.declared = declared;
        } else if declared.is_some() {
            let mut entry = Entry::new(Phase::Stopped, 0, 0);
            entry.declared = declared;
            self.units.insert(name.clone(), entry);
        }
        self.stay_awake_unless_it_may_sleep(name);
    }

    /// Does what has to be done next for a unit to be as declared.
    pub(crate) fn bring_about(&mut self, name: &Name) -> Result<(), Refusal> {
        let Some(entry) = self.units.get_mut(name) else { return Ok(()) };
        match entry.decide() {
            Action::Nothing => Ok(()),
            Action::Settle => {
                entry.phase = Phase::Stopped;
                Ok(())
            }
            Action::Stop => {
                self.begin_stop(name);
                Ok(())
            }
            Action::Start => {
                entry.forget_failures();
                self.start(name, "unit.started")
            }
        }
    }

    /// Starts a unit. What goes wrong is tried again later, unless it is a job: then it is an error.
    fn start(&mut self, name: &Name, action: &str) -> Result<(), Refusal> {
        let Some(unit) = self.units.get(name).and_then(|entry| entry.declared.clone()) else {
            return Ok(());
        };
        let started = self.launch(&unit);
        let Some(entry) = self.units.get_mut(name) else { return Ok(()) };
        match started {
            Ok((process, generation)) => {
                let message = format!("process {}, generation {generation}", process.identity.pid);
                entry.generation = generation;
                entry.phase = Phase::Running(process);
                self.journal.event(Some(name), action, message);
                // Only where somebody else's process of an older generation was found.
                if generation == unit.generation { Ok(()) } else { self.bring_about(name) }
            }
            Err(refusal) => {
                self.journal.log("error", Some(name), &format!("cannot start: {}", refusal.message));
                if refusal.reason == Reason::DiskFull {
                    let _ = self.guard.release();
                }
                entry.generation = unit.generation;
                if unit.restart == Restart::Never {
                    entry.phase = Phase::Stopped;
                    return Err(refusal);
                }
                entry.back_off(Duration::ZERO, refusal.message);
                Ok(())
            }
        }
    }

    /// Makes the process of a unit; it and the generation that it is of.
    fn launch(&mut self, unit: &Unit) -> Result<(Process, u64), Refusal> {
        let (plan, repairs) = match self.plan(unit)? {
            Planned::Plan { plan, repairs } => (plan, repairs),
            Planned::Held(holder) => return self.adopt_holder(unit, holder),
        };
        for repair in repairs {
            self.journal.event(Some(&unit.name), "keeper.repaired", repair);
        }
        let failed = |error: io::Error| {
            let full = error.kind() == io::ErrorKind::StorageFull;
            let reason = if full { Reason::DiskFull } else { Reason::System };
            Refusal { reason, message: format!("cannot launch `{}`: {error}", unit.name) }
        };
        self.forget_word(unit).map_err(failed)?;
        let (door, mut said) = self.cgroups.make(&unit.name, &unit.limits);
        fail_point!("keeper::launch.cgroup_made");
        let output_from = self.output_length(unit);
        let spawned = launch::spawn(*plan, &door).map_err(failed)?;
        fail_point!("keeper::launch.spawned");
        let record = Record {
            unit: unit.clone(),
            identity: Identity::of(spawned.pid).map_err(failed)?,
            started_at: Timestamp::now(),
            restarts: self.units.get(&unit.name).map_or(0, |entry| entry.restarts),
            outcome: None,
        };
        record.write(&self.state).map_err(failed)?;
        fail_point!("keeper::launch.recorded");
        let (generation, identity) = (unit.generation, record.identity.clone());
        let holder = Holder { unit: unit.name.clone(), generation, identity: identity.clone() };
        holder.write(&spawned.lock_file).map_err(failed)?;
        fail_point!("keeper::launch.lock_written");
        let pid = spawned.pid;
        let pidfd = spawned.release().map_err(|message| {
            // It never ran: nothing is left to be found.
            let _ = files::remove_file(&self.state, format!("{}.json", unit.name));
            failed(io::Error::other(message))
        })?;
        fail_point!("keeper::launch.running");
        said.extend(self.cgroups.ensure_inside(&unit.name, pid));
        for line in said {
            self.journal.log("warn", Some(&unit.name), &line);
        }
        let process =
            Process { pidfd, identity, started_at: record.started_at, unit: unit.clone(), output_from };
        Ok((process, generation))
    }

    /// The tree is held: by this very unit's process, whose record was lost, or by somebody else.
    fn adopt_holder(&mut self, unit: &Unit, holder: Option<Holder>) -> Result<(Process, u64), Refusal> {
        let own = holder.as_ref().filter(|holder| holder.unit == unit.name);
        let found = own.and_then(|own| Some((own, own.identity.find().ok()??)));
        let Some((own, pidfd)) = found else { return Err(held(unit, holder.as_ref())) };
        let unit = Unit { generation: own.generation, ..unit.clone() };
        let (identity, started_at) = (own.identity.clone(), Timestamp::now());
        let record =
            Record { unit: unit.clone(), identity: identity.clone(), started_at, restarts: 0, outcome: None };
        record.write(&self.state).map_err(|error| Refusal {
            reason: Reason::System,
            message: format!("cannot record `{}`: {error}", unit.name),
        })?;
        let generation = unit.generation;
        Ok((Process { pidfd, identity, started_at, unit, output_from: 0 }, generation))
    }

    /// Sends the polite signal and sets the timer for the next one.
    pub(crate) fn begin_stop(&mut self, name: &Name) {
        let Some(entry) = self.units.get_mut(name) else { return };
        match std::mem::replace(&mut entry.phase, Phase::Stopped) {
            Phase::Running(process) => {
                let stop = process.unit.stop.clone();
                let _ = rustix::process::pidfd_send_signal(&process.pidfd, stop.signal.signal());
                let at = Instant::now() + Duration::from_millis(stop.timeout_ms);
                entry.phase = Phase::Stopping { process, next: Escalation::Quit, at };
                self.journal.log("info", Some(name), "told to stop");
            }
            other => entry.phase = other,
        }
        fail_point!("keeper::stop.signalled");
    }

    /// Does what is due: harder signals, starts after a back-off.
    pub(crate) fn unit_timers(&mut self) {
        let now = Instant::now();
        let due = |entry: &Entry| entry.deadline().is_some_and(|at| at <= now);
        let names: Vec<Name> =
            self.units.iter().filter(|(_, entry)| due(entry)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let Some(entry) = self.units.get_mut(&name) else { continue };
            match &mut entry.phase {
                Phase::Stopping { process, next, at } => {
                    let (signal, after) = match next {
                        Escalation::Quit => (Signal::QUIT, "SIGQUIT"),
                        Escalation::Kill => (Signal::KILL, "SIGKILL"),
                    };
                    let _ = rustix::process::pidfd_send_signal(&process.pidfd, signal);
                    (*next, *at) = (Escalation::Kill, now + QUIT_PATIENCE);
                    let message = format!("did not stop in time and got {after}");
                    self.journal.event(Some(&name), "unit.killed", message);
                }
                Phase::Backoff { .. } => {
                    entry.restarts += 1;
                    // Nobody waits for the answer: a failure is in the log and leads to the next back-off.
                    let _ = self.start(&name, "unit.restarted");
                }
                _ => {}
            }
        }
    }

    /// A pidfd has become readable: the process has ended.
    pub(crate) fn process_ended(&mut self, name: &Name, pid: i32) {
        let Some(process) = self.units.get(name).and_then(Entry::process) else { return };
        if process.identity.pid != pid {
            return;
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let outcome = match rustix::process::waitid(WaitId::PidFd(process.pidfd.as_fd()), options) {
            Ok(Some(status)) => Outcome { code: status.exit_status(), signal: status.terminating_signal() },
            Ok(None) => return,
            // Not our child: an earlier keeper launched it.
            Err(_) => Outcome::default(),
        };
        self.unit_ended(name, outcome);
    }

    /// Goes on after the process of a unit has ended.
    pub(crate) fn unit_ended(&mut self, name: &Name, outcome: Outcome) {
        fail_point!("keeper::ended.reaped");
        let Some(entry) = self.units.get_mut(name) else { return };
        let (process, asked) = match std::mem::replace(&mut entry.phase, Phase::Stopped) {
            Phase::Running(process) => (process, false),
            Phase::Stopping { process, .. } => (process, true),
            other => {
                entry.phase = other;
                return;
            }
        };
        self.kill_leftovers(&process.unit);
        let how = match outcome {
            Outcome { code: Some(code), .. } => format!("ended with code {code}"),
            Outcome { signal: Some(signal), .. } => format!("ended by signal {signal}"),
            Outcome { .. } => "ended".into(),
        };
        if asked {
            self.journal.event(Some(name), "unit.exited", format!("{how}, as asked"));
            if self.draining.is_none() {
                let _ = self.bring_about(name);
            }
            return;
        }
        if self.units.get(name).is_some_and(Entry::is_retired) {
            self.journal.event(Some(name), "unit.exited", format!("{how}, retired"));
            return;
        }
        self.journal.event(Some(name), "unit.exited", format!("{how} by itself"));
        let tail = self.output_tail(&process);
        if process.unit.restart == Restart::Never {
            self.job_ended(name, process, outcome);
            return;
        }
        let error = if tail.is_empty() { how } else { format!("{how}: {tail}") };
        if let Some(entry) = self.units.get_mut(name) {
            entry.back_off(process.identity.age(), error);
        }
    }

    fn job_ended(&mut self, name: &Name, process: Process, outcome: Outcome) {
        let Process { unit, identity, started_at, .. } = process;
        let record = Record { unit, identity, started_at, restarts: 0, outcome: Some(outcome) };
        if let Err(error) = record.write(&self.state) {
            self.journal.log("error", Some(name), &format!("cannot record its end: {error}"));
        }
        fail_point!("keeper::ended.recorded");
        if let Some(entry) = self.units.get_mut(name) {
            entry.phase = Phase::Exited(outcome);
        }
        // It may have been declared anew meanwhile.
        let _ = self.bring_about(name);
    }

    /// In a process namespace all goes with the first process. Without one, what still holds the tree's
    /// lock after the server has gone is ended here.
    fn kill_leftovers(&self, unit: &Unit) {
        let Some(tree) = unit.tree().filter(|_| !self.trees.host.isolated) else { return };
        let lock = host::tree_dir(&self.trees.home, tree).join("lock");
        let Ok(processes) = std::fs::read_dir("/proc") else { return };
        for process in processes.flatten() {
            let pid = process.file_name().to_str().and_then(|name| name.parse().ok());
            let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { continue };
            if pid == rustix::process::getpid() {
                continue;
            }
            let Ok(open) = std::fs::read_dir(process.path().join("fd")) else { continue };
            if open.flatten().any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == lock)) {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }

    /// The output file of a unit; its folder belongs to a less trusted user.
    fn output(&self, unit: &Unit, flags: OFlags) -> io::Result<std::fs::File> {
        let log = |tree| host::relative(tree).join("log");
        let (folder, name) = match &unit.runs {
            Runs::Engine { tree, .. }
            | Runs::Tool { tree, .. }
            | Runs::Transfer { tree, .. }
            | Runs::TransferElsewhere { tree, .. } => (log(tree), OUTPUT),
            Runs::Lake { tree } => (log(tree), LAKE_OUTPUT),
            Runs::Gateway => (PathBuf::from("logs"), GATEWAY_OUTPUT),
            Runs::Archiver => (PathBuf::from("logs"), ARCHIVER_OUTPUT),
            Runs::Functions => (PathBuf::from("logs"), FUNCTIONS_OUTPUT),
            Runs::Relay => (PathBuf::from(RELAY), RELAY_OUTPUT),
        };
        files::open_file(files::open_dir(&self.trees.root, folder)?, name, flags, 0)
    }

    fn output_length(&self, unit: &Unit) -> u64 {
        self.output(unit, OFlags::RDONLY).and_then(|file| file.metadata()).map_or(0, |meta| meta.len())
    }

    /// The end of what a process wrote.
    fn output_tail(&self, process: &Process) -> String {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = self.output(&process.unit, OFlags::RDONLY)?;
            let length = file.metadata()?.len();
            // A shorter file is a new one.
            let from = if length < process.output_from { 0 } else { process.output_from };
            file.seek(io::SeekFrom::Start(from.max(length.saturating_sub(TAIL_BYTES))))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
    }

    /// Empties output files that have grown too large.
    pub(crate) fn bound_outputs(&mut self) {
        for process in self.units.values().filter_map(Entry::process) {
            let Ok(file) = self.output(&process.unit, OFlags::WRONLY) else { continue };
            let Ok(stat) = rustix::fs::fstat(&file) else { continue };
            let large = u64::try_from(stat.st_size).is_ok_and(|size| size > OUTPUT_BYTES);
            if large && stat.st_nlink == 1 {
                let _ = file.set_len(0);
            }
        }
    }
}
