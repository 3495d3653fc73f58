//! `stead rotate`, `stead move`, `stead resync`, `stead pause` and `stead resume`: an edit of one component, followed to its
//! end.

use std::time::{Duration, Instant};

use component::Kind;

use crate::cli::Which;
use crate::commands::progress;
use crate::context::Context;
use crate::exit::Failure;
use crate::output;

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) enum Edit<'a> {
    Rotate,
    Move,
    Resync { table: Option<&'a str> },
    Pause,
    Resume,
}

impl Edit<'_> {
    /// How long it is followed.
    fn limit(self) -> Duration {
        match self {
            // A server that is up takes its new password in milliseconds.
            Self::Rotate => Duration::from_secs(60),
            // A fraction of a second, but it waits for open transactions, and is tried again.
            Self::Move => Duration::from_secs(120),
            // It is begun; how far it has come, the status says.
            Self::Resync { .. } | Self::Pause | Self::Resume => Duration::from_secs(60),
        }
    }

    /// What can be edited so.
    fn kind(self) -> Kind {
        match self {
            Self::Rotate | Self::Move => Kind::Postgres,
            Self::Resync { .. } | Self::Pause | Self::Resume => Kind::Transfer,
        }
    }

    fn done(self, component: &str) -> String {
        match self {
            Self::Rotate => format!(
                "{component} has a new password; `stead url {component}` shows it. Sessions that are open go on."
            ),
            Self::Move => {
                format!("{component} runs as another process, in another folder. Sessions went on.")
            }
            Self::Resync { table } => {
                let what = table.unwrap_or("everything");
                format!("{component} copies {what} anew; `stead status` says how far it is.")
            }
            Self::Pause => format!(
                "{component} reads nothing until `stead resume {component}`. The server keeps its changes for it, as far as there is room."
            ),
            Self::Resume => format!("{component} goes on; `stead status` says how far it is."),
        }
    }
}

pub(super) async fn run(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    reason: Option<&str>,
    edit: Edit<'_>,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component, edit.kind()).await?.name;
    let (tenant, stead) = (named.tenant.as_str(), named.stead.as_str());
    let operation = match edit {
        Edit::Rotate => client.rotate(tenant, stead, &component, reason, None).await?,
        Edit::Move => client.move_component(tenant, stead, &component, reason, None).await?,
        Edit::Resync { table } => client.resync(tenant, stead, &component, table, reason).await?,
        Edit::Pause => client.pause(tenant, stead, &component, reason).await?,
        Edit::Resume => client.resume(tenant, stead, &component, reason).await?,
    };
    let operation = progress::follow(&client, tenant, operation, Instant::now() + edit.limit()).await?;
    if context.json {
        return output::json(&operation);
    }
    output::line(edit.done(&component))
}
