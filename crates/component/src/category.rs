//! What sort of thing a line of the journal tells of: decided by the first word of its action, here alone.

use serde::{Deserialize, Serialize};

/// A sort of thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Category {
    /// Somebody asked for something else than before: a stead, a component, a tenant, a password.
    Change,
    /// A job of several steps: a backup, a drill, a recovery.
    Operation,
    /// An engine did something by itself, or something was found out about it.
    Engine,
    /// Somebody signed in, or tried to, or left.
    SignIn,
    /// Somebody saw something secret, or was given or lost the right to.
    Access,
}

/// The first words of each category's actions. What stands nowhere is a [`Category::Change`]: the sort that is
/// looked at most.
const FIRST_WORDS: [(Category, &[&str]); 4] = [
    (Category::Operation, &["backup", "host", "operation"]),
    (
        Category::Engine,
        &["condition", "drift", "function", "gateway", "keeper", "lake", "server", "transfer"],
    ),
    (Category::SignIn, &["factor", "session", "sign_in", "sign_out"]),
    (
        Category::Access,
        &[
            "account",
            "credentials",
            "inspection",
            "invitation",
            "invocation",
            "logs",
            "member",
            "person",
            "role",
            "secret",
            "sql",
            "staff",
            "token",
        ],
    ),
];

impl Category {
    /// Every category.
    pub const ALL: [Self; 5] = [Self::Change, Self::Operation, Self::Engine, Self::SignIn, Self::Access];

    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Change => "change",
            Self::Operation => "operation",
            Self::Engine => "engine",
            Self::SignIn => "sign_in",
            Self::Access => "access",
        }
    }

    /// Of an action: `server.woken` is of the engine's.
    #[must_use]
    pub fn of(action: &str) -> Self {
        let first = action.split_once('.').map_or(action, |(first, _)| first);
        let named = FIRST_WORDS.iter().find(|(_, words)| words.contains(&first));
        named.map_or(Self::Change, |(category, _)| *category)
    }

    /// The first words of its actions, and whether they are those it has (true) or all those it has not.
    #[must_use]
    pub fn first_words(self) -> (Vec<&'static str>, bool) {
        let of = |wanted: &dyn Fn(Self) -> bool| {
            let named = FIRST_WORDS.iter().filter(|(category, _)| wanted(*category));
            named.flat_map(|(_, words)| words.iter().copied()).collect()
        };
        match self {
            Self::Change => (of(&|_| true), false),
            named => (of(&|category| category == named), true),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_of_the_category_of_its_first_word() {
        for (action, category) in [
            ("component.edited", Category::Change),
            ("stead.removed", Category::Change),
            ("password.rotated", Category::Change),
            ("backup.drill_failed", Category::Operation),
            ("host.recovered", Category::Operation),
            ("server.asleep", Category::Engine),
            ("drift.repaired", Category::Engine),
            ("condition.raised", Category::Engine),
            ("session.started", Category::SignIn),
            ("credentials.shown", Category::Access),
            ("token.created", Category::Access),
            ("never.heard", Category::Change),
            ("server", Category::Engine),
            ("servers.asleep", Category::Change),
            ("", Category::Change),
        ] {
            assert_eq!(Category::of(action), category, "{action}");
        }
    }

    #[test]
    fn first_words_say_the_same() {
        for action in ["component.edited", "server.asleep", "session.started", "token.created", "new.thing"] {
            let first = action.split_once('.').unwrap().0;
            let holds = |category: &Category| {
                let (words, has) = category.first_words();
                words.contains(&first) == has
            };
            let of: Vec<_> = Category::ALL.into_iter().filter(holds).collect();
            assert_eq!(of, [Category::of(action)], "{action}");
        }
    }
}
