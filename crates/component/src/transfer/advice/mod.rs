//! Which way of reading fits those who want a server's data: whole copies, queries for what is new, or every change.
//!
//! [`advise`] decides on what is known, says what it assumed of the rest, and tries itself which answer to what is not
//! known would have made it decide otherwise. It knows no server: `stead advise` measures and asks.

mod choose;
mod columns;
mod costs;
mod explain;
mod load;
mod sides;
mod situation;
mod unknown;
mod words;

pub use columns::{Column, cursor};
pub use costs::Costs;
pub use sides::Sides;
pub use situation::{
    BadFreshness, Changes, Cursor, Cursors, Freshness, Grows, Largest, Server, Situation, Team, Volume,
    WalLevel,
};
pub use unknown::WouldChange;
pub use words::{bytes, time};

pub use super::Mode;

use serde::Serialize;

use choose::{Choice, Way};

/// What is advised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Advice {
    /// What to do; absent where no mode will do before something is changed.
    pub recommended: Option<Recommended>,
    /// The modes that are not recommended, each with why.
    pub others: Vec<NotRecommended>,
    /// What needs somebody, or may surprise.
    pub warnings: Vec<String>,
    /// What was taken for what nobody has said or measured.
    pub assumed: Vec<String>,
    /// Answers to what is not known that would have led to another mode.
    pub would_change: Vec<WouldChange>,
}

/// The mode that is recommended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recommended {
    /// The mode.
    pub mode: Mode,
    /// What to write into `stead.toml`.
    pub manifest: String,
    /// What to put beside it for certainty, in words.
    pub beside: Option<String>,
    /// Why, the weightiest first.
    pub reasons: Vec<String>,
    /// What it costs.
    pub costs: Costs,
    /// Who depends on whom, and what either side has to operate.
    pub sides: Sides,
}

/// A mode that is not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotRecommended {
    /// The mode.
    pub mode: Mode,
    /// Why not.
    pub why_not: Vec<String>,
    /// What it would cost.
    pub costs: Costs,
}

/// Advises; the same situation is always given the same advice.
#[must_use]
pub fn advise(situation: &Situation) -> Advice {
    let choice = choose::choose(situation);
    let chosen = choice.map(|choice| choice.way.mode());
    let others = Mode::ALL.into_iter().filter(|mode| Some(*mode) != chosen);
    Advice {
        recommended: choice.map(|choice| recommended(situation, choice)),
        others: others.map(|mode| not_recommended(situation, mode, choice)).collect(),
        warnings: explain::warnings(situation, choice),
        assumed: unknown::assumed(situation),
        would_change: unknown::would_change(situation),
    }
}

fn recommended(situation: &Situation, choice: Choice) -> Recommended {
    Recommended {
        mode: choice.way.mode(),
        manifest: explain::manifest(situation, choice.way),
        beside: explain::beside(situation, choice.way),
        reasons: explain::reasons(situation, choice),
        costs: costs::of(situation, choice.way),
        sides: sides::of(situation, choice.way.mode()),
    }
}

fn not_recommended(situation: &Situation, mode: Mode, choice: Option<Choice>) -> NotRecommended {
    let wanted = choose::fresh(situation).as_secs().into();
    let way = match mode {
        Mode::Snapshot if Way::Light.freshest_s(situation) <= wanted => Way::Light,
        Mode::Snapshot => Way::Heavy,
        Mode::Query => Way::Query,
        Mode::Stream => Way::Stream,
    };
    NotRecommended {
        mode,
        why_not: explain::why_not(situation, way, choice),
        costs: costs::of(situation, way),
    }
}
