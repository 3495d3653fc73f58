//! A store that speaks S3, over the network, which fails in every way that networks and stores do.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Refused, and nothing was done.
    Refused,
    /// Done, and told that it was not.
    AnswerLost,
    /// The connection breaks.
    Broken,
    /// Not done, and told that it was.
    Lied,
    /// There is no room.
    Full,
}

/// What is to go wrong.
#[derive(Debug, Default)]
struct Plan {
    fault: Option<Fault>,
    /// How many more requests it befalls.
    times: u32,
    /// Every so manieth request fails, in one way after the other.
    every: u32,
    asked: u32,
    slow: Duration,
}

impl Plan {
    fn next(&mut self) -> (Option<Fault>, Duration) {
        self.asked = self.asked.wrapping_add(1);
        let mut fault = None;
        if self.times > 0 {
            self.times -= 1;
            fault = self.fault;
        } else if self.every > 0 && self.asked.is_multiple_of(self.every) {
            let ways = [Fault::Refused, Fault::AnswerLost, Fault::Broken];
            fault = ways.get((self.asked / self.every) as usize % ways.len()).copied();
        }
        (fault, self.slow)
    }
}

/// A server with one bucket, `bucket`; gone when it is dropped.
pub struct S3 {
    endpoint: String,
    plan: Arc<Mutex<Plan>>,
    folder: tempfile::TempDir,
    /// The server ends with its runtime.
    runtime: Option<tokio::runtime::Runtime>,
}

impl S3 {
    /// Starts it on a port of loopback.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("bucket")).expect("the bucket");
        let mut builder =
            S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).expect("a store in a folder"));
        builder.set_auth(SimpleAuth::from_single("key", "secret"));
        let service = builder.build();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(serve(listener, service, Arc::clone(&plan)));
        Self { endpoint, plan, folder, runtime: Some(runtime) }
    }

    /// Where it is and who may use it, as variables of the environment.
    #[must_use]
    pub fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("AWS_ACCESS_KEY_ID", "key"),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ENDPOINT", &self.endpoint),
        ]
    }

    /// The folder whose files are the bucket's objects.
    #[must_use]
    pub fn bucket(&self) -> PathBuf {
        self.folder.path().join("bucket")
    }

    /// So many of the next requests fail.
    pub fn fail(&self, fault: Fault, times: u32) {
        let mut plan = self.plan();
        (plan.fault, plan.times) = (Some(fault), times);
    }

    /// From now on every so manieth request is refused, answered wrongly or broken off; 0 is none.
    pub fn fail_every(&self, every: u32) {
        self.plan().every = every;
    }

    /// From now on each answer takes so long.
    pub fn slow(&self, by: Duration) {
        self.plan().slow = by;
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Also where the last that has it is a task of another runtime.
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: std::net::TcpListener, service: S3Service, plan: Arc<Mutex<Plan>>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let (service, plan) = (service.clone(), Arc::clone(&plan));
        let answer = service_fn(move |request| answer(service.clone(), Arc::clone(&plan), request));
        tokio::spawn(async move {
            let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let _ = http.serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(
    service: S3Service,
    plan: Arc<Mutex<Plan>>,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, std::io::Error> {
    let (fault, slow) = plan.lock().unwrap_or_else(PoisonError::into_inner).next();
    tokio::time::sleep(slow).await;
    let said = match fault {
        Some(Fault::Broken) => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Refused) => Some(StatusCode::SERVICE_UNAVAILABLE),
        Some(Fault::Full) => Some(StatusCode::INSUFFICIENT_STORAGE),
        Some(Fault::Lied) => Some(StatusCode::OK),
        Some(Fault::AnswerLost) | None => None,
    };
    let empty = |status| {
        let mut response = Response::new(s3s::Body::empty());
        *response.status_mut() = status;
        response
    };
    if let Some(status) = said {
        // All of it is read, as a store does that fails late.
        let _ = request.into_body().collect().await;
        return Ok(empty(status));
    }
    let answered = service.call(request.map(s3s::Body::from)).await;
    let answered = answered.map_err(|error| std::io::Error::other(format!("{error:?}")))?;
    Ok(if fault.is_some() { empty(StatusCode::INTERNAL_SERVER_ERROR) } else { answered })
}
