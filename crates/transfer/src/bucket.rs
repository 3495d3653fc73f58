//! A lake in a bucket: the store, whose it is, and what is said when it does not do what it is asked.
//!
//! What a bucket has answered is durable. A commit is a `put` that is refused where something is already there, so that of
//! two writers one wins as on a disk; a store that cannot do that is none ([`Bucket::claim`]).

use std::error::Error as Cause;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use deltalake::logstore::{
    LogStore, LogStoreFactory, ObjectStoreRef, StorageConfig, default_logstore, logstore_factories,
};
use deltalake::{DeltaResult, DeltaTableError, Path};
use futures::TryStreamExt;
use object_store::aws::AmazonS3Builder;
use object_store::{BackoffConfig, ClientOptions, ObjectStoreExt, PutMode, RetryConfig};
use rustls::CertificateError;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::http::Http;
use crate::lake::NOTES;
use crate::place::Place;
use crate::relay::Relay;
use crate::wire::Tls;
use crate::{Error, explain, tls, wire};

/// How a request is asked again before its failure is told.
const RETRY: RetryConfig = RetryConfig {
    backoff: BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    },
    max_retries: 4,
    retry_timeout: Duration::from_secs(20),
};
/// Objects that are moved at once.
const AT_ONCE: usize = 16;

/// Why a bucket does not do what it is asked, with what to do. Nothing of a secret is in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(String);

/// What messages tell of a bucket, and what it has failed in.
#[derive(Debug)]
pub(crate) struct About {
    /// `s3://bucket/prefix`.
    url: Url,
    host: String,
    region: String,
    key_name: String,
    secret_name: String,
    failures: Mutex<(u64, Option<Failed>)>,
}

impl About {
    fn bucket(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Nobody answers there.
    pub(crate) fn unreachable(&self, why: &str) -> Failed {
        Failed(format!(
            "the bucket cannot be reached at {}: {why}; nothing is lost, and it is tried again",
            self.host
        ))
    }

    /// Whoever answers is not believed.
    pub(crate) fn not_believed(&self, error: &rustls::Error) -> Failed {
        let host = &self.host;
        let rustls::Error::InvalidCertificate(why) = error else {
            return Failed(format!("no TLS with the bucket at {host}: {error}"));
        };
        Failed(match why {
            CertificateError::UnknownIssuer => format!(
                "the certificate of the bucket at {host} is of an authority that is not known here; put the authority's \
                 certificate into a secret and name it, like to = {{ bucket = \"{}\", ca = \"LAKE_CA\", … }}",
                self.url
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "the certificate that answers at {host} is not for that name ({error}); write `endpoint` with a name that is in it"
                )
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the certificate of the bucket at {host} has expired; have it renewed")
            }
            other => format!(
                "the certificate of the bucket at {host} is not believed ({other:?}); have it replaced"
            ),
        })
    }

    /// It says no. `code` is S3's word for why.
    pub(crate) fn refused(&self, status: u16, code: &str, region: Option<&str>) -> Failed {
        let Self { url, host, key_name, secret_name, .. } = self;
        let said = if code.is_empty() { status.to_string() } else { format!("{status}, {code}") };
        Failed(match (status, code) {
            (_, "NoSuchBucket") => format!("there is no bucket `{}` at {host}; make it", self.bucket()),
            (_, "InvalidAccessKeyId") => format!(
                "the bucket at {host} does not know the key in the secret {key_name}; set it again with `stead secret set \
                 {key_name}`"
            ),
            (_, "SignatureDoesNotMatch") => format!(
                "the bucket at {host} does not believe the key: what the secret {secret_name} holds does not belong to it; set it \
                 again with `stead secret set {secret_name}`"
            ),
            (_, "RequestTimeTooSkewed") => {
                format!(
                    "the clock of this host and that of the bucket at {host} are too far apart; have this host's put right"
                )
            }
            (301 | 307, _)
            | (
                _,
                "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException",
            ) => {
                let is = region.map_or(String::new(), |region| format!("; it is in {region}"));
                format!(
                    "the bucket `{}` is not in the region {}{is}: write `region` as it is",
                    self.bucket(),
                    self.region
                )
            }
            (401 | 403, _) => format!(
                "the bucket refuses the key in the secret {key_name} ({said}); it needs s3:ListBucket on the bucket, and \
                 s3:GetObject, s3:PutObject, s3:DeleteObject and s3:AbortMultipartUpload on what is in {url}/"
            ),
            _ => format!("the bucket at {host} answers {said}; nothing is lost, and it is tried again"),
        })
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, (u64, Option<Failed>)> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers it.
    pub(crate) fn has_failed(&self, failed: &Failed) {
        let mut failures = self.failures();
        *failures = (failures.0 + 1, Some(failed.clone()));
    }
}

/// A bucket that is open.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    store: ObjectStoreRef,
    about: Arc<About>,
}

