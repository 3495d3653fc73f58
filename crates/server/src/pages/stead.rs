//! One stead: its components, how they are, where they are reached, and what they are set to.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use client::wire::{Component, HistoryLine, Operation, Page, Stead};
use component::transfer::Origin;
use component::{SteadName, TenantName};
use serde::Deserialize;
use serde_json::Value;

use super::Site;
use super::api::{Api, Refused};
use super::failure::{At, shown};
use super::frame::Frame;
use super::timeline::Shown;
use crate::access::Action;
use crate::sign_in::Signed;

#[derive(Template)]
#[template(path = "stead.html", blocks = ["state"])]
struct Overview {
    frame: Frame,
    stead: Stead,
    /// What runs at the moment.
    running: Vec<Operation>,
    /// The newest lines of its history.
    lines: Vec<HistoryLine>,
    /// Whether the person may edit it.
    edits: bool,
    /// Whether the person may read its data.
    reads: bool,
}

impl Overview {
    fn shown(&self) -> Vec<Shown<'_>> {
        self.lines.iter().map(|line| Shown::new(line, &self.frame)).collect()
    }

    /// What is on disk, once it was counted.
    fn on_disk(&self, component: &Component) -> Option<u64> {
        component.disk_bytes.filter(|bytes| *bytes > 0)
    }

    fn is_function(&self, component: &Component) -> bool {
        component.name.starts_with("function.")
    }

    fn is_server(&self, component: &Component) -> bool {
        component.name.starts_with("postgres.")
    }

    /// What its page is called on which SQL is run; none where it answers none.
    fn answers_sql(&self, component: &Component) -> Option<&'static str> {
        match component.name.split_once('.') {
            Some(("postgres", _)) => Some("Database"),
            Some(("transfer", _)) => Some("Lake"),
            _ => None,
        }
    }

    fn settings(&self, component: &Component) -> Vec<(&'static str, String)> {
        match component.name.split_once('.') {
            Some(("function", _)) => function(&component.spec),
            Some(("transfer", _)) => transfer(component),
            _ => settings(&component.spec),
        }
    }

    /// A component's part of an address.
    fn at(&self, component: &Component) -> String {
        format!("{}/components/{}", self.frame.of_stead(), component.name)
    }
}

