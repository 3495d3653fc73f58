//! Trees: the folder of one server, its own user id, and the lock that its processes hold.
//!
//! A tree is put together under `keeper/new`, where only root goes, and renamed into place whole; it is
//! removed by a rename to `keeper/trash`. So a keeper killed half way leaves nothing that has a name.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, RenameFlags};

use crate::files::{self, Access};
use crate::host::{self, Host};
use crate::layout::repaired;
use crate::record::Holder;
use crate::wire::{Reason, Refusal, Tree};
use crate::{fail_point, trash};

/// Whose a folder of a tree is.
#[derive(Clone, Copy, PartialEq)]
enum Owner {
    /// The tree's own user and group.
    Tree,
    /// The tree's own user, with the group "stead".
    TreeStead,
    /// The control plane.
    Control,
    /// Root.
    Root,
}

/// The folders of a tree. What a process makes in `run` and `log` gets the group "stead" by the
/// set-group-id bit, so that the platform can reach the socket and read the logs.
const FOLDERS: &[(&str, Owner, u32)] = &[
    ("data", Owner::Tree, 0o700),
    ("run", Owner::TreeStead, 0o2770),
    ("log", Owner::TreeStead, 0o2750),
    ("conf", Owner::Control, 0o755),
    ("guard", Owner::Root, 0o755),
];

/// The file in `guard` that servers include.
const READ_ONLY_FILE: &str = "read_only.conf";
const READ_ONLY: &[u8] = b"# The disk is almost full; the keeper takes this away when there is room again.\n\
    default_transaction_read_only = on\n";

/// All trees of a home.
pub(crate) struct Trees {
    pub(crate) home: PathBuf,
    pub(crate) root: OwnedFd,
    pub(crate) host: Host,
}

/// A tree that is ready for a process.
pub(crate) struct Ready {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) lock: Lock,
    /// What had to be put right.
    pub(crate) repairs: Vec<String>,
}

/// A lock file, locked. The lock belongs to the open file, so every process that inherits it holds it.
pub(crate) struct Lock {
    /// Inherited by the process: cannot be written through.
    pub(crate) held: OwnedFd,
    /// To say who holds it.
    pub(crate) file: OwnedFd,
}

/// What trying to lock came to.
pub(crate) enum Locked {
    Ours(Lock),
    /// Somebody lives; who it says it is.
    Busy(Option<Holder>),
}

fn system(what: &str, error: &io::Error) -> Refusal {
    let full = error.kind() == io::ErrorKind::StorageFull;
    let reason = if full { Reason::DiskFull } else { Reason::System };
    Refusal { reason, message: format!("{what}: {error}") }
}

fn refused(reason: Reason, message: impl Into<String>) -> Refusal {
    Refusal { reason, message: message.into() }
}

/// How a tree is called in messages: its folder below the home.
pub(crate) fn shown(tree: &Tree) -> String {
    host::relative(tree).display().to_string()
}

impl Trees {
    /// Makes a tree, or finds it made.
    pub(crate) fn create(&self, tree: &Tree, read_only: bool) -> Result<Vec<String>, Refusal> {
        let path = host::relative(tree);
        let what = format!("cannot make `{}`", shown(tree));
        if files::exists(&self.root, &path).map_err(|e| system(&what, &e))? {
            return self.repair(tree).map(|(_, repairs)| repairs);
        }
        let uid = match tree {
            Tree::Control => self.host.control_uid(),
            _ => self.free_uid().map_err(|e| system(&what, &e))?.ok_or_else(|| {
                let all = self.host.tree_uids().len() - self.host.worker_uids().len();
                refused(
                    Reason::System,
                    format!("{what}: all {all} user ids are taken; remove servers that nobody needs"),
                )
            })?,
        };
        self.assemble(&path, uid, read_only).map_err(|e| system(&what, &e))?;
        Ok(Vec::new())
    }

