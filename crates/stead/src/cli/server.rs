//! What `stead server` takes.

use std::net::{IpAddr, SocketAddr};

use clap::{Args, Subcommand};
use ipnet::IpNet;

#[derive(Debug, Clone, Args)]
pub(crate) struct ServerArgs {
    #[command(subcommand)]
    pub(crate) verb: Option<ServerVerb>,
    /// Where the API listens.
    #[arg(
        long,
        env = "STEAD_LISTEN",
        hide_env_values = true,
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:7878"
    )]
    pub(crate) listen: SocketAddr,
    /// Where servers' ports listen; give it more than once for several.
    #[arg(long, env = "STEAD_GATEWAY_LISTEN", hide_env_values = true, value_name = "ADDRESS", value_delimiter = ',', default_values = ["127.0.0.1", "::1"])]
    pub(crate) gateway_listen: Vec<IpAddr>,
    /// Where the gateway's metrics can be asked for, `GET /metrics`; they name tenants to whoever asks.
    #[arg(long, env = "STEAD_GATEWAY_METRICS", hide_env_values = true, value_name = "ADDRESS:PORT")]
    pub(crate) gateway_metrics: Option<SocketAddr>,
    /// Network of load balancers that say by PROXY protocol v2 who a client is; more than once for several.
    #[arg(long, env = "STEAD_PROXY_PROTOCOL_FROM", hide_env_values = true, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub(crate) proxy_protocol_from: Vec<IpNet>,
    /// How long sessions may go on in a gateway that was replaced, at most a day.
    #[arg(long, env = "STEAD_GATEWAY_DRAIN", hide_env_values = true, value_name = "TIME", default_value = "24h", value_parser = seconds)]
    pub(crate) gateway_drain: u64,
    /// Network that is not public and that functions and transfers may reach all the same; more than once for several.
    #[arg(long = "egress-network", env = "STEAD_EGRESS_NETWORKS", hide_env_values = true, value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub(crate) egress_networks: Vec<IpNet>,
    /// The name of this host that clients are told.
    #[arg(
        long,
        env = "STEAD_ADDRESS",
        hide_env_values = true,
        value_name = "HOST",
        default_value = "localhost"
    )]
    pub(crate) address: String,
    /// Ports that servers may be given.
    #[arg(long, env = "STEAD_PORTS", hide_env_values = true, value_name = "FIRST-LAST", default_value = "6001-9999", value_parser = ports)]
    pub(crate) ports: (u16, u16),
    /// One port more for every server, which is then told by its host name; 0: none.
    #[arg(
        long,
        env = "STEAD_SHARED_PORT",
        hide_env_values = true,
        value_name = "PORT",
        default_value_t = 6000
    )]
    pub(crate) shared_port: u16,
    /// Domain of the host names at the shared port; `*.` of it has to lead to this host.
    #[arg(
        long,
        env = "STEAD_SHARED_DOMAIN",
        hide_env_values = true,
        value_name = "DOMAIN",
        default_value = "stead.localhost"
    )]
    pub(crate) shared_domain: String,
    /// How many servers of the newest engine are kept prepared.
    #[arg(long, env = "STEAD_SPARES", hide_env_values = true, value_name = "NUMBER", default_value_t = 4)]
    pub(crate) spares: usize,
    /// Where backups go: a folder, or s3://bucket/prefix with S3's own AWS_* variables; best another machine's
    /// [default: the folder `backups` of the home].
    #[arg(long, env = "STEAD_BACKUPS", hide_env_values = true, value_name = "FOLDER-OR-URL")]
    pub(crate) backups: Option<String>,
    /// How long what was written may wait before it is in the backups: the most that a lost disk can cost.
    #[arg(long, env = "STEAD_BACKUP_AGE", hide_env_values = true, value_name = "TIME", default_value = "5s", value_parser = seconds)]
    pub(crate) backup_age: u64,
    #[command(flatten)]
    pub(crate) console: ConsoleArgs,
    /// A PostgreSQL for the control plane's state, instead of one of its own.
    #[arg(long, env = "STEAD_STATE", hide_env_values = true, value_name = "POSTGRES-URL")]
    pub(crate) state: Option<String>,
}

