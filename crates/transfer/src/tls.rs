//! What is believed of a server elsewhere, in `libpq`'s words.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::Error;
use crate::wire::Tls;

/// How TLS is spoken; not at all for `disable`. As with `libpq`, an authority that was named is asked also by `require`.
pub(crate) fn config(mode: Tls, ca: Option<&str>) -> Result<Option<Arc<ClientConfig>>, Error> {
    let provider = Arc::new(ring::default_provider());
    let believed: Arc<dyn ServerCertVerifier> = match (mode, ca) {
        (Tls::Disable, _) => return Ok(None),
        (Tls::VerifyFull, _) => known(ca, &provider)?,
        (Tls::Prefer, _) | (Tls::Require, None) => {
            Arc::new(AnyName { authority: None, provider: provider.clone() })
        }
        (Tls::VerifyCa | Tls::Require, _) => {
            Arc::new(AnyName { authority: Some(known(ca, &provider)?), provider: provider.clone() })
        }
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Strange(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(believed)
        .with_no_client_auth();
    Ok(Some(Arc::new(config)))
}

/// Who has a certificate of an authority that was named, or one that the host trusts.
fn known(ca: Option<&str>, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, Error> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(pem) => {
            let found: Result<Vec<CertificateDer<'static>>, _> =
                CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
            roots.add_parsable_certificates(found.unwrap_or_default());
        }
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        let why = match ca {
            Some(_) => "the secret that `ca` names holds no certificate; set it to the authority's, in PEM",
            None => {
                "this host trusts no authority; have `ca-certificates` installed, or put the authority's certificate into a \
                 secret and name it, like from = { secret = …, ca = \"LEGACY_CA\" }"
            }
        };
        return Err(Error::Unreachable(why.to_owned()));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(roots.into(), provider.clone()).build();
    verifier.map_err(|error| Error::Strange(error.to_string()))
}

/// Whoever answers under whatever name, with the key of the certificate that he shows; where an authority is asked
/// (`verify-ca`), with a certificate of that one.
#[derive(Debug)]
struct AnyName {
    authority: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else { return Ok(ServerCertVerified::assertion()) };
        // The name is looked at last: all else is as it should be.
        match authority.verify_server_cert(certificate, between, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
