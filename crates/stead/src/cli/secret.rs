//! The command line of `stead secret`.

use clap::Subcommand;
use component::function::Variable;

use super::Which;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretVerb {
    /// Set a secret; its value is asked for, or read from standard input.
    Set {
        #[command(flatten)]
        which: Which,
        /// Its name, which is that of the variable: STRIPE_KEY.
        name: Variable,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Show all secrets, without their values.
    List {
        #[command(flatten)]
        which: Which,
    },
    /// Remove a secret that nothing uses.
    Remove {
        #[command(flatten)]
        which: Which,
        /// Its name.
        name: Variable,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}