    fn assemble(&self, path: &Path, uid: u32, read_only: bool) -> io::Result<()> {
        let new = files::open_dir(&self.root, "keeper/new")?;
        let name = path.to_string_lossy().replace('/', "_");
        if files::exists(&new, &name)? {
            trash::throw(&self.root, new.as_fd(), &name, uid)?;
        }
        files::make_dir(&new, &name)?;
        fail_point!("keeper::trees.folder_made");
        let dir = files::open_dir(&new, &name)?;
        for (part, owner, mode) in FOLDERS {
            files::make_dir(&dir, part)?;
            fail_point!("keeper::trees.part_made");
            files::set_access(files::open_dir(&dir, part)?, self.access(*owner, uid, *mode))?;
        }
        self.lock_file(&dir)?;
        if read_only {
            self.set_guard(&dir, true)?;
        }
        fail_point!("keeper::trees.parts_made");
        let (uid, gid) = (self.host.control_uid(), self.host.gid());
        files::set_access(&dir, Access { uid, gid, mode: 0o750 })?;
        rustix::fs::renameat_with(&new, &name, &self.root, path, RenameFlags::NOREPLACE)?;
        fail_point!("keeper::trees.created");
        Ok(())
    }

    /// Moves a tree to another name; done already is fine.
    pub(crate) fn rename(&self, from: &Tree, to: &Tree) -> Result<(), Refusal> {
        let what = format!("cannot move `{}` to `{}`", shown(from), shown(to));
        if *from == Tree::Control || *to == Tree::Control {
            return Err(refused(Reason::Invalid, format!("{what}: the control tree stays where it is")));
        }
        let exists = |tree| files::exists(&self.root, host::relative(tree)).map_err(|e| system(&what, &e));
        match (exists(from)?, exists(to)?) {
            (false, true) => return Ok(()),
            (false, false) => return Err(refused(Reason::Absent, format!("{what}: it does not exist"))),
            (true, true) => {
                return Err(refused(Reason::Invalid, format!("{what}: both exist; remove one of them")));
            }
            (true, false) => {}
        }
        self.unused(from, &what)?;
        let (from, to) = (host::relative(from), host::relative(to));
        rustix::fs::renameat_with(&self.root, &from, &self.root, &to, RenameFlags::NOREPLACE)
            .map_err(|e| system(&what, &e.into()))?;
        fail_point!("keeper::trees.renamed");
        Ok(())
    }

    /// Takes a tree away; what it held is deleted afterwards. Absent is fine.
    pub(crate) fn remove(&self, tree: &Tree) -> Result<(), Refusal> {
        let what = format!("cannot remove `{}`", shown(tree));
        let path = host::relative(tree);
        if !files::exists(&self.root, &path).map_err(|e| system(&what, &e))? {
            return Ok(());
        }
        self.unused(tree, &what)?;
        let uid = files::open_dir(&self.root, &path).ok().and_then(|dir| self.uid_of(&dir, tree));
        let uid = uid.unwrap_or(self.host.control_uid());
        trash::throw(&self.root, self.root.as_fd(), &path.to_string_lossy(), uid)
            .map_err(|e| system(&what, &e))
    }

    /// Refuses where anything that ran on a tree still lives.
    fn unused(&self, tree: &Tree, what: &str) -> Result<(), Refusal> {
        let Ok(dir) = files::open_dir(&self.root, host::relative(tree)) else { return Ok(()) };
        match self.lock(&dir).map_err(|e| system(what, &e))? {
            Locked::Ours(_) => Ok(()),
            Locked::Busy(holder) => {
                Err(refused(Reason::Busy, format!("{what}: {}", in_use(holder.as_ref()))))
            }
        }
    }

    /// Makes a tree fit for a process: its folders as they must be, its lock taken.
    pub(crate) fn ready(
        &self,
        tree: &Tree,
        read_only: bool,
    ) -> Result<Result<Ready, Option<Holder>>, Refusal> {
        let what = format!("cannot use `{}`", shown(tree));
        let (uid, repairs) = self.repair(tree)?;
        let dir = files::open_dir(&self.root, host::relative(tree)).map_err(|e| system(&what, &e))?;
        self.set_guard(&dir, read_only).map_err(|e| system(&what, &e))?;
        Ok(match self.lock(&dir).map_err(|e| system(&what, &e))? {
            Locked::Ours(lock) => Ok(Ready { uid, gid: self.gid_of(uid), lock, repairs }),
            Locked::Busy(holder) => Err(holder),
        })
    }

