//! What went wrong, as the person who can mend it should hear it. Nothing of this repeats a password.

use std::error::Error as Cause;
use std::io;

use rustls::CertificateError;
use tokio_postgres::error::SqlState;

use crate::Error;
use crate::wire::Elsewhere;

/// An error with what it comes from.
pub(crate) fn told(error: &Error, elsewhere: Option<&Elsewhere>) -> String {
    match (error, elsewhere) {
        (Error::Source(source), Some(elsewhere)) => {
            let mended = of_certificate(source, elsewhere).or_else(|| of_session(source, elsewhere));
            mended.unwrap_or_else(|| plain(source))
        }
        (Error::Source(source), None) => plain(source),
        (Error::Unreachable(why), Some(Elsewhere { host, .. })) => format!("{host} cannot be reached: {why}"),
        (other, _) if is_full(other) => {
            "the lake's disk is full: nothing is lost, and it goes on by itself once there is room".to_owned()
        }
        (Error::Lake(source), _) => match io_error(source) {
            Some(said) => format!("the lake: {said}"),
            None => error.to_string(),
        },
        (other, _) => other.to_string(),
    }
}

fn is_full(error: &Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    io_error(error).is_some_and(|error| [StorageFull, QuotaExceeded].contains(&error.kind()))
}

fn plain(source: &tokio_postgres::Error) -> String {
    match source.as_db_error() {
        Some(said) => format!("the server said: {}", said.message()),
        None => format!("the server does not answer: {}", root(source)),
    }
}

/// What a server says that does not let in, or has no room.
fn of_session(source: &tokio_postgres::Error, elsewhere: &Elsewhere) -> Option<String> {
    let Elsewhere { user, secret, .. } = elsewhere;
    let set = format!("set the secret again with `stead secret set {secret}`");
    let Some(said) = source.as_db_error() else {
        return match root(source).as_str() {
            "password missing" => {
                Some(format!("the server asks for a password, and the URL has none; {set}"))
            }
            "server does not support TLS" => Some(format!(
                "the server speaks no TLS; have it do so, or end the URL with ?sslmode=disable, which hides nothing from the \
                 network, and {set}"
            )),
            _ => None,
        };
    };
    let message = said.message();
    let code = said.code();
    Some(if *code == SqlState::INVALID_PASSWORD {
        format!("the server refuses the password of {user}; {set}")
    } else if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION {
        format!(
            "the server does not let {user} in: {message}; have its pg_hba.conf and the role's rights looked at, or {set}"
        )
    } else if *code == SqlState::INVALID_CATALOG_NAME {
        format!("the server said: {message}; {set}")
    } else if *code == SqlState::TOO_MANY_CONNECTIONS {
        format!("the server has no room for another session ({message}); it is tried again")
    } else if *code == SqlState::CONFIGURATION_LIMIT_EXCEEDED {
        format!(
            "the server has no free replication slot ({message}): drop one that nobody uses (`select slot_name from \
             pg_replication_slots where not active`), or raise `max_replication_slots` and restart it"
        )
    } else if *code == SqlState::UNDEFINED_OBJECT && message.contains("publication") {
        format!(
            "the server said: {message}; its publication was dropped, and changes of before cannot be told any more: `stead \
             resync` copies everything anew"
        )
    } else {
        return None;
    })
}

/// What is wrong with the certificate that a server shows.
fn of_certificate(source: &tokio_postgres::Error, elsewhere: &Elsewhere) -> Option<String> {
    let error: &rustls::Error = causes(source).find_map(|cause| cause.downcast_ref())?;
    let Elsewhere { host, .. } = elsewhere;
    let rustls::Error::InvalidCertificate(why) = error else {
        return Some(format!("no TLS with the server at {host}: {error}"));
    };
    Some(match why {
        CertificateError::UnknownIssuer => format!(
            "the certificate of {host} is of an authority that is not known here; put the authority's certificate into a \
             secret and name it, like from = {{ secret = \"{}\", ca = \"LEGACY_CA\" }}",
            elsewhere.secret
        ),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "the certificate that answers at {host} is not for that name ({error}); write the URL with a name that is in it, \
             or end it with ?sslmode=verify-ca, which asks for the authority alone"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the certificate of {host} has expired; have it renewed")
        }
        other => format!(
            "the certificate of {host} is not believed ({other:?}); have it replaced, or end the URL with ?sslmode=require, \
             which believes anybody"
        ),
    })
}

/// What the system said, where an error comes of that.
pub(crate) fn io_error<'e>(error: &'e (dyn Cause + 'static)) -> Option<&'e io::Error> {
    causes(error)
        .filter_map(|cause| cause.downcast_ref())
        .find(|said: &&io::Error| said.raw_os_error().is_some())
}

/// An error, what it comes of, and so on.
pub(crate) fn causes<'e>(
    error: &'e (dyn Cause + 'static),
) -> impl Iterator<Item = &'e (dyn Cause + 'static)> {
    std::iter::successors(Some(error), |&error| {
        // What an `io::Error` wraps is not its source, and may come of another.
        match error.downcast_ref().and_then(io::Error::get_ref) {
            Some(inside) => Some(inside),
            None => error.source(),
        }
    })
}

pub(crate) fn root(error: &dyn Cause) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
