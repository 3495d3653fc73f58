//! The gateway as PostgreSQL's sign-in: asks for SCRAM, checks the proof, gets the keys.

use bytes::{Buf, Bytes, BytesMut};
use pgwire::messages::startup::{Authentication, NegotiateProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::refusal::{Refusal, encode};
use crate::startup::{NEWEST_MINOR, Startup};
use crate::wire::{read_sasl, send};
use scram::{Binding, Exchange, Keys, ScramError, Verifier};

/// A client that has proved itself.
pub(crate) struct SignedIn {
    /// What the server will take in its name.
    pub(crate) keys: Keys,
    /// Whether it checked our certificate.
    pub(crate) binding: Binding,
    /// The end of the exchange, not sent yet: it goes out with the server's greeting, in one packet.
    pub(crate) farewell: BytesMut,
}

/// Walks a client through sign-in. The question for its verifier is asked meanwhile.
pub(crate) async fn sign_in(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    startup: &Startup,
    end_point: Option<&[u8]>,
    verifier: impl Future<Output = Result<Verifier, Refusal>>,
) -> Result<SignedIn, Refusal> {
    let mut opening = BytesMut::new();
    if startup.must_negotiate() {
        opening.extend_from_slice(&negotiation(startup));
    }
    let mechanisms = if end_point.is_some() { &[scram::PLUS, scram::PLAIN][..] } else { &[scram::PLAIN] };
    let offer = Authentication::SASL(mechanisms.iter().map(|name| (*name).to_owned()).collect());
    opening.extend_from_slice(&encode(&offer));
    let first = async {
        send(stream, &opening).await?;
        initial_response(read_sasl(stream).await?)
    };
    let (first, verifier) = tokio::join!(first, verifier);
    let ((mechanism, message), verifier) = (first?, verifier?);
    if !mechanisms.contains(&mechanism.as_str()) {
        return Err(Refusal::Protocol("client selected an invalid SASL authentication mechanism"));
    }
    let failed = |error| match error {
        ScramError::WrongProof => Refusal::SignIn(String::from_utf8_lossy(startup.user()).into_owned()),
        other => Refusal::Scram(other),
    };
    let exchange = Exchange::start(&mechanism, &message, end_point, verifier).map_err(failed)?;
    let challenge = Authentication::SASLContinue(Bytes::copy_from_slice(exchange.server_first().as_bytes()));
    send(stream, &encode(&challenge)).await?;
    let binding = exchange.binding;
    let (last, keys) = exchange.finish(&read_sasl(stream).await?).map_err(failed)?;
    let mut farewell = encode(&Authentication::SASLFinal(last.into()));
    farewell.extend_from_slice(&encode(&Authentication::Ok));
    Ok(SignedIn { keys, binding, farewell })
}

/// What a client that asks for more than we do is told: our newest version, in full (as PostgreSQL
/// sends it, whatever its documentation says), and the options that we do not know.
pub(crate) fn negotiation(startup: &Startup) -> BytesMut {
    let version = (3 << 16) | i32::from(startup.minor.min(NEWEST_MINOR));
    let options =
        startup.unknown_options.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    encode(&NegotiateProtocolVersion::new(version, options))
}

/// SASLInitialResponse: the mechanism's name, then a length and that many bytes.
pub(crate) fn initial_response(mut body: Bytes) -> Result<(String, Bytes), Refusal> {
    const MALFORMED: Refusal = Refusal::Protocol("malformed SASL initial response");
    let end = body.iter().position(|byte| *byte == 0).ok_or(MALFORMED)?;
    let name = String::from_utf8(body.split_to(end).to_vec()).map_err(|_| MALFORMED)?;
    body.advance(1);
    if body.len() < 4 {
        return Err(MALFORMED);
    }
    let length = body.get_u32();
    if usize::try_from(length) != Ok(body.len()) {
        return Err(MALFORMED);
    }
    Ok((name, body))
}
