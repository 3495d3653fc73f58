//! Inspections over the Invoke API's socket: `POST /stead/functions/{handle}/inspections` begins one, and `…/{id}` is a
//! connection to the inspector. Both are HTTP/1.1 upgrades.
//!
//! The first carries a [`Notice`] a line from here, and anything at all from the other side every few seconds, so that a
//! debugger whose machine has gone does not keep a function for ever. The second carries what debugger and inspector say.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, copy_bidirectional, split};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::refusal::Refusal;
use super::{Body, empty};
use crate::engine::Engine;
use crate::function::Function;
use crate::inspection::{self, Inspection, NoInspection};
use crate::route::{INSPECTION_ID, INSPECTION_PROTOCOL, Notice};

/// An inspection ends when nothing has come from who began it for so long.
const SILENCE: Duration = Duration::from_secs(20);

/// Begins one.
pub(super) fn begin(
    engine: &Engine,
    handle: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let function = find(engine, handle)?;
    let upgrade = upgrade(&mut request)?;
    let inspection = function.begin_inspection().map_err(|why| match why {
        NoInspection::Taken => {
            Refusal::Conflict("somebody inspects this function already; one debugger at a time".to_owned())
        }
        NoInspection::NothingLive => Refusal::Conflict("no release of it answers yet".to_owned()),
        NoInspection::NoInspector(runtime) => Refusal::InvalidParameter(format!(
            "inspecting is for Node.js: `{runtime}` has no inspector that a debugger could speak to"
        )),
    })?;
    let id = inspection.id.to_string();
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            hold(&function, &inspection, upgraded).await;
        }
        function.end_inspection(&inspection);
    });
    Ok(switching(&id))
}

async fn hold(function: &Function, inspection: &Inspection, upgraded: Upgraded) {
    let (from, to) = split(TokioIo::new(upgraded));
    let (notices, told) = mpsc::channel(1);
    tokio::select! {
        () = listen(from) => {}
        () = tell(to, told) => {}
        () = inspection::keep(function, inspection, notices) => {}
        // The function is being removed, or the engine stops.
        () = inspection.ended() => {}
    }
}

async fn tell(mut to: WriteHalf<TokioIo<Upgraded>>, mut told: mpsc::Receiver<Notice>) {
    while let Some(notice) = told.recv().await {
        let mut line = serde_json::to_vec(&notice).unwrap_or_default();
        line.push(b'\n');
        if to.write_all(&line).await.is_err() {
            return;
        }
    }
}

/// Until nobody is there.
async fn listen(mut from: ReadHalf<TokioIo<Upgraded>>) {
    let mut word = [0; 256];
    while let Ok(Ok(1..)) = timeout(SILENCE, from.read(&mut word)).await {}
}

/// Connects to the inspector.
pub(super) async fn connect(
    engine: &Engine,
    handle: &str,
    id: &str,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let function = find(engine, handle)?;
    let upgrade = upgrade(&mut request)?;
    let inspection = function.inspection().filter(|inspection| inspection.id.to_string() == id);
    let inspection = inspection.ok_or_else(|| Refusal::NotFound("there is no such inspection".to_owned()))?;
    let reached = tokio::select! {
        reached = inspection.connect() => reached,
        () = inspection.ended() => return Err(Refusal::NotFound("the inspection has ended".to_owned())),
    };
    let unavailable = |_| Refusal::Unavailable("no worker of it can be inspected at the moment".to_owned());
    let mut connection = reached.map_err(unavailable)?;
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let Some(inspector) = connection.stream() else { return };
        let mut debugger = TokioIo::new(upgraded);
        tokio::select! {
            // How either of them goes away is its own affair.
            _ = copy_bidirectional(&mut debugger, inspector) => {}
            () = inspection.ended() => {}
        }
    });
    Ok(switching(id))
}

fn find(engine: &Engine, handle: &str) -> Result<Arc<Function>, Refusal> {
    engine.table.get(handle).ok_or_else(|| Refusal::NotFound(format!("Function not found: {handle}")))
}

fn upgrade(request: &mut Request<Incoming>) -> Result<OnUpgrade, Refusal> {
    let named = request.headers().get(UPGRADE).and_then(|value| value.to_str().ok());
    if named != Some(INSPECTION_PROTOCOL) {
        let message = format!("an inspection is an upgrade to `{INSPECTION_PROTOCOL}`");
        return Err(Refusal::InvalidParameter(message));
    }
    Ok(hyper::upgrade::on(request))
}

fn switching(id: &str) -> Response<Body> {
    let mut response = empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(INSPECTION_PROTOCOL));
    super::insert(&mut response, HeaderName::from_static(INSPECTION_ID), id);
    response
}
