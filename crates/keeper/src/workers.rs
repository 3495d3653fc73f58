//! Workers: processes of strangers' code, each alone in a sandbox, made ahead of need and ended with who asked for them.
//!
//! # Life of one
//! *Started*, in the two steps of every process ([`crate::launch`]): cloned into namespaces of its own it furnishes its
//! root, opens the listeners that whoever asked will serve, and seals itself ([`seal`]), while the keeper goes on
//! without waiting for it. *Claimed* once ([`claim`]), by a forked child of the keeper that goes into its namespaces:
//! the package is mounted, doors to the outside are opened. *Ended* when its first process ends, with which the kernel
//! ends all others of its process namespace.
//!
//! # What survives what
//! A worker belongs to the process that asked for it, known by pid and start time. When that process ends, its workers
//! are killed; when the keeper is killed, the next one finds workers and owners by their records and goes on from
//! there, only that it can say nothing more on the control sockets. A process that was never recorded never runs
//! anything; a group without a record is removed.

mod claim;
mod control;
mod launch;
mod network;
mod order;
mod proc;
mod record;
mod seal;
mod syscalls;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::declared::invalid;
use crate::keeper::Keeper;
use crate::record::{Identity, Outcome};
use crate::wire::{Group, Name, Reason, Refusal, Reply, WorkerClaim, WorkerMessage, WorkerOrder};
use crate::{fail_point, files};
use record::Record;
use syscalls::Filters;

/// How often what should have ended is looked at again: a worker that is being frozen while it is killed, a group that
/// is still being left.
const AGAIN: Duration = Duration::from_millis(100);

/// All workers of a home.
pub(crate) struct Workers {
    all: BTreeMap<Name, Worker>,
    /// The processes that asked for them.
    owners: Vec<Owner>,
    /// `keeper/workers`.
    folder: OwnedFd,
    runtime_dirs: Vec<PathBuf>,
    /// User ids of the workers' range that an old tree has.
    taken: BTreeSet<u32>,
    /// Ended ones whose group something was still in.
    leaving: BTreeSet<Name>,
    again: Option<Instant>,
    filters: Rc<Filters>,
}

/// One that lives.
struct Worker {
    pidfd: OwnedFd,
    identity: Identity,
    uid: u32,
    owner: Identity,
    /// Absent when an earlier keeper made it.
    control: Option<Control>,
    claimed: bool,
    /// It has been told to end.
    ending: bool,
}

struct Control {
    socket: OwnedFd,
    /// Where the process says why it could not be made.
    failed: OwnedFd,
    /// An event: its sandbox stands.
    stands: OwnedFd,
}

impl Control {
    /// Whether its sandbox stands. Before, there is nothing to mount a package on.
    fn stands(&self) -> bool {
        let now = Timespec::default();
        rustix::event::poll(&mut [PollFd::new(&self.stands, PollFlags::IN)], Some(&now)).is_ok_and(|n| n > 0)
    }
}

struct Owner {
    identity: Identity,
    pidfd: OwnedFd,
}

/// What of workers a descriptor to wait for stands for.
#[derive(Debug, Clone)]
pub(crate) enum Watched {
    /// A worker's process.
    Worker(Name),
    /// The process that asked for workers.
    Owner(i32),
}

fn system(what: &str, error: impl std::fmt::Display) -> Refusal {
    Refusal { reason: Reason::System, message: format!("{what}: {error}") }
}

impl Workers {
    /// None yet. `taken` are user ids that none may have.
    pub(crate) fn new(folder: OwnedFd, runtime_dirs: Vec<PathBuf>, taken: BTreeSet<u32>) -> io::Result<Self> {
        Ok(Self {
            all: BTreeMap::new(),
            owners: Vec::new(),
            folder,
            runtime_dirs,
            taken,
            leaving: BTreeSet::new(),
            again: None,
            filters: Rc::new(Filters::compile().map_err(io::Error::other)?),
        })
    }

