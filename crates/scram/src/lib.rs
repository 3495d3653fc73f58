//! SCRAM-SHA-256, both ends of it (RFC 5802, RFC 7677, and PostgreSQL's `auth-scram.c`).
//!
//! The gateway is the server towards the client and the client towards PostgreSQL, and knows no password:
//! a verifier (`StoredKey`, `ServerKey`) suffices to check a proof, and a proof that is right gives away
//! the `ClientKey`, with which the gateway can prove itself to the server that issued the verifier.
//! No kept crate does this: pgwire's server wants the salted password and its client a password, and
//! `postgres-protocol` is a client only. What is here is text in, text out; who sends it is in `signin.rs` and
//! `backend.rs` of the gateway. The lake's service is a server in the same way: `signin.rs` there.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The mechanism without channel binding.
pub const PLAIN: &str = "SCRAM-SHA-256";
/// The mechanism with channel binding.
pub const PLUS: &str = "SCRAM-SHA-256-PLUS";
/// The only binding PostgreSQL knows: the hash of the server's certificate (RFC 5929).
const END_POINT: &str = "tls-server-end-point";
/// What PostgreSQL asks for by default; a made-up verifier must look the same.
const MOCK_ITERATIONS: u32 = 4096;

/// A key, or a hash.
pub type Key = [u8; 32];

/// Why an exchange failed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ScramError {
    /// The message is not of RFC 5802's form.
    #[error("malformed SCRAM message: {0}")]
    Malformed(&'static str),
    /// Something RFC 5802 allows and PostgreSQL does not do.
    #[error("the client asks for {0}, which PostgreSQL does not offer")]
    Unsupported(&'static str),
    /// Client and server disagree about binding: somebody sits between them, or the client is confused.
    #[error("SCRAM channel binding check failed: {0}")]
    Binding(&'static str),
    /// The proof is wrong: a wrong password, or a role that does not exist.
    #[error("wrong proof")]
    WrongProof,
    /// The server did not prove that it knows the verifier.
    #[error("the server could not prove that it knows the role's verifier")]
    WrongServer,
}

/// What the server keeps of a password (`pg_authid.rolpassword`).
#[derive(Clone)]
pub struct Verifier {
    iterations: u32,
    salt: String,
    stored_key: Key,
    server_key: Key,
    /// Made up for a role that cannot sign in: no proof fits it.
    mock: bool,
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Verifier> {
        let (parameters, keys) = text.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored, server) = keys.split_once(':')?;
        BASE64.decode(salt).ok()?;
        Some(Verifier {
            iterations: iterations.parse().ok().filter(|n| *n > 0)?,
            salt: salt.to_owned(),
            stored_key: decode_key(stored)?,
            server_key: decode_key(server)?,
            mock: false,
        })
    }

    /// A verifier for a role that is not there: the same salt at each try, as a real one would have, so
    /// that asking twice tells nobody which roles exist.
    pub fn mock(secret: &Key, server: &str, user: &[u8]) -> Verifier {
        let salt = hmac(secret, &[server.as_bytes(), b"\0", user]);
        Verifier {
            iterations: MOCK_ITERATIONS,
            salt: BASE64.encode(&salt[..16]),
            stored_key: rand::random(),
            server_key: rand::random(),
            mock: true,
        }
    }
}

/// What a right proof leaves behind: enough to sign in to the server in the client's name, once the
/// server is shown to hold the same verifier.
#[derive(Clone)]
pub struct Keys {
    client_key: Key,
    verifier: Verifier,
}

/// What the client said of channel binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binding {
    /// It does not know it.
    No,
    /// It checked the certificate it was shown.
    EndPoint,
}

/// The server's end, after the client's first message.
pub struct Exchange {
    /// `c=` of the client's last message must be exactly this.
    expected_binding: String,
    /// Whether the session is bound to the certificate.
    pub binding: Binding,
    nonce: String,
    client_first_bare: String,
    server_first: String,
    verifier: Verifier,
}

