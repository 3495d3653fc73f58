//! A store that speaks S3, over the network, which fails in every way that networks and stores do.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
    /// Refused, as the key may not.
    Denied,
    /// The bucket is in another region.
    Elsewhere,
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
    /// Every request behind so many fails.
    behind: Option<(u32, Fault)>,
    /// One answer is lost behind so many.
    loses: Option<u32>,
    /// Answers that it wrote over what is there, whatever it is asked.
    careless: bool,
}

impl Plan {
    fn next(&mut self) -> (Option<Fault>, Duration) {
        self.asked = self.asked.wrapping_add(1);
        let mut fault = None;
        if let Some((left, then)) = &mut self.behind {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => fault = Some(*then),
            }
        } else if let Some(left) = self.loses {
            self.loses = left.checked_sub(1);
            fault = (left == 0).then_some(Fault::AnswerLost);
        } else if self.times > 0 {
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
        Self::listening(None)
    }

    /// The same with TLS, by a certificate and its key in PEM; its endpoint is of `https`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn with_tls(certificate: &str, key: &str) -> Self {
        let certificates = CertificateDer::pem_slice_iter(certificate.as_bytes());
        let certificates = certificates.collect::<Result<_, _>>().expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            config.expect("versions of TLS").with_no_client_auth().with_single_cert(certificates, key);
        Self::listening(Some(TlsAcceptor::from(Arc::new(config.expect("a certificate with its key")))))
    }

    fn listening(tls: Option<TlsAcceptor>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("bucket")).expect("the bucket");
        let mut builder =
            S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).expect("a store in a folder"));
        builder.set_auth(SimpleAuth::from_single("key", "secret"));
        let service = builder.build();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("a listener");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}", listener.local_addr().expect("an address"));
        let plan: Arc<Mutex<Plan>> = Arc::default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.spawn(serve(listener, tls, service, Arc::clone(&plan)));
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

    /// Where it answers.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
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

    /// So many more requests are answered, and then none; `None` ends that.
    pub fn fail_behind(&self, behind: Option<(u32, Fault)>) {
        self.plan().behind = behind;
    }

    /// So many more requests are answered, the answer to the next is lost, and all is well then.
    pub fn lose_answer_behind(&self, behind: u32) {
        self.plan().loses = Some(behind);
    }

    /// Whether that came to be.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        self.plan().loses.is_none()
    }

    /// From now on nothing is refused because it is there already, as by stores that know no conditions.
    pub fn be_careless(&self) {
        self.plan().careless = true;
    }

    /// How many requests came.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.plan().asked
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

async fn serve(
    listener: std::net::TcpListener,
    tls: Option<TlsAcceptor>,
    service: S3Service,
    plan: Arc<Mutex<Plan>>,
) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    while let Ok((stream, _)) = listener.accept().await {
        let (service, plan, tls) = (service.clone(), Arc::clone(&plan), tls.clone());
        let answer = service_fn(move |request| answer(service.clone(), Arc::clone(&plan), request));
        tokio::spawn(async move {
            let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            match tls {
                None => drop(http.serve_connection(TokioIo::new(stream), answer).await),
                Some(tls) => {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                }
            }
        });
    }
}

async fn answer(
    service: S3Service,
    plan: Arc<Mutex<Plan>>,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, std::io::Error> {
    let (fault, slow, careless) = {
        let mut plan = plan.lock().unwrap_or_else(PoisonError::into_inner);
        let (fault, slow) = plan.next();
        (fault, slow, plan.careless)
    };
    tokio::time::sleep(slow).await;
    let said = match fault {
        Some(Fault::Broken) => return Err(std::io::ErrorKind::ConnectionReset.into()),
        Some(Fault::Refused) => Some((StatusCode::SERVICE_UNAVAILABLE, "")),
        Some(Fault::Full) => Some((StatusCode::INSUFFICIENT_STORAGE, "")),
        Some(Fault::Lied) => Some((StatusCode::OK, "")),
        Some(Fault::Denied) => Some((StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>")),
        Some(Fault::Elsewhere) => {
            let body = "<Error><Code>PermanentRedirect</Code></Error>";
            Some((StatusCode::MOVED_PERMANENTLY, body))
        }
        Some(Fault::AnswerLost) | None => None,
    };
    let plain = |status, body: &str| {
        let mut response = Response::new(s3s::Body::from(body.to_owned()));
        *response.status_mut() = status;
        if fault == Some(Fault::Elsewhere) {
            response.headers_mut().insert("x-amz-bucket-region", HeaderValue::from_static("eu-west-9"));
        }
        response
    };
    if let Some((status, body)) = said {
        // All of it is read, as a store does that fails late.
        let _ = request.into_body().collect().await;
        return Ok(plain(status, body));
    }
    let answered = service.call(request.map(s3s::Body::from)).await;
    let answered = answered.map_err(|error| std::io::Error::other(format!("{error:?}")))?;
    if careless && answered.status() == StatusCode::PRECONDITION_FAILED {
        let mut done = plain(StatusCode::OK, "");
        done.headers_mut().insert("etag", HeaderValue::from_static("\"0\""));
        return Ok(done);
    }
    Ok(if fault.is_some() { plain(StatusCode::INTERNAL_SERVER_ERROR, "") } else { answered })
}
