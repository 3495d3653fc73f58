//! `stead url`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use client::Client;
use client::wire::{Component, Credentials};
use component::Kind;

use crate::cli::{UrlFormat, Which};
use crate::context::{Context, Named};
use crate::exit::Failure;
use crate::output;

pub(super) async fn run(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    format: UrlFormat,
    shared: bool,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component, Kind::Postgres).await?;
    if component.name.starts_with("function.") {
        let called = function(&client, &named, &component).await?;
        return if context.json { output::json(&called) } else { output::line(called.to_string()) };
    }
    if context.json {
        let credentials =
            client.credentials(named.tenant.as_str(), named.stead.as_str(), &component.name).await?;
        let ca = context.ca_file(&client).await?;
        let door = door(&credentials, shared)?;
        let Credentials { database, role, password, .. } = &credentials;
        return output::json(&serde_json::json!({
            "host": door.host, "port": door.port, "database": database, "role": role, "password": password,
            "ca": ca, "url": render(&credentials, &door, &ca, format),
        }));
    }
    output::line(of(context, &client, &named, &component, format, shared).await?)
}

/// How a function is called.
#[derive(serde::Serialize)]
struct Called {
    url: String,
    /// For `Authorization: Bearer`, where it takes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

impl std::fmt::Display for Called {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)?;
        self.token.as_ref().map_or(Ok(()), |token| write!(f, "\nAuthorization: Bearer {token}"))
    }
}

async fn function(client: &Client, named: &Named, component: &Component) -> Result<Called, Failure> {
    let name = &component.name;
    let Some(endpoint) = &component.endpoint else {
        return Err(Failure::Failed(format!(
            "{name} has no URL; write `url = true` below its heading in stead.toml, and apply that"
        )));
    };
    let host = &endpoint.host;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let token = if component.spec["url"] == "token" {
        Some(client.credentials(named.tenant.as_str(), named.stead.as_str(), name).await?.password)
    } else {
        None
    };
    Ok(Called { url: format!("http://{host}:{}", endpoint.port), token })
}

pub(super) async fn of(
    context: &Context,
    client: &Client,
    named: &Named,
    component: &Component,
    format: UrlFormat,
    shared: bool,
) -> Result<String, Failure> {
    if component.name.starts_with("function.") {
        return Ok(function(client, named, component).await?.url);
    }
    let credentials =
        client.credentials(named.tenant.as_str(), named.stead.as_str(), &component.name).await?;
    let ca = context.ca_file(client).await?;
    Ok(render(&credentials, &door(&credentials, shared)?, &ca, format))
}

/// Where a client goes.
struct Door<'a> {
    host: &'a str,
    port: u16,
    /// Where the name leads to, for names that no name server knows.
    address: Option<IpAddr>,
}

fn door(credentials: &Credentials, shared: bool) -> Result<Door<'_>, Failure> {
    let host = &credentials.host;
    if !shared {
        return Ok(Door { host, port: credentials.port, address: None });
    }
    let Some(shared) = &credentials.shared else {
        return Err(Failure::Failed(
            "this installation has no shared port; start `stead server` with --shared-port".into(),
        ));
    };
    let loopback = (host == "localhost").then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    Ok(Door { host: &shared.host, port: shared.port, address: host.parse().ok().or(loopback) })
}

fn render(credentials: &Credentials, door: &Door<'_>, ca: &Path, format: UrlFormat) -> String {
    let Credentials { database, role, password, .. } = credentials;
    let Door { host, port, address } = door;
    let ca = ca.display().to_string();
    let shown_host = if host.contains(':') { format!("[{host}]") } else { (*host).to_owned() };
    match format {
        UrlFormat::Libpq => format!(
            "postgresql://{role}:{password}@{shown_host}:{port}/{database}?sslmode=verify-full&sslrootcert={}&channel_binding=require{}",
            encoded(&ca),
            address.map(|address| format!("&hostaddr={address}")).unwrap_or_default()
        ),
        UrlFormat::Jdbc => format!(
            "jdbc:postgresql://{shown_host}:{port}/{database}?user={role}&password={password}&sslmode=verify-full&sslrootcert={}",
            encoded(&ca)
        ),
        UrlFormat::Env => format!(
            "PGHOST={host}\n{}PGPORT={port}\nPGDATABASE={database}\nPGUSER={role}\nPGPASSWORD={password}\n\
             PGSSLMODE=verify-full\nPGSSLROOTCERT={}\nPGCHANNELBINDING=require",
            address.map(|address| format!("PGHOSTADDR={address}\n")).unwrap_or_default(),
            quoted(&ca)
        ),
    }
}

/// A path inside a query string.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A word of a shell, in quotes where it needs them.
fn quoted(text: &str) -> String {
    if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte)) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use client::wire::SharedAddress;

    use super::*;

    #[test]
    fn a_url_survives_odd_folders() {
        let credentials = Credentials {
            host: "::1".into(),
            port: 6001,
            database: "main".into(),
            role: "owner".into(),
            password: "pw".into(),
            shared: Some(SharedAddress { host: "0123.stead.localhost".into(), port: 6000 }),
        };
        let own = door(&credentials, false).unwrap();
        let url = render(&credentials, &own, Path::new("/a b/c&d.crt"), UrlFormat::Libpq);
        assert_eq!(
            url,
            "postgresql://owner:pw@[::1]:6001/main?sslmode=verify-full&sslrootcert=/a%20b/c%26d.crt&channel_binding=require"
        );
        assert!(
            render(&credentials, &own, Path::new("/a'b"), UrlFormat::Env)
                .contains(r"PGSSLROOTCERT='/a'\''b'")
        );
        let shared = door(&credentials, true).unwrap();
        assert_eq!(
            render(&credentials, &shared, Path::new("/a"), UrlFormat::Libpq),
            "postgresql://owner:pw@0123.stead.localhost:6000/main?sslmode=verify-full&sslrootcert=/a&channel_binding=require&hostaddr=::1"
        );
        assert!(door(&Credentials { shared: None, ..credentials }, true).is_err());
    }
}