impl Exchange {
    /// Takes the client's first message. `end_point` is the hash of our certificate, `None` where its
    /// algorithm has none (then [`PLUS`] was not offered).
    pub fn start(
        mechanism: &str,
        message: &[u8],
        end_point: Option<&[u8]>,
        verifier: Verifier,
    ) -> Result<Exchange, ScramError> {
        let message = text(message)?;
        let first = ClientFirst::parse(message)?;
        let binding = check_binding(mechanism, first.flag, end_point.is_some())?;
        let mut bound = first.header.as_bytes().to_vec();
        if let (Binding::EndPoint, Some(hash)) = (binding, end_point) {
            bound.extend_from_slice(hash);
        }
        let nonce = format!("{}{}", first.nonce, fresh_nonce());
        let server_first = format!("r={nonce},s={},i={}", verifier.salt, verifier.iterations);
        Ok(Exchange {
            expected_binding: BASE64.encode(bound),
            binding,
            nonce,
            client_first_bare: first.bare.to_owned(),
            server_first,
            verifier,
        })
    }

    /// The answer to the client's first message.
    pub fn server_first(&self) -> &str {
        &self.server_first
    }

    /// Takes the client's last message; gives the server's last and the keys.
    pub fn finish(self, message: &[u8]) -> Result<(String, Keys), ScramError> {
        let message = text(message)?;
        let (without_proof, proof) =
            message.rsplit_once(",p=").ok_or(ScramError::Malformed("no proof in the last message"))?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|a| a.strip_prefix("c="));
        let nonce = attributes.next().and_then(|a| a.strip_prefix("r="));
        let (Some(binding), Some(nonce)) = (binding, nonce) else {
            return Err(ScramError::Malformed("the last message does not begin with c= and r="));
        };
        if attributes.any(|a| a.as_bytes().get(1) != Some(&b'=')) {
            return Err(ScramError::Malformed("an extension is no attribute"));
        }
        if !equal(binding.as_bytes(), self.expected_binding.as_bytes()) {
            return Err(ScramError::Binding("the client is bound to another certificate or connection"));
        }
        if !equal(nonce.as_bytes(), self.nonce.as_bytes()) {
            return Err(ScramError::Malformed("the nonce is another one"));
        }
        let proof = decode_key(proof).ok_or(ScramError::Malformed("the proof is not 32 bytes of base64"))?;
        let auth = [
            self.client_first_bare.as_bytes(),
            b",",
            self.server_first.as_bytes(),
            b",",
            without_proof.as_bytes(),
        ];
        let client_key = xor(proof, hmac(&self.verifier.stored_key, &auth));
        let right = equal(&sha256(&client_key), &self.verifier.stored_key);
        if !right || self.verifier.mock {
            return Err(ScramError::WrongProof);
        }
        let signature = BASE64.encode(hmac(&self.verifier.server_key, &auth));
        Ok((format!("v={signature}"), Keys { client_key, verifier: self.verifier }))
    }
}

/// The client's end, towards PostgreSQL, over its Unix socket (so: no channel binding).
pub struct Login {
    keys: Keys,
    nonce: String,
    auth: String,
}

impl Login {
    /// Begins an exchange with recovered keys.
    pub fn new(keys: Keys) -> Login {
        Login { keys, nonce: fresh_nonce(), auth: String::new() }
    }

    /// The client's first message. The name is left out as libpq does: PostgreSQL goes by the startup packet.
    pub fn client_first(&self) -> String {
        format!("n,,n=,r={}", self.nonce)
    }

    /// Takes the server's first message, gives the client's last.
    pub fn client_final(&mut self, message: &[u8]) -> Result<String, ScramError> {
        let message = text(message)?;
        let mut attributes = message.split(',');
        let mut next = |name| attributes.next().and_then(|a: &str| a.strip_prefix(name));
        let (Some(nonce), Some(salt), Some(iterations)) = (next("r="), next("s="), next("i=")) else {
            return Err(ScramError::Malformed("the server's first message is not r=,s=,i="));
        };
        if nonce.len() <= self.nonce.len() || !nonce.starts_with(&self.nonce) {
            return Err(ScramError::Malformed("the server's nonce does not continue ours"));
        }
        let verifier = &self.keys.verifier;
        if salt != verifier.salt || iterations.parse() != Ok(verifier.iterations) {
            // The password was changed between the check and now: the key is of the old one.
            return Err(ScramError::WrongProof);
        }
        let without_proof = format!("c=biws,r={nonce}");
        self.auth = format!("n=,r={},{message},{without_proof}", self.nonce);
        let proof = xor(self.keys.client_key, hmac(&verifier.stored_key, &[self.auth.as_bytes()]));
        Ok(format!("{without_proof},p={}", BASE64.encode(proof)))
    }

