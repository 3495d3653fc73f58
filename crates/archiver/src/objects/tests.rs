//! A store that speaks S3, over the network, which fails in every way that networks and stores do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

use super::*;

/// What becomes of the next requests.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Refused, and nothing was done.
    Refused = 1,
    /// Done, and told that it was not.
    AnswerLost = 2,
    /// The connection breaks.
    Broken = 3,
    /// Not done, and told that it was.
    Lied = 4,
    /// There is no room.
    Full = 5,
}

/// A server, and what becomes of its next requests: a fault, and how many more.
struct S3 {
    location: Location,
    fault: Arc<(AtomicU32, AtomicU32)>,
    _folder: tempfile::TempDir,
}

impl S3 {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("bucket")).unwrap();
        let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(folder.path()).unwrap());
        builder.set_auth(SimpleAuth::from_single("key", "secret"));
        let service = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let fault: Arc<(AtomicU32, AtomicU32)> = Arc::default();
        let faults = Arc::clone(&fault);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (service, faults) = (service.clone(), Arc::clone(&faults));
                let answer = service_fn(move |request| answer(service.clone(), Arc::clone(&faults), request));
                tokio::spawn(async move {
                    let http = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(stream), answer).await;
                });
            }
        });
        let options = [
            ("aws_access_key_id", "key"),
            ("aws_secret_access_key", "secret"),
            ("aws_region", "us-east-1"),
            ("aws_endpoint", &format!("http://{at}")),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), SecretString::from(value))).into();
        let location = Location::parse("s3://bucket/some/where", options).unwrap();
        Self { location, fault, _folder: folder }
    }

    fn fail(&self, fault: Fault, times: u32) {
        self.fault.0.store(fault as u32, Ordering::SeqCst);
        self.fault.1.store(times, Ordering::SeqCst);
    }
}

async fn answer(
    service: s3s::service::S3Service,
    faults: Arc<(AtomicU32, AtomicU32)>,
    request: Request<Incoming>,
) -> Result<Response<s3s::Body>, std::io::Error> {
    let said = |status: u16| {
        let mut response = Response::new(s3s::Body::empty());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok(response)
    };
    let less = |left: u32| left.checked_sub(1);
    let fails = faults.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
    let fault = if fails { faults.0.load(Ordering::SeqCst) } else { 0 };
    if fault == Fault::Broken as u32 {
        return Err(std::io::ErrorKind::ConnectionReset.into());
    }
    if [Fault::Refused, Fault::Full, Fault::Lied].iter().any(|one| *one as u32 == fault) {
        // All of it is read, as a store does that fails late.
        let _ = request.into_body().collect().await;
        return match fault {
            fault if fault == Fault::Refused as u32 => said(503),
            fault if fault == Fault::Full as u32 => said(507),
            _ => said(200),
        };
    }
    let answered = service.call(request.map(s3s::Body::from)).await;
    let answered = answered.map_err(|error| std::io::Error::other(format!("{error:?}")))?;
    if fault == Fault::AnswerLost as u32 { said(500) } else { Ok(answered) }
}

#[tokio::test]
async fn what_was_stored_is_there_whatever_the_network_does() {
    let s3 = S3::start().await;
    let objects = Objects::open(&s3.location).unwrap();
    let bytes = |n: u8| Bytes::from(vec![n; 100_000]);
    for (n, fault) in [Fault::Refused, Fault::AnswerLost, Fault::Broken].into_iter().enumerate() {
        let (n, name) = (u8::try_from(n).unwrap(), format!("archives/a/{n}"));
        s3.fail(fault, 2);
        objects.put(&name, bytes(n)).await.unwrap();
        s3.fail(fault, 2);
        assert_eq!(objects.get(&name).await.unwrap(), Some(bytes(n)), "{name}");
        s3.fail(fault, 2);
        let listed = objects.list("archives/a", None).await.unwrap();
        assert_eq!(listed.len(), usize::from(n) + 1);
        assert_eq!(listed.last().unwrap(), &Listed { name: n.to_string(), bytes: 100_000 });
    }
    assert_eq!(objects.list("archives/a", Some("0")).await.unwrap().len(), 2);
    assert_eq!(objects.folders("archives").await.unwrap(), ["a"]);
    assert_eq!(objects.get("archives/a/9").await.unwrap(), None);
    s3.fail(Fault::Broken, 1);
    objects.delete(vec!["archives/a/0".into(), "archives/a/9".into()]).await.unwrap();
    assert_eq!(objects.get("archives/a/0").await.unwrap(), None);
}

#[tokio::test]
async fn what_the_store_refuses_is_said_and_nothing_is_taken_for_stored() {
    let s3 = S3::start().await;
    let objects = Objects::open(&s3.location).unwrap();
    s3.fail(Fault::Full, 1_000);
    let error = objects.put("archives/a/0", Bytes::from_static(b"x")).await.unwrap_err().to_string();
    assert!(error.contains("507"), "{error}");
    s3.fail(Fault::Full, 0);
    assert_eq!(objects.get("archives/a/0").await.unwrap(), None);
    // One that lies is found out by whoever asks for what it said it has.
    s3.fail(Fault::Lied, 1);
    let lied = objects.put("archives/a/1", Bytes::from_static(b"x")).await;
    assert!(lied.is_err() || objects.get("archives/a/1").await.unwrap().is_none());
    // Wrong credentials are no matter of trying again.
    let mut location = s3.location.clone();
    location.options.insert("aws_secret_access_key".into(), SecretString::from("other"));
    let error = Objects::open(&location).unwrap().put("archives/a/2", Bytes::new()).await.unwrap_err();
    assert!(error.to_string().contains("SignatureDoesNotMatch"), "{error}");
}

#[tokio::test]
async fn a_folder_holds_what_s3_holds() {
    let folder = tempfile::tempdir().unwrap();
    let location = Location::parse(folder.path().to_str().unwrap(), BTreeMap::new()).unwrap();
    let objects = Objects::open(&location).unwrap();
    objects.put("archives/a/1", Bytes::from_static(b"one")).await.unwrap();
    objects.put("archives/a/b/2", Bytes::from_static(b"two")).await.unwrap();
    assert_eq!(objects.get("archives/a/1").await.unwrap().unwrap(), "one");
    let names: Vec<_> = objects.list("archives/a", None).await.unwrap().into_iter().map(|o| o.name).collect();
    assert_eq!(names, ["1", "b/2"]);
    assert_eq!(objects.folders("archives").await.unwrap(), ["a"]);
    objects.delete(vec!["archives/a/1".into(), "archives/a/1".into()]).await.unwrap();
    assert_eq!(objects.get("archives/a/1").await.unwrap(), None);
    for bad in ["", "relative", "http://x/y", "s3://", "ftp://x"] {
        let said = Location::parse(bad, BTreeMap::new()).unwrap_err();
        assert!(said.contains("give a folder from / on, or s3://bucket/prefix"), "{said}");
    }
}
