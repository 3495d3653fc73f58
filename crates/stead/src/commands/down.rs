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
            let what = match component.spec["to"]["bucket"].as_str() {
                Some(bucket) => format!("removed; its tables stay in {bucket}"),
                None => "REMOVED, with all its data".to_owned(),
            };
            output::remark(format!("- {} is {what}", component.name));
        }
        confirm("Remove this?")?;
    }
    let removal = client.delete_stead(named.tenant.as_str(), named.stead.as_str(), unprotect, reason, None);
    let operation = removal.await.map_err(unprotected)?;
    let operation =
        progress::follow(&client, named.tenant.as_str(), operation, Instant::now() + LIMIT).await?;
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

/// How to go on where something is protected.
fn unprotected(error: client::Error) -> Failure {
    match error.problem() {
        Some(problem) if problem.kind.ends_with("protected") => {
            Failure::Failed(format!("{}; or say --unprotect, which does that and removes it", problem.detail))
        }
        _ => error.into(),
    }
}
