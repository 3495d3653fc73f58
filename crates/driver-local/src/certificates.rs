//! The installation's own certificate authority, and the gateway's certificate, renewed by itself.

use std::path::{Path, PathBuf};

use jiff::{Timestamp, ToSpan, Zoned};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use secrecy::{ExposeSecret, SecretString};

use crate::Error;
use crate::files::write_atomically;

/// The authority lasts ten years; a client is told of a new one by a new `stead ca`.
const CA_DAYS: i64 = 3650;
/// The gateway's certificate.
const LEAF_DAYS: i64 = 90;
/// It is renewed when less than this is left.
const RENEW_DAYS: i64 = 30;
/// Clocks of clients may be behind by this much.
const SKEW_HOURS: i64 = 24;

/// Where things are.
#[must_use]
pub fn ca_path(home: &Path) -> PathBuf {
    home.join("ca/ca.crt")
}

/// The authority, certificate and key, as one text: with it clients know the servers again on another host.
///
/// # Errors
/// When a file cannot be read.
pub fn authority(home: &Path) -> std::io::Result<SecretString> {
    let (certificate, key) = (ca_path(home), home.join("ca/ca.key"));
    Ok(SecretString::from(std::fs::read_to_string(certificate)? + &std::fs::read_to_string(key)?))
}

/// Puts an authority in place, before anything was signed by another one.
///
/// # Errors
/// When a file cannot be written, or the text is no authority.
pub fn put_authority(home: &Path, authority: &SecretString) -> Result<(), Error> {
    let text = authority.expose_secret();
    let at = text.find("-----BEGIN PRIVATE KEY").ok_or_else(|| Error::Control("no authority".to_owned()))?;
    let (certificate, key) = text.split_at(at);
    write_atomically(&home.join("ca/ca.key"), key, 0o600)?;
    write_atomically(&ca_path(home), certificate, 0o644)
}

/// Makes the authority where there is none, and the gateway's certificate where there is none, it is about
/// to end, or it does not name every address. Answers whether a certificate was made.
///
/// # Errors
/// When a file cannot be written or a stored key cannot be read.
pub fn ensure(home: &Path, names: &[String], now: Timestamp) -> Result<bool, Error> {
    let (ca_cert, ca_key) = (ca_path(home), home.join("ca/ca.key"));
    let (leaf, leaf_key) = (home.join("gateway/tls/cert.pem"), home.join("gateway/tls/key.pem"));
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Stead certificate authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    validity(&mut params, now, CA_DAYS);
    let key = match std::fs::read_to_string(&ca_key) {
        Ok(pem) if ca_cert.exists() => KeyPair::from_pem(&pem)?,
        _ => {
            let key = KeyPair::generate()?;
            write_atomically(&ca_key, &key.serialize_pem(), 0o600)?;
            write_atomically(&ca_cert, &params.self_signed(&key)?.pem(), 0o644)?;
            key
        }
    };
    if good_until(&leaf, names).is_some_and(|until| until > days_after(now, RENEW_DAYS)) && leaf_key.exists()
    {
        return Ok(false);
    }
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, "Stead gateway");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    validity(&mut params, now, LEAF_DAYS);
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    // The gateway takes a pair only when key and certificate fit, so the order of the two does not matter.
    write_atomically(&leaf_key, &key.serialize_pem(), 0o640)?;
    write_atomically(&leaf, &certificate.pem(), 0o640)?;
    Ok(true)
}

fn days_after(now: Timestamp, days: i64) -> Timestamp {
    now.checked_add((days * 24).hours()).unwrap_or(Timestamp::MAX)
}

fn validity(params: &mut CertificateParams, now: Timestamp, days: i64) {
    let date = |at: Timestamp| {
        let at = Zoned::new(at, jiff::tz::TimeZone::UTC);
        rcgen::date_time_ymd(i32::from(at.year()), at.month().unsigned_abs(), at.day().unsigned_abs())
    };
    params.not_before = date(now.checked_sub(SKEW_HOURS.hours()).unwrap_or(Timestamp::MIN));
    params.not_after = date(days_after(now, days));
}

/// When the certificate in a file ends, if it names all of `names`.
fn good_until(path: &Path, names: &[String]) -> Option<Timestamp> {
    let pem = std::fs::read(path).ok()?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let alternative = certificate.subject_alternative_name().ok()??;
    let named: Vec<String> = alternative
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
            x509_parser::extensions::GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|b| std::net::IpAddr::from(b).to_string()),
            },
            _ => None,
        })
        .collect();
    let complete = names.iter().all(|name| named.contains(name));
    let until = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    complete.then_some(until)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_and_renewed_when_it_is_time() {
        let home = tempfile::tempdir().unwrap();
        for dir in ["ca", "gateway", "gateway/tls"] {
            std::fs::create_dir(home.path().join(dir)).unwrap();
        }
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let now = Timestamp::now();
        assert!(ensure(home.path(), &names, now).unwrap());
        let ca = std::fs::read(ca_path(home.path())).unwrap();
        assert!(!ensure(home.path(), &names, now).unwrap());
        assert!(!ensure(home.path(), &names, days_after(now, 58)).unwrap());
        assert!(ensure(home.path(), &names, days_after(now, 61)).unwrap(), "30 days before its end");
        assert!(ensure(home.path(), &["db.example.org".to_owned()], now).unwrap(), "another name");
        assert_eq!(std::fs::read(ca_path(home.path())).unwrap(), ca, "the authority stays");
    }
}
