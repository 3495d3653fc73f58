//! Words of programs in plain words: what people read first. The programs' own stand beside them.

use client::wire::HistoryLine;

/// What each action of the journal is to a person who did not do it: as something that happened, and as something that
/// was asked for, for the line that says that it was refused.
const ACTIONS: &[(&str, &str, &str)] = &[
    ("backup.drill_failed", "Drill of a backup failed", "a drill"),
    ("backup.drilled", "Backup restored and checked in a drill", "a drill"),
    ("component.canary_widened", "Release tried on another share of the calls", "another share of the calls"),
    ("component.created", "Component created", "a new component"),
    ("component.deletion_requested", "Removal asked for", "the removal of a component"),
    ("component.edited", "Settings changed", "a change of settings"),
    ("component.move_requested", "Move asked for", "a move"),
    ("component.paused", "Transfer paused", "a pause of a transfer"),
    ("component.promoted", "Release that was tried answers all calls", "a promotion"),
    ("component.ready", "Ready for the first time", "a component"),
    ("component.recovered", "Recovered from its backup", "a recovery"),
    ("component.removed", "Component removed", "the removal of a component"),
    ("component.resumed", "Transfer goes on", "a transfer to go on"),
    ("component.resync_requested", "New copy asked for", "a new copy"),
    ("component.rolled_back", "Earlier release wanted again", "a rollback"),
    ("component.step", "Step done", "a step"),
    ("component.swapped", "Swapped with another server", "a swap of two servers"),
    ("component.updated", "Changes in force", "a change"),
    ("condition.cleared", "Problem over", "a condition"),
    ("condition.raised", "Problem found", "a condition"),
    ("credentials.shown", "Password shown", "to see a password"),
    ("disk.read_only", "Disk full: the server only reads", "a change"),
    ("disk.writable", "Disk has room again: the server writes", "a change"),
    ("drift.found", "Found changed by nobody who was asked", "a change"),
    ("drift.repaired", "Put back as wanted", "a repair"),
    ("host.recovered", "Host recovered from backups", "a recovery"),
    ("inspection.begun", "Debugger at a function", "a debugger"),
    ("inspection.ended", "Debugger gone", "a debugger"),
    ("invocation.made", "Function called by hand", "a call of a function"),
    ("keeper.started", "Keeper of the host started", "a start"),
    ("member.added", "Member added", "a new member"),
    ("member.edited", "Role of a member changed", "a change of a member's role"),
    ("member.invitation_withdrawn", "Invitation taken back", "to take an invitation back"),
    ("member.invited", "Somebody invited", "an invitation"),
    ("member.removed", "Member removed", "the removal of a member"),
    ("package.uploaded", "Code uploaded", "an upload of code"),
    ("password.rotated", "Password replaced by a new one", "a new password"),
    ("reader.opened", "Role for looking made in the database", "a role for looking"),
    ("secret.removed", "Secret removed", "the removal of a secret"),
    ("secret.set", "Secret set", "to set a secret"),
    ("server.asleep", "Server fell asleep", "sleep"),
    ("server.exited", "Server ended", "an end"),
    ("server.killed", "Server was killed", "an end"),
    ("server.restarted", "Server restarted", "a restart"),
    ("server.started", "Server started", "a start"),
    ("server.woken", "Server woken by a client", "a wake-up"),
    ("sign_in.done", "Signed in", "a sign-in"),
    ("sign_in.ended", "Signed out", "to sign out"),
    ("sign_in.link_made", "Link made that signs in once", "a link that signs in"),
    ("sign_in.password_changed", "Own password changed", "a change of the own password"),
    ("sign_in.refused", "Sign-in refused", "a sign-in"),
    ("sign_in.second_factor_added", "Second factor added", "a second factor"),
    ("sign_in.second_factor_removed", "Second factor removed", "the removal of a second factor"),
    ("sign_in.session_copied", "Session used from two places, and ended", "a session"),
    ("sql.run", "SQL run", "to run SQL"),
    ("staff.edited", "Role in all tenants changed", "a role in all tenants"),
    ("stead.edited", "Stead edited", "an edit of the stead"),
    ("stead.removed", "Stead removed", "the removal of the stead"),
    ("tenant.created", "Tenant made", "a new tenant"),
    ("tenant.edited", "Quota of the tenant changed", "an edit of the tenant"),
    ("tenant.removed", "Tenant removed", "the removal of the tenant"),
    ("token.created", "Token made", "a new token"),
    ("token.revoked", "Token ended", "the end of a token"),
];

