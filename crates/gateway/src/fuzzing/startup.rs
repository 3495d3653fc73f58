//! The packet without a type byte that begins a connection.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use pgwire::messages::startup::{NegotiateProtocolVersion, Startup as Reference};
use pgwire::messages::{DecodeContext, Message};

use super::however_cut;
use crate::signin::negotiation;
use crate::startup::{MAX_PACKET, Packet, Startup, parse};
use crate::wire::read_packet;

const ENCRYPTION: [[u8; 4]; 2] = [[4, 210, 22, 47], [4, 210, 22, 48]];
const CANCEL: [u8; 4] = [4, 210, 22, 46];

/// Any bytes as the beginning of a connection.
pub fn startup(data: &[u8]) {
    let answer = however_cut(data, async |stream| read_packet(stream).await);
    let Some((length, code)) = whole_packet(data) else {
        assert!(answer.is_err(), "half a packet was taken: {answer:?}");
        return;
    };
    let rest = &data[8..length];
    if let Ok((_, taken)) = &answer {
        assert_eq!(*taken, length, "as much as the packet says, and not a byte of what follows");
    }
    match answer {
        Ok((Packet::Ssl | Packet::Gss, _)) => assert!(ENCRYPTION.contains(&code) && rest.is_empty()),
        Ok((Packet::Cancel(request), _)) => {
            assert_eq!(code, CANCEL);
            assert_eq!([&request.pid.to_be_bytes()[..], &request.key].concat(), rest);
        }
        Ok((Packet::Startup(startup), _)) => taken(&startup, code, &data[..length]),
        Err(why) => {
            let no_user = pairs(rest).is_none_or(|pairs| value(&pairs, b"user").is_none_or(<[u8]>::is_empty));
            assert!(!code.starts_with(&[0, 3]) || no_user, "a good packet was refused: {why}");
        }
    }
}

/// Length and code of a packet that is there to its end and no longer than PostgreSQL takes.
fn whole_packet(data: &[u8]) -> Option<(usize, [u8; 4])> {
    let length = usize::try_from(u32::from_be_bytes(*data.first_chunk()?)).ok()?;
    let code = *data.get(4..8)?.first_chunk()?;
    ((8..=MAX_PACKET).contains(&length) && length <= data.len()).then_some((length, code))
}

/// Names and values, read another way than the parser does: all strings at once, then by twos.
fn pairs(rest: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let strings = rest.strip_suffix(b"\0")?;
    if strings.is_empty() {
        return Some(Vec::new());
    }
    let strings: Vec<&[u8]> = strings.strip_suffix(b"\0")?.split(|byte| *byte == 0).collect();
    let pairs: Vec<_> = strings.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let whole = strings.len().is_multiple_of(2) && pairs.iter().all(|(name, _)| !name.is_empty());
    whole.then_some(pairs)
}

/// The last one counts.
fn value<'a>(pairs: &[(&[u8], &'a [u8])], wanted: &[u8]) -> Option<&'a [u8]> {
    pairs.iter().rev().find(|(name, _)| *name == wanted).map(|(_, value)| *value)
}

fn taken(startup: &Startup, code: [u8; 4], packet: &[u8]) {
    let Some(all) = pairs(&packet[8..]) else { panic!("nonsense was taken: {startup:?}") };
    assert_eq!(code[..2], [0, 3]);
    assert_eq!(startup.minor.to_be_bytes(), code[2..]);
    let (options, parameters): (Vec<_>, Vec<_>) =
        all.iter().partition(|(name, _)| name.starts_with(b"_pq_."));
    assert_eq!(startup.unknown_options, options.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    assert_eq!(Some(startup.user()), value(&parameters, b"user"));
    let database = value(&parameters, b"database").filter(|name| !name.is_empty());
    assert_eq!(startup.database(), database.unwrap_or(startup.user()));

    // What the server is sent says the same, in the order of the client, and says it in 3.0.
    let sent = startup.for_server();
    assert_eq!(&sent[..4], &u32::try_from(sent.len()).unwrap_or(0).to_be_bytes());
    assert_eq!(&sent[4..8], [0, 3, 0, 0]);
    assert_eq!(pairs(&sent[8..]), Some(parameters));
    let Ok(Packet::Startup(again)) = parse(Bytes::copy_from_slice(&sent[4..])) else {
        panic!("what the server is sent is no packet")
    };
    assert_eq!(again.for_server(), sent);

    elsewhere(startup, &all, packet);
}

/// pgwire makes the same of it. It knows text only, and the last value of a name.
fn elsewhere(startup: &Startup, all: &[(&[u8], &[u8])], packet: &[u8]) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let context = DecodeContext::default();
    let reference = Reference::decode(&mut BytesMut::from(packet), &context);
    let Ok(Some(reference)) = reference else { panic!("pgwire does not take it: {reference:?}") };
    let expected: BTreeMap<_, _> = all.iter().map(|(name, value)| (text(name), text(value))).collect();
    assert_eq!(reference.parameters, expected);
    assert_eq!(reference.protocol_number_minor, startup.minor);

    if startup.must_negotiate() {
        let mut said = negotiation(startup);
        let said = NegotiateProtocolVersion::decode(&mut said, &context);
        let Ok(Some(said)) = said else { panic!("what is negotiated cannot be read: {said:?}") };
        assert_eq!(said.newest_minor_protocol, 3 << 16 | i32::from(startup.agreed_minor()));
        let options: Vec<String> = startup.unknown_options.iter().map(|name| text(name)).collect();
        assert_eq!(said.unsupported_options, options);
    }
}
