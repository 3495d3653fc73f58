//! The way to a server: its socket, or a relay to one that is elsewhere, and TLS from here to there.

use futures::future::BoxFuture;
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::relay::Relay;
use crate::wire::{Elsewhere, Settings, Tls};
use crate::{Error, tls};

/// What goes on for as long as a session does.
pub(crate) type Connection = BoxFuture<'static, Result<(), tokio_postgres::Error>>;

/// How a server is reached.
#[derive(Clone)]
pub struct Way {
    config: Config,
    relay: Option<Relay>,
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