    /// What of a worker's sandbox this host cannot give, in words.
    pub(crate) fn lacks() -> Option<String> {
        seal::landlock_lacks().map(|why| format!("workers run with less of Landlock than there is: {why}"))
    }

    /// What to wait for.
    pub(crate) fn interests(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Watched)> {
        let workers = self.all.iter().map(|(name, w)| (w.pidfd.as_fd(), Watched::Worker(name.clone())));
        let owners = self.owners.iter().map(|o| (o.pidfd.as_fd(), Watched::Owner(o.identity.pid)));
        workers.chain(owners)
    }

    /// When the loop must come back although nothing is ready.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.again
    }

    /// Whether one lives, or has left something.
    pub(crate) fn any(&self) -> bool {
        !self.all.is_empty() || !self.leaving.is_empty()
    }

    /// The one whose process this is.
    pub(crate) fn of_process(&self, pid: i32) -> Option<Name> {
        self.all.iter().find(|(_, worker)| worker.identity.pid == pid).map(|(name, _)| name.clone())
    }

    fn free_uid(&self, mut range: std::ops::Range<u32>) -> Option<u32> {
        let used: BTreeSet<u32> = self.all.values().map(|worker| worker.uid).collect();
        range.find(|uid| !used.contains(uid) && !self.taken.contains(uid))
    }

    /// Makes sure that the end of a process will be seen; which process it is.
    fn own(&mut self, pid: Pid) -> io::Result<Identity> {
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
        let identity = Identity::of(pid)?;
        if !self.owners.iter().any(|owner| owner.identity == identity) {
            self.owners.push(Owner { identity: identity.clone(), pidfd });
        }
        Ok(identity)
    }

    /// Forgets owners that own nothing.
    fn forget_owners(&mut self) {
        let all = &self.all;
        self.owners.retain(|owner| all.values().any(|worker| worker.owner == owner.identity));
    }

    fn kill(&mut self, name: &Name) {
        if let Some(worker) = self.all.get_mut(name) {
            let _ = rustix::process::pidfd_send_signal(&worker.pidfd, Signal::KILL);
            worker.ending = true;
            self.again = Some(Instant::now() + AGAIN);
        }
    }
}

