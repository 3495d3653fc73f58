//! The first packet of a connection: what a client may say before it has said who it is.
//!
//! pgwire's decoders trust the lengths inside a message (a short one panics) and lose bytes that are no
//! UTF-8. This packet comes from anybody, and its parameters go on to the server unchanged, so it is
//! taken apart here, on bytes.

use bytes::{BufMut, Bytes, BytesMut};

use crate::refusal::Refusal;

/// PostgreSQL's own limit (`MAX_STARTUP_PACKET_LENGTH`), bytes.
pub(crate) const MAX_PACKET: usize = 10_000;
/// The newest minor version of protocol 3 that the gateway speaks: 3.2 has long cancel keys.
pub(crate) const NEWEST_MINOR: u16 = 2;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;

/// A packet without a type byte.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    /// May we speak TLS?
    Ssl,
    /// May we speak GSSAPI encryption?
    Gss,
    /// Cancel what that session does.
    Cancel(CancelRequest),
    /// Who the client is and what it wants.
    Startup(Startup),
}

/// A cancel request as the client sent it.
#[derive(PartialEq, Eq)]
pub(crate) struct CancelRequest {
    /// Process id that the client was given.
    pub(crate) pid: u32,
    /// Key that the client was given.
    pub(crate) key: Bytes,
}

impl std::fmt::Debug for CancelRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CancelRequest").field("pid", &self.pid).finish_non_exhaustive()
    }
}

/// A startup packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Startup {
    /// Minor version asked for; the major is 3.
    pub(crate) minor: u16,
    /// Name and value, in the client's order.
    parameters: Vec<(Bytes, Bytes)>,
    /// Protocol options (`_pq_.*`) that the gateway does not know.
    pub(crate) unknown_options: Vec<Bytes>,
}

impl Startup {
    /// The value of a parameter; the last one counts, as in PostgreSQL.
    pub(crate) fn get(&self, name: &str) -> Option<&Bytes> {
        self.parameters.iter().rev().find(|(key, _)| key == name.as_bytes()).map(|(_, value)| value)
    }

    /// The role that wants in.
    pub(crate) fn user(&self) -> &[u8] {
        self.get("user").map_or(b"", |user| user)
    }

    /// The database asked for: by default that of the role's name.
    pub(crate) fn database(&self) -> &[u8] {
        match self.get("database") {
            Some(name) if !name.is_empty() => name,
            _ => self.user(),
        }
    }

    /// Whether the client must be told what we do not do.
    pub(crate) fn must_negotiate(&self) -> bool {
        self.minor > NEWEST_MINOR || !self.unknown_options.is_empty()
    }

    /// The minor version spoken in the end.
    pub(crate) fn agreed_minor(&self) -> u16 {
        self.minor.min(NEWEST_MINOR)
    }

    /// The packet for the server: protocol 3.0, which every server speaks, and the client's parameters.
    pub(crate) fn for_server(&self) -> BytesMut {
        let mut body = BytesMut::with_capacity(256);
        body.put_u32(3 << 16);
        for (name, value) in &self.parameters {
            body.put_slice(name);
            body.put_u8(0);
            body.put_slice(value);
            body.put_u8(0);
        }
        body.put_u8(0);
        let mut packet = BytesMut::with_capacity(body.len() + 4);
        packet.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        packet.put_slice(&body);
        packet
    }
}

/// How many bytes follow the four of the length; an error where no PostgreSQL client would say so.
pub(crate) fn body_length(length: [u8; 4]) -> Result<usize, Refusal> {
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if !(8..=MAX_PACKET).contains(&length) {
        return Err(Refusal::Protocol("invalid length of startup packet"));
    }
    Ok(length - 4)
}

/// Takes apart what follows the length.
pub(crate) fn parse(mut body: Bytes) -> Result<Packet, Refusal> {
    if body.len() < 4 {
        return Err(Refusal::Protocol("invalid length of startup packet"));
    }
    let code = take_u32(&mut body);
    match code {
        SSL if body.is_empty() => Ok(Packet::Ssl),
        GSS if body.is_empty() => Ok(Packet::Gss),
        SSL | GSS => Err(Refusal::Protocol("invalid length of encryption request")),
        CANCEL => {
            // A process id and a key of 4 to 256 bytes.
            if !(8..=260).contains(&body.len()) {
                return Err(Refusal::Protocol("invalid length of cancel request"));
            }
            let pid = take_u32(&mut body);
            Ok(Packet::Cancel(CancelRequest { pid, key: body }))
        }
        _ if code >> 16 == 3 => parse_startup(code & 0xffff, body).map(Packet::Startup),
        _ => Err(Refusal::UnsupportedProtocol { major: code >> 16, minor: code & 0xffff }),
    }
}

fn parse_startup(minor: u32, mut body: Bytes) -> Result<Startup, Refusal> {
    let minor = u16::try_from(minor).unwrap_or(u16::MAX);
    let mut startup = Startup { minor, parameters: Vec::new(), unknown_options: Vec::new() };
    loop {
        let name = take_string(&mut body)?;
        if name.is_empty() {
            break;
        }
        let value = take_string(&mut body)?;
        if name.starts_with(b"_pq_.") {
            startup.unknown_options.push(name);
        } else {
            startup.parameters.push((name, value));
        }
    }
    if !body.is_empty() {
        return Err(Refusal::Protocol("invalid startup packet layout: expected terminator as last byte"));
    }
    if startup.user().is_empty() {
        return Err(Refusal::NoUser);
    }
    Ok(startup)
}

fn take_u32(body: &mut Bytes) -> u32 {
    let word = body.split_to(4);
    word.iter().fold(0, |all, byte| all << 8 | u32::from(*byte))
}

fn take_string(body: &mut Bytes) -> Result<Bytes, Refusal> {
    let Some(end) = body.iter().position(|byte| *byte == 0) else {
        return Err(Refusal::Protocol("invalid startup packet layout: a string has no end"));
    };
    let text = body.split_to(end);
    let _ = body.split_to(1);
    Ok(text)
}

#[cfg(test)]
mod tests;
