//! Sleep: a server that nobody uses has no process, and is started again for the client that needs it.
//!
//! The gateway decides, because it sees the clients; it may ask for nothing else here. That a unit sleeps is
//! kept in `keeper/asleep/<unit>`, an empty file, so that it sleeps on after a restart of the keeper or a
//! boot. The file is written before the process is told to stop and removed before one is started: a keeper
//! that is killed in between goes on to the same end.

use std::io;

use crate::keeper::Keeper;
use crate::units::Phase;
use crate::wire::{Name, Reason, Refusal, Reply, Wanted};
use crate::{fail_point, files};

const FOLDER: &str = "keeper/asleep";
/// A reason goes into the spool, and from there into the journal, characters.
const LONGEST_REASON: usize = 300;

impl Keeper {
    /// Has a unit sleep.
    pub(crate) fn sleep(&mut self, name: &Name, why: String) -> Result<Reply, Refusal> {
        let entry = self.units.get_mut(name).ok_or_else(|| absent(name))?;
        if !entry.declared.as_ref().is_some_and(|unit| unit.sleeps && unit.wanted == Wanted::Running) {
            let message = format!("unit `{name}` is not declared as one that sleeps; it was left alone");
            return Err(Refusal { reason: Reason::Invalid, message });
        }
        if !entry.asleep {
            files::open_dir(&self.trees.root, FOLDER)
                .and_then(|folder| files::write_atomic(folder, name.as_str(), b"", 0o600))
                .map_err(|error| system(name, &error))?;
            fail_point!("keeper::sleep.noted");
            entry.asleep = true;
            self.journal.event(Some(name), "unit.asleep", shortened(why));
        }
        self.bring_about(name)?;
        Ok(Reply::Unit(self.units.get(name).map(|entry| entry.status(name))))
    }

    /// Has a unit run again.
    pub(crate) fn wake(&mut self, name: &Name, why: String) -> Result<Reply, Refusal> {
        self.not_ending()?;
        let entry = self.units.get(name).ok_or_else(|| absent(name))?;
        let asleep = entry.asleep;
        // One that keeps ending by itself is tried again when its time comes, however many need it.
        let failing = matches!(entry.phase, Phase::Backoff { .. });
        if asleep {
            self.forget_sleep(name).map_err(|error| system(name, &error))?;
            fail_point!("keeper::wake.noted");
            self.journal.event(Some(name), "unit.woken", shortened(why));
        }
        if !failing {
            self.bring_about(name)?;
        }
        Ok(Reply::Unit(self.units.get(name).map(|entry| entry.status(name))))
    }

    /// What an earlier keeper noted of a unit that has just been taken up.
    pub(crate) fn recall_sleep(&mut self, name: &Name) {
        let noted = files::exists(&self.trees.root, format!("{FOLDER}/{name}")).unwrap_or(false);
        if noted && let Some(entry) = self.units.get_mut(name) {
            entry.asleep = true;
        }
        self.stay_awake_unless_it_may_sleep(name);
    }

    /// A unit that is declared anew as one that does not sleep is awake.
    pub(crate) fn stay_awake_unless_it_may_sleep(&mut self, name: &Name) {
        let may = |unit: &crate::wire::Unit| unit.sleeps;
        if self.units.get(name).is_some_and(|e| e.asleep && !e.declared.as_ref().is_some_and(may))
            && let Err(error) = self.forget_sleep(name)
        {
            self.journal.log("error", Some(name), &format!("cannot note that it is awake: {error}"));
        }
    }

    pub(crate) fn forget_sleep(&mut self, name: &Name) -> io::Result<()> {
        files::remove_file(&self.trees.root, format!("{FOLDER}/{name}"))?;
        if let Some(entry) = self.units.get_mut(name) {
            entry.asleep = false;
        }
        Ok(())
    }
}

fn shortened(why: String) -> String {
    if why.len() <= LONGEST_REASON { why } else { why.chars().take(LONGEST_REASON).collect() }
}

fn absent(name: &Name) -> Refusal {
    Refusal { reason: Reason::Absent, message: format!("there is no unit `{name}`") }
}

fn system(name: &Name, error: &io::Error) -> Refusal {
    let message = format!("cannot note whether unit `{name}` sleeps: {error}");
    Refusal { reason: Reason::System, message }
}
