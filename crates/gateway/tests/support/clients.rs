//! The clients people use: psql and its family, and tokio-postgres over rustls.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use gateway::route::Route;

use super::home::Home;
use super::{DATABASE, PASSWORD, USER, engine};

/// A program of PostgreSQL's own, told by its environment to go through the gateway as strictly as it can.
pub(crate) fn program(major: u32, name: &str, home: &Home, route: &Route) -> Command {
    let mut command = Command::new(engine(major).join(name));
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("HOME", home.path())
        .env("PGHOST", "localhost")
        .env("PGHOSTADDR", "127.0.0.1")
        .env("PGPORT", route.port.to_string())
        .env("PGUSER", USER)
        .env("PGPASSWORD", PASSWORD)
        .env("PGDATABASE", DATABASE)
        .env("PGSSLMODE", "verify-full")
        .env("PGSSLROOTCERT", home.ca())
        .env("PGCHANNELBINDING", "require")
        .env("PGCONNECT_TIMEOUT", "10");
    command
}

/// Runs psql with one command; standard output, or standard error where it failed.
pub(crate) fn psql(major: u32, home: &Home, route: &Route, sql: &str) -> Result<String, String> {
    result(program(major, "psql", home, route).args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql]))
}

/// A program's standard output, or its standard error where it failed.
pub(crate) fn result(command: &mut Command) -> Result<String, String> {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end().to_owned();
    if status.success() { Ok(text(stdout)) } else { Err(text(stderr)) }
}

/// What tokio-postgres needs to go through the gateway.
pub(crate) fn config(route: &Route) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config
        .host("localhost")
        .hostaddr("127.0.0.1".parse().unwrap())
        .port(route.port)
        .user(USER)
        .password(PASSWORD)
        .dbname(DATABASE)
        .ssl_mode(tokio_postgres::config::SslMode::Require)
        .channel_binding(tokio_postgres::config::ChannelBinding::Prefer);
    config
}

/// rustls that trusts the home's CA.
pub(crate) fn tls(ca: &Path) -> tokio_rustls::TlsConnector {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}
