//! The server's messages: where each begins and ends, during sign-in and in a session.

use std::io;

use bytes::BytesMut;
use pgwire::messages::response::ErrorResponse;
use pgwire::messages::{DecodeContext, Message};
use postgres_protocol::message::backend::Header;
use tokio::io::AsyncReadExt;

use super::{at_once, cuts};
use crate::backend::server_error;
use crate::frames::Boundary;
use crate::refusal::Refusal;
use crate::wire::{Frame, Frames, take_frame};

/// Any bytes as what a server says.
pub fn server(data: &[u8]) {
    let headers = headers(data);
    let (frames, end) = taken(data);
    let mut stream = data;
    for (frame, header) in frames.iter().zip(&headers) {
        let (raw, rest) = stream.split_at(frame.raw.len());
        assert_eq!(frame.raw, raw);
        assert_eq!(frame.body, raw[5..]);
        assert_eq!((frame.kind, raw.len()), (header.kind, header.end - header.start));
        explained(frame);
        stream = rest;
    }
    let long = headers.get(frames.len()).is_some_and(|header| header.end - header.start > (1 << 20) + 1);
    let nonsense = Header::parse(stream).is_err();
    assert_eq!(end.is_err(), long || nonsense, "{end:?}");
    assert!(frames.len() == headers.iter().filter(|header| header.end <= data.len()).count() || long);

    for cut in cuts(data.len()) {
        let (again, reason) = read(data, cut);
        assert!(again == frames.iter().map(|frame| frame.raw.to_vec()).collect::<Vec<_>>(), "cut at {cut}");
        assert_eq!(
            reason,
            if end.is_err() { io::ErrorKind::InvalidData } else { io::ErrorKind::UnexpectedEof }
        );
    }
    counted(data, &headers);
}

/// A message as `postgres-protocol` sees its header.
struct Seen {
    kind: u8,
    start: usize,
    end: usize,
}

/// All that begin in a stream, up to one that makes no sense. The last may end outside.
fn headers(data: &[u8]) -> Vec<Seen> {
    let (mut all, mut start) = (Vec::new(), 0);
    while let Some(Ok(Some(header))) = data.get(start..).map(Header::parse) {
        let end = start + 1 + usize::try_from(header.len()).unwrap_or_default();
        all.push(Seen { kind: header.tag(), start, end });
        start = end;
    }
    all
}

/// Every whole message at the front, and whether what follows may become one.
fn taken(data: &[u8]) -> (Vec<Frame>, io::Result<()>) {
    let (mut buffer, mut frames) = (BytesMut::from(data), Vec::new());
    loop {
        match take_frame(&mut buffer, crate::wire::LONGEST) {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return (frames, Ok(())),
            Err(error) => return (frames, Err(error)),
        }
    }
}

/// The same from a stream that comes in two pieces, to its end.
fn read(data: &[u8], cut: usize) -> (Vec<Vec<u8>>, io::ErrorKind) {
    let mut frames = Frames::new((&data[..cut]).chain(&data[cut..]));
    let mut all = Vec::new();
    loop {
        match at_once(frames.next()) {
            Ok(frame) => all.push(frame.raw.to_vec()),
            Err(error) => return (all, error.kind()),
        }
    }
}

/// The counter of a session is at a boundary exactly where a message ends, byte by byte and however cut.
fn counted(data: &[u8], headers: &[Seen]) {
    let mut counter = Boundary::default();
    let mut states = vec![(true, false)];
    for byte in data {
        counter.advance(std::slice::from_ref(byte), &mut ());
        states.push((counter.between(), counter.last_was_error()));
    }
    let mut expected = vec![(false, false); data.len() + 1];
    expected[0].0 = true;
    for Seen { kind, start, end } in headers {
        if let Some(state) = expected.get_mut(*end) {
            state.0 = true;
        }
        if let Some(later) = expected.get_mut(start + 5..) {
            later.iter_mut().for_each(|state| state.1 = *kind == b'E');
        }
    }
    // A header that makes no sense is the last that is looked at, and says nothing of what came last.
    let known = headers.last().map_or(0, |last| last.end).saturating_add(4).min(data.len());
    assert_eq!(states[..=known], expected[..=known]);
    assert!(states[known..].iter().skip(1).all(|state| !state.0));
    for cut in cuts(data.len()) {
        let mut counter = Boundary::default();
        for (piece, at) in [(&data[..cut], cut), (&data[cut..], data.len())] {
            counter.advance(piece, &mut ());
            assert_eq!((counter.between(), counter.last_was_error()), states[at], "cut at {cut}");
        }
    }
}

/// An error is told with the words that pgwire finds in it. It trusts an error to be well formed.
fn explained(frame: &Frame) {
    let Some(fields) = frame.body.strip_suffix(b"\0\0").filter(|_| frame.kind == b'E') else { return };
    if fields.split(|byte| *byte == 0).any(<[u8]>::is_empty) {
        return;
    }
    let reference = ErrorResponse::decode(&mut BytesMut::from(&frame.raw[..]), &DecodeContext::default());
    let Ok(Some(reference)) = reference else { panic!("pgwire does not take it: {reference:?}") };
    let Refusal::Server { code, message, raw } = server_error(frame) else { panic!("no error of a server") };
    let field = |wanted| {
        let mut found = reference.fields.iter().filter(|(kind, _)| *kind == wanted);
        found.next().map(|(_, value)| value.clone()).unwrap_or_default()
    };
    assert_eq!((code, message), (field(b'C'), field(b'M')));
    assert_eq!(raw, frame.raw, "the client is told word for word");
}