    /// The same for a process that only reads the tree, whoever else works on it, with a lock of its own.
    pub(crate) fn beside(&self, tree: &Tree, lock: Lock) -> Result<Ready, Refusal> {
        let (uid, repairs) = self.repair(tree)?;
        Ok(Ready { uid, gid: self.gid_of(uid), lock, repairs })
    }

    /// Puts owners and modes right; its user id, and what had to be changed.
    fn repair(&self, tree: &Tree) -> Result<(u32, Vec<String>), Refusal> {
        let name = shown(tree);
        let what = format!("cannot use `{name}`");
        let path = host::relative(tree);
        let dir = files::open_dir(&self.root, &path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                refused(Reason::Absent, format!("there is no `{name}`; create the tree first"))
            }
            _ => system(&what, &error),
        })?;
        if !files::exists(&dir, "data").map_err(|e| system(&what, &e))? {
            let message = format!(
                "`{name}/data` is gone: somebody deleted it; restore it from a backup, or remove the server and create it again"
            );
            return Err(refused(Reason::Absent, message));
        }
        let Some(uid) = self.uid_of(&dir, tree) else {
            let range = self.host.tree_uids();
            let message = format!(
                "nothing in `{name}` belongs to a server's user ({} to {}); give `data` and what is in it back with chown",
                range.start,
                range.end - 1
            );
            return Err(refused(Reason::System, message));
        };
        let mut repairs = Vec::new();
        let own = Access { uid: self.host.control_uid(), gid: self.host.gid(), mode: 0o750 };
        let had = files::set_access(&dir, own).map_err(|e| system(&what, &e))?;
        repairs.extend(had.map(|had| repaired(&name, had, own)));
        for (part, owner, mode) in FOLDERS {
            let wanted = self.access(*owner, uid, *mode);
            let had = files::make_dir(&dir, part)
                .and_then(|_| files::set_access(files::open_dir(&dir, part)?, wanted))
                .map_err(|e| system(&format!("{what}: `{part}`"), &e))?;
            repairs.extend(had.map(|had| repaired(&format!("{name}/{part}"), had, wanted)));
            fail_point!("keeper::trees.part_repaired");
        }
        Ok((uid, repairs))
    }

    fn access(&self, owner: Owner, tree_uid: u32, mode: u32) -> Access {
        let (uid, gid) = match owner {
            Owner::Tree => (tree_uid, self.gid_of(tree_uid)),
            Owner::TreeStead => (tree_uid, self.host.gid()),
            Owner::Control => (self.host.control_uid(), self.host.gid()),
            Owner::Root => self.host.root(),
        };
        Access { uid, gid, mode }
    }

    /// The group of a tree's user has the same number.
    fn gid_of(&self, uid: u32) -> u32 {
        if self.host.isolated { uid } else { self.host.gid() }
    }

    /// Whose a tree is: the first of its folders that belongs to a tree's user says so.
    fn uid_of(&self, dir: &OwnedFd, tree: &Tree) -> Option<u32> {
        if *tree == Tree::Control {
            return Some(self.host.control_uid());
        }
        let range = self.host.tree_uids();
        ["data", "run", "log"].iter().find_map(|part| {
            let uid = files::access(files::open_dir(dir, part).ok()?).ok()?.uid;
            range.contains(&uid).then_some(uid)
        })
    }

    /// The lowest user id that no tree has, nor anything that is still being deleted.
    fn free_uid(&self) -> io::Result<Option<u32>> {
        if !self.host.isolated {
            return Ok(Some(self.host.control_uid()));
        }
        let taken = self.taken_uids()?;
        let workers = self.host.worker_uids();
        Ok(self.host.tree_uids().find(|uid| !taken.contains(uid) && !workers.contains(uid)))
    }

    /// The user ids that a tree has, or something that is still being deleted.
    pub(crate) fn taken_uids(&self) -> io::Result<BTreeSet<u32>> {
        let mut taken: BTreeSet<u32> = trash::uids(&self.root)?;
        for parent in ["servers", "spares"] {
            let parent = files::open_dir(&self.root, parent)?;
            for name in files::list(&parent)? {
                let Ok(dir) = files::open_dir(&parent, &name) else { continue };
                for part in ["data", "run", "log"] {
                    let owner = files::open_dir(&dir, part).and_then(files::access);
                    taken.extend(owner.map(|access| access.uid));
                }
            }
        }
        Ok(taken)
    }

    fn lock_file(&self, dir: &OwnedFd) -> io::Result<std::fs::File> {
        let (uid, gid) = self.host.root();
        let open = || -> io::Result<std::fs::File> {
            let file = files::open_file(dir, "lock", OFlags::RDWR | OFlags::CREATE, 0o600)?;
            if files::access(&file)?.uid != uid {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the lock is not root's"));
            }
            Ok(file)
        };
        // Whoever may write to the tree's folder may have put something in its place.
        let file = open().or_else(|_| {
            files::remove_file(dir, "lock")?;
            open()
        })?;
        files::set_access(&file, Access { uid, gid, mode: 0o600 })?;
        Ok(file)
    }

    fn lock(&self, dir: &OwnedFd) -> io::Result<Locked> {
        let file = self.lock_file(dir)?;
        lock(file.into(), dir.as_fd(), "lock")
    }

    /// Takes the lock of a unit without a tree.
    pub(crate) fn unit_lock(&self, unit: &str) -> io::Result<Locked> {
        let dir = files::open_dir(&self.root, "keeper/locks")?;
        let file = files::open_file(&dir, unit, OFlags::RDWR | OFlags::CREATE, 0o600)?;
        lock(file.into(), dir.as_fd(), unit)
    }

    /// Makes every tree's servers read-only, or writable again, once they are told to reload.
    pub(crate) fn set_guards(&self, read_only: bool) -> io::Result<()> {
        let mut trees = vec![PathBuf::from("control")];
        for parent in ["servers", "spares"] {
            let names = files::list(files::open_dir(&self.root, parent)?)?;
            trees.extend(names.iter().map(|name| Path::new(parent).join(name)));
        }
        let mut first_error = Ok(());
        for path in trees {
            let Ok(dir) = files::open_dir(&self.root, &path) else { continue };
            let done = self.set_guard(&dir, read_only);
            fail_point!("keeper::trees.guard_set");
            first_error = first_error.and(done);
        }
        first_error
    }

    /// Whether any tree has been made read-only.
    pub(crate) fn any_guard(&self) -> bool {
        let any = |path: &Path| {
            files::open_dir(&self.root, path.join("guard"))
                .is_ok_and(|dir| files::exists(&dir, READ_ONLY_FILE).unwrap_or(false))
        };
        any(Path::new("control"))
            || ["servers", "spares"].iter().any(|parent| {
                let names = files::open_dir(&self.root, parent).and_then(files::list).unwrap_or_default();
                names.iter().any(|name| any(&Path::new(parent).join(name)))
            })
    }

    fn set_guard(&self, dir: &OwnedFd, read_only: bool) -> io::Result<()> {
        let guard = files::open_dir(dir, "guard")?;
        match (read_only, files::exists(&guard, READ_ONLY_FILE)?) {
            (true, false) => files::write_atomic(&guard, READ_ONLY_FILE, READ_ONLY, 0o644),
            (false, true) => files::remove_file(&guard, READ_ONLY_FILE),
            _ => Ok(()),
        }
    }
}

/// Locks an open file, and opens it once more for the process that will hold the lock.
fn lock(file: OwnedFd, dir: BorrowedFd<'_>, name: &str) -> io::Result<Locked> {
    let held: OwnedFd = files::open_file(dir, name, OFlags::RDONLY, 0)?.into();
    match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Locked::Ours(Lock { held, file })),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(Locked::Busy(Holder::read(&file).map(|(holder, _)| holder))),
        Err(error) => Err(error.into()),
    }
}

/// Says who holds a lock.
pub(crate) fn in_use(holder: Option<&Holder>) -> String {
    match holder {
        Some(holder) => {
            format!(
                "a process of unit `{}` (process {}) still lives; stop it first",
                holder.unit, holder.identity.pid
            )
        }
        None => "a process still works on it; stop it first".into(),
    }
}