/// How people get into the console.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConsoleArgs {
    /// Where people reach the console, like https://console.example.com/stead, when a proxy stands before it
    /// [default: where the API listens].
    #[arg(long, env = "STEAD_CONSOLE_URL", hide_env_values = true, value_name = "URL", value_parser = console_url)]
    console_url: Option<url::Url>,
    /// The company's identity provider (OpenID Connect), as its tokens name it.
    #[arg(
        long,
        env = "STEAD_OIDC_ISSUER",
        hide_env_values = true,
        value_name = "URL",
        requires = "oidc_client_id"
    )]
    oidc_issuer: Option<String>,
    /// What Stead is called there; what it proves itself with is in STEAD_OIDC_CLIENT_SECRET.
    #[arg(
        long,
        env = "STEAD_OIDC_CLIENT_ID",
        hide_env_values = true,
        value_name = "NAME",
        requires = "oidc_issuer"
    )]
    oidc_client_id: Option<String>,
    /// What is asked for beside openid.
    #[arg(long, env = "STEAD_OIDC_SCOPES", hide_env_values = true, value_name = "SCOPE", value_delimiter = ',', default_values = ["email", "profile"])]
    oidc_scopes: Vec<String>,
    /// The claim that names somebody's groups.
    #[arg(
        long,
        env = "STEAD_OIDC_GROUPS_CLAIM",
        hide_env_values = true,
        value_name = "NAME",
        default_value = "groups"
    )]
    oidc_groups_claim: String,
    /// What a group gives: GROUP=operator, GROUP=TENANT:ROLE, or stead-{tenant}-{role}={tenant}:{role}; more than once
    /// for several (in the variable, one a line).
    #[arg(
        long,
        env = "STEAD_OIDC_ROLES",
        hide_env_values = true,
        value_name = "GROUP=ROLE",
        value_delimiter = '\n'
    )]
    oidc_role: Vec<server::Rule>,
}

impl ConsoleArgs {
    /// As the server takes them; `listen` is where the API listens.
    pub(crate) fn settings(&self, listen: SocketAddr) -> Result<server::ConsoleSettings, url::ParseError> {
        let url = match &self.console_url {
            Some(url) => url.clone(),
            None => format!("http://{listen}").parse()?,
        };
        let secret = std::env::var("STEAD_OIDC_CLIENT_SECRET").ok().filter(|secret| !secret.is_empty());
        let provider = self.oidc_issuer.clone().zip(self.oidc_client_id.clone());
        let provider = provider.map(|(issuer, client_id)| server::ProviderSettings {
            issuer,
            client_id,
            client_secret: secret.map(secrecy::SecretString::from),
            scopes: self.oidc_scopes.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            rules: self.oidc_role.clone(),
        });
        Ok(server::ConsoleSettings { url, provider })
    }
}

/// `https://console.example.com/stead`.
fn console_url(text: &str) -> Result<url::Url, String> {
    let wrong = || "write it like https://console.example.com/stead".to_owned();
    let url: url::Url = text.parse().map_err(|_| wrong())?;
    let plain = url.username().is_empty() && url.password().is_none();
    let bare = url.query().is_none() && url.fragment().is_none() && url.has_host();
    let path = url
        .path()
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'-' | b'_' | b'.' | b'~'));
    if matches!(url.scheme(), "http" | "https") && plain && bare && path { Ok(url) } else { Err(wrong()) }
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ServerVerb {
    /// Stop the control plane of this host; servers go on.
    Stop {
        /// Stop the servers, the gateway and the keeper too.
        #[arg(long)]
        all: bool,
    },
    /// Start another gateway in the place of the one that serves; no connection is refused, and sessions go on.
    ReplaceGateway,
}

/// Seconds of a day.
pub(crate) const A_DAY: u64 = 86_400;

/// `5m`, `30s`, `90`.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write it like 30s, 5m or 1h".into()),
    };
    let number: u64 = number.parse().map_err(|_| "write it like 30s, 5m or 1h".to_owned())?;
    number.checked_mul(factor).filter(|s| *s <= A_DAY).ok_or_else(|| "at most a day".into())
}

impl ServerArgs {
    /// The shared port, where there is one.
    pub(crate) fn shared(&self) -> Option<server::Shared> {
        (self.shared_port != 0)
            .then(|| server::Shared { port: self.shared_port, domain: self.shared_domain.clone() })
    }
}

/// `6001-9999`.
fn ports(text: &str) -> Result<(u16, u16), String> {
    let wrong = || "write it like 6001-9999, between 1024 and 65535".to_owned();
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first < 1024 || first > last { Err(wrong()) } else { Ok((first, last)) }
}

/// `10.0.0.0/8`; a single address is a network too.
fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| single()).map_err(|_| "write it like 10.0.0.0/8 or 10.0.0.5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_ports() {
        assert_eq!(seconds("5m"), Ok(300));
        assert_eq!(seconds("90"), Ok(90));
        for wrong in ["", "m", "5d", "-1s", "99999999999999999999s", "25h"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(ports("6001-9999"), Ok((6001, 9999)));
        assert_eq!(network("10.0.0.5"), Ok("10.0.0.5/32".parse().unwrap()));
        assert_eq!(network("2001:db8::/32"), Ok("2001:db8::/32".parse().unwrap()));
        assert!(network("10.0.0.0/33").is_err());
        for wrong in ["6001", "9-6", "80-90", "1-70000", "a-b"] {
            assert!(ports(wrong).is_err(), "{wrong}");
        }
    }
}
