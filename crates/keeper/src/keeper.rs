//! The loop: signals, requests, ends of processes and timers, one after the other on one thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions};

use crate::cgroup::Cgroups;
use crate::guard::{self, Guard, Verdict};
use crate::journal::Journal;
use crate::record::Outcome;
use crate::socket::{Asked, Socket};
use crate::trees::{Trees, shown};
use crate::units::{Entry, Phase};
use crate::wire::{HostStatus, Name, Reason, Refusal, Reply, Request, Tree};
use crate::workers::{Watched, Workers};
use crate::{During, Error, fail_point, files, host, sys, trash};

/// Output files are looked at every so many looks at the disk.
const BOUND_EVERY: u32 = 60;

pub(crate) struct Keeper {
    pub(crate) trees: Trees,
    pub(crate) journal: Journal,
    pub(crate) cgroups: Cgroups,
    pub(crate) guard: Guard,
    pub(crate) units: BTreeMap<Name, Entry>,
    pub(crate) workers: Workers,
    /// `keeper/state` and `units`.
    pub(crate) state: OwnedFd,
    pub(crate) declared: OwnedFd,
    pub(crate) engine_dirs: Vec<PathBuf>,
    /// The binary that runs as gateway.
    pub(crate) program: OwnedFd,
    /// The peer to answer when every unit has been stopped.
    pub(crate) draining: Option<u64>,
    pub(crate) socket: Socket,
    pub(crate) signals: OwnedFd,
    /// The child that empties the trash.
    pub(crate) sweeper: Option<Pid>,
    pub(crate) next_look: Instant,
    pub(crate) looks: u32,
    /// Held for as long as this keeper lives.
    #[expect(dead_code, reason = "what counts is that it stays open")]
    pub(crate) lock: std::fs::File,
}

/// What the loop woke up for.
struct Ready {
    signalled: bool,
    /// In the order of the socket's interests.
    socket: Vec<PollFlags>,
    ended: Vec<Ended>,
}

/// A process that has ended.
enum Ended {
    /// Of a unit, and its pid.
    Unit(Name, i32),
    /// A worker's, or that of who asked for workers.
    Watched(Watched),
}

/// Whether the loop goes on.
#[derive(PartialEq)]
enum Next {
    GoOn,
    End,
}

impl Keeper {
    /// Until told to end.
    pub(crate) fn run(mut self) -> Result<(), Error> {
        loop {
            let Ready { signalled, socket, ended } =
                self.wait().during(|| "cannot wait for events".into())?;
            if signalled && self.take_signals() == Next::End {
                self.journal.log("info", None, "told to end; units live on");
                break;
            }
            for ended in ended {
                match ended {
                    Ended::Unit(name, pid) => self.process_ended(&name, pid),
                    Ended::Watched(watched) => self.watched_ended(&watched),
                }
            }
            let mut next = Next::GoOn;
            for asked in self.socket.advance(&socket) {
                if self.serve(asked) == Next::End {
                    next = Next::End;
                }
            }
            if next == Next::End || self.drained() {
                break;
            }
            self.unit_timers();
            self.worker_timers();
            if self.next_look <= Instant::now() {
                self.look_at_disk(false);
            }
        }
        self.socket.flush();
        let _ = files::remove_file(&self.trees.root, "keeper/keeper.sock");
        Ok(())
    }

