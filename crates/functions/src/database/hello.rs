//! What a function's client says first.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use bytes::Buf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::frames::strange;

/// Longest first message, bytes; PostgreSQL's own limit.
const LONGEST: usize = 10_000;
/// How long a client may take for it.
const PATIENCE: Duration = Duration::from_secs(30);

const SSL: u32 = 80_877_103;
const GSS: u32 = 80_877_104;
const CANCEL: u32 = 80_877_102;

/// What a cancel request names.
pub(super) type Key = (i32, i32);

/// The first message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hello {
    Session {
        database: String,
        /// All but user and database.
        parameters: BTreeMap<String, String>,
    },
    Cancel(Key),
}

/// Reads it; asks for encryption are answered with no: nothing leaves the host.
pub(super) async fn read(stream: &mut TcpStream) -> io::Result<Hello> {
    timeout(PATIENCE, read_slowly(stream)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn read_slowly(stream: &mut TcpStream) -> io::Result<Hello> {
    for _ in 0..3 {
        let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
        if !(8..=LONGEST).contains(&length) {
            return Err(strange("this is no PostgreSQL client"));
        }
        let mut body = vec![0; length - 4];
        stream.read_exact(&mut body).await?;
        let mut body = body.as_slice();
        match body.get_u32() {
            SSL | GSS => stream.write_all(b"N").await?,
            CANCEL if body.len() == 8 => return Ok(Hello::Cancel((body.get_i32(), body.get_i32()))),
            version if version >> 16 == 3 => return parameters(body),
            _ => return Err(strange("an unknown version of the protocol")),
        }
    }
    Err(strange("it asks for encryption again and again"))
}

fn parameters(body: &[u8]) -> io::Result<Hello> {
    let mut texts = body.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    let (mut user, mut database) = (String::new(), None);
    let mut parameters = BTreeMap::new();
    while let Some(name) = texts.next().filter(|name| !name.is_empty()) {
        let value = texts.next().ok_or_else(|| strange("a parameter has no value"))?;
        match name.as_str() {
            "user" => user = value,
            "database" => database = Some(value),
            // Options of later versions of the protocol are not offered to the server.
            other if other.starts_with("_pq_.") => {}
            _ => drop(parameters.insert(name, value)),
        }
    }
    Ok(Hello::Session { database: database.unwrap_or(user), parameters })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_named_or_has_the_users_name() {
        let of = |body: &[u8]| match parameters(body).unwrap() {
            Hello::Session { database, parameters } => (database, parameters.len()),
            Hello::Cancel(_) => panic!(),
        };
        assert_eq!(of(b"user\0app\0database\0main\0application_name\0x\0\0"), ("main".into(), 1));
        assert_eq!(of(b"user\0app\0_pq_.x\0y\0\0"), ("app".into(), 0));
        assert!(parameters(b"user").is_err());
    }
}
