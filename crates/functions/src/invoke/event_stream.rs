//! Messages of `application/vnd.amazon.eventstream`, in which a streamed response comes to AWS's SDKs.
//!
//! A message is: its length, the length of its headers, the CRC-32 of these two, headers, payload, the CRC-32 of all of
//! it; numbers have four bytes, the most significant first. A header is a name and here always a text, whose type is 7.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};

use crate::invocation::Failure;

const TEXT: u8 = 7;
/// Two lengths and two checksums.
const AROUND: usize = 16;
/// AWS's limit of a message is 16 MiB; a piece of an answer goes in messages of at most this, bytes.
const LONGEST: usize = 4 * 1024 * 1024;

/// A piece of the function's answer.
pub(super) fn chunk(data: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(data.len() + 256);
    for part in data.chunks(LONGEST) {
        message(&mut out, "PayloadChunk", "application/octet-stream", part);
    }
    out.freeze()
}

/// The last message.
pub(super) fn complete(failure: Option<&Failure>, tail: Option<Vec<u8>>) -> Bytes {
    let mut payload = serde_json::Map::new();
    if let Some(failure) = failure {
        payload.insert("ErrorCode".to_owned(), failure.error_type.as_str().into());
        payload.insert("ErrorDetails".to_owned(), String::from_utf8_lossy(&failure.body).into());
    }
    if let Some(tail) = tail {
        payload.insert("LogResult".to_owned(), STANDARD.encode(tail).into());
    }
    let payload = serde_json::Value::Object(payload).to_string();
    let mut out = BytesMut::with_capacity(payload.len() + 256);
    message(&mut out, "InvokeComplete", "application/json", payload.as_bytes());
    out.freeze()
}

/// What is said where the worker was lost before its last word.
pub(super) fn cut_off() -> Failure {
    Failure::found("Runtime.TruncatedResponse", "the answer was cut off".to_owned())
}

fn message(out: &mut BytesMut, event: &str, content_type: &str, payload: &[u8]) {
    let mut headers = BytesMut::with_capacity(128);
    for (name, value) in [(":event-type", event), (":content-type", content_type), (":message-type", "event")]
    {
        headers.put_u8(u8::try_from(name.len()).unwrap_or_default());
        headers.put_slice(name.as_bytes());
        headers.put_u8(TEXT);
        headers.put_u16(u16::try_from(value.len()).unwrap_or_default());
        headers.put_slice(value.as_bytes());
    }
    let from = out.len();
    let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    out.put_u32(number(AROUND + headers.len() + payload.len()));
    out.put_u32(number(headers.len()));
    out.put_u32(crc32fast::hash(out.get(from..).unwrap_or_default()));
    out.put_slice(&headers);
    out.put_slice(payload);
    out.put_u32(crc32fast::hash(out.get(from..).unwrap_or_default()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_as_the_format_says() {
        let message = chunk(b"hi");
        let number = |at: usize| u32::from_be_bytes(message[at..at + 4].try_into().unwrap());
        assert_eq!(usize::try_from(number(0)).unwrap(), message.len());
        assert_eq!(usize::try_from(number(4)).unwrap(), message.len() - AROUND - 2);
        assert_eq!(number(8), crc32fast::hash(&message[..8]));
        assert_eq!(&message[message.len() - 6..message.len() - 4], b"hi");
        assert_eq!(number(message.len() - 4), crc32fast::hash(&message[..message.len() - 4]));
        assert_eq!(&message[12..27], b"\x0b:event-type\x07\x00\x0c");
    }
}