/// What a function is set to, in words.
fn function(spec: &Value) -> Vec<(&'static str, String)> {
    let text = |key: &str| spec[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| {
        let items: Vec<&str> = spec[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if items.is_empty() { "nothing".to_owned() } else { items.join(", ") }
    };
    let url = match spec["url"].as_str() {
        Some("public") => "anybody",
        Some(_) => "who has its token",
        None => "nobody: it has no URL",
    };
    let schedule = spec["schedule"]["cron"]
        .as_str()
        .map(|cron| format!("{cron} {}", spec["schedule"]["zone"].as_str().unwrap_or_default()));
    let mut rows = vec![
        ("Handler", text("handler")),
        ("Memory", format!("{} MiB", spec["memory_mib"])),
        ("Time limit", format!("{} s", spec["timeout_s"])),
        ("Calls at once", spec["concurrency"].to_string()),
        ("May be called by", url.to_owned()),
        ("Uses", list("uses")),
        ("Reaches outside", list("egress")),
    ];
    rows.extend(schedule.map(|schedule| ("Schedule", schedule)));
    rows
}

/// What a transfer reads: `public.* of postgres.main`.
pub(crate) fn tables_and_server(spec: &Value) -> String {
    let tables: Vec<&str> =
        spec["tables"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let from = Origin::deserialize(&spec["from"]).map_or_else(|_| String::new(), |from| from.to_string());
    format!("{} of {from}", tables.join(", "))
}

/// The bucket that a transfer writes into, where it is one.
pub(crate) fn bucket(spec: &Value) -> Option<String> {
    spec["to"]["bucket"].as_str().map(str::to_owned)
}

/// What a transfer is set to and how far it has come, in words.
fn transfer(component: &Component) -> Vec<(&'static str, String)> {
    let spec = &component.spec;
    let text = |key: &str| spec[key].as_str().unwrap_or_default().to_owned();
    let list = |key: &str| {
        let items: Vec<&str> = spec[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        items.join(", ")
    };
    let mut rows = vec![
        ("Reads", tables_and_server(spec)),
        ("Writes to", bucket(spec).unwrap_or_default()),
        ("Every", text("every")),
        ("Cursor", text("cursor")),
        ("Who may ask the lake", list("allow")),
    ];
    rows.retain(|(_, said)| !said.is_empty());
    if let Some(transfer) = &component.transfer {
        rows.push(("Promise", transfer.promise.clone()));
        rows.extend(transfer.remark.clone().map(|remark| ("Remark", remark)));
        if spec["paused"] == true {
            rows.push(("Paused", "nothing is read until it is asked to go on".to_owned()));
        }
        if let (Some(ms), Some(kept)) = (transfer.behind_ms, transfer.kept_bytes) {
            let behind = if ms == 0 { "nothing".to_owned() } else { format!("{} s", ms.div_ceil(1000)) };
            rows.push(("Behind", format!("{behind}; the server keeps {} of log for it", bytes(&kept))));
        } else if let Some(ms) = transfer.behind_ms {
            rows.push(("Behind", format!("read {} s ago", ms.div_ceil(1000))));
        }
        for table in &transfer.tables {
            let copied = table.rows.map(|rows| format!("{rows} rows copied"));
            let copied = table.copying().or(copied).map(|rows| format!(", {rows}")).unwrap_or_default();
            let changes = match table.changes {
                0 => String::new(),
                changes => format!(", {changes} changes since"),
            };
            rows.push(("Table", format!("{} {}{copied}{changes}", table.name, table.state)));
        }
    }
    rows.extend(spec["owner"].as_str().map(|owner| ("Owner", owner.to_owned())));
    if !list("consumers").is_empty() {
        rows.push(("Consumers", list("consumers")));
    }
    rows
}

/// What a server is set to, in words.
pub(crate) fn settings(spec: &Value) -> Vec<(&'static str, String)> {
    let text = |key: &str| spec[key].as_str().map(str::to_owned);
    let networks: Vec<&str> =
        spec["allow"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let allow = if networks.is_empty() { "nobody".to_owned() } else { networks.join(", ") };
    let backup = &spec["backup"];
    let keep = match &backup["keep"] {
        Value::Number(count) => format!("the last {count}"),
        kept => kept.as_str().unwrap_or_default().to_owned(),
    };
    let part = |key: &str| backup[key].as_str().unwrap_or_default();
    let backup = format!("every {}, kept for {keep}, tried every {}", part("every"), part("drill"));
    let mut rows = vec![
        ("Engine", format!("PostgreSQL {}", spec["engine"])),
        ("Size", text("size").unwrap_or_default()),
        ("Who may connect", allow),
        ("Maintenance", text("maintenance").unwrap_or_else(|| "at any time".into())),
        ("Sleeps", text("idle").map_or("never".into(), |idle| format!("after {idle} without a client"))),
        ("Backups", backup),
        ("Protected from deletion", if spec["protect"] == true { "yes" } else { "no" }.into()),
    ];
    rows.extend(text("owner").map(|owner| ("Owner", owner)));
    rows.extend(text("runbook").map(|runbook| ("Runbook", runbook)));
    rows
}

/// Bytes as people read them.
pub(crate) fn bytes(count: &u64) -> String {
    const UNITS: [&str; 5] = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut rest = *count;
    let mut below = 0;
    while rest >= 1024 && unit + 1 < UNITS.len() {
        (below, rest, unit) = (rest % 1024, rest / 1024, unit + 1);
    }
    if unit == 0 || rest >= 10 {
        return format!("{rest} {}", UNITS[unit]);
    }
    format!("{rest}.{} {}", below * 10 / 1024, UNITS[unit])
}

async fn overview(
    site: &Site,
    signed: &Signed,
    tenant: &TenantName,
    stead: &SteadName,
) -> Result<Overview, Box<Response>> {
    let caller = &signed.caller;
    let frame = Frame::of(site, caller, "stead").in_stead(caller, tenant.as_str(), stead.as_str());
    let api = Api::new(site, caller);
    let found = async {
        let at = format!("/v1/tenants/{tenant}");
        let found: Stead = api.get(&format!("{at}/steads/{stead}")).await?;
        let operations: Page<Operation> = api.get(&format!("{at}/operations?stead={stead}&limit=20")).await?;
        let lines: Page<HistoryLine> = api.get(&format!("{at}/history?stead={stead}&limit=8")).await?;
        Ok::<_, Refused>((found, operations.items, lines.items))
    };
    match found.await {
        Ok((stead, operations, lines)) => Ok(Overview {
            edits: caller.may_by_name(tenant.as_str(), Action::Edit),
            reads: caller.may_by_name(tenant.as_str(), Action::ReadData),
            running: operations.into_iter().filter(|operation| operation.state == "running").collect(),
            frame,
            stead,
            lines,
        }),
        Err(refused) => Err(Box::new(frame.failure(refused).into_response())),
    }
}

/// `GET /tenants/{tenant}/steads/{stead}`
pub(crate) async fn page(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At((tenant, stead)): At<(TenantName, SteadName)>,
) -> Response {
    match overview(&site, &signed, &tenant, &stead).await {
        Ok(overview) => shown(&overview),
        Err(response) => *response,
    }
}

/// `GET /tenants/{tenant}/steads/{stead}/state`: the part of the page that changes by itself.
pub(crate) async fn state(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At((tenant, stead)): At<(TenantName, SteadName)>,
) -> Response {
    match overview(&site, &signed, &tenant, &stead).await {
        Ok(overview) => shown(&overview.as_state()),
        Err(response) => *response,
    }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_read_by_people() {
        let shown = [0, 1023, 1024, 1536, 10 * 1024, 123_456_789, u64::MAX].map(|count| bytes(&count));
        assert_eq!(
            shown,
            ["0 bytes", "1023 bytes", "1.0 KiB", "1.5 KiB", "10 KiB", "117 MiB", "16777215 TiB"]
        );
    }
}
