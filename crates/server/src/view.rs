//! Stored things as the API shows them.

use std::collections::BTreeMap;

use client::wire;
use component::transfer::{Mode, Progress};
use component::{Category, Difference, Health, Role, Spec, Status, differences};
use jiff::Timestamp;
use serde_json::Value;
use store::edit::ChangeAction;
use store::operation::Operation;
use store::stead::{Component, Stead};
use store::tenant::{Quota, Tenant};
use store::token::Token;

pub(crate) fn quota(quota: Quota) -> wire::Quota {
    wire::Quota { servers: quota.servers, memory_mib: quota.memory_mib, disk_mib: quota.disk_mib }
}

pub(crate) fn tenant(tenant: Tenant) -> wire::Tenant {
    wire::Tenant {
        name: tenant.name.into(),
        quota: quota(tenant.quota),
        log_days: tenant.log_days,
        created_at: tenant.created_at,
    }
}

pub(crate) fn stead(stead: Stead) -> wire::Stead {
    let health = stead.health().as_str().to_owned();
    wire::Stead {
        health,
        tenant: stead.tenant.into(),
        name: stead.name.into(),
        app: stead.app.into(),
        generation: stead.generation,
        created_at: stead.created_at,
        components: stead.components.into_iter().map(component).collect(),
        operation: None,
    }
}

pub(crate) fn secret(secret: store::edit::SteadSecret) -> wire::Secret {
    wire::Secret {
        name: secret.name.into(),
        version: secret.version,
        set_by: secret.set_by,
        set_at: secret.set_at,
        used_by: secret.used_by.into_iter().map(String::from).collect(),
    }
}

pub(crate) fn fleet_health(counts: &BTreeMap<Health, i64>) -> wire::FleetHealth {
    let of = |health| counts.get(&health).copied().unwrap_or_default();
    wire::FleetHealth {
        steads: counts.values().sum(),
        asleep: of(Health::Asleep),
        ready: of(Health::Ready),
        busy: of(Health::Busy),
        deleting: of(Health::Deleting),
        attention: of(Health::Attention),
    }
}

fn transfer(mode: Mode, progress: Progress) -> wire::Transfer {
    let tables = progress.tables.into_iter().map(|table| wire::TransferTable {
        name: table.name,
        state: table.state.as_str().to_owned(),
        rows: table.rows,
        copying_rows: table.copying.map(|copying| copying.rows),
        expected_rows: table.copying.and_then(|copying| copying.expected),
        changes: table.changes,
        why: table.why,
    });
    let age = |at| u64::try_from(Timestamp::now().duration_since(at).as_millis()).unwrap_or_default();
    let behind_ms = progress.behind.map(|behind| behind.ms).or(progress.as_of.map(age));
    wire::Transfer {
        at: progress.at,
        promise: mode.promise().to_owned(),
        tables: tables.collect(),
        behind_ms,
        behind_bytes: progress.behind.map(|behind| behind.bytes),
        kept_bytes: progress.behind.map(|behind| behind.kept_bytes),
        room_bytes: progress.behind.and_then(|behind| behind.room_bytes),
        trouble: progress.trouble,
        remark: progress.remark,
    }
}

