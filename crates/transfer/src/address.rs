//! Where a server elsewhere is and who signs in to it, as a URL says it: PostgreSQL's, with the words of `libpq`.
//!
//! Nothing that is said here repeats anything of the URL but names of parameters: it is a secret.

use std::borrow::Cow;
use std::net::IpAddr;

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use crate::wire::Tls;

const PORT: u16 = 5432;
/// How a URL is written.
const LIKE: &str = "write it like postgres://user:password@host:5432/database";

/// What a URL says.
#[derive(Debug, Clone)]
pub struct Address {
    /// Name or address of the host.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
    /// The role.
    pub user: String,
    /// Its password; empty where there is none.
    pub password: SecretString,
    /// The database.
    pub database: String,
    /// How the connection is encrypted, and what is believed.
    pub tls: Tls,
}

/// Why a text says no such thing; goes on behind "the secret LEGACY_URL".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// It is no URL.
    #[error("is no URL of a PostgreSQL server; {LIKE}")]
    NoUrl,
    /// Something is missing.
    #[error("names no {0}; {LIKE}")]
    Without(&'static str),
    /// There is more in it than one host.
    #[error("names several hosts; name one, best the one that answers for all")]
    Hosts,
    /// A character that cannot be there.
    #[error("holds in its {0} what is no UTF-8, or a control character; encode it with %")]
    Strange(&'static str),
    /// A parameter that is not known here.
    #[error(
        "has a parameter that is not known here; sslmode, application_name, connect_timeout and channel_binding are"
    )]
    Parameter,
    /// An `sslmode` that is none.
    #[error("has an sslmode that is none; write verify-full, verify-ca, require, prefer or disable")]
    SslMode,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// See [`BadAddress`].
    pub fn parse(url: &SecretString) -> Result<Self, BadAddress> {
        let text = url.expose_secret().trim();
        let after = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
        let authority = after.ok_or(BadAddress::NoUrl)?.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.rsplit('@').next().unwrap_or_default().contains(',') {
            return Err(BadAddress::Hosts);
        }
        let url = Url::parse(text).map_err(|_| BadAddress::NoUrl)?;
        let host = host(&url)?;
        let user = decoded(url.username(), "user")?;
        if user.is_empty() {
            return Err(BadAddress::Without("user"));
        }
        let database = decoded(url.path().trim_start_matches('/'), "database")?;
        if database.is_empty() {
            return Err(BadAddress::Without("database"));
        }
        let password = decoded(url.password().unwrap_or_default(), "password")?;
        let tls = parameters(&url)?.unwrap_or_else(|| usual(&host));
        let port = url.port().unwrap_or(PORT);
        Ok(Self { host, port, user, password: password.into(), database, tls })
    }
}

/// Over the network nobody is believed who does not prove who he is; on the host itself nobody is in between.
fn usual(host: &str) -> Tls {
    let is_loopback = host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    if is_loopback || host == "localhost" { Tls::Prefer } else { Tls::VerifyFull }
}

fn host(url: &Url) -> Result<String, BadAddress> {
    let host = match url.host() {
        Some(Host::Domain(name)) => decoded(name, "host")?.to_ascii_lowercase(),
        Some(Host::Ipv4(address)) => address.to_string(),
        Some(Host::Ipv6(address)) => address.to_string(),
        None => String::new(),
    };
    match host.as_str() {
        "" => Err(BadAddress::Without("host")),
        // A socket of the host's: `libpq` takes it for one.
        path if path.starts_with(['/', '@']) => {
            Err(BadAddress::Without("host that is reached over the network"))
        }
        _ if host.contains([' ', '/', '\\']) => Err(BadAddress::Strange("host")),
        _ => Ok(host),
    }
}

