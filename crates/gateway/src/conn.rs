//! A client's connection while it is not yet clear what it will be: in the clear, or in TLS. One through the inner
//! door is neither: it never leaves the host.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::ProtocolVersion;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::refusal::Refusal;
use crate::startup::{CancelRequest, Packet};
use crate::tls::{ALPN, Certificate};
use crate::wire::{read_packet, send};

/// First byte of a TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// How much of what a refused client still sends is read, so that the refusal is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);

/// A connection as far as it has come.
pub(crate) enum Conn {
    Plain(TcpStream),
    /// Where nobody but the two ends hears what is said.
    In(Inside),
    /// Lost on the way from one to the other.
    Gone,
}

/// A connection on which passwords may be proved and sessions held.
pub(crate) enum Inside {
    Tls(Box<TlsStream<TcpStream>>),
    /// Through the inner door. Boxed as the other is: it is moved about, and lies in memory once for each place.
    Inner(Box<UnixStream>),
}

/// What a connection turned out to be before anything was said inside TLS.
pub(crate) enum Secured {
    /// In TLS.
    Tls,
    /// A cancel request, in the clear.
    Cancel(CancelRequest),
}

impl Conn {
    /// Answers what clients ask before they say who they are, up to the packet that matters. The
    /// certificate is asked for only when TLS is.
    pub(crate) async fn first_packet(
        &mut self,
        certificate: Option<&Certificate>,
    ) -> Result<Packet, Refusal> {
        if let Conn::Plain(_) = self
            && let Some(packet) = self.negotiate(certificate).await?
        {
            return Ok(packet);
        }
        inside(self.inside().ok_or(Refusal::Protocol("not in TLS"))?).await
    }

    /// The same, as far as TLS; in the clear there may be a cancel request only.
    pub(crate) async fn secure(&mut self, certificate: Option<&Certificate>) -> Result<Secured, Refusal> {
        match self.negotiate(certificate).await? {
            None => Ok(Secured::Tls),
            Some(Packet::Cancel(request)) => Ok(Secured::Cancel(request)),
            Some(_) => Err(Refusal::NotEncrypted),
        }
    }

    /// `None`: in TLS now. Otherwise what was said in the clear.
    async fn negotiate(&mut self, certificate: Option<&Certificate>) -> Result<Option<Packet>, Refusal> {
        let Conn::Plain(tcp) = self else { return Err(Refusal::Protocol("already in TLS")) };
        let mut first = [0; 1];
        if tcp.peek(&mut first).await? == 1 && first == [TLS_HANDSHAKE] {
            let tls = self.encrypt(certificate).await?;
            if tls.get_ref().1.alpn_protocol() != Some(ALPN) {
                return Err(Refusal::Protocol(
                    "direct TLS needs ALPN `postgresql`; leave out sslnegotiation=direct",
                ));
            }
            return Ok(None);
        }
        let mut packet = read_packet(tcp).await?;
        if packet == Packet::Gss {
            send(tcp, b"N").await?;
            packet = read_packet(tcp).await?;
        }
        match packet {
            Packet::Ssl if certificate.is_none() => Err(Refusal::NoCertificate),
            Packet::Ssl => {
                // Nothing was read beyond the request: what a man in the middle put behind it is taken
                // for TLS, and fails (CVE-2021-23214).
                send(tcp, b"S").await?;
                self.encrypt(certificate).await?;
                Ok(None)
            }
            Packet::Gss => Err(Refusal::Protocol("GSSAPI encryption was refused already")),
            other => Ok(Some(other)),
        }
    }

    async fn encrypt(
        &mut self,
        certificate: Option<&Certificate>,
    ) -> Result<&mut TlsStream<TcpStream>, Refusal> {
        let certificate = certificate.ok_or(Refusal::NoCertificate)?;
        let Conn::Plain(tcp) = std::mem::replace(self, Conn::Gone) else {
            return Err(Refusal::Protocol("already in TLS"));
        };
        let tls = TlsAcceptor::from(certificate.config.clone()).accept(tcp).await.map_err(Refusal::Tls)?;
        *self = Conn::In(Inside::Tls(Box::new(tls)));
        self.tls().ok_or(Refusal::Protocol("not in TLS"))
    }

    /// The stream, if nobody else hears it.
    pub(crate) fn inside(&mut self) -> Option<&mut Inside> {
        match self {
            Conn::In(inside) => Some(inside),
            Conn::Plain(_) | Conn::Gone => None,
        }
    }

    fn tls(&mut self) -> Option<&mut TlsStream<TcpStream>> {
        match self {
            Conn::In(Inside::Tls(tls)) => Some(tls),
            Conn::In(Inside::Inner(_)) | Conn::Plain(_) | Conn::Gone => None,
        }
    }

    /// The name that the client asked for in TLS.
    pub(crate) fn server_name(&mut self) -> Option<String> {
        self.tls().and_then(|tls| tls.get_ref().1.server_name()).map(str::to_owned)
    }

    /// `TLSv1.3`, for the log.
    pub(crate) fn tls_version(&mut self) -> Option<String> {
        self.tls().and_then(|tls| tls.get_ref().1.protocol_version()).map(|version| match version {
            ProtocolVersion::TLSv1_2 => "TLSv1.2".to_owned(),
            ProtocolVersion::TLSv1_3 => "TLSv1.3".to_owned(),
            other => format!("{other:?}"),
        })
    }

    /// Says why and closes; nobody is left to be told where the connection or its TLS failed.
    pub(crate) async fn refuse(self, refusal: &Refusal) {
        if !matches!(refusal, Refusal::Lost(_) | Refusal::Tls(_)) {
            self.close_with(&refusal.message()).await;
        }
    }

    /// Says a last word and closes, in the order that lets the client read it.
    pub(crate) async fn close_with(self, message: &[u8]) {
        // Boxed: it would lie in memory as long as a session lasts.
        let closing = Box::pin(async move {
            match self {
                Conn::Plain(stream) => last_word(stream, message).await,
                Conn::In(stream) => last_word(stream, message).await,
                Conn::Gone => Ok(()),
            }
        });
        // Whether it arrives is the client's affair.
        let _ = tokio::time::timeout(LINGER, closing).await;
    }
}

/// What a client says inside TLS: who it is, or whom to cancel.
async fn inside(stream: &mut Inside) -> Result<Packet, Refusal> {
    match read_packet(stream).await? {
        Packet::Ssl | Packet::Gss => Err(Refusal::Protocol("the connection is encrypted already")),
        packet => Ok(packet),
    }
}

async fn last_word<S>(mut stream: S, message: &[u8]) -> io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(message).await?;
    stream.shutdown().await?;
    // A close with bytes unread is a reset, and a reset can overtake the message.
    let mut scrap = [0; 1024];
    for _ in 0..64 {
        if stream.read(&mut scrap).await? == 0 {
            break;
        }
    }
    Ok(())
}

impl AsyncRead for Inside {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Inside::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Inside::Inner(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Inside {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Inside::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Inside::Inner(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Inside::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Inside::Inner(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Inside::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Inside::Inner(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