impl Keeper {
    /// Makes the process of a worker; the rest it says itself.
    pub(crate) fn start_worker(
        &mut self,
        order: WorkerOrder,
        asker: Option<Pid>,
        fds: Vec<OwnedFd>,
    ) -> Result<Reply, Refusal> {
        self.not_ending()?;
        let host = &self.trees.host;
        if !host.isolated {
            return Err(invalid("this keeper is not root: functions need one that is"));
        }
        let lang = order::check(&order, &self.workers.runtime_dirs, host).map_err(invalid)?;
        let Ok([socket, stdin, stdout, stderr]) = <[OwnedFd; 4]>::try_from(fds) else {
            return Err(invalid("a worker comes with four descriptors"));
        };
        let name = order.worker.clone();
        if self.workers.all.contains_key(&name) || self.workers.leaving.contains(&name) {
            let message = format!("a worker `{name}` lives; use another name");
            return Err(Refusal { reason: Reason::Busy, message });
        }
        let what = format!("cannot start worker `{name}`");
        let uid = self.workers.free_uid(host.worker_uids()).ok_or_else(|| Refusal {
            reason: Reason::Busy,
            message: format!("{what}: all user ids for workers are in use; end some"),
        })?;
        let owner = asker.ok_or_else(|| invalid("the asker's process is not known"))?;
        let owner = self.workers.own(owner).map_err(|error| system(&what, error))?;
        let control = socket.try_clone().map_err(|error| system(&what, error))?;
        let stands = eventfd(0, EventfdFlags::CLOEXEC).map_err(|error| system(&what, error))?;
        let (home, filters) = (self.trees.home.clone(), Rc::clone(&self.workers.filters));
        let plan = launch::Plan { home, order, uid, lang, filters, stands, control, stdin, stdout, stderr };
        let made = self.make_worker(plan, owner, socket);
        if made.is_err() {
            self.forget_groups(&name);
            self.workers.forget_owners();
        }
        made.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull => {
                Refusal { reason: Reason::DiskFull, message: format!("{what}: {error}") }
            }
            _ => system(&what, error),
        })?;
        Ok(Reply::Done)
    }

    fn make_worker(&mut self, plan: launch::Plan, owner: Identity, socket: OwnedFd) -> io::Result<()> {
        let (name, uid) = (plan.order.worker.clone(), plan.uid);
        let stands = plan.stands.try_clone()?;
        let door = self.cgroups.make_worker(&name, &plan.order.limits)?;
        fail_point!("keeper::worker.group_made");
        let held = launch::hold(plan, &door)?;
        fail_point!("keeper::worker.spawned");
        let identity = Identity::of(held.pid)?;
        let record = Record { worker: name.clone(), identity: identity.clone(), uid, owner: owner.clone() };
        record.write(&self.workers.folder)?;
        fail_point!("keeper::worker.recorded");
        let (pidfd, failed) = held.release();
        fail_point!("keeper::worker.released");
        let (kinds, handles): (Vec<Group>, Vec<OwnedFd>) = self.cgroups.handles(&name).into_iter().unzip();
        // Nobody listens any more: then the owner has ended or will end it.
        let _ = control::say(&socket, &WorkerMessage::Groups(kinds), &handles);
        let control = Some(Control { socket, failed, stands });
        let worker = Worker { pidfd, identity, uid, owner, control, claimed: false, ending: false };
        self.workers.all.insert(name, worker);
        Ok(())
    }

    /// Gives a worker its package, its limits and its doors.
    pub(crate) fn claim_worker(&mut self, claim: &WorkerClaim) -> Result<Reply, Refusal> {
        self.not_ending()?;
        order::check_claim(claim).map_err(invalid)?;
        let name = &claim.worker;
        let absent = || Refusal { reason: Reason::Absent, message: format!("there is no worker `{name}`") };
        let worker = self.workers.all.get_mut(name).ok_or_else(absent)?;
        if worker.ending {
            return Err(absent());
        }
        let socket = match &worker.control {
            Some(control) if !worker.claimed && !control.stands() => {
                let message = format!("worker `{name}` is not ready; wait until it says so");
                return Err(Refusal { reason: Reason::Busy, message });
            }
            Some(control) if !worker.claimed => &control.socket,
            Some(_) => return Err(invalid(format!("worker `{name}` has been claimed before"))),
            None => return Err(invalid(format!("worker `{name}` is an earlier keeper's; start another"))),
        };
        worker.claimed = true;
        let claimed = self
            .cgroups
            .limit_worker(name, &claim.limits)
            .map_err(|error| format!("limits: {error}"))
            .and_then(|()| claim::claim(&self.trees.root, &worker.pidfd, socket, claim));
        fail_point!("keeper::worker.claimed");
        claimed.map_err(|why| {
            // Half claimed it is nobody's.
            self.end_worker(name);
            system(&format!("cannot claim worker `{name}`"), why)
        })?;
        Ok(Reply::Done)
    }

    /// Ends a worker at once.
    pub(crate) fn end_worker(&mut self, name: &Name) {
        self.workers.kill(name);
        fail_point!("keeper::worker.killed");
        if self.workers.all.contains_key(name) {
            self.cgroups.thaw(name);
        }
    }

    /// A descriptor has become readable: a worker's process has ended, or that of an owner.
    pub(crate) fn watched_ended(&mut self, watched: &Watched) {
        match watched {
            Watched::Worker(name) => {
                let Some(worker) = self.workers.all.get(name) else { return };
                let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
                let outcome = match rustix::process::waitid(WaitId::PidFd(worker.pidfd.as_fd()), options) {
                    Ok(Some(status)) => {
                        Outcome { code: status.exit_status(), signal: status.terminating_signal() }
                    }
                    Ok(None) => return,
                    // Not our child: an earlier keeper launched it.
                    Err(_) => Outcome::default(),
                };
                self.worker_ended(name, outcome);
            }
            Watched::Owner(pid) => {
                self.journal.log("info", None, &format!("process {pid} has ended; its workers are killed"));
                let gone = |worker: &&Worker| worker.owner.pid == *pid;
                let names: Vec<Name> =
                    self.workers.all.iter().filter(|(_, w)| gone(w)).map(|(n, _)| n.clone()).collect();
                self.workers.owners.retain(|owner| owner.identity.pid != *pid);
                for name in names {
                    self.end_worker(&name);
                }
            }
        }
    }

    /// Goes on after a worker's first process, and so all of it, has ended.
    pub(crate) fn worker_ended(&mut self, name: &Name, outcome: Outcome) {
        fail_point!("keeper::worker.reaped");
        let Some(worker) = self.workers.all.remove(name) else { return };
        let tally = self.cgroups.tally(name);
        if let Some(Control { socket, failed, .. }) = worker.control {
            let mut why = String::new();
            let _ = std::fs::File::from(failed).take(4096).read_to_string(&mut why);
            let message = if why.is_empty() {
                WorkerMessage::Ended {
                    code: outcome.code,
                    signal: outcome.signal,
                    out_of_memory: tally.out_of_memory,
                    memory_peak_bytes: tally.memory_peak_bytes,
                }
            } else {
                self.journal.log("error", None, &format!("cannot make worker `{name}`: {why}"));
                WorkerMessage::Failed(why)
            };
            let _ = control::say(&socket, &message, &[]);
        }
        self.forget_groups(name);
        fail_point!("keeper::worker.groups_removed");
        if let Err(error) = files::remove_file(&self.workers.folder, record::file(name)) {
            self.journal.log("error", None, &format!("cannot forget worker `{name}`: {error}"));
        }
        self.workers.forget_owners();
    }

    fn forget_groups(&mut self, name: &Name) {
        if self.cgroups.remove_worker(name).is_err() {
            self.workers.leaving.insert(name.clone());
            self.workers.again = Some(Instant::now() + AGAIN);
        }
    }

    /// Finds what an earlier keeper made, and ends what is nobody's.
    pub(crate) fn take_up_workers(&mut self) -> io::Result<()> {
        for (file, record) in Record::all(&self.workers.folder)? {
            let found = match &record {
                Some(record) => record.identity.find()?.map(|pidfd| (record, pidfd)),
                None => None,
            };
            let Some((record, pidfd)) = found else {
                files::remove_file(&self.workers.folder, &file)?;
                continue;
            };
            let name = record.worker.clone();
            let owner = record.owner.find()?;
            let orphan = owner.is_none();
            if let Some(pidfd) = owner
                && !self.workers.owners.iter().any(|owner| owner.identity == record.owner)
            {
                self.workers.owners.push(Owner { identity: record.owner.clone(), pidfd });
            }
            let (identity, uid, owner) = (record.identity.clone(), record.uid, record.owner.clone());
            let worker = Worker { pidfd, identity, uid, owner, control: None, claimed: true, ending: false };
            self.workers.all.insert(name.clone(), worker);
            if orphan {
                self.end_worker(&name);
            }
        }
        for name in self.cgroups.workers() {
            if !self.workers.all.contains_key(&name) {
                self.forget_groups(&name);
            }
        }
        Ok(())
    }

    /// Does again what has not come to its end.
    pub(crate) fn worker_timers(&mut self) {
        if self.workers.again.is_none_or(|at| at > Instant::now()) {
            return;
        }
        self.workers.again = None;
        for name in std::mem::take(&mut self.workers.leaving) {
            self.forget_groups(&name);
        }
        let ending = self.workers.all.iter().filter(|(_, worker)| worker.ending);
        let ending: Vec<Name> = ending.map(|(name, _)| name.clone()).collect();
        for name in ending {
            self.end_worker(&name);
        }
    }

    /// Ends all of them.
    pub(crate) fn end_workers(&mut self) {
        let names: Vec<Name> = self.workers.all.keys().cloned().collect();
        for name in names {
            self.end_worker(&name);
        }
    }
}
