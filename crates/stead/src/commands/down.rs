//! `stead down`.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::Which;
use crate::commands::{confirm, progress};
use crate::context::Context;
use crate::exit::Failure;
use crate::output;
use crate::project::Project;

const LIMIT: Duration = Duration::from_secs(300);

pub(super) async fn run(
    context: &Context,
    which: &Which,
    yes: bool,
    unprotect: bool,
    reason: Option<&str>,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let stead = named.get(&client).await?;
    if !yes {
        output::remark(format!("{}/{}", stead.tenant, stead.name));
        for component in &stead.components {
            output::remark(format!("- {} is REMOVED, with all its data", component.name));
        }
        confirm("Remove this?")?;
    }
    let operation = client.delete_stead(&named.tenant, &named.stead, unprotect, reason, None).await?;
    let operation = progress::follow(&client, &named.tenant, operation, Instant::now() + LIMIT).await?;
    if let Some(project) = Project::find(Path::new("."))
        && project
            .remembered()
            .is_some_and(|known| known.tenant == named.tenant && known.stead == named.stead)
    {
        project.forget();
    }
    if context.json {
        return output::json(&operation);
    }
    output::line(format!("{}/{} is gone", named.tenant, named.stead))
}