/// What happened, in plain words; of an action that has none, its own word.
pub(crate) fn action(action: &str) -> &str {
    ACTIONS.iter().find(|(name, ..)| *name == action).map_or(action, |(_, words, _)| words)
}

/// What a line of the journal tells, in plain words; of what was refused, what had been asked for.
pub(crate) fn line(line: &HistoryLine) -> String {
    let asked = ACTIONS.iter().find(|(name, ..)| *name == line.action && line.outcome == "refused");
    let Some((_, _, asked)) = asked else { return action(&line.action).to_owned() };
    let (first, rest) = asked.split_at(1);
    first.to_uppercase() + rest
}

/// Every action with its words, for a choice among them.
pub(crate) fn actions() -> impl Iterator<Item = (&'static str, &'static str)> {
    ACTIONS.iter().map(|(name, words, _)| (*name, *words))
}

/// Sorts of things that happen.
pub(crate) const CATEGORIES: [(&str, &str); 5] = [
    ("change", "Changes"),
    ("operation", "Backups and recovery"),
    ("engine", "By the engines themselves"),
    ("sign_in", "Sign-ins"),
    ("access", "Access"),
];

/// How something went.
pub(crate) const OUTCOMES: [(&str, &str); 3] =
    [("done", "Done"), ("refused", "Refused"), ("noted", "Seen to happen")];

/// Healths, those that want a person first, and the word that colours each.
pub(crate) const HEALTHS: [(&str, &str, &str); 5] = [
    ("attention", "Needs attention", "bad"),
    ("busy", "Being changed", "busy"),
    ("deleting", "Being removed", "busy"),
    ("ready", "Ready", "good"),
    ("asleep", "Asleep", "asleep"),
];

/// A health, and the word that colours it.
pub(crate) fn health(health: &str) -> (&str, &'static str) {
    let known = HEALTHS.iter().find(|(name, ..)| *name == health);
    known.map_or((health, ""), |(_, words, colour)| (*words, *colour))
}

/// What an operation is for.
pub(crate) fn operation(kind: &str) -> &str {
    match kind {
        "apply" => "Changes",
        "delete" => "Removal",
        "rotate" => "New password",
        "move" => "Move",
        "pause" => "Pause",
        "resume" => "Resume",
        "resync" => "New copy",
        "clone" => "Clone",
        "swap" => "Swap",
        "rollback" => "Rollback",
        other => other,
    }
}

/// How far an operation is, and the word that colours it.
pub(crate) fn state(state: &str) -> (&str, &'static str) {
    match state {
        "running" => ("Running", "busy"),
        "succeeded" => ("Done", "good"),
        "failed" => ("Failed", "bad"),
        other => (other, ""),
    }
}

