//! What `stead dev` is told of a debugger.

use std::fmt;
use std::str::FromStr;

use clap::Args;

/// Whether one is to be attached, to what, and where.
#[derive(Debug, Clone, Args)]
pub(crate) struct InspectArgs {
    /// Let a debugger be attached to a function in Node.js [default: the only one]; its calls have no deadline meanwhile.
    #[arg(long, value_name = "COMPONENT", num_args = 0..=1)]
    pub(crate) inspect: Option<Option<String>>,
    /// Where the debugger connects. Who can connect can run code in the function.
    #[arg(long, value_name = "[HOST:]PORT", default_value_t = At::default(), requires = "inspect")]
    pub(crate) inspect_at: At,
}

/// Where a debugger connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Default for At {
    /// As `node --inspect` has it.
    fn default() -> Self {
        Self { host: "127.0.0.1".to_owned(), port: 9229 }
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for At {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "write it as PORT or HOST:PORT, like 9230 or [::1]:9229";
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host.trim_start_matches('[').trim_end_matches(']').to_owned(), port),
            None => (Self::default().host, text),
        };
        let port = port.parse().map_err(|_| wrong)?;
        if host.is_empty() { Err(wrong) } else { Ok(Self { host, port }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_of_this_machine() {
        for (text, shown) in
            [("9230", "127.0.0.1:9230"), ("localhost:1", "localhost:1"), ("[::1]:9229", "[::1]:9229")]
        {
            assert_eq!(text.parse::<At>().unwrap().to_string(), shown);
        }
        for wrong in ["", ":9229", "localhost", "65536", "host:"] {
            assert!(wrong.parse::<At>().is_err(), "{wrong}");
        }
    }
}