fn parameters(url: &Url) -> Result<Option<Tls>, BadAddress> {
    let mut tls = None;
    for (name, value) in url.query_pairs() {
        match &*name {
            "sslmode" | "ssl_mode" => tls = Some(mode(&value)?),
            // What they would say is decided here.
            "application_name" | "connect_timeout" | "channel_binding" => {}
            _ => return Err(BadAddress::Parameter),
        }
    }
    Ok(tls)
}

fn mode(word: &str) -> Result<Tls, BadAddress> {
    Ok(match word {
        "disable" => Tls::Disable,
        "prefer" => Tls::Prefer,
        "require" => Tls::Require,
        "verify-ca" => Tls::VerifyCa,
        "verify-full" => Tls::VerifyFull,
        _ => return Err(BadAddress::SslMode),
    })
}

/// A part of a URL as it is meant.
fn decoded(part: &str, which: &'static str) -> Result<String, BadAddress> {
    let text: Cow<'_, str> =
        percent_encoding::percent_decode_str(part).decode_utf8().map_err(|_| BadAddress::Strange(which))?;
    if text.chars().any(char::is_control) { Err(BadAddress::Strange(which)) } else { Ok(text.into_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(url: &str) -> Result<Address, BadAddress> {
        Address::parse(&url.into())
    }

    #[test]
    fn a_url_says_where_and_who() {
        let all = parse(
            "postgresql://al%40ice:p%2Fw%3A@DB.example.com:6543/my%20db?sslmode=require&channel_binding=require\n",
        );
        let all = all.unwrap();
        assert_eq!(
            (all.host.as_str(), all.port, all.user.as_str(), all.database.as_str(), all.tls),
            ("db.example.com", 6543, "al@ice", "my db", Tls::Require)
        );
        assert_eq!(all.password.expose_secret(), "p/w:");
        for (url, host, tls) in [
            ("postgres://a:b@example.com/d", "example.com", Tls::VerifyFull),
            ("postgres://a:b@10.0.0.1/d", "10.0.0.1", Tls::VerifyFull),
            ("postgres://a:b@[2001:db8::1]:1/d", "2001:db8::1", Tls::VerifyFull),
            ("postgres://a:b@localhost/d", "localhost", Tls::Prefer),
            ("postgres://a@127.0.0.1/d", "127.0.0.1", Tls::Prefer),
            ("postgres://a@[::1]/d?sslmode=verify-ca", "::1", Tls::VerifyCa),
        ] {
            let address = parse(url).unwrap();
            assert_eq!((address.host.as_str(), address.tls), (host, tls), "{url}");
        }
    }

    #[test]
    fn what_is_none_is_named_and_nothing_of_it_repeated() {
        for (url, why) in [
            ("", "is no URL"),
            ("mysql://s3cret:s3cret@h/d", "is no URL"),
            ("host=s3cret", "is no URL"),
            ("postgres://s3cret:s3cret@h:99999/d", "is no URL"),
            ("postgres://:s3cret@h/d", "names no user"),
            ("postgres://h/s3cret", "names no user"),
            ("postgres://a:s3cret@h", "names no database"),
            ("postgres://a:s3cret@/d", "is no URL"),
            ("postgres://a:s3cret@%2Fvar%2Frun/d", "over the network"),
            ("postgres://a:s3cret@one,two/d", "several hosts"),
            ("postgres://a:s3cret@h/d?host=s3cret", "not known"),
            ("postgres://a:s3cret@h/d?sslmode=s3cret", "no sslmode"),
            ("postgres://a:s3cret@h/d?sslmode=allow", "sslmode"),
            ("postgres://a:%FF@h/d", "in its password"),
            ("postgres://a%0A:s3cret@h/d", "in its user"),
        ] {
            let bad = parse(url).map(|address| address.host).unwrap_err().to_string();
            let why = if why == "no sslmode" { "has an sslmode that is none" } else { why };
            assert!(bad.contains(why) && !bad.contains("s3cret"), "{url}: {bad}");
        }
        assert!(!format!("{:?}", parse("postgres://a:s3cret@h/d").unwrap()).contains("s3cret"));
    }
}