/// Opens the lake in a bucket. Nobody is asked anything yet.
///
/// # Errors
/// Where its settings make no sense.
pub fn open(settings: &wire::Bucket) -> Result<Place, Error> {
    let wire::Bucket { socket, place, endpoint, in_path, region, ca, key, secret, key_name, secret_name } =
        settings;
    let parsed = |url: &str| Url::parse(url).map_err(|error| Error::Strange(format!("{url}: {error}")));
    let (url, endpoint) = (parsed(place)?, parsed(endpoint)?);
    let host = endpoint.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let about = Arc::new(About {
        url: url.clone(),
        host: host.clone(),
        region: region.clone(),
        key_name: key_name.clone(),
        secret_name: secret_name.clone(),
        failures: Mutex::default(),
    });
    let is_plain = endpoint.scheme() == "http";
    let tls = tls::config(if is_plain { Tls::Disable } else { Tls::VerifyFull }, ca.as_deref());
    // What is wrong with an authority is told when it is needed, as all that keeps a transfer.
    let relay = tls.map(|tls| Relay { socket: socket.clone(), host, tls });
    let relay = relay.map_err(|error| Failed(error.to_string()));
    let store = AmazonS3Builder::new()
        .with_bucket_name(about.bucket())
        .with_region(region)
        .with_access_key_id(key.expose_secret())
        .with_secret_access_key(secret.expose_secret())
        .with_endpoint(endpoint.as_str().trim_end_matches('/'))
        .with_virtual_hosted_style_request(!in_path)
        .with_retry(RETRY)
        .with_client_options(ClientOptions::new().with_allow_http(is_plain))
        .with_http_connector(Http::new(relay, about.clone()))
        .build()
        .map_err(DeltaTableError::from)?;
    if let Ok(scheme) = Url::parse("s3://") {
        logstore_factories().insert(scheme, Arc::new(Logs));
    }
    Ok(Place::in_bucket(url.clone(), Bucket { store: Arc::new(store), about }))
}

/// Delta's log of a table, by a `put` that is refused where something is there.
struct Logs;

impl LogStoreFactory for Logs {
    fn with_options(
        &self,
        prefixed: ObjectStoreRef,
        root: ObjectStoreRef,
        location: &Url,
        options: &StorageConfig,
    ) -> DeltaResult<Arc<dyn LogStore>> {
        Ok(default_logstore(prefixed, root, location, options))
    }
}

/// Whose a place in a bucket is: what `_stead/transfer.json` says.
#[derive(Serialize, Deserialize)]
struct Claim {
    transfer: String,
}

/// The transfer that wrote a note; nobody where there is none.
fn whose(note: Option<Bytes>) -> String {
    let claim = note.and_then(|text| serde_json::from_slice(&text).ok());
    claim.map_or_else(String::new, |claim: Claim| claim.transfer)
}

/// Whose a place was, as far as is remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    Nobody,
    /// The transfer's own, which is to begin anew there.
    Own,
    /// Its own, and what it wrote is there.
    Known,
}

fn marker(at: &Path) -> Path {
    at.clone().join(NOTES).join("transfer.json")
}

impl Bucket {
    pub(crate) fn store(&self) -> &ObjectStoreRef {
        &self.store
    }

    /// How often it has failed to do what it was asked.
    pub(crate) fn failures(&self) -> u64 {
        self.about.failures().0
    }

