//! What a function may reach outside: names and ports, nothing else.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The port where a text names none: HTTPS.
const DEFAULT_PORT: u16 = 443;
/// Longest name, characters (RFC 1035).
const LONGEST: usize = 253;

/// A host name and a TCP port: `api.example.com`, `*.example.com:8443`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Egress {
    name: String,
    port: u16,
}

/// A text that names nothing that could be reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a name and a port; write it like \"api.example.com\" or \"db.example.com:5432\"")]
pub struct BadEgress(String);

impl Egress {
    /// Host name, in lower case; it may begin with `*.`, which stands for every name below.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// TCP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Egress {
    type Err = BadEgress;
    fn from_str(text: &str) -> Result<Self, BadEgress> {
        let bad = || BadEgress(crate::manifest::shown(text));
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, port.parse().ok().filter(|port| *port != 0).ok_or_else(bad)?),
            None => (text, DEFAULT_PORT),
        };
        let name = name.to_ascii_lowercase();
        let host = name.strip_prefix("*.").unwrap_or(&name);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        // An address has no name to be allowed by.
        let address = host.parse::<std::net::IpAddr>().is_ok();
        if name.len() > LONGEST || address || !host.split('.').all(label) {
            return Err(bad());
        }
        Ok(Self { name, port })
    }
}

impl fmt::Display for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port == DEFAULT_PORT {
            return f.write_str(&self.name);
        }
        write!(f, "{}:{}", self.name, self.port)
    }
}

impl TryFrom<String> for Egress {
    type Error = BadEgress;
    fn try_from(text: String) -> Result<Self, BadEgress> {
        text.parse()
    }
}

impl From<Egress> for String {
    fn from(egress: Egress) -> Self {
        egress.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ports_are_told_from_all_else() {
        for (text, name, port) in [
            ("api.example.com", "api.example.com", 443),
            ("API.example.com:443", "api.example.com", 443),
            ("*.example.com:8443", "*.example.com", 8443),
            ("localhost:80", "localhost", 80),
        ] {
            let egress: Egress = text.parse().unwrap();
            assert_eq!((egress.name(), egress.port()), (name, port));
            assert_eq!(egress.to_string().parse(), Ok(egress));
        }
        for bad in ["", "*", "10.0.0.1", "::1", "a..b", "-a.b", "a b", "a:0", "a:70000", "http://a", "*.*.a"]
        {
            assert!(bad.parse::<Egress>().is_err(), "{bad}");
        }
    }
}
