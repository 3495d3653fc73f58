//! The HTTP API of the control plane, and its console.
//!
//! A request is signed in ([`access`]), parsed into types that cannot be wrong ([`extract`]), and becomes one
//! call of the store; long work is seen through by waiting for its operation ([`waiting`]). Nothing here knows
//! how a stead is made: this crate and the reconciler meet in the database.
//!
//! Around every route stand the same layers, outermost first: request id and trace, headers that no answer
//! lacks, a catch for panics and a deadline; behind the sign-in, edits run to their end even if the caller hangs
//! up ([`layers`]), and repeated ones are answered as the first was ([`idempotency`]). `routes/` has one file a
//! noun; [`document`] adds to the OpenAPI document what is true of every route.

mod access;
mod console;
mod document;
mod extract;
pub mod functions;
mod idempotency;
mod layers;
mod pages;
mod paging;
mod problem;
mod refusals;
mod routes;
mod schema;
mod searching;
mod sign_in;
mod sql;
mod strict;
mod view;
mod waiting;
mod wanted;

pub use sql::{Duplex, Sessions, Stream};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{from_fn, from_fn_with_state};
use store::Store;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use utoipa_axum::router::OpenApiRouter;

/// How long requests may take to end after the server was told to stop.
const STOP_WITHIN: Duration = Duration::from_secs(10);

pub use console::{ConsoleError, ConsoleSettings, ProviderSettings};
pub use sign_in::rules::{BadRule, Rule};

/// What the API is told of its surroundings.
#[derive(Clone)]
pub struct Settings {
    /// Where it listens.
    pub listen: SocketAddr,
    /// The certificate authority's certificate, PEM; made by somebody else, read on request.
    pub ca_path: PathBuf,
    /// Logs of this host.
    pub logs: Arc<logs::Store>,
    /// Ways to servers, for SQL that people run.
    pub sessions: Arc<dyn Sessions>,
    /// Ways to functions.
    pub functions: Arc<dyn functions::Functions>,
    /// Version of Stead.
    pub version: &'static str,
    /// The port that every server shares, where there is one.
    pub shared: Option<Shared>,
    /// The console.
    pub console: ConsoleSettings,
}

/// A port for every server: which one is meant is told by the host name, `<handle>.<domain>`.
#[derive(Debug, Clone)]
pub struct Shared {
    /// TCP port.
    pub port: u16,
    /// Domain of the host names.
    pub domain: String,
}

/// What every route can reach.
#[derive(Clone)]
struct App {
    store: Store,
    seen: waiting::Seen,
    ca_path: PathBuf,
    logs: searching::Logs,
    sessions: Arc<dyn Sessions>,
    functions: Arc<dyn functions::Functions>,
    running: sql::Running,
    stopping: watch::Receiver<bool>,
    version: &'static str,
    shared: Option<Shared>,
    console: Arc<console::Console>,
}

/// The whole API and the console. Has to be called within a Tokio runtime: it starts the task that listens to the store.
///
/// # Errors
/// [`ConsoleError`]: settings of the console that cannot be.
pub fn router(store: Store, settings: &Settings) -> Result<Router, ConsoleError> {
    // A sender that is gone means: never stopped.
    let (_, stopping) = watch::channel(false);
    build(store, settings, stopping)
}

/// Serves the API until `stop` is over; then ends waits and lets requests finish for a few seconds.
///
/// # Errors
/// When the listener fails, or the console's settings cannot be.
pub async fn serve(
    listener: TcpListener,
    store: Store,
    settings: Settings,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (sender, stopping) = watch::channel(false);
    let mut told = stopping.clone();
    let router = build(store, &settings, stopping).map_err(std::io::Error::other)?;
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(async move {
        // An error means that the sender is gone, and with it everybody who could want an answer.
        let _ = told.wait_for(|stopping| *stopping).await;
    });
    let mut server = std::pin::pin!(server.into_future());
    tokio::select! {
        ended = &mut server => return ended,
        () = stop => {}
    }
    // Requests that wait answer with what is.
    sender.send_replace(true);
    tokio::time::timeout(STOP_WITHIN, server).await.unwrap_or_else(|_| {
        tracing::warn!("some requests did not end in time and were cut off");
        Ok(())
    })
}

/// The same below a prefix: a proxy in front may pass it on, or leave it out.
fn below(base: String, all: Router) -> Router {
    Router::new().fallback(move |mut request: Request| {
        layers::strip(&base, &mut request);
        all.clone().oneshot(request)
    })
}

/// The OpenAPI document.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, document) = routes().split_for_parts();
    document::complete(document)
}

fn routes() -> OpenApiRouter<App> {
    routes::open().merge(routes::signed_in()).merge(routes::streaming())
}

fn build(store: Store, settings: &Settings, stopping: watch::Receiver<bool>) -> Result<Router, ConsoleError> {
    let app = App {
        seen: waiting::Seen::listen(store.clone(), stopping.clone()),
        logs: searching::Logs::new(Arc::clone(&settings.logs), stopping.clone()),
        stopping,
        store,
        ca_path: settings.ca_path.clone(),
        sessions: Arc::clone(&settings.sessions),
        functions: Arc::clone(&settings.functions),
        running: sql::Running::default(),
        shared: settings.shared.clone(),
        version: settings.version,
        console: Arc::new(console::Console::new(&settings.console)?),
    };
    let (open, _) = routes::open().split_for_parts();
    let (signed_in, _) = routes::signed_in().split_for_parts();
    let signed_in = signed_in
        .route_layer(from_fn_with_state(app.clone(), idempotency::replay))
        .route_layer(from_fn(layers::to_the_end))
        .route_layer(from_fn_with_state(app.clone(), access::sign_in));
    let (streaming, _) = routes::streaming().split_for_parts();
    let streaming = streaming
        .route_layer(from_fn(layers::to_the_end))
        .route_layer(from_fn_with_state(app.clone(), access::sign_in));
    let api = open.merge(signed_in).merge(streaming).with_state(app.clone());
    let site = pages::Site { app, api: api.clone() };
    let all = api.merge(pages::router(&site));
    let base = site.app.console.base().to_owned();
    let all = all
        .fallback(move |request: Request| {
            let page = !layers::is_of_the_api(&request);
            async move { if page { pages::failure::nothing_here(&site) } else { layers::nothing_here() } }
        })
        .method_not_allowed_fallback(layers::no_such_method)
        .layer(CompressionLayer::new())
        .layer(from_fn(layers::deadline))
        .layer(CatchPanicLayer::custom(layers::panicked))
        .layer(from_fn(layers::traced));
    Ok(if base.is_empty() { all } else { below(base, all) })
}
