//! Sign-in: the messages that carry it, and SCRAM inside them, from both of its ends.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use pgwire::messages::startup::{PasswordMessageFamily, SASLInitialResponse};
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};
use sha2::{Digest, Sha256};

use super::however_cut;
use crate::refusal::encode;
use crate::signin::initial_response;
use crate::wire::read_sasl;
use scram::{Exchange, Keys, Login, PLAIN, PLUS, Verifier};

const PASSWORD: &[u8] = b"secret";
const END_POINT: &[u8] = b"the hash of a certificate, really";

type Key = [u8; 32];

/// Any bytes as messages of a client that signs in, as the SCRAM inside them (a first and a last message
/// with a line's end between), and as what a server answers.
pub fn sasl(data: &[u8]) {
    if let Ok((body, taken)) = however_cut(data, async |stream| read_sasl(stream).await) {
        assert_eq!(data[0], b'p');
        assert_eq!(body, data[5..taken]);
        opened(body);
    }
    let end = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (first, last) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let role = Role::with_salt(&data[..data.len().min(16)]);
    for mechanism in [PLAIN, PLUS] {
        for end_point in [None, Some(END_POINT)] {
            exchanged(&role, mechanism, end_point, first, last);
        }
    }
    answered(&role, data);
    if let Ok(text) = std::str::from_utf8(data) {
        // What is no verifier is none; what is one can be signed in with, or not, but not stumbled over.
        let _ = Verifier::parse(text).map(|verifier| Exchange::start(PLAIN, b"n,,n=,r=x", None, verifier));
    }
}

/// What was taken apart goes together again, and pgwire takes it apart in the same way.
fn opened(body: Bytes) {
    let Ok((mechanism, message)) = initial_response(body.clone()) else { return };
    let again = encode(&SASLInitialResponse::new(mechanism.clone(), Some(message.clone())));
    assert_eq!(again[5..], body);
    let reference = PasswordMessageFamily::Raw(body.into()).into_sasl_initial_response();
    let Ok(reference) = reference else { panic!("pgwire does not take it: {reference:?}") };
    assert_eq!((reference.auth_method, reference.data), (mechanism, Some(message)));
}

/// A role of which both the client's secret and the server's are known.
struct Role {
    client_key: Key,
    stored_key: Key,
    verifier: Verifier,
}

impl Role {
    /// With [`PASSWORD`] and one round.
    fn with_salt(salt: &[u8]) -> Role {
        let salted = mac(PASSWORD, &[salt, &1_u32.to_be_bytes()]);
        let client_key = mac(&salted, &[b"Client Key"]);
        let stored_key: Key = Sha256::digest(client_key).into();
        let base64 = |bytes: &[u8]| BASE64.encode(bytes);
        let (stored, server) = (base64(&stored_key), base64(&mac(&salted, &[b"Server Key"])));
        let text = format!("SCRAM-SHA-256$1:{}${stored}:{server}", base64(salt));
        let Some(verifier) = Verifier::parse(&text) else { panic!("no verifier: {text}") };
        Role { client_key, stored_key, verifier }
    }

    /// What the last message must say before its proof: to what it is bound, and the nonce of both sides.
    fn due(first: &str, end_point: Option<&[u8]>, exchange: &Exchange) -> String {
        let flag = first.split(',').next().unwrap_or_default();
        let mut bound = format!("{flag},,").into_bytes();
        if flag.starts_with("p=") {
            bound.extend_from_slice(end_point.unwrap_or_default());
        }
        let nonce = exchange.server_first().split(',').next().unwrap_or_default();
        let theirs = bare(first).split(',').nth(1).unwrap_or_default();
        assert!(nonce.len() > theirs.len() + 16 && nonce.starts_with(theirs), "{theirs} {nonce}");
        format!("c={},{nonce}", BASE64.encode(bound))
    }

    /// The last message that says something, with the proof for it that only who knows the password has.
    fn proved(&self, first: &str, exchange: &Exchange, said: &str) -> String {
        let auth = format!("{},{},{said}", bare(first), exchange.server_first());
        let mut proof = mac(&self.stored_key, &[auth.as_bytes()]);
        proof.iter_mut().zip(self.client_key).for_each(|(proof, key)| *proof ^= key);
        format!("{said},p={}", BASE64.encode(proof))
    }
}

