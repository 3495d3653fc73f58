//! Questions at a terminal, about what is not known; an empty answer leaves it as it is said in brackets.

use component::transfer::advice::{Cursors, Situation, Team};

use crate::cli::{bytes, cursor, yes_or_no};
use crate::exit::Failure;
use crate::output;

/// Asks what nobody has said or measured, the weightiest first.
pub(super) fn what_is_unknown(situation: &mut Situation) -> Result<(), Failure> {
    let is_elsewhere = situation.from.is_none();
    let fresh =
        |text: &str| text.parse().map_err(|bad: component::transfer::advice::BadFreshness| bad.to_string());
    fill(
        &mut situation.fresh,
        "How old may rows be when they are read: 1s, 1m, 1h, 1d? [1h]",
        Some("1h"),
        fresh,
    )?;
    fill(
        &mut situation.history,
        "Is every change wanted, also what the next one overwrites? [no]",
        Some("no"),
        yes_or_no,
    )?;
    let team = if is_elsewhere { "other" } else { "same" };
    let whose = "Whose is the server, seen from those who want its data: same team, other team, outside?";
    fill(&mut situation.owner, &format!("{whose} [{team}]"), Some(team), whom)?;
    situation.operator = situation.operator.or(situation.owner);
    fill(&mut situation.changes.deletes, "Are rows deleted? [not known]", None, yes_or_no)?;
    if !is_elsewhere {
        return Ok(());
    }
    if situation.volume.rows.is_none() {
        fill(
            &mut situation.volume.bytes,
            "How large are the tables, like 500MB or 20GB? [not known]",
            None,
            bytes,
        )?;
    }
    if situation.cursor == Cursors::Unknown {
        let question = "Which column, with an index, does every insert and update set, like updated_at, or none? [not known]";
        let mut found = None;
        fill(&mut found, question, None, cursor)?;
        situation.cursor = found.unwrap_or_default();
    }
    let question = "Can a role with `replication` be had in the server? [not known]";
    fill(&mut situation.server.may_replicate, question, None, yes_or_no)
}

fn whom(text: &str) -> Result<Team, String> {
    match text.to_ascii_lowercase().as_str() {
        "same" | "same team" => Ok(Team::Same),
        "other" | "other team" => Ok(Team::Other),
        "outside" => Ok(Team::Outside),
        _ => Err("say same, other or outside".into()),
    }
}

/// Asks until the answer can be read, unless it is known.
fn fill<T>(
    place: &mut Option<T>,
    question: &str,
    default: Option<&str>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<(), Failure> {
    while place.is_none() {
        output::ask(format!("{question} "));
        let mut answer = String::new();
        let is_end = std::io::stdin().read_line(&mut answer).map_err(Failure::failed)? == 0;
        let answer = answer.trim();
        let Some(answer) = (if answer.is_empty() { default } else { Some(answer) }) else { return Ok(()) };
        match read(answer) {
            Ok(value) => *place = Some(value),
            Err(why) => output::remark(why),
        }
        if is_end {
            return Ok(());
        }
    }
    Ok(())
}
