//! The certificate in force: loaded, checked, and replaced without a restart.
//!
//! Each connection takes one [`Certificate`] and keeps it to the end of its sign-in, because channel
//! binding is about the very certificate that the client was shown.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;
use rustls::version::{TLS12, TLS13};
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_parser::parse_x509_certificate;
use x509_parser::signature_algorithm::SignatureAlgorithm;

/// PostgreSQL's name for its protocol inside TLS (17 and later, `sslnegotiation=direct`).
pub(crate) const ALPN: &[u8] = b"postgresql";

/// Why a pair of files cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is no PEM of the right kind.
    #[error("{} holds no usable PEM: {reason}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The two do not belong together, or the algorithm is unknown.
    #[error("certificate and key cannot be used together: {0}; write a pair that belongs together")]
    Pair(#[from] rustls::Error),
    /// It would take the place of one that clients accept.
    #[error("the certificate is valid from {from} to {until} only; write one that is valid now")]
    NotNow {
        /// Its beginning.
        from: jiff::Timestamp,
        /// Its end.
        until: jiff::Timestamp,
    },
    /// The certificate is no X.509.
    #[error("the certificate cannot be read: {0}")]
    X509(String),
}

/// A certificate with its key, ready to serve.
pub(crate) struct Certificate {
    /// TLS 1.2 and 1.3, no resumption (as PostgreSQL), ALPN `postgresql`.
    pub(crate) config: Arc<ServerConfig>,
    /// Hash of the certificate for `tls-server-end-point`; `None` where RFC 5929 defines none (Ed25519).
    pub(crate) end_point: Option<Vec<u8>>,
    /// When it begins.
    from: Option<jiff::Timestamp>,
    /// When it ends.
    pub(crate) until: Option<jiff::Timestamp>,
    /// What it was made from, to see a change.
    source: (Vec<u8>, Vec<u8>),
}

/// The certificate in force, and where it comes from.
pub(crate) struct Certificates {
    folder: PathBuf,
    current: RwLock<Option<Arc<Certificate>>>,
    last_error: RwLock<Option<String>>,
}

impl Certificates {
    /// Nothing loaded yet.
    pub(crate) fn new(folder: PathBuf) -> Certificates {
        Certificates { folder, current: RwLock::new(None), last_error: RwLock::new(None) }
    }

    /// The one in force.
    pub(crate) fn current(&self) -> Option<Arc<Certificate>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the files as they are cannot be used, if they cannot.
    pub(crate) fn error(&self) -> Option<String> {
        self.last_error.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the files again. A pair that cannot serve leaves the one in force, and is said once.
    pub(crate) fn reload(&self) {
        let wrong = match self.load() {
            Ok(new) => {
                if let Some(new) = new {
                    tracing::info!(until = ?new.until, "certificate loaded");
                    if new.end_point.is_none() {
                        tracing::warn!("the certificate's signature algorithm has no channel binding");
                    }
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(new));
                }
                // Nothing better is there: clients that look at the time refuse it themselves, in words.
                self.current().and_then(|current| current.not_now())
            }
            Err(error) => Some(error),
        };
        let wrong = wrong.map(|error| error.to_string());
        let mut last_error = self.last_error.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &wrong
            && last_error.as_ref() != Some(error)
        {
            tracing::error!(error, kept = self.current().is_some(), "the certificate is not as it should be");
        }
        *last_error = wrong;
    }

    /// `None` where the files are as they were.
    fn load(&self) -> Result<Option<Certificate>, CertificateError> {
        let cert_path = self.folder.join("cert.pem");
        let key_path = self.folder.join("key.pem");
        let source = (read(&cert_path)?, read(&key_path)?);
        if self.current().is_some_and(|current| current.source == source) {
            return Ok(None);
        }
        let pem = |path: &Path, error: rustls::pki_types::pem::Error| CertificateError::Pem {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let chain = CertificateDer::pem_slice_iter(&source.0)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| pem(&cert_path, e))?;
        let Some(leaf) = chain.first().cloned() else {
            return Err(pem(&cert_path, rustls::pki_types::pem::Error::NoItemsFound));
        };
        let key = PrivateKeyDer::from_pem_slice(&source.1).map_err(|e| pem(&key_path, e))?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        let Description { end_point, from, until } = describe(&leaf)?;
        let new = Certificate { config: Arc::new(config), end_point, from, until, source };
        // One that has ended, or has yet to begin, does not take the place of one that clients accept.
        match new.not_now() {
            Some(wrong) if self.current().is_some_and(|current| current.not_now().is_none()) => Err(wrong),
            _ => Ok(Some(new)),
        }
    }
}

impl Certificate {
    /// What is wrong where clients that look at the time refuse it.
    fn not_now(&self) -> Option<CertificateError> {
        let from = self.from.unwrap_or(jiff::Timestamp::MIN);
        let until = self.until.unwrap_or(jiff::Timestamp::MAX);
        let valid = (from..=until).contains(&jiff::Timestamp::now());
        (!valid).then_some(CertificateError::NotNow { from, until })
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    std::fs::read(path).map_err(|source| CertificateError::Read { path: path.to_owned(), source })
}

/// What counts of a certificate. Times are `None` where they are beyond what a clock will ever show.
struct Description {
    end_point: Option<Vec<u8>>,
    from: Option<jiff::Timestamp>,
    until: Option<jiff::Timestamp>,
}

/// The end-point hash (RFC 5929, section 4.1: the hash of the certificate's own signature, SHA-256 in
/// place of MD5 and SHA-1) and the time for which it is valid.
fn describe(leaf: &CertificateDer<'_>) -> Result<Description, CertificateError> {
    let (_, parsed) = parse_x509_certificate(leaf).map_err(|e| CertificateError::X509(e.to_string()))?;
    let moment = |time: x509_parser::time::ASN1Time| jiff::Timestamp::from_second(time.timestamp()).ok();
    let (from, until) = (moment(parsed.validity().not_before), moment(parsed.validity().not_after));
    let algorithm = &parsed.signature_algorithm;
    let mut oid = algorithm.algorithm.to_id_string();
    if let Ok(SignatureAlgorithm::RSASSA_PSS(parameters)) = SignatureAlgorithm::try_from(algorithm) {
        oid = parameters.hash_algorithm_oid().to_id_string();
    }
    let end_point = match oid.as_str() {
        // md5, sha1, sha256 WithRSAEncryption; ecdsa-with-SHA1, -SHA256; the bare hashes (of PSS).
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2"
        | "1.3.14.3.2.26"
        | "2.16.840.1.101.3.4.2.1" => Some(Sha256::digest(leaf).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => {
            Some(Sha384::digest(leaf).to_vec())
        }
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => {
            Some(Sha512::digest(leaf).to_vec())
        }
        _ => None,
    };
    Ok(Description { end_point, from, until })
}