pub(crate) fn component(component: Component) -> wire::Component {
    let health = component.health().as_str().to_owned();
    let status = component.status;
    let drill = status.drill;
    let window = component.spec.maintenance().and_then(|window| window.next(Timestamp::now()));
    wire::Component {
        name: component.name.into(),
        phase: status.phase.as_str().to_owned(),
        health,
        asleep: status.asleep,
        spec: serde_json::to_value(&component.spec).unwrap_or_default(),
        generation: component.generation,
        observed_generation: component.observed_generation,
        version: status.version,
        live: status.live,
        canary: status.canary.map(|canary| wire::Canary {
            release: canary.release,
            percent: canary.percent,
            returned: canary.returned,
        }),
        transfer: match &component.spec {
            Spec::Transfer(spec) => status.transfer.map(|progress| transfer(spec.mode, progress)),
            Spec::Postgres(_) | Spec::Function(_) => None,
        },
        endpoint: status.endpoint.map(|endpoint| wire::Endpoint {
            host: endpoint.host,
            port: endpoint.port,
            database: endpoint.database,
            role: endpoint.role,
        }),
        conditions: status
            .conditions
            .into_iter()
            .map(|condition| wire::Condition { kind: word(&condition.kind), message: condition.message })
            .collect(),
        drift: status.drift.into_iter().map(difference).collect(),
        step: component.step,
        last_error: component.last_error,
        disk_bytes: status.disk_bytes,
        backups: status.backups.map(|backups| wire::Backups {
            oldest: backups.oldest,
            newest: backups.newest,
            count: backups.count,
            last: backups.last,
            bytes: backups.bytes,
            behind_bytes: backups.behind_bytes,
            drill: drill.map(|drill| wire::Drill {
                at: drill.at,
                took_ms: drill.took_ms,
                reached: drill.reached,
                error: drill.error,
            }),
        }),
        maintenance_at: window.map(|(opens, _)| opens),
        observed_at: status.observed_at,
    }
}

pub(crate) fn release(release: store::release::Release, status: &Status) -> wire::Release {
    let is = |number: u64| i64::try_from(number) == Ok(release.number);
    let tried = status.canary.as_ref().filter(|canary| canary.returned.is_none() && is(canary.release));
    wire::Release {
        number: release.number,
        live: status.live.is_some_and(is),
        canary_percent: tried.map(|canary| canary.percent),
        actor: release.actor,
        brings_back: release.brings_back,
        spec: serde_json::to_value(&release.spec).unwrap_or_default(),
        at: release.at,
    }
}

/// The word that a unit variant is on the wire.
fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(crate) fn action(action: ChangeAction) -> &'static str {
    match action {
        ChangeAction::Create => "create",
        ChangeAction::Update => "update",
        ChangeAction::Delete => "delete",
        ChangeAction::Keep => "keep",
    }
}

pub(crate) fn difference(difference: Difference) -> wire::Difference {
    // What is no object has no fields to name.
    let field = if difference.field.is_empty() { "value".to_owned() } else { difference.field };
    wire::Difference { field, before: difference.before, after: difference.after }
}

pub(crate) fn operation(operation: Operation) -> wire::Operation {
    wire::Operation {
        id: operation.id.0,
        stead: operation.stead,
        kind: operation.kind,
        state: operation.state,
        error: operation.error,
        actor: operation.actor,
        requested_at: operation.requested_at,
        finished_at: operation.finished_at,
        targets: operation
            .targets
            .into_iter()
            .map(|target| wire::OperationTarget {
                component: target.component,
                state: target.state,
                step: target.step,
            })
            .collect(),
    }
}

pub(crate) fn line(line: store::journal::Line) -> wire::HistoryLine {
    wire::HistoryLine {
        id: line.id,
        at: line.at,
        tenant: line.tenant,
        stead: line.stead,
        component: line.component,
        actor: line.actor,
        source: line.source,
        category: Category::of(&line.action).as_str().to_owned(),
        action: line.action,
        outcome: line.outcome,
        reason: line.reason,
        operation: line.operation.map(|id| id.0),
        differences: changed(&line.before, &line.after),
        payload_hash: line.payload_hash,
    }
}

fn changed(before: &Value, after: &Value) -> Vec<wire::Difference> {
    differences(before, after).into_iter().map(difference).collect()
}

pub(crate) fn token(token: Token) -> wire::Token {
    wire::Token {
        id: token.id,
        name: token.name,
        scope: match token.scope {
            Role::Operator => wire::TokenScope::Operator,
            Role::Support => wire::TokenScope::Support,
            Role::Owner => wire::TokenScope::Owner,
            Role::Developer => wire::TokenScope::Developer,
            Role::Auditor => wire::TokenScope::Auditor,
            Role::Viewer => wire::TokenScope::Viewer,
        },
        tenant: token.tenant.map(|(_, name)| name.into()),
        created_at: token.created_at,
        expires_at: token.expires_at,
        secret: None,
    }
}
