use super::*;

const END_POINT_HASH: &[u8] = b"the hash of a certificate, really";

/// The verifier of a password, as PostgreSQL makes it (`Hi` is PBKDF2 with one block).
fn verifier_of(password: &str, salt: &[u8], iterations: u32) -> (Verifier, Key) {
    let mac = |key: &[u8], data: &[u8]| -> Key {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(data);
        mac.finalize().into_bytes().into()
    };
    let mut block = mac(password.as_bytes(), &[salt, &1_u32.to_be_bytes()].concat());
    let mut salted = block;
    for _ in 1..iterations {
        block = mac(password.as_bytes(), &block);
        salted = xor(salted, block);
    }
    let client_key = hmac(&salted, &[b"Client Key"]);
    let verifier = Verifier {
        iterations,
        salt: BASE64.encode(salt),
        stored_key: sha256(&client_key),
        server_key: hmac(&salted, &[b"Server Key"]),
        mock: false,
    };
    (verifier, client_key)
}

fn some_verifier() -> Verifier {
    verifier_of("secret", b"salt", 4).0
}

/// RFC 7677, section 3.
#[test]
fn the_example_of_the_rfc() {
    let nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    let (verifier, client_key) =
        verifier_of("pencil", &BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap(), 4096);
    let exchange = Exchange {
        expected_binding: "biws".into(),
        binding: Binding::No,
        nonce: nonce.into(),
        client_first_bare: "n=user,r=rOprNGfwEbeRWgbNEkqO".into(),
        server_first: format!("r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"),
        verifier,
    };
    let last = format!("c=biws,r={nonce},p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
    let (answer, keys) = exchange.finish(last.as_bytes()).map_err(|e| e.to_string()).unwrap();
    assert_eq!(answer, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    assert_eq!(keys.client_key, client_key, "a right proof gives the client key away");
}

/// A client of the wire, as strict as libpq: what it sends, given what it was sent.
struct Wire {
    client_key: Key,
    header: &'static str,
    bound: &'static [u8],
}

impl Wire {
    fn last(&self, bare: &str, exchange: &Exchange) -> String {
        let nonce = exchange.server_first().split(',').next().unwrap();
        let binding = BASE64.encode([self.header.as_bytes(), self.bound].concat());
        let without_proof = format!("c={binding},{nonce}");
        let auth = format!("{bare},{},{without_proof}", exchange.server_first());
        let proof = xor(self.client_key, hmac(&sha256(&self.client_key), &[auth.as_bytes()]));
        format!("{without_proof},p={}", BASE64.encode(proof))
    }

    fn run(&self, mechanism: &str, verifier: Verifier) -> Result<(String, Keys), ScramError> {
        let bare = "n=,r=abcdefgh";
        let first = format!("{}{bare}", self.header);
        let exchange = Exchange::start(mechanism, first.as_bytes(), Some(END_POINT_HASH), verifier)?;
        let last = self.last(bare, &exchange);
        exchange.finish(last.as_bytes())
    }
}

#[test]
fn recovered_keys_sign_in_to_a_server_that_holds_the_same_verifier() {
    let (verifier, client_key) = verifier_of("secret", b"salt", 4);
    let client = Wire { client_key, header: "p=tls-server-end-point,,", bound: END_POINT_HASH };
    let (_, keys) = client.run(PLUS, verifier.clone()).map_err(|e| e.to_string()).unwrap();
    let mut login = Login::new(keys);
    let server =
        Exchange::start(PLAIN, login.client_first().as_bytes(), None, verifier).map_err(|e| e.to_string());
    let server = server.unwrap();
    let last = login.client_final(server.server_first().as_bytes()).unwrap();
    let (signature, _) = server.finish(last.as_bytes()).map_err(|e| e.to_string()).unwrap();
    assert_eq!(login.check(signature.as_bytes()), Ok(()));
    assert_eq!(login.check(b"v=AAAA"), Err(ScramError::WrongServer));
    assert_eq!(login.check(b"e=no"), Err(ScramError::WrongServer));
}

#[test]
fn a_key_recovered_from_an_old_password_is_not_tried_on_a_new_one() {
    let (verifier, client_key) = verifier_of("secret", b"salt", 4);
    let client = Wire { client_key, header: "n,,", bound: b"" };
    let (_, keys) = client.run(PLAIN, verifier).map_err(|e| e.to_string()).unwrap();
    let mut login = Login::new(keys);
    let rotated = verifier_of("other", b"tlas", 4).0;
    let server = Exchange::start(PLAIN, login.client_first().as_bytes(), None, rotated);
    let server = server.map_err(|e| e.to_string()).unwrap();
    assert_eq!(login.client_final(server.server_first().as_bytes()), Err(ScramError::WrongProof));
}

/// Who stands in the middle has another certificate; who strips the binding is told off.
#[test]
fn channel_binding_is_checked_from_every_side() {
    let (verifier, client_key) = verifier_of("secret", b"salt", 4);
    let outcome = |header, bound, mechanism| {
        Wire { client_key, header, bound }.run(mechanism, verifier.clone()).map(|_| ())
    };
    assert_eq!(outcome("p=tls-server-end-point,,", END_POINT_HASH, PLUS), Ok(()));
    assert_eq!(outcome("n,,", b"", PLAIN), Ok(()));
    let binding = |outcome| matches!(outcome, Err(ScramError::Binding(_)));
    assert!(binding(outcome("p=tls-server-end-point,,", b"another certificate's hash", PLUS)));
    assert!(binding(outcome("p=tls-server-end-point,,", b"", PLUS)));
    assert!(binding(outcome("y,,", b"", PLAIN)), "a client that was told we cannot bind");
    let other = |outcome| matches!(outcome, Err(ScramError::Malformed(_) | ScramError::Unsupported(_)));
    assert!(other(outcome("n,,", b"", PLUS)));
    assert!(other(outcome("p=tls-server-end-point,,", END_POINT_HASH, PLAIN)));
    assert!(other(outcome("p=tls-unique,,", END_POINT_HASH, PLUS)));
    assert!(other(outcome("n,a=admin,", b"", PLAIN)));
}

#[test]
fn no_proof_fits_a_mock_and_it_looks_the_same_each_time() {
    let secret = [7; 32];
    let one = Verifier::mock(&secret, "server", b"nobody");
    let two = Verifier::mock(&secret, "server", b"nobody");
    let other = Verifier::mock(&secret, "server", b"somebody");
    assert_eq!((&one.salt, one.iterations), (&two.salt, two.iterations));
    assert_ne!(one.salt, other.salt);
    assert_ne!(one.salt, Verifier::mock(&secret, "another", b"nobody").salt);
    assert_eq!(BASE64.decode(&one.salt).unwrap().len(), 16, "as long as PostgreSQL's");
    let client = Wire { client_key: [1; 32], header: "n,,", bound: b"" };
    assert_eq!(client.run(PLAIN, one).map(|_| ()), Err(ScramError::WrongProof));
    // Even a key that fits by chance or theft does not open a role that is not there.
    let mut stolen = Verifier::mock(&secret, "server", b"nobody");
    stolen.stored_key = sha256(&[1; 32]);
    assert_eq!(client.run(PLAIN, stolen).map(|_| ()), Err(ScramError::WrongProof));
}

#[test]
fn verifiers_are_read_as_postgresql_writes_them() {
    let key = BASE64.encode([9; 32]);
    let good = format!("SCRAM-SHA-256$4096:c2FsdA==${key}:{key}");
    assert!(Verifier::parse(&good).is_some());
    for bad in [
        "".to_owned(),
        "md5aabbccddeeff00112233445566778899".to_owned(),
        good.replace("4096", "0"),
        good.replace("4096", "many"),
        good.replace("c2FsdA==", "not base64"),
        format!("SCRAM-SHA-256$4096:c2FsdA==${key}"),
        format!("SCRAM-SHA-256$4096:c2FsdA==$AAAA:{key}"),
        good.replace("SHA-256", "SHA-512"),
    ] {
        assert!(Verifier::parse(&bad).is_none(), "{bad}");
    }
}

#[test]
fn first_messages_that_make_no_sense_are_refused() {
    for bad in [
        "",
        ",",
        ",,",
        "n",
        "n,,",
        "n,,n=x",
        "n,,n=x,r=",
        "n,,r=abc",
        "n,,n=x,r=a b",
        "n,,n=x,r=\u{e4}",
        "n,,m=x,n=,r=abc",
        "q,,n=x,r=abc",
        "n,x,n=x,r=abc",
    ] {
        let outcome = Exchange::start(PLAIN, bad.as_bytes(), None, some_verifier());
        assert!(outcome.is_err(), "{bad:?} was taken");
    }
    assert!(Exchange::start(PLAIN, b"n,,n=\xff,r=abc", None, some_verifier()).is_err());
    assert!(Exchange::start(PLAIN, b"n,,n=x,r=abc,z=extension", None, some_verifier()).is_ok());
}

#[test]
fn last_messages_that_make_no_sense_are_refused() {
    let proof = BASE64.encode([0; 32]);
    for shape in [
        "",
        "p=",
        ",p=",
        "c=biws,p=PROOF",
        "c=biws,r=NONCE",
        "r=NONCE,c=biws,p=PROOF",
        "c=biws,r=NONCE,p=",
        "c=biws,r=NONCE,p=AAAA",
        "c=biws,r=NONCEx,p=PROOF",
        "c=biws,r=,p=PROOF",
        "c=eSws,r=NONCE,p=PROOF",
        "c=biws,r=NONCE,junk,p=PROOF",
        "c=biws,r=NONCE,p=PROOF,x=y",
    ] {
        let exchange = Exchange::start(PLAIN, b"n,,n=x,r=abc", None, some_verifier());
        let exchange = exchange.map_err(|e| e.to_string()).unwrap();
        let last = shape.replace("NONCE", &exchange.nonce).replace("PROOF", &proof);
        assert!(exchange.finish(last.as_bytes()).is_err(), "{last:?} was taken");
    }
}

#[test]
fn a_server_that_answers_with_another_nonce_is_not_signed_in_to() {
    let (verifier, client_key) = verifier_of("secret", b"salt", 4);
    let client = Wire { client_key, header: "n,,", bound: b"" };
    for shape in ["", "r=x,s=c2FsdA==,i=4", "r=NONCE,s=c2FsdA==,i=4", "s=c2FsdA==,r=NONCEmore,i=4"] {
        let (_, keys) = client.run(PLAIN, verifier.clone()).map_err(|e| e.to_string()).unwrap();
        let mut login = Login::new(keys);
        let first = shape.replace("NONCE", &login.nonce);
        assert!(login.client_final(first.as_bytes()).is_err(), "{first:?} was taken");
    }
}