    /// Waits until something is ready: a signal, the socket's descriptors, processes that ended.
    fn wait(&self) -> io::Result<Ready> {
        let sockets = self.socket.interests();
        let mut processes: Vec<(BorrowedFd<'_>, Ended)> = Vec::new();
        for (name, entry) in &self.units {
            let process = entry.process();
            processes.extend(process.map(|p| (p.pidfd.as_fd(), Ended::Unit(name.clone(), p.identity.pid))));
        }
        processes.extend(self.workers.interests().map(|(fd, watched)| (fd, Ended::Watched(watched))));
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(sockets.iter().map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)));
        fds.extend(processes.iter().map(|(fd, _)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        let deadlines = self.units.values().filter_map(Entry::deadline);
        let deadlines = deadlines.chain(self.socket.deadline()).chain(self.workers.deadline());
        let deadline = deadlines.fold(self.next_look, Instant::min);
        let timeout = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(PollFd::revents);
        let signalled = ready.next().is_some_and(|flags| !flags.is_empty());
        let socket = ready.by_ref().take(sockets.len()).collect();
        let ended = processes.into_iter().zip(ready).filter(|(_, flags)| !flags.is_empty());
        let ended = ended.map(|((_, ended), _)| ended).collect();
        Ok(Ready { signalled, socket, ended })
    }

    fn take_signals(&mut self) -> Next {
        let arrived = sys::arrived(&self.signals);
        if arrived.contains(&Signal::CHILD) {
            self.reap();
        }
        if arrived.contains(&Signal::TERM) || arrived.contains(&Signal::INT) { Next::End } else { Next::GoOn }
    }

    /// Takes every child that has ended: main processes of units, the sweeper, orphans.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if self.sweeper == Some(pid) {
                self.sweeper = None;
                continue;
            }
            let raw = pid.as_raw_nonzero().get();
            let outcome = Outcome { code: status.exit_status(), signal: status.terminating_signal() };
            let unit = self.units.iter().find(|(_, e)| e.process().is_some_and(|p| p.identity.pid == raw));
            if let Some(name) = unit.map(|(name, _)| name.clone()) {
                self.unit_ended(&name, outcome);
            } else if let Some(name) = self.workers.of_process(raw) {
                self.worker_ended(&name, outcome);
            }
        }
    }

    fn serve(&mut self, asked: Asked) -> Next {
        let reply = match asked.request {
            Request::Shutdown { units: true } => {
                self.drain(asked.peer);
                return Next::GoOn;
            }
            Request::Shutdown { units: false } => {
                self.socket.answer(asked.peer, &Reply::Done);
                return Next::End;
            }
            Request::StartWorker(order) => {
                self.start_worker(order, asked.process, asked.fds).unwrap_or_else(Reply::Refused)
            }
            request => self.answer(request).unwrap_or_else(Reply::Refused),
        };
        self.socket.answer(asked.peer, &reply);
        Next::GoOn
    }

    fn answer(&mut self, request: Request) -> Result<Reply, Refusal> {
        match request {
            Request::Apply { unit } => self.apply(&unit),
            Request::Unit { unit } => Ok(Reply::Unit(self.units.get(&unit).map(|entry| entry.status(&unit)))),
            Request::Ready { unit } => Ok(Reply::Ready(self.ready(&unit))),
            Request::Host => Ok(Reply::Host(self.host_status())),
            Request::Sleep { unit, why } => self.sleep(&unit, why),
            Request::Wake { unit, why } => self.wake(&unit, why),
            Request::Reload { unit } => self.reload(&unit).map(|()| Reply::Done),
            Request::RemoveUnit { unit } => self.remove_unit(&unit).map(|()| Reply::Done),
            Request::CreateTree { tree } => self.create_tree(&tree).map(|()| Reply::Done),
            Request::RenameTree { from, to } => self.trees.rename(&from, &to).map(|()| Reply::Done),
            Request::RemoveTree { tree } => {
                self.trees.remove(&tree)?;
                self.empty_trash();
                Ok(Reply::Done)
            }
            Request::ClaimWorker(claim) => self.claim_worker(&claim),
            Request::StopWorker { worker } => {
                self.end_worker(&worker);
                Ok(Reply::Done)
            }
            Request::StartWorker(_) | Request::Shutdown { .. } => Ok(Reply::Done),
        }
    }

    /// Refuses to start anything while every unit is being stopped.
    pub(crate) fn not_ending(&self) -> Result<(), Refusal> {
        if self.draining.is_none() {
            return Ok(());
        }
        let message = "the keeper is ending; start it again and try again".into();
        Err(Refusal { reason: Reason::Busy, message })
    }

    fn apply(&mut self, name: &Name) -> Result<Reply, Refusal> {
        self.not_ending()?;
        let declared = crate::declared::read(&self.declared, name)?;
        match &declared {
            Some(unit) if unit.wanted == crate::wire::Wanted::Running => self.acceptable(unit)?,
            None if !self.units.contains_key(name) => {
                let message = format!("unit `{name}` is not declared; write units/{name}.json first");
                return Err(Refusal { reason: Reason::Absent, message });
            }
            _ => {}
        }
        fail_point!("keeper::apply.read");
        self.set_declaration(name, declared);
        self.bring_about(name)?;
        Ok(Reply::Unit(self.units.get(name).map(|entry| entry.status(name))))
    }

    fn reload(&mut self, name: &Name) -> Result<(), Refusal> {
        let process = self.units.get(name).and_then(Entry::process).ok_or_else(|| Refusal {
            reason: Reason::Absent,
            message: format!("unit `{name}` does not run; apply it first"),
        })?;
        rustix::process::pidfd_send_signal(&process.pidfd, Signal::HUP).map_err(|error| Refusal {
            reason: Reason::System,
            message: format!("cannot signal unit `{name}`: {error}"),
        })
    }

    fn remove_unit(&mut self, name: &Name) -> Result<(), Refusal> {
        if self.units.get(name).is_some_and(|entry| entry.process().is_some()) {
            let message = format!("unit `{name}` still runs; declare it stopped, apply it and wait");
            return Err(Refusal { reason: Reason::Busy, message });
        }
        let removed = (|| {
            // The declaration first: without it a keeper that starts now sweeps the rest.
            let file = format!("{name}.json");
            files::remove_file(&self.declared, &file)?;
            files::remove_file(&self.declared, format!(".{name}.new"))?;
            fail_point!("keeper::remove.undeclared");
            self.units.remove(name);
            self.forget_sleep(name)?;
            self.cgroups.remove(name.as_str())?;
            fail_point!("keeper::remove.cgroup_removed");
            files::remove_file(&self.trees.root, format!("keeper/locks/{name}"))?;
            files::remove_file(&self.state, &file)
        })();
        removed.map_err(|error: io::Error| {
            let busy = error.kind() == io::ErrorKind::ResourceBusy;
            let reason = if busy { Reason::Busy } else { Reason::System };
            Refusal { reason, message: format!("cannot remove unit `{name}`: {error}; try again") }
        })
    }

    fn create_tree(&mut self, tree: &Tree) -> Result<(), Refusal> {
        let path = host::relative(tree);
        let there = files::exists(&self.trees.root, path).unwrap_or(false);
        if self.guard.status.read_only && !there {
            let free = self.guard.status.free_bytes;
            let message = format!(
                "the disk of `{}` has {free} bytes free; free some or use a larger disk before `{}` can be made",
                self.trees.home.display(),
                shown(tree)
            );
            return Err(Refusal { reason: Reason::DiskFull, message });
        }
        for repair in self.trees.create(tree, self.guard.status.read_only)? {
            self.journal.event(None, "keeper.repaired", repair);
        }
        Ok(())
    }

    fn host_status(&self) -> HostStatus {
        HostStatus {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            version: env!("CARGO_PKG_VERSION").into(),
            program: crate::program::stamp(&self.program).unwrap_or_default(),
            isolated: self.trees.host.isolated,
            disk: self.guard.status.clone(),
            units: self.units.iter().map(|(name, entry)| entry.status(name)).collect(),
        }
    }

    /// Stops every unit; the peer is answered when all have ended.
    fn drain(&mut self, peer: u64) {
        self.draining = Some(peer);
        self.end_workers();
        let names: Vec<Name> = self.units.keys().cloned().collect();
        for name in names {
            self.begin_stop(&name);
            if let Some(entry) = self.units.get_mut(&name)
                && matches!(entry.phase, Phase::Backoff { .. })
            {
                entry.phase = Phase::Stopped;
            }
        }
    }

    fn drained(&mut self) -> bool {
        let Some(peer) = self.draining else { return false };
        if self.sweeper.is_some()
            || self.workers.any()
            || self.units.values().any(|entry| entry.process().is_some())
        {
            return false;
        }
        self.cgroups.remove_all();
        self.journal.log("info", None, "every unit has been stopped");
        self.socket.answer(peer, &Reply::Done);
        true
    }

    /// Looks at the disk and makes servers read-only or writable; at a start also where nothing changed,
    /// since the keeper before may have been killed half way.
    pub(crate) fn look_at_disk(&mut self, starting: bool) {
        self.next_look = Instant::now() + guard::INTERVAL;
        self.journal.flush();
        self.empty_trash();
        self.looks = self.looks.wrapping_add(1);
        if self.looks.is_multiple_of(BOUND_EVERY) {
            self.bound_outputs();
        }
        let verdict = match self.guard.look() {
            Ok(verdict) => verdict,
            Err(error) => {
                self.journal.log("error", None, &format!("cannot look at the disk: {error}"));
                return;
            }
        };
        if verdict == Verdict::Unchanged && !(starting && self.guard.status.read_only) {
            return;
        }
        let read_only = self.guard.status.read_only;
        fail_point!("keeper::guard.judged");
        if let Err(error) = self.trees.set_guards(read_only) {
            self.journal.log("error", None, &format!("cannot tell every server about the disk: {error}"));
            let _ = self.guard.release();
        }
        fail_point!("keeper::guard.written");
        for process in self.units.values().filter_map(Entry::process) {
            if process.unit.is_postgres() {
                let _ = rustix::process::pidfd_send_signal(&process.pidfd, Signal::HUP);
            }
        }
        let free = self.guard.status.free_bytes;
        let (action, message) = match read_only {
            true => (
                "disk.read_only",
                format!("{free} bytes are free: every server is read-only until there is room"),
            ),
            false => ("disk.writable", format!("{free} bytes are free: servers are writable again")),
        };
        if verdict != Verdict::Unchanged {
            self.journal.event(None, action, message);
        }
    }

    pub(crate) fn empty_trash(&mut self) {
        if self.sweeper.is_none() && !trash::is_empty(&self.trees.root) {
            match trash::empty(&self.trees.home) {
                Ok(pid) => self.sweeper = Some(pid),
                Err(error) => self.journal.log("error", None, &format!("cannot empty the trash: {error}")),
            }
        }
    }
}
