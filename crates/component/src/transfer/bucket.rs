//! A bucket that a transfer writes into, in the place of the stead's own lake.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::function::Variable;
use crate::manifest::shown;

/// Where a transfer writes, and who signs in there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// The bucket, and a place in it.
    pub bucket: Location,
    /// The region that it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<Region>,
    /// Where the store answers; AWS's own where nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// The secret that holds the access key.
    pub key: Variable,
    /// The secret that holds what belongs to it.
    pub secret: Variable,
    /// The secret that holds the certificate of the authority that the store's certificate is of, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<Variable>,
}

/// Where requests for a bucket go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reached {
    /// The store's endpoint.
    pub endpoint: Endpoint,
    /// The region that requests are signed for.
    pub region: String,
    /// Whether the bucket's name is a part of each path, and not of the endpoint's name.
    pub in_path: bool,
}

impl Bucket {
    /// The secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &Variable> {
        [&self.key, &self.secret].into_iter().chain(&self.ca)
    }

    /// Where it is reached. A name with a dot is in no certificate of AWS's, so that it goes into the path.
    #[must_use]
    pub fn reached(&self) -> Reached {
        let region = self.region.as_ref().map_or(Region::FIRST, |region| region.0.as_str());
        let name = self.bucket.name();
        let in_path = self.endpoint.is_some() || name.contains('.');
        let host = match in_path {
            true => format!("s3.{region}.amazonaws.com"),
            false => format!("{name}.s3.{region}.amazonaws.com"),
        };
        let own = Endpoint { plain: false, host, port: None };
        Reached { endpoint: self.endpoint.clone().unwrap_or(own), region: region.to_owned(), in_path }
    }

    /// Whether what one of both writes may be the other's, as far as names tell.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let host = |bucket: &Self| bucket.endpoint.as_ref().map(|at| (at.host.clone(), at.port()));
        let is_below = |one: &str, other: &str| {
            one.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let (one, two) = (&self.bucket.0, &other.bucket.0);
        host(self) == host(other) && (is_below(one, two) || is_below(two, one))
    }
}

/// A bucket and a place in it, like `s3://acme-lake/flights`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location(String);

/// A text that is no such place. It is not repeated where there may be a key in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLocation {
    /// It is none.
    #[error("`{0}` is no place in a bucket; {LIKE}")]
    None(String),
    /// It signs in.
    #[error("a place in a bucket says nobody's key; {LIKE}, and name the secrets in `key` and `secret`")]
    Key,
}

/// How a place in a bucket is written.
const LIKE: &str = "write it like s3://acme-lake/flights, with letters, digits and `-_.=` in its names";
/// The longest place, bytes: with names of tables behind it it is the key of an object, which has 1,024.
const LONGEST: usize = 512;

impl Location {
    /// The bucket's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.trim_start_matches("s3://").split('/').next().unwrap_or_default()
    }

    /// All of it, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Location {
    type Err = BadLocation;
    fn from_str(text: &str) -> Result<Self, BadLocation> {
        let bad = || if text.contains('@') { BadLocation::Key } else { BadLocation::None(shown(text)) };
        let text = text.strip_suffix('/').unwrap_or(text);
        let (name, prefix) = {
            let rest = text.strip_prefix("s3://").ok_or_else(bad)?;
            rest.split_once('/').map_or((rest, None), |(name, prefix)| (name, Some(prefix)))
        };
        let is_name = (3..=63).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.ends_with(|c: char| c.is_ascii_alphanumeric())
            && !name.contains("..");
        let is_part = |part: &str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"-_.=".contains(&b);
            !part.is_empty() && part.bytes().all(fits) && ![".", ".."].contains(&part)
        };
        let is_prefix = prefix.is_none_or(|prefix| prefix.split('/').all(is_part));
        if is_name && is_prefix && text.len() <= LONGEST { Ok(Self(text.to_owned())) } else { Err(bad()) }
    }
}

/// A region, like `eu-central-1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Region(String);

/// A text that is no region.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no region; write it like eu-central-1")]
pub struct BadRegion(String);

impl Region {
    /// What stores go by that have none.
    const FIRST: &str = "us-east-1";
}

impl FromStr for Region {
    type Err = BadRegion;
    fn from_str(text: &str) -> Result<Self, BadRegion> {
        let fits = (1..=40).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.ends_with(|c: char| c.is_ascii_alphanumeric());
        if fits { Ok(Self(text.to_owned())) } else { Err(BadRegion(shown(text))) }
    }
}

/// Where a store that speaks S3 answers, like `https://minio.acme.internal:9000`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Endpoint {
    /// In the clear.
    plain: bool,
    /// A name or an address; one of IPv6 without brackets.
    host: String,
    port: Option<u16>,
}

/// A text that says no such thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("is no address of a store; write it like https://minio.acme.internal:9000, without a path")]
pub struct BadEndpoint;