/// What a step of a component does. A step of more than one word has a name of something behind the first.
pub(crate) fn step(step: &str) -> String {
    let (first, rest) = step.split_once(' ').unwrap_or((step, ""));
    let words = match first {
        "declare" => "tells the engine of it",
        "release" => "brings up release",
        "canary" => "brings up, to be tried, release",
        "return" => "stops trying a release:",
        "retire" => "forgets earlier releases",
        "unpack" => "unpacks the code",
        "claim" => "takes a server that was prepared",
        "restore" => "restores the backup",
        "configure" => "writes the configuration",
        "start" => "starts the server",
        "wake" => "wakes the server",
        "reload" => "has the server read its configuration",
        "restart" => "restarts the server",
        "roles" => "sets roles and passwords",
        "extension" => "adds the extension",
        "migrate" => "runs the migration",
        "archive" => "sees to the backups",
        "drill" => "tries a backup",
        "open" => "lets clients in",
        "move" => "moves the server",
        "create" => "makes a place for the lake",
        "role" => "lets the copier in to the server",
        "copier" => "starts the copier",
        "lake" => "starts the lake",
        "forget" => "has the server forget it",
        "leave" => "leaves the old place",
        "close" => "lets no client in any more",
        "stop" => "stops the server",
        "remove" => "removes it",
        _ => return step.to_owned(),
    };
    if rest.is_empty() { words.to_owned() } else { format!("{words} {rest}") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    /// Rust files of a folder, or one of them.
    fn sources(at: &Path, found: &mut Vec<PathBuf>) {
        if at.is_dir() {
            std::fs::read_dir(at).unwrap().for_each(|entry| sources(&entry.unwrap().path(), found));
        } else if at.extension().is_some_and(|ending| ending == "rs") {
            found.push(at.to_owned());
        }
    }

    /// Texts like `"component.edited"` of a program, its tests apart.
    fn dotted(program: &str) -> impl Iterator<Item = &str> {
        let product = program.split("#[cfg(test)]").next().unwrap_or_default();
        product.split('"').filter(|text| {
            let plain =
                |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            text.split_once('.').is_some_and(|(first, rest)| plain(first) && plain(rest))
        })
    }

    #[test]
    fn every_action_that_is_written_has_words_and_no_other() {
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut files = Vec::new();
        // Whatever writes the journal: the store itself, and those who give it lines.
        for part in [
            "component/src/transfer/spec.rs",
            "store/src",
            "reconciler/src",
            "server/src/routes",
            "server/src/sign_in",
            "stead/src/host/spool.rs",
        ] {
            sources(&crates.join(part), &mut files);
        }
        let texts: Vec<String> = files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
        // What the keeper calls its units in its own file, names of components and tables in texts, an alias in SQL.
        let is_action = |text: &&str| {
            !["unit.", "postgres.", "public.", "wanted."].iter().any(|other| text.starts_with(other))
        };
        let written: BTreeSet<&str> = texts.iter().flat_map(|text| dotted(text)).filter(is_action).collect();
        let known: BTreeSet<&str> = actions().map(|(name, _)| name).collect();
        assert!(written.len() > 40, "the sources are not where they were: {written:?}");
        let without: Vec<_> = written.difference(&known).collect();
        assert!(without.is_empty(), "actions without plain words: {without:?}");
        let unused: Vec<_> = known.difference(&written).collect();
        assert!(unused.is_empty(), "words for actions that nobody writes: {unused:?}");
        assert!(actions().is_sorted(), "they are found where the alphabet has them");
    }

    #[test]
    fn words_of_every_category_outcome_and_health() {
        assert_eq!(CATEGORIES.map(|(name, _)| name), component::Category::ALL.map(|one| one.as_str()));
        assert_eq!(OUTCOMES.map(|(name, _)| name), store::journal::Outcome::ALL.map(|one| one.as_str()));
        for one in component::Health::ALL {
            assert_ne!(health(one.as_str()).0, one.as_str());
        }
        assert_eq!(health("new"), ("new", ""));
    }

    #[test]
    fn steps_keep_the_names_in_them() {
        assert_eq!(step("migrate 0001_tables.sql"), "runs the migration 0001_tables.sql");
        assert_eq!(step("open"), "lets clients in");
        assert_eq!(step("dance wildly"), "dance wildly");
    }

    #[test]
    fn what_was_refused_did_not_happen() {
        let told = |action: &str, outcome: &str| {
            line(&HistoryLine {
                id: 1,
                at: jiff::Timestamp::UNIX_EPOCH,
                tenant: None,
                stead: None,
                component: None,
                actor: String::new(),
                source: String::new(),
                action: action.to_owned(),
                category: String::new(),
                outcome: outcome.to_owned(),
                reason: None,
                operation: None,
                differences: Vec::new(),
                payload_hash: String::new(),
            })
        };
        assert_eq!(told("stead.removed", "done"), "Stead removed");
        assert_eq!(told("stead.removed", "refused"), "The removal of the stead");
        assert_eq!(told("new.thing", "noted"), "new.thing");
        assert_eq!(told("new.thing", "refused"), "new.thing");
    }
}
