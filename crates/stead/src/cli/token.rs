//! The command line of `stead token`.

use clap::{Subcommand, ValueEnum, value_parser};
use component::TenantName;

#[derive(Debug, Subcommand)]
pub(crate) enum TokenVerb {
    /// Make a token; it is shown once.
    Create {
        /// What it is called in the history.
        name: String,
        /// What it allows.
        #[arg(long, value_enum)]
        scope: Scope,
        /// Whose; needed but for operators and support.
        #[arg(long, value_name = "NAME")]
        tenant: Option<TenantName>,
        /// Days until it ends [default: it does not].
        #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u16).range(1..=3650))]
        days: Option<u16>,
    },
    /// Show all tokens, without their secrets.
    List,
    /// End a token.
    Revoke {
        /// Its id.
        id: uuid::Uuid,
    },
}

/// What a token allows.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Scope {
    /// Everything, in every tenant.
    Operator,
    /// Looking, in every tenant; no data.
    Support,
    /// Everything in one tenant but its quota and its tokens.
    Owner,
    /// Like owner, but for its members.
    Developer,
    /// Looking, in one tenant, and exporting its record; no data.
    Auditor,
    /// Looking, in one tenant, its data included; no passwords.
    Viewer,
}
