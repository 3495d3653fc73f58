//! The clients people use: psql and its family, and tokio-postgres over rustls.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use gateway::route::Route;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};

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

/// What clients ask before they say who they are.
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
pub(crate) const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

/// Who tokio-postgres is; the stream that it is given is encrypted already.
pub(crate) fn config() -> Config {
    let mut config = Config::new();
    config.user(USER).password(PASSWORD).dbname(DATABASE).ssl_mode(SslMode::Disable);
    config
}

/// rustls that trusts the home's CA.
pub(crate) fn tls(ca: &Path) -> tokio_rustls::TlsConnector {
    tls_asking_for(&[], ca)
}

/// The same, asking for protocols inside (ALPN).
pub(crate) fn tls_asking_for(protocols: &[&[u8]], ca: &Path) -> tokio_rustls::TlsConnector {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

/// A TCP connection to a route from an address of loopback.
pub(crate) async fn tcp_from(source: &str, route: &Route) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source.parse().unwrap(), 0)).unwrap();
    socket.connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), route.port)).await.unwrap()
}

/// A TCP connection to a route.
pub(crate) async fn tcp(route: &Route) -> TcpStream {
    tcp_from("127.0.0.1", route).await
}

/// Asks for TLS as clients do, and does it.
pub(crate) async fn encrypted(mut tcp: TcpStream, home: &Home) -> io::Result<Encrypted> {
    tcp.write_all(&SSL_REQUEST).await?;
    match tcp.read_u8().await? {
        b'S' => {}
        _ => return Err(io::Error::other("the gateway must speak TLS")),
    }
    tls(&home.ca()).connect("localhost".try_into().unwrap(), tcp).await
}

/// A stream in TLS.
pub(crate) type Encrypted = tokio_rustls::client::TlsStream<TcpStream>;

/// A signed-in tokio-postgres client; notices and notifications go to the channel.
pub(crate) async fn connect(
    home: &Home,
    route: &Route,
) -> Result<(Client, mpsc::UnboundedReceiver<AsyncMessage>), tokio_postgres::Error> {
    connect_with(&config(), encrypted(tcp(route).await, home).await.unwrap()).await
}

/// The same with a configuration and a stream of one's own.
pub(crate) async fn connect_with(
    config: &Config,
    stream: Encrypted,
) -> Result<(Client, mpsc::UnboundedReceiver<AsyncMessage>), tokio_postgres::Error> {
    let (client, mut connection) = config.connect_raw(stream, NoTls).await?;
    let (messages, inbox) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            let _ = messages.send(message);
        }
    });
    Ok((client, inbox))
}

/// The SQLSTATE that a server, or the gateway, gave.
pub(crate) fn sqlstate(error: &tokio_postgres::Error) -> Option<&str> {
    error.code().map(SqlState::code)
}

/// A startup packet of protocol 3.0.
pub(crate) fn startup(parameters: &[u8]) -> Vec<u8> {
    let length = u32::try_from(parameters.len() + 8).unwrap();
    [&length.to_be_bytes()[..], &[0, 3, 0, 0], parameters].concat()
}

/// One message: its type and its body.
pub(crate) async fn message(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let mut body = vec![0; usize::try_from(stream.read_u32().await?).unwrap() - 4];
    stream.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// Signs in message by message, and leaves the stream where a client may ask: for tests that then send
/// what no client would.
pub(crate) async fn signed_in(mut stream: Encrypted) -> Encrypted {
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    sign_in(&mut reader, &mut writer, "by hand", |_, _| ()).await;
    stream
}

/// Signs in message by message up to the first ReadyForQuery; `greeted` sees each message that is no part
/// of the exchange.
pub(crate) async fn sign_in(
    reader: &mut (impl AsyncReadExt + Unpin),
    writer: &mut (impl AsyncWriteExt + Unpin),
    application: &str,
    mut greeted: impl FnMut(u8, Vec<u8>),
) {
    let who = format!("user\0{USER}\0database\0{DATABASE}\0application_name\0{application}\0\0");
    writer.write_all(&startup(who.as_bytes())).await.unwrap();
    let mut scram = ScramSha256::new(PASSWORD.as_bytes(), ChannelBinding::unsupported());
    loop {
        writer.flush().await.unwrap();
        let (kind, body) = message(reader).await.unwrap();
        let answer = match (kind, body.first_chunk::<4>()) {
            (b'R', Some([0, 0, 0, 10])) => {
                let first = scram.message();
                let length = u32::try_from(first.len()).unwrap().to_be_bytes();
                [b"SCRAM-SHA-256\0", &length[..], first].concat()
            }
            (b'R', Some([0, 0, 0, 11])) => {
                scram.update(&body[4..]).unwrap();
                scram.message().to_vec()
            }
            (b'R', Some([0, 0, 0, 12])) => {
                scram.finish(&body[4..]).unwrap();
                continue;
            }
            (b'E', _) => panic!("{}", String::from_utf8_lossy(&body)),
            _ => {
                greeted(kind, body);
                if kind == b'Z' {
                    return;
                }
                continue;
            }
        };
        let length = u32::try_from(answer.len() + 4).unwrap().to_be_bytes();
        writer.write_all(&[b"p", &length[..], &answer].concat()).await.unwrap();
    }
}
