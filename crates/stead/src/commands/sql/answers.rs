//! What statements answer, for programs: rows of text as PostgreSQL writes the values, with the names of their
//! columns. psql has no such output.

use std::sync::Arc;

use client::wire::Credentials;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::config::{ChannelBinding, SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::exit::Failure;

/// What one statement answered.
#[derive(Debug, Default, Serialize)]
pub(in crate::commands) struct Answer {
    columns: Vec<String>,
    rows: Vec<Vec<Option<String>>>,
    /// Rows that it changed or answered.
    affected: u64,
}

impl Answer {
    /// The value of an answer that is one value.
    pub(in crate::commands) fn only(&self) -> Option<&str> {
        let [row] = &self.rows[..] else { return None };
        let [value] = &row[..] else { return None };
        value.as_deref()
    }
}

/// Runs statements for a program of this name, all in one transaction unless they say otherwise, and answers what each of them did.
pub(in crate::commands) async fn of(
    credentials: &Credentials,
    ca: &str,
    program: &str,
    statements: &str,
) -> Result<Vec<Answer>, Failure> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&credentials.host)
        .port(credentials.port)
        .dbname(&credentials.database)
        .user(&credentials.role)
        .password(&credentials.password)
        .ssl_mode(SslMode::Require)
        .channel_binding(ChannelBinding::Require)
        .application_name(program);
    let (session, connection) = config.connect(tls(ca)?).await.map_err(told)?;
    let connection = tokio::spawn(connection);
    let messages = session.simple_query(statements).await.map_err(told)?;
    drop(session);
    connection.abort();
    Ok(answers(messages))
}

fn tls(ca: &str) -> Result<MakeRustlsConnect, Failure> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(Failure::failed)?;
        roots.add(certificate).map_err(Failure::failed)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(Failure::failed)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn answers(messages: Vec<SimpleQueryMessage>) -> Vec<Answer> {
    let mut answers = Vec::new();
    let mut open = Answer::default();
    for message in messages {
        match message {
            SimpleQueryMessage::RowDescription(columns) => {
                open.columns = columns.iter().map(|column| column.name().to_owned()).collect();
            }
            SimpleQueryMessage::Row(row) => {
                open.rows.push((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect());
            }
            SimpleQueryMessage::CommandComplete(affected) => {
                open.affected = affected;
                answers.push(std::mem::take(&mut open));
            }
            _ => {}
        }
    }
    answers
}

/// The server's own words, where it said something.
fn told(error: tokio_postgres::Error) -> Failure {
    let Some(said) = error.as_db_error() else { return Failure::failed(error) };
    let more = [said.detail(), said.hint()]
        .into_iter()
        .flatten()
        .map(|text| format!("; {text}"))
        .collect::<String>();
    Failure::Failed(format!("{}{more} (SQLSTATE {})", said.message(), said.code().code()))
}
