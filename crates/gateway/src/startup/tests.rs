use super::*;

fn packet(code: u32, rest: &[u8]) -> Bytes {
    Bytes::from([&code.to_be_bytes()[..], rest].concat())
}

fn startup(rest: &[u8]) -> Result<Startup, Refusal> {
    match parse(packet(3 << 16, rest))? {
        Packet::Startup(startup) => Ok(startup),
        other => panic!("{other:?}"),
    }
}

#[test]
fn parameters_go_to_the_server_as_they_came() {
    let parameters = b"user\0me\0options\0-c geqo=off\0application_name\0caf\xe9\0\0";
    let startup = startup(parameters).unwrap();
    assert_eq!(startup.user(), b"me");
    assert_eq!(startup.database(), b"me", "the database defaults to the role's name");
    let sent = startup.for_server();
    assert_eq!(&sent[..4], &u32::try_from(sent.len()).unwrap().to_be_bytes());
    assert_eq!(&sent[4..8], &[0, 3, 0, 0], "3.0, whatever the client speaks");
    assert_eq!(&sent[8..], parameters, "byte for byte, also what is no UTF-8");
}

#[test]
fn newer_minors_and_unknown_options_are_negotiated() {
    let Ok(Packet::Startup(newer)) = parse(packet(3 << 16 | 9999, b"user\0me\0_pq_.x\0on\0\0")) else {
        panic!("not taken")
    };
    assert!(newer.must_negotiate());
    assert_eq!(newer.agreed_minor(), 2);
    assert_eq!(newer.unknown_options, [Bytes::from_static(b"_pq_.x")]);
    assert!(!newer.for_server().windows(5).any(|w| w == b"_pq_."), "the server is not asked");
    let Ok(Packet::Startup(same)) = parse(packet(3 << 16 | 2, b"user\0me\0\0")) else { panic!("not taken") };
    assert!(!same.must_negotiate());
    assert!(!startup(b"user\0me\0\0").unwrap().must_negotiate());
}

#[test]
fn what_is_no_packet_is_refused() {
    for (code, rest) in [
        (2 << 16, &b"user\0me\0\0"[..]),
        (4 << 16, b"user\0me\0\0"),
        (3 << 16, b""),
        (3 << 16, b"\0"),
        (3 << 16, b"user"),
        (3 << 16, b"user\0me"),
        (3 << 16, b"user\0me\0"),
        (3 << 16, b"user\0\0\0"),
        (3 << 16, b"database\0x\0\0"),
        (3 << 16, b"user\0me\0\0trailing"),
        (SSL, b"x"),
        (GSS, b"x"),
        (CANCEL, b""),
        (CANCEL, b"\0\0\0\x01"),
        (CANCEL, &[0; 261]),
    ] {
        assert!(parse(packet(code, rest)).is_err(), "{code} {rest:?} was taken");
    }
    assert!(parse(Bytes::from_static(b"\0\x03")).is_err());
    for length in [0, 4, 7, 10_001, u32::MAX] {
        assert!(body_length(length.to_be_bytes()).is_err(), "{length}");
    }
    assert_eq!(body_length(10_000_u32.to_be_bytes()).unwrap(), 9_996);
}

#[test]
fn requests_without_parameters_are_known() {
    assert_eq!(parse(packet(SSL, b"")).unwrap(), Packet::Ssl);
    assert_eq!(parse(packet(GSS, b"")).unwrap(), Packet::Gss);
    let Ok(Packet::Cancel(request)) = parse(packet(CANCEL, b"\0\0\x01\x02key!")) else { panic!("not taken") };
    assert_eq!((request.pid, &request.key[..]), (0x102, &b"key!"[..]));
}

/// Whatever comes, it is an answer or an error: bytes at random, and good packets with bytes changed.
#[test]
fn nothing_makes_it_panic() {
    let good = packet(3 << 16, b"user\0me\0database\0x\0_pq_.y\0z\0\0");
    for round in 0..20_000 {
        let mut bytes = if round % 2 == 0 {
            good.to_vec()
        } else {
            (0..rand::random_range(0..64)).map(|_| rand::random()).collect()
        };
        for _ in 0..rand::random_range(0..4) {
            if !bytes.is_empty() {
                let at = rand::random_range(0..bytes.len());
                bytes[at] = rand::random();
                bytes.truncate(rand::random_range(at..=bytes.len()));
            }
        }
        let _ = parse(Bytes::from(bytes));
    }
}
