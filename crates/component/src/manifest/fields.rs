//! Fields that components of several kinds have.

use std::fmt::Display;
use std::path::{Component, Path, PathBuf};

use super::{Fault, Node, shown, unfit};

/// Longest `owner`, characters.
const LONGEST_OWNER: usize = 120;
/// Longest `runbook`, characters.
const LONGEST_RUNBOOK: usize = 1_000;

/// Whom to ask about a component.
pub(crate) fn owner(node: &Node<'_>) -> Result<String, Fault> {
    line(node, LONGEST_OWNER, "owner = \"team-flights\"")
}

/// Where it is written what to do about it.
pub(crate) fn runbook(node: &Node<'_>) -> Result<String, Fault> {
    line(node, LONGEST_RUNBOOK, "runbook = \"https://wiki.example.com/flights\"")
}

/// The fault that an error tells, which says what happened; what to do. `like` is for one that does not.
pub(crate) fn told(bad: &impl Display, label: &str, like: &str) -> Fault {
    let said = bad.to_string();
    // The last of them: the text that is refused may have one of its own.
    let (message, help) = said.rsplit_once("; ").unwrap_or((&said, like));
    Fault::new(message, label, help)
}

/// A text of one line.
pub(crate) fn line(node: &Node<'_>, longest: usize, like: &str) -> Result<String, Fault> {
    let text = node.text().ok_or_else(|| node.not("a text", format!("write {like}")))?.trim();
    if text.is_empty() {
        return Err(Fault::new("is empty", "empty", format!("write {like}, or leave it out")));
    }
    if let Some(bad) = text.chars().find(|c| unfit(*c)) {
        let message = format!("holds the character {}", bad.escape_unicode());
        return Err(Fault::new(message, "not plain text", "write one line of plain text"));
    }
    let length = text.chars().count();
    if length > longest {
        let message = format!("is {length} characters long");
        return Err(Fault::new(message, "too long", format!("write at most {longest} characters")));
    }
    Ok(text.to_owned())
}

/// A folder beside the manifest; `like` says how one is written.
pub(crate) fn folder(node: &Node<'_>, like: &str) -> Result<PathBuf, Fault> {
    let text = node.text().ok_or_else(|| node.not("a folder", like))?;
    if text.trim().is_empty() {
        return Err(Fault::new("is empty", "empty", like));
    }
    if text.chars().any(unfit) {
        return Err(Fault::new(
            format!("\"{}\" is not the name of a folder", shown(text)),
            "not a folder",
            like,
        ));
    }
    let shown = shown(text);
    if Path::new(text).is_absolute() || text.starts_with(['~', '\\']) || text.contains(":\\") {
        return Err(Fault::new(format!("\"{shown}\" is not a relative path"), "not relative", like));
    }
    if Path::new(text).components().any(|part| part == Component::ParentDir) {
        let message = format!("\"{shown}\" leads out of the manifest's own folder");
        return Err(Fault::new(message, "leads out", like));
    }
    Ok(PathBuf::from(text))
}
