//! `stead plan`.

use client::wire::{ComponentChange, Plan};
use serde_json::Value;

use crate::cli::Which;
use crate::context::{Context, Named};
use crate::exit::Failure;
use crate::output;
use crate::project::Project;

/// Looks only, and so starts no server either: where none runs there is nothing to compare with.
pub(super) async fn run(context: &Context, which: &Which) -> Result<(), Failure> {
    let wanted = Project::here()?.wanted()?.body;
    let named = which.named()?;
    let client = context.client().await?;
    let plan = client.plan(named.tenant.as_str(), named.stead.as_str(), &wanted).await?;
    if context.json { output::json(&plan) } else { show(&named, &plan, &wanted) }
}

/// Whether the plan changes anything.
pub(super) fn changes(plan: &Plan) -> bool {
    plan.changes.iter().any(|change| change.action != "keep")
}

/// Prints the plan; `wanted` is what was asked for, to tell what is a default.
pub(super) fn show(named: &Named, plan: &Plan, wanted: &Value) -> Result<(), Failure> {
    if !changes(plan) && plan.generation > 0 {
        return output::line(format!("{}/{} stays as it is: nothing to change", named.tenant, named.stead));
    }
    let empty = if plan.changes.is_empty() { " is made, without components" } else { "" };
    output::line(format!("{}/{}{empty}", named.tenant, named.stead))?;
    for change in &plan.changes {
        for text in lines(change, wanted) {
            output::line(text)?;
        }
    }
    Ok(())
}

fn lines(change: &ComponentChange, wanted: &Value) -> Vec<String> {
    let (sign, note) = match change.action.as_str() {
        "create" => ("+", "is made"),
        "update" if change.restarts => ("~", "is changed; the server restarts, which ends its sessions"),
        "update" => ("~", "is changed"),
        "delete" if change.component.starts_with("transfer.") => {
            ("-", "is REMOVED, with its lake; tables in a bucket stay there")
        }
        "delete" => ("-", "is REMOVED, with all its data"),
        _ => (" ", "stays as it is"),
    };
    let mut lines = vec![format!("{sign} {} {note}", change.component)];
    // What kind it is says its name.
    let shown: Vec<_> =
        change.differences.iter().filter(|difference| difference.field != "kind").cloned().collect();
    let asked = wanted.pointer(&format!("/{}", change.component.replacen('.', "/", 1)));
    match change.action.as_str() {
        "delete" => {}
        "create" => {
            let by_itself = |field: &str| asked.is_none_or(|asked| asked.get(field).is_none());
            let named = |text: &String| text.split_whitespace().next().is_some_and(by_itself);
            let shown = output::differences(&shown, 4);
            lines.extend(
                shown.into_iter().map(|text| if named(&text) { format!("{text}  (default)") } else { text }),
            );
        }
        _ => lines.extend(output::differences(&shown, 4)),
    }
    lines
}
