//! The header that a load balancer puts before a connection: PROXY protocol, version 2.
//!
//! It is read to its last byte and not one further: what follows may be TLS. Its length is bounded, and the
//! first byte that is no header ends it.

use std::net::SocketAddr;

use crc::{CRC_32_ISCSI, Crc};
use ppp::v2::{Addresses, Command, Header, ParseError, Protocol, Type};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::refusal::Refusal;

/// What every header begins with.
const SIGNATURE: &[u8] = ppp::v2::PROTOCOL_PREFIX;
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Longest header that is read, bytes. Addresses are 12 or 36; what else there may be (names, TLS as the
/// balancer saw it) is some hundreds.
const LONGEST: usize = 4096;
/// CRC-32C, which a header may carry of itself.
const CRC32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client's, at this address.
    Client(SocketAddr),
    /// The balancer's own, which looks whether somebody answers.
    Balancer,
}

/// Why a balancer's header does not count.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(crate) enum HeaderError {
    /// Something else, a client's first bytes perhaps.
    #[error("the load balancer sent none; have it send version 2")]
    None,
    /// The old form, in text.
    #[error("the load balancer sent version 1; have it send version 2")]
    Version1,
    /// Longer than any that makes sense.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// Not what the protocol says.
    #[error("it is malformed: {0}")]
    Malformed(#[from] ParseError),
    /// A client that is none of TCP.
    #[error("it names no TCP client")]
    NoAddress,
    /// It changed on the way.
    #[error("its checksum does not match")]
    Checksum,
}

/// Reads the header of a connection.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Origin, Refusal> {
    let mut header = vec![0; FIXED];
    let mut filled = 0;
    while filled < FIXED {
        let n = stream.read(&mut header[filled..]).await?;
        if n == 0 {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        filled += n;
        // A client that waits for an answer to less than this must not wait for the deadline.
        begins(&header[..filled])?;
    }
    let length = FIXED + usize::from(u16::from_be_bytes([header[14], header[15]]));
    if length > LONGEST {
        return Err(HeaderError::TooLong.into());
    }
    header.resize(length, 0);
    stream.read_exact(&mut header[FIXED..]).await?;
    Ok(parse(&header)?)
}

/// Whether a header can begin like this.
fn begins(bytes: &[u8]) -> Result<(), HeaderError> {
    let (signature, text) = (bytes.len().min(SIGNATURE.len()), bytes.len().min(5));
    match bytes {
        _ if bytes[..signature] == SIGNATURE[..signature] => Ok(()),
        _ if bytes[..text] == b"PROXY"[..text] => Err(HeaderError::Version1),
        _ => Err(HeaderError::None),
    }
}

/// Takes a whole header apart.
fn parse(bytes: &[u8]) -> Result<Origin, HeaderError> {
    let header = Header::try_from(bytes)?;
    if header.command == Command::Local {
        // Whatever it says besides is to be ignored.
        return Ok(Origin::Balancer);
    }
    let client: SocketAddr = match (header.protocol, header.addresses) {
        (Protocol::Stream, Addresses::IPv4(ip)) => (ip.source_address, ip.source_port).into(),
        (Protocol::Stream, Addresses::IPv6(ip)) => (ip.source_address, ip.source_port).into(),
        // The protocol lets us take it for the balancer's own connection; then the allow-list would judge
        // a stranger by the balancer's address.
        _ => return Err(HeaderError::NoAddress),
    };
    check(&header)?;
    Ok(Origin::Client(client))
}

/// Extensions must be well formed; of what they say only the checksum matters here.
fn check(header: &Header<'_>) -> Result<(), HeaderError> {
    let bytes = header.as_bytes();
    let mut at = bytes.len() - header.tlv_bytes().len();
    for extension in header.tlvs() {
        let extension = extension?;
        let value = at + 3;
        at = value + extension.len();
        if extension.kind != u8::from(Type::CRC32C) {
            continue;
        }
        let sum: [u8; 4] = extension.value.as_ref().try_into().map_err(|_| HeaderError::Checksum)?;
        // Taken over the whole header with the sum itself as zeros.
        let mut digest = CRC32C.digest();
        digest.update(&bytes[..value]);
        digest.update(&[0; 4]);
        digest.update(&bytes[at..]);
        if digest.finalize() != u32::from_be_bytes(sum) {
            return Err(HeaderError::Checksum);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