    /// Checks the server's last message.
    pub fn check(&self, message: &[u8]) -> Result<(), ScramError> {
        let signature = text(message)?.strip_prefix("v=").and_then(decode_key);
        let expected = hmac(&self.keys.verifier.server_key, &[self.auth.as_bytes()]);
        match signature {
            Some(signature) if equal(&signature, &expected) => Ok(()),
            _ => Err(ScramError::WrongServer),
        }
    }
}

/// `gs2-header client-first-message-bare`, taken apart.
struct ClientFirst<'a> {
    /// `n`, `y` or `p=...`.
    flag: &'a str,
    /// Up to and with the second comma.
    header: &'a str,
    bare: &'a str,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a str) -> Result<ClientFirst<'a>, ScramError> {
        let mut parts = message.splitn(3, ',');
        let (Some(flag), Some(authzid), Some(bare)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ScramError::Malformed("the first message has no header"));
        };
        if !authzid.is_empty() {
            return Err(ScramError::Unsupported("an authorization identity"));
        }
        if bare.starts_with("m=") {
            return Err(ScramError::Unsupported("a mandatory extension"));
        }
        let mut attributes = bare.split(',');
        let name = attributes.next().and_then(|a| a.strip_prefix("n="));
        let nonce = attributes.next().and_then(|a| a.strip_prefix("r="));
        let (Some(_), Some(nonce)) = (name, nonce) else {
            return Err(ScramError::Malformed("the first message does not go n=, r="));
        };
        if nonce.is_empty() || !nonce.bytes().all(|b| (0x21..=0x7e).contains(&b)) {
            return Err(ScramError::Malformed("the nonce is not printable"));
        }
        Ok(ClientFirst { flag, header: &message[..message.len() - bare.len()], bare, nonce })
    }
}

/// Mechanism and flag must tell the same story (RFC 5802, section 6): a client that could bind and was
/// told that we cannot has been lied to.
fn check_binding(mechanism: &str, flag: &str, offered: bool) -> Result<Binding, ScramError> {
    match (mechanism, flag) {
        (PLUS, _) if !offered => Err(ScramError::Unsupported("channel binding")),
        (PLUS, _) => match flag.strip_prefix("p=") {
            Some(END_POINT) => Ok(Binding::EndPoint),
            Some(_) => Err(ScramError::Unsupported("another channel binding than tls-server-end-point")),
            None => Err(ScramError::Malformed("SCRAM-SHA-256-PLUS without channel binding data")),
        },
        (_, "n") => Ok(Binding::No),
        (_, "y") if offered => {
            Err(ScramError::Binding("the client thinks that the server cannot bind, but it can"))
        }
        (_, "y") => Ok(Binding::No),
        (_, _) if flag.starts_with("p=") => {
            Err(ScramError::Malformed("SCRAM-SHA-256 with channel binding data"))
        }
        _ => Err(ScramError::Malformed("the channel binding flag is none of n, y and p=")),
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    std::str::from_utf8(message).map_err(|_| ScramError::Malformed("not UTF-8"))
}

fn fresh_nonce() -> String {
    BASE64.encode(rand::random::<[u8; 18]>())
}

fn decode_key(text: &str) -> Option<Key> {
    BASE64.decode(text).ok()?.try_into().ok()
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length: the error cannot happen")]
fn hmac(key: &Key, parts: &[&[u8]]) -> Key {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length will do");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn sha256(data: &[u8]) -> Key {
    Sha256::digest(data).into()
}

fn xor(mut a: Key, b: Key) -> Key {
    for (a, b) in a.iter_mut().zip(b) {
        *a ^= b;
    }
    a
}

fn equal(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests;