/// The first message without what is said of binding.
fn bare(first: &str) -> &str {
    first.splitn(3, ',').nth(2).unwrap_or_default()
}

/// A first message that was taken leads to a sign-in by the right last message, and by no other.
fn exchanged(role: &Role, mechanism: &str, end_point: Option<&[u8]>, first: &[u8], last: &[u8]) {
    let start = || Exchange::start(mechanism, first, end_point, role.verifier.clone()).ok();
    let (Some(right), Some(unknown), Some(bent), Some(other)) = (start(), start(), start(), start()) else {
        return;
    };
    let Ok(first) = std::str::from_utf8(first) else { panic!("taken, and no text") };
    let message = role.proved(first, &right, &Role::due(first, end_point, &right));
    assert!(right.finish(message.as_bytes()).is_ok(), "{message}");

    assert!(unknown.finish(last).is_err(), "nobody can know the nonce");

    // One byte changed on the way, or some more behind.
    let message = role.proved(first, &bent, &Role::due(first, end_point, &bent));
    let changed = mangled(message.as_bytes(), last);
    assert_eq!(bent.finish(&changed).is_ok(), changed == message.as_bytes(), "{message}");

    // Who has the password says something else, and proves that: of another certificate, or of another time.
    let due = Role::due(first, end_point, &other);
    let said = mangled(due.as_bytes(), &last[..last.len().min(2)]);
    let said = String::from_utf8_lossy(&said).into_owned();
    let message = role.proved(first, &other, &said);
    if other.finish(message.as_bytes()).is_ok() {
        assert!(said.split(',').take(2).eq(due.split(',')), "{said} instead of {due}");
    }
}

/// Where and how to change a byte, and what to put behind.
fn mangled(message: &[u8], by: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let at = by.first().map_or(0, |at| usize::from(*at) % message.len());
    message[at] ^= by.get(1).copied().unwrap_or(1);
    message.extend_from_slice(by.get(2..).unwrap_or_default());
    message
}

/// The other end: a server's first message is answered only where it continues our nonce and has the salt
/// and the rounds that the keys are of, and only who has the verifier can say the last word.
fn answered(role: &Role, data: &[u8]) {
    let keys = reference_client(role);
    let text = String::from_utf8_lossy(data);
    let mut login = Login::new(keys);
    assert!(login.client_final(data).is_err(), "nobody can know the nonce");
    let first = login.client_first();
    let Some(nonce) = first.strip_prefix("n,,n=,r=") else { panic!("{first}") };
    let challenge = format!("r={nonce}{text}");
    if let Ok(last) = login.client_final(challenge.as_bytes()) {
        let said: Vec<&str> = challenge.split(',').collect();
        let theirs = Exchange::start(PLAIN, b"n,,n=,r=x", None, role.verifier.clone());
        let Ok(theirs) = theirs else { panic!("a good first message was refused") };
        let expected: Vec<&str> = theirs.server_first().split(',').collect();
        assert_eq!(said[1], expected[1], "the salt");
        assert_eq!(said[2].trim_start_matches(['i', '=', '+', '0']), "1", "the rounds");
        assert!(last.starts_with(&format!("c=biws,{},p=", said[0])), "{last}");
    }
    assert!(login.check(data).is_err() && login.check(format!("v={text}").as_bytes()).is_err());
}

/// A client of another author signs in, with and without binding. The keys that it leaves behind.
fn reference_client(role: &Role) -> Keys {
    let sign_in = |mechanism, binding, end_point| {
        let mut client = ScramSha256::new(PASSWORD, binding);
        let exchange = Exchange::start(mechanism, client.message(), end_point, role.verifier.clone()).ok()?;
        client.update(exchange.server_first().as_bytes()).ok()?;
        let (signature, keys) = exchange.finish(client.message()).ok()?;
        client.finish(signature.as_bytes()).ok()?;
        Some(keys)
    };
    let bound = ChannelBinding::tls_server_end_point(END_POINT.to_vec());
    let (Some(_), Some(keys)) = (
        sign_in(PLUS, bound, Some(END_POINT)),
        sign_in(PLAIN, ChannelBinding::unsupported(), Some(END_POINT)),
    ) else {
        panic!("a client of another author cannot sign in")
    };
    keys
}

fn mac(key: &[u8], parts: &[&[u8]]) -> Key {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { panic!("any length will do") };
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}
