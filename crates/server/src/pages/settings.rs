//! Changing what a server is set to: what would change is shown before anything does.

use askama::Template;
use axum::extract::State;
use axum::extract::rejection::FormRejection;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use client::wire::{Component, Plan, Stead};
use component::{ComponentName, SteadName, TenantName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Site;
use super::api::{Api, Refused, escaped};
use super::failure::{At, shown};
use super::frame::{Frame, unreadable};
use crate::sign_in::Signed;

/// Sizes, the smallest first.
pub(crate) const SIZES: [&str; 4] = ["nano", "small", "medium", "large"];

#[derive(Template)]
#[template(path = "settings.html")]
struct Page {
    frame: Frame,
    component: String,
    wanted: Wanted,
    /// What it would do, once that was asked.
    plan: Option<Plan>,
    refused: Option<Refused>,
}

/// What the form holds.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Wanted {
    /// Networks, one a line or with commas.
    #[serde(default)]
    pub(crate) allow: String,
    #[serde(default)]
    size: String,
    #[serde(default)]
    maintenance: String,
    #[serde(default)]
    idle: String,
    #[serde(default)]
    every: String,
    #[serde(default)]
    keep: String,
    #[serde(default)]
    drill: String,
    /// A box that is not ticked is not sent.
    protect: Option<String>,
    #[serde(default)]
    owner: String,
    #[serde(default)]
    runbook: String,
    #[serde(default)]
    reason: String,
    /// The generation of the stead that the plan was shown for; none: show the plan.
    #[serde(default)]
    apply: String,
}

impl Wanted {
    fn of(spec: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let networks: Vec<&str> =
            spec["allow"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let keep = &spec["backup"]["keep"];
        Self {
            allow: networks.join("\n"),
            size: text(&spec["size"]),
            maintenance: text(&spec["maintenance"]),
            idle: text(&spec["idle"]),
            every: text(&spec["backup"]["every"]),
            keep: keep.as_str().map_or_else(|| keep.to_string(), str::to_owned),
            drill: text(&spec["backup"]["drill"]),
            protect: (spec["protect"] == true).then(|| "on".to_owned()),
            owner: text(&spec["owner"]),
            runbook: text(&spec["runbook"]),
            ..Self::default()
        }
    }

    /// Networks as they were typed.
    pub(crate) fn networks(text: &str) -> Vec<&str> {
        text.split([',', '\n', ' ', '\t', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect()
    }

    /// The edit: all that the form shows. An empty field is one that is left out.
    fn body(&self) -> Value {
        let text = |text: &str| match text.trim() {
            "" => Value::Null,
            text => json!(text),
        };
        let keep = match self.keep.trim().parse::<i64>() {
            Ok(count) => json!(count),
            Err(_) => text(&self.keep),
        };
        json!({
            "allow": Self::networks(&self.allow),
            "size": text(&self.size),
            "maintenance": text(&self.maintenance),
            "idle": text(&self.idle),
            "backup": { "every": text(&self.every), "keep": keep, "drill": text(&self.drill) },
            "protect": self.protect.is_some(),
            "owner": text(&self.owner),
            "runbook": text(&self.runbook),
        })
    }
}

impl Page {
    fn sizes(&self) -> [&'static str; 4] {
        SIZES
    }

    fn error(&self, field: &str) -> Option<&str> {
        self.refused.as_ref().and_then(|refused| refused.of_field(field))
    }

    /// The generation that the plan was made for.
    fn generation(&self) -> i64 {
        self.plan.as_ref().map(|plan| plan.generation).unwrap_or_default()
    }

    /// Whether the plan does anything.
    fn changes(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.changes.iter().any(|change| change.action != "keep"))
    }
}

/// A value of a plan or a line of history, as people read it.
pub(crate) fn value(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Array(items) if items.is_empty() => "nothing".to_owned(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

type Place = (TenantName, SteadName, ComponentName);

fn frame(site: &Site, signed: &Signed, (tenant, stead, _): &Place) -> Frame {
    Frame::of(site, &signed.caller, "stead").in_stead(&signed.caller, tenant.as_str(), stead.as_str())
}

/// `GET /tenants/{tenant}/steads/{stead}/components/{component}/settings`
pub(crate) async fn page(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
) -> Response {
    let frame = frame(&site, &signed, &at);
    let (tenant, stead, component) = &at;
    let path = format!("/v1/tenants/{tenant}/steads/{stead}/components/{component}");
    match Api::new(&site, &signed.caller).get::<Component>(&path).await {
        Ok(found) => {
            let wanted = Wanted::of(&found.spec);
            shown(&Page { frame, component: found.name, wanted, plan: None, refused: None })
        }
        Err(refused) => frame.failure(refused).into_response(),
    }
}

/// `POST` to the same: shows the plan, or, where that was shown, brings it about.
pub(crate) async fn submit(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At(at): At<Place>,
    sent: Result<Form<Wanted>, FormRejection>,
) -> Response {
    let frame = frame(&site, &signed, &at);
    let Form(wanted) = match sent {
        Ok(sent) => sent,
        Err(error) => return frame.failure(unreadable(&error.body_text())).into_response(),
    };
    let (tenant, stead, component) = &at;
    let api = Api::new(&site, &signed.caller);
    let body = json!({ component.kind.as_str(): { component.local.as_str(): wanted.body() } });
    let path = format!("/v1/tenants/{tenant}/steads/{stead}");
    let again = |wanted, plan, refused: Option<Refused>| {
        let status = refused.as_ref().and_then(|refused| StatusCode::from_u16(refused.0.status).ok());
        let page = Page { frame: frame.clone(), component: component.to_string(), wanted, plan, refused };
        let mut response = shown(&page);
        *response.status_mut() = status.unwrap_or(StatusCode::OK);
        response
    };
    let planned = match wanted.apply.parse::<i64>() {
        Ok(generation) if generation > 0 => {
            let reason = escaped(wanted.reason.trim());
            let query = if reason.is_empty() { String::new() } else { format!("?reason={reason}") };
            let path = format!("{path}{query}");
            let edited = api.send::<Stead>(Method::PATCH, &path, Some(&body), Some(generation));
            return match edited.await {
                Ok(_) => Redirect::to(&frame.of_stead()).into_response(),
                Err(refused) => again(Wanted { apply: String::new(), ..wanted }, None, Some(refused)),
            };
        }
        _ => api.send::<Plan>(Method::PATCH, &format!("{path}/plan"), Some(&body), None).await,
    };
    match planned {
        Ok((_, plan)) => again(wanted, Some(plan), None),
        Err(refused) => again(wanted, None, Some(refused)),
    }
}
