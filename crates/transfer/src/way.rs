//! The way to a server: its socket, or a relay to one that is elsewhere, and TLS from here to there.

use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::UnixStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::wire::{Elsewhere, Settings, Tls};
use crate::{Error, tls};

/// The longest that a relay says of a connection that failed, bytes.
const LONGEST: usize = 1_000;

/// What goes on for as long as a session does.
pub(crate) type Connection = BoxFuture<'static, Result<(), tokio_postgres::Error>>;

/// How a server is reached.
#[derive(Clone)]
pub struct Way {
    config: Config,
    relay: Option<Relay>,
}

#[derive(Clone)]
struct Relay {
    socket: PathBuf,
    /// As its certificate has it.
    host: String,
    /// Nothing where all is to be sent in the clear.
    tls: Option<Arc<ClientConfig>>,
}

/// Over a Unix socket, or in plain text.
impl From<Config> for Way {
    fn from(config: Config) -> Self {
        Self { config, relay: None }
    }
}

impl Way {
    /// The way that settings say.
    pub(crate) fn of(settings: &Settings) -> Result<Self, Error> {
        let mut config = Config::new();
        config.dbname(&settings.database);
        // An empty one would be refused like a wrong one.
        if !settings.password.expose_secret().is_empty() {
            config.password(settings.password.expose_secret());
        }
        let Some(elsewhere) = &settings.elsewhere else {
            config.host_path(&settings.socket_dir).user(&settings.role);
            return Ok(config.into());
        };
        let Elsewhere { socket, host, user, tls: mode, ca, .. } = elsewhere;
        config.user(user).ssl_mode(match mode {
            Tls::Disable => SslMode::Disable,
            Tls::Prefer => SslMode::Prefer,
            Tls::Require | Tls::VerifyCa | Tls::VerifyFull => SslMode::Require,
        });
        let tls = tls::config(*mode, ca.as_deref())?;
        Ok(Self { config, relay: Some(Relay { socket: socket.clone(), host: host.clone(), tls }) })
    }

    /// What a session is called in the server, and what holds for it.
    pub(crate) fn session(&mut self, name: &str, options: &str) {
        self.config.application_name(name).options(options);
    }

    /// The same with another name.
    pub(crate) fn called(&self, name: &str) -> Self {
        let mut way = self.clone();
        way.config.application_name(name);
        way
    }

    pub(crate) async fn connect(&self) -> Result<(Client, Connection), Error> {
        let Some(relay) = &self.relay else {
            let (client, connection) = self.config.connect(NoTls).await?;
            return Ok((client, Box::pin(connection)));
        };
        let stream = relay.connect().await?;
        match &relay.tls {
            None => self.over(stream, NoTls).await,
            Some(tls) => {
                let mut tls = MakeRustlsConnect::new(ClientConfig::clone(tls));
                let connect = MakeTlsConnect::<UnixStream>::make_tls_connect(&mut tls, &relay.host);
                let connect = connect.map_err(|error| Error::Unreachable(error.to_string()))?;
                self.over(stream, connect).await
            }
        }
    }

    async fn over<T>(&self, stream: UnixStream, tls: T) -> Result<(Client, Connection), Error>
    where
        T: TlsConnect<UnixStream>,
        T::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (client, connection) = self.config.connect_raw(stream, tls).await?;
        Ok((client, Box::pin(connection)))
    }
}

impl Relay {
    /// A connection to the server. The first line is the relay's own: empty, or why there is none.
    async fn connect(&self) -> Result<UnixStream, Error> {
        let broken =
            |error: std::io::Error| Error::Unreachable(format!("the way out of this host is shut: {error}"));
        let mut stream = UnixStream::connect(&self.socket).await.map_err(broken)?;
        let mut said = Vec::new();
        loop {
            match stream.read_u8().await.map_err(broken)? {
                b'\n' => break,
                byte if said.len() < LONGEST => said.push(byte),
                _ => break,
            }
        }
        match String::from_utf8_lossy(&said).trim() {
            "" => Ok(stream),
            why => Err(Error::Unreachable(why.to_owned())),
        }
    }
}
