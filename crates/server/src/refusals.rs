//! Refused edits, on record.
//!
//! What is done is journaled by the store, in the transaction that does it. What is refused changes nothing, so
//! its line is written here, in a transaction of its own: who wanted what, and why it was refused.

use component::{ComponentName, SteadName, TenantId, TenantName};
use serde_json::Value;
use store::Store;
use store::journal::{Entry, Outcome};
use store::tenant::Tenant;

use crate::access::Caller;
use crate::problem::{Kind, Problem};

/// Largest request kept with a refusal, bytes of JSON.
const LARGEST_KEPT: usize = 16 * 1024;

/// An edit that somebody tries.
pub(crate) struct Attempt(Entry);

impl Attempt {
    /// An edit of a tenant's, or of the installation's where there is none.
    pub(crate) fn new(caller: &Caller, action: &'static str, tenant: Option<&Tenant>) -> Self {
        let mut entry = Entry::new(&caller.actor, action, Outcome::Refused);
        // What somebody of one tenant tries belongs into that tenant's history, whatever it is about.
        let own = caller.own_tenant().map(|(id, name)| (id, name.to_string()));
        entry.tenant = tenant
            .map(|tenant: &Tenant| -> (TenantId, String) { (tenant.id, tenant.name.to_string()) })
            .or(own);
        Self(entry)
    }

    /// In this tenant, which may not be there yet.
    pub(crate) fn about(mut self, tenant: &TenantName) -> Self {
        if self.0.tenant.is_none() {
            self.0.reason = Some(format!("in tenant `{tenant}`, which is not there yet: "));
        }
        self
    }

    /// Of this stead.
    pub(crate) fn stead(mut self, name: &SteadName) -> Self {
        self.0.stead = Some(name.to_string());
        self
    }

    /// Of this component.
    pub(crate) fn component(mut self, name: &ComponentName) -> Self {
        self.0.component = Some(name.to_string());
        self
    }

    /// What is asked for. SQL texts are left out: they are long, and may hold secrets.
    pub(crate) fn wanting(mut self, body: &Value) -> Self {
        let kept = presentable(body);
        self.0.after = if kept.to_string().len() <= LARGEST_KEPT { kept } else { Value::Null };
        self
    }

    /// Tries it; a refusal is put on record before it is answered.
    pub(crate) async fn of<T>(
        self,
        store: &Store,
        edit: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let refused = match edit.await {
            Err(problem) if is_refusal(problem.kind()) => problem,
            other => return other,
        };
        let place = self.0.reason.as_deref().unwrap_or_default();
        let entry = Entry { reason: Some(format!("{place}{}", text(refused.detail()))), ..self.0 };
        if let Err(error) = store.journal(&entry).await {
            tracing::error!(%error, action = entry.action, "a refusal could not be put on record");
        }
        Err(refused)
    }
}

/// Whether it was understood and said no to; what was not understood, or failed, was no edit.
fn is_refusal(kind: Kind) -> bool {
    match kind {
        Kind::Forbidden
        | Kind::Protected
        | Kind::Deleting
        | Kind::QuotaExceeded
        | Kind::InUse
        | Kind::NotReady
        | Kind::Moved
        | Kind::Invalid => true,
        Kind::BadRequest
        | Kind::Unauthenticated
        | Kind::NotFound
        | Kind::MethodNotAllowed
        | Kind::RequestRunning
        | Kind::TooLarge
        | Kind::UnsupportedMediaType
        | Kind::KeyReused
        | Kind::Internal
        | Kind::Busy
        | Kind::Unavailable => false,
    }
}

/// PostgreSQL has no NUL in its texts.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn presentable(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .filter(|(key, _)| *key != "sql")
            .map(|(key, value)| (text(key), presentable(value)))
            .collect(),
        Value::Array(items) => items.iter().map(presentable).collect(),
        Value::String(string) => Value::String(text(string)),
        // Nothing that is asked for is a fraction; and 1e308, which PostgreSQL writes out, is not read back.
        Value::Number(number) if number.is_f64() => Value::String(number.to_string()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sql_is_not_kept_and_nul_is_replaced() {
        let body = json!({"a\0": ["b\0", 1, 1e308], "schema": [{"name": "1.sql", "sql": "create role x password 'y'"}]});
        assert_eq!(
            presentable(&body),
            json!({"a\u{fffd}": ["b\u{fffd}", 1, "1e+308"], "schema": [{"name": "1.sql"}]})
        );
    }
}
