//! One run: what was asked for, by whom, and how far each component is.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use client::wire::{HistoryLine, HistoryPage, Operation};
use component::TenantName;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use super::Site;
use super::api::{Api, Refused, escaped};
use super::failure::{At, shown};
use super::frame::Frame;
use super::timeline::Shown;
use crate::sign_in::Signed;

/// Lines of the journal that are shown; the timeline has the rest.
const SOME_LINES: usize = 50;

#[derive(Template)]
#[template(path = "run.html", blocks = ["state"])]
struct Run {
    frame: Frame,
    operation: Operation,
    /// What happened in the stead while it ran, newest first.
    lines: Vec<HistoryLine>,
    /// Whether there is more of that than is shown.
    more: bool,
}

impl Run {
    fn shown(&self) -> Vec<Shown<'_>> {
        self.lines.iter().map(|line| Shown::within(self.operation.id, line, &self.frame)).collect()
    }

    fn took(&self) -> Option<String> {
        self.operation.finished_at.map(|end| span(end.duration_since(self.operation.requested_at)))
    }

    /// Where the timeline has what happened meanwhile.
    fn meanwhile(&self) -> String {
        format!("{}/timeline?{}", self.frame.of_tenant(), meanwhile(&self.operation))
    }
}

/// The stead's lines while an operation runs, or ran.
fn meanwhile(operation: &Operation) -> String {
    let mut query = format!("stead={}&since={}", operation.stead, operation.requested_at);
    if let Some(end) = operation.finished_at {
        // The line that tells of the end is of the same moment.
        let beyond = end.checked_add(SignedDuration::from_millis(1)).unwrap_or(Timestamp::MAX);
        query.push_str(&format!("&until={}", escaped(&beyond.to_string())));
    }
    query
}

/// A span of time as people read it.
fn span(span: SignedDuration) -> String {
    let (ms, seconds) = (span.as_millis().max(0), span.as_secs().max(0));
    match seconds {
        0 => format!("{ms} ms"),
        1..60 => format!("{seconds}.{} s", ms % 1_000 / 100),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}

async fn find(site: &Site, signed: &Signed, tenant: &TenantName, id: Uuid) -> Result<Run, Box<Response>> {
    let frame = Frame::of(site, &signed.caller, "timeline").in_tenant(&signed.caller, tenant.as_str());
    let api = Api::new(site, &signed.caller);
    let found = async {
        let operation: Operation = api.get(&format!("/v1/tenants/{tenant}/operations/{id}")).await?;
        let query = meanwhile(&operation);
        let limit = SOME_LINES + 1;
        let lines: HistoryPage =
            api.get(&format!("/v1/tenants/{tenant}/history?{query}&limit={limit}")).await?;
        Ok::<_, Refused>((operation, lines.items))
    };
    match found.await {
        Ok((operation, mut lines)) => {
            let more = lines.len() > SOME_LINES;
            lines.truncate(SOME_LINES);
            // What another run did at the same time is on that one's page.
            lines.retain(|line| line.operation.is_none_or(|of| of == operation.id));
            let frame = frame.in_stead(&signed.caller, tenant.as_str(), &operation.stead);
            Ok(Run { frame, operation, lines, more })
        }
        Err(refused) => Err(Box::new(frame.failure(refused).into_response())),
    }
}

/// `GET /tenants/{tenant}/runs/{operation}`
pub(crate) async fn page(
    State(site): State<Site>,
    Extension(signed): Extension<Signed>,
    At((tenant, id)): At<(TenantName, Uuid)>,
    headers: HeaderMap,
) -> Response {
    match find(&site, &signed, &tenant, id).await {
        Ok(run) if headers.contains_key("hx-request") => shown(&run.as_state()),
        Ok(run) => shown(&run),
        Err(response) => *response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_by_people() {
        let shown = [-5, 0, 999, 1_000, 59_999, 61_000, 3_725_000, 90_000_000]
            .map(|ms| span(SignedDuration::from_millis(ms)));
        assert_eq!(shown, ["0 ms", "0 ms", "999 ms", "1.0 s", "59.9 s", "1 min 1 s", "1 h 2 min", "1 d 1 h"]);
    }
}
