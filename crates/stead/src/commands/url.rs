//! `stead url`.

use std::path::Path;

use client::Client;
use client::wire::{Component, Credentials};

use crate::cli::{UrlFormat, Which};
use crate::context::{Context, Named};
use crate::exit::Failure;
use crate::output;

pub(super) async fn run(
    context: &Context,
    which: &Which,
    component: Option<&str>,
    format: UrlFormat,
) -> Result<(), Failure> {
    let named = which.named()?;
    let client = context.client().await?;
    let component = named.component(&client, component).await?;
    if context.json {
        let credentials =
            client.credentials(named.tenant.as_str(), named.stead.as_str(), &component.name).await?;
        let ca = context.ca_file(&client).await?;
        let Credentials { host, port, database, role, password } = &credentials;
        return output::json(&serde_json::json!({
            "host": host, "port": port, "database": database, "role": role, "password": password, "ca": ca,
            "url": render(&credentials, &ca, format),
        }));
    }
    output::line(of(context, &client, &named, &component, format).await?)
}

pub(super) async fn of(
    context: &Context,
    client: &Client,
    named: &Named,
    component: &Component,
    format: UrlFormat,
) -> Result<String, Failure> {
    let credentials =
        client.credentials(named.tenant.as_str(), named.stead.as_str(), &component.name).await?;
    let ca = context.ca_file(client).await?;
    Ok(render(&credentials, &ca, format))
}

fn render(credentials: &Credentials, ca: &Path, format: UrlFormat) -> String {
    let Credentials { host, port, database, role, password } = credentials;
    let ca = ca.display().to_string();
    let shown_host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    match format {
        UrlFormat::Libpq => format!(
            "postgresql://{role}:{password}@{shown_host}:{port}/{database}?sslmode=verify-full&sslrootcert={}&channel_binding=require",
            encoded(&ca)
        ),
        UrlFormat::Jdbc => format!(
            "jdbc:postgresql://{shown_host}:{port}/{database}?user={role}&password={password}&sslmode=verify-full&sslrootcert={}",
            encoded(&ca)
        ),
        UrlFormat::Env => format!(
            "PGHOST={host}\nPGPORT={port}\nPGDATABASE={database}\nPGUSER={role}\nPGPASSWORD={password}\n\
             PGSSLMODE=verify-full\nPGSSLROOTCERT={}\nPGCHANNELBINDING=require",
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
    use super::*;

    #[test]
    fn a_url_survives_odd_folders() {
        let credentials = Credentials {
            host: "::1".into(),
            port: 6001,
            database: "main".into(),
            role: "owner".into(),
            password: "pw".into(),
        };
        let url = render(&credentials, Path::new("/a b/c&d.crt"), UrlFormat::Libpq);
        assert_eq!(
            url,
            "postgresql://owner:pw@[::1]:6001/main?sslmode=verify-full&sslrootcert=/a%20b/c%26d.crt&channel_binding=require"
        );
        assert!(render(&credentials, Path::new("/a'b"), UrlFormat::Env).contains(r"PGSSLROOTCERT='/a'\''b'"));
    }
}
