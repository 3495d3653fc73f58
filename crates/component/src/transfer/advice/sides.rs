//! Who depends on whom, and what either side has to operate.

use serde::Serialize;

use super::choose::team;
use super::{Mode, Situation, Team};

/// Both sides of a transfer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sides {
    /// Who depends on whom, for what.
    pub depends: Vec<String>,
    /// What those who own and operate the server have to do.
    pub server: Vec<String>,
    /// What those who want the data have to do.
    pub lake: Vec<String>,
}

pub(super) fn of(situation: &Situation, mode: Mode) -> Sides {
    Sides { depends: depends(situation, mode), server: server(situation, mode), lake: lake(situation, mode) }
}

fn depends(situation: &Situation, mode: Mode) -> Vec<String> {
    let mut depends = vec![match mode {
        Mode::Snapshot => {
            "the lake depends on the server when a copy is due, and on the names and types of columns at that moment"
        }
        Mode::Query => {
            "the lake depends on the server at each run, on the column being set by every writer, and on rows never being \
             deleted"
        }
        Mode::Stream => {
            "the lake depends on the server's slot and publication, and follows every change of its tables"
        }
    }
    .to_owned()];
    depends.push(
        match mode {
            Mode::Snapshot | Mode::Query => {
                "the server depends on nobody: a reader that is away costs it nothing"
            }
            Mode::Stream => "the server depends on its reader: it keeps its log until that has it",
        }
        .to_owned(),
    );
    if team(situation) != Team::Same {
        depends.push(format!(
            "the server is {}'s: agree on who tells whom before a table changes, and write it down as `owner` and \
             `consumers`",
            team(situation).words()
        ));
    }
    depends
}

fn server(situation: &Situation, mode: Mode) -> Vec<String> {
    let by_stead = situation.from.is_some();
    let mut todo: Vec<String> = Vec::new();
    let mut add = |text: &str| todo.push(text.to_owned());
    match (mode, by_stead) {
        (Mode::Stream, true) => {
            add("role, publication and slot: Stead makes them, and watches how much log is kept");
        }
        (Mode::Stream, false) => {
            add("`wal_level = logical`, a role with `replication` and `select`, a publication, a free slot");
            add("`max_slot_wal_keep_size`, and an alarm on how much log the slot keeps");
        }
        (_, true) => add("a role with `select`: Stead makes it"),
        (_, false) => add("a role with `select`, and an address from which it may connect"),
    }
    match mode {
        Mode::Stream => add("a primary key on every table; a word before one is dropped or renamed"),
        Mode::Query => add("the column: set by every writer, never null, with an index"),
        Mode::Snapshot => {}
    }
    todo
}

fn lake(situation: &Situation, mode: Mode) -> Vec<String> {
    let mut todo = Vec::new();
    let mut add = |text: &str| todo.push(text.to_owned());
    add(
        "the transfer's two processes, and the lake's disk: Stead runs them, `stead status` says how they stand",
    );
    match mode {
        Mode::Snapshot => {
            add("a look at how long a copy takes, before it takes as long as there is between two")
        }
        Mode::Query => {
            add("a comparison with a whole copy now and then, because what was missed says nothing")
        }
        Mode::Stream => {
            add("an alarm on how far it is behind; `stead resync` where the server has let go of its log");
        }
    }
    if situation.history == Some(true) {
        add("how long changes are kept, and that people can be forgotten in them");
    }
    todo
}