    /// What failed, where an error comes of that.
    pub(crate) fn failed_in(&self, error: &(dyn Cause + 'static)) -> Option<Failed> {
        let found = explain::causes(error).find_map(|cause| cause.downcast_ref().cloned());
        // Some keep nothing of an error but its text.
        let last = || self.about.failures().1.clone();
        found.or_else(|| last().filter(|last| error.to_string().contains(&last.0)))
    }

    /// Makes sure that nobody else writes there, and that the store keeps two writers apart.
    pub(crate) async fn claim(&self, at: &Path, transfer: &str, before: Before) -> Result<(), Error> {
        let url = &self.about.url;
        let marker = marker(at);
        let claim = serde_json::to_vec(&Claim { transfer: transfer.to_owned() });
        let claim = Bytes::from(claim.map_err(|error| Error::Strange(error.to_string()))?);
        let found = match self.read(&marker).await? {
            None if before == Before::Known => return Err(self.emptied()),
            None => {
                self.is_empty(at, before).await?;
                self.create(&marker, claim.clone()).await?;
                // Of two at once that of the first is there.
                self.read(&marker).await?
            }
            found => found,
        };
        let whose = whose(found);
        if whose != transfer {
            let whose: String = whose.chars().filter(char::is_ascii_alphanumeric).take(64).collect();
            return Err(Error::Bucket(Failed(format!(
                "another transfer has written to {url} ({whose}, as {marker} there says); name another place, or have what is \
                 there moved away if that transfer is no more"
            ))));
        }
        if self.create(&marker, claim).await? {
            return Err(Error::Bucket(Failed(format!(
                "the bucket at {} writes over what is there although it is asked not to (`If-None-Match: *`), so two writers \
                 could not be kept apart; use a store that refuses that, like S3 or a current MinIO",
                self.about.host
            ))));
        }
        Ok(())
    }

    /// Makes sure that nothing is there.
    async fn is_empty(&self, at: &Path, before: Before) -> Result<(), Error> {
        let url = &self.about.url;
        let mut objects = self.store.list(Some(at).filter(|at| !at.as_ref().is_empty()));
        let Some(object) = objects.try_next().await.map_err(DeltaTableError::from)? else { return Ok(()) };
        if before == Before::Own {
            return Err(Error::Bucket(Failed(format!(
                "{url} was emptied, but not of all ({} is there): remove what is left, and everything is copied anew",
                object.location
            ))));
        }
        Err(Error::Bucket(Failed(format!(
            "{url} is not empty ({} is there): a transfer writes only where nothing is; name another place, like {url}/lake",
            object.location
        ))))
    }

    /// Whether what [`Self::claim`] left is there still.
    /// Where it is not, the next claim says what to do.
    pub(crate) async fn is_claimed(&self, at: &Path, transfer: &str) -> Result<(), Error> {
        if whose(self.read(&marker(at)).await?) == transfer {
            return Ok(());
        }
        let url = &self.about.url;
        Err(Error::Bucket(Failed(format!("{url} was emptied while it was written"))))
    }

    fn emptied(&self) -> Error {
        Error::Stopped(format!(
            "{} was emptied: what the transfer wrote is gone; `stead resync` copies everything anew",
            self.about.url
        ))
    }

    /// Writes an object where there is none; answers whether there was none.
    async fn create(&self, path: &Path, text: Bytes) -> Result<bool, Error> {
        match self.store.put_opts(path, text.into(), PutMode::Create.into()).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. }) => Ok(false),
            Err(error) => Err(DeltaTableError::from(error).into()),
        }
    }

    /// An object; nothing where there is none.
    pub(crate) async fn read(&self, path: &Path) -> Result<Option<Bytes>, Error> {
        let reading = async { self.store.get(path).await?.bytes().await };
        match reading.await {
            Ok(text) => Ok(Some(text)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(DeltaTableError::from(error).into()),
        }
    }

    /// Moves everything below one name below another; whoever is ended half way does the rest the next time.
    pub(crate) async fn move_all(&self, from: &Path, to: &Path) -> Result<(), Error> {
        let moved = self.store.list(Some(from)).try_for_each_concurrent(AT_ONCE, |object| async move {
            let below = object.location.prefix_match(from).into_iter().flatten();
            let target: Path = to.parts().chain(below).collect();
            match self.store.rename(&object.location, &target).await {
                // Its copy was made, and it was deleted, by a request whose answer was lost.
                Err(object_store::Error::NotFound { .. }) => Ok(()),
                renamed => renamed,
            }
        });
        Ok(moved.await.map_err(DeltaTableError::from)?)
    }
}