impl Endpoint {
    /// A name or an address; one of IPv6 without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Its TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.unwrap_or(if self.plain { 80 } else { 443 })
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;
    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let (plain, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(BadEndpoint),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or(BadEndpoint)?;
                let _: std::net::Ipv6Addr = host.parse().map_err(|_| BadEndpoint)?;
                (host, port)
            }
            None => rest.find(':').map_or((rest, ""), |at| rest.split_at(at)),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => Some(port.parse().ok().filter(|port| *port > 0).ok_or(BadEndpoint)?),
            None if port.is_empty() => None,
            None => return Err(BadEndpoint),
        };
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-.:".contains(&b);
        // What ends like an address is one, or none at all.
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let is_address = host.rsplit('.').next().is_some_and(is_number);
        if is_address && host.parse::<std::net::Ipv4Addr>().is_err() {
            return Err(BadEndpoint);
        }
        if host.is_empty() || host.len() > 253 || !host.bytes().all(fits) {
            return Err(BadEndpoint);
        }
        Ok(Self { plain, host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.plain { "http" } else { "https" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]", self.host)?,
            false => write!(f, "{scheme}://{}", self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Location {
    type Error = BadLocation;
    fn try_from(text: String) -> Result<Self, BadLocation> {
        text.parse()
    }
}

impl TryFrom<String> for Region {
    type Error = BadRegion;
    fn try_from(text: String) -> Result<Self, BadRegion> {
        text.parse()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = BadEndpoint;
    fn try_from(text: String) -> Result<Self, BadEndpoint> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.0
    }
}

impl From<Region> for String {
    fn from(region: Region) -> Self {
        region.0
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> Self {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bucket(place: &str, endpoint: Option<&str>) -> Bucket {
        Bucket {
            bucket: place.parse().unwrap(),
            region: "eu-central-1".parse().ok(),
            endpoint: endpoint.map(|endpoint| endpoint.parse().unwrap()),
            key: "KEY".parse().unwrap(),
            secret: "SECRET".parse().unwrap(),
            ca: None,
        }
    }

    #[test]
    fn a_place_has_a_bucket_and_names() {
        for (text, name) in [
            ("s3://acme-lake/flights/v=1", "acme-lake"),
            ("s3://acme-lake/", "acme-lake"),
            ("s3://my.bucket/a_b/c.d", "my.bucket"),
        ] {
            assert_eq!(text.parse::<Location>().unwrap().name(), name);
        }
        assert_eq!("s3://acme-lake/a/".parse::<Location>().unwrap().as_str(), "s3://acme-lake/a");
        for bad in [
            "acme-lake",
            "s3://",
            "s3://ab",
            "s3://Acme/x",
            "s3://acme//x",
            "s3://acme/../x",
            "s3://acme/a b",
            "s3://acme/a?b",
            "s3a://acme/x",
            "s3://acme-/x",
            "s3://acme/%2e",
        ] {
            assert!(bad.parse::<Location>().is_err(), "{bad}");
        }
        let said = "s3://AKIA:s3cret@acme/x".parse::<Location>().unwrap_err().to_string();
        assert!(!said.contains("s3cret") && said.contains("`key`"), "{said}");
    }

    #[test]
    fn an_endpoint_has_a_host_and_may_have_a_port() {
        for (text, host, port, written) in [
            (
                "https://minio.acme.internal:9000",
                "minio.acme.internal",
                9000,
                "https://minio.acme.internal:9000",
            ),
            ("https://Store.example.com/", "store.example.com", 443, "https://store.example.com"),
            ("http://127.0.0.1", "127.0.0.1", 80, "http://127.0.0.1"),
            ("https://[2001:db8::1]:1", "2001:db8::1", 1, "https://[2001:db8::1]:1"),
        ] {
            let endpoint: Endpoint = text.parse().unwrap();
            assert_eq!(
                (endpoint.host(), endpoint.port(), endpoint.to_string().as_str()),
                (host, port, written)
            );
        }
        for bad in [
            "minio:9000",
            "https://",
            "https://a/b",
            "https://u:p@a",
            "https://a:0",
            "https://a:b",
            "https://[x]",
            "https://a?b",
            "https://256.1.1.1",
            "https://1.2.3",
        ] {
            assert!(bad.parse::<Endpoint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn one_host_is_asked_whatever_the_bucket() {
        let reached = |place: &str, endpoint| {
            let Reached { endpoint, in_path, .. } = bucket(place, endpoint).reached();
            (endpoint.to_string(), in_path)
        };
        let aws = "https://acme-lake.s3.eu-central-1.amazonaws.com".to_owned();
        assert_eq!(reached("s3://acme-lake/x", None), (aws, false));
        assert_eq!(
            reached("s3://acme.lake", None),
            ("https://s3.eu-central-1.amazonaws.com".to_owned(), true)
        );
        assert_eq!(reached("s3://acme", Some("http://a:1")), ("http://a:1".to_owned(), true));
    }

    #[test]
    fn places_overlap_where_one_is_in_the_other() {
        let overlap = |one: &str, other: &str| bucket(one, None).overlaps(&bucket(other, None));
        for (one, other) in
            [("s3://acme/a", "s3://acme/a"), ("s3://acme", "s3://acme/a"), ("s3://acme/a/b", "s3://acme/a")]
        {
            assert!(overlap(one, other) && overlap(other, one), "{one} {other}");
        }
        for (one, other) in
            [("s3://acme/a", "s3://acme/ab"), ("s3://acme/a", "s3://acme2/a"), ("s3://acme", "s3://acme-2")]
        {
            assert!(!overlap(one, other) && !overlap(other, one), "{one} {other}");
        }
        let (one, other) = (bucket("s3://acme", None), bucket("s3://acme", Some("https://minio")));
        assert!(!one.overlaps(&other));
    }
}
