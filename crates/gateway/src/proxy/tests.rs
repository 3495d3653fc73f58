//! Headers as balancers send them, and every way in which one can be cut short or damaged.

use super::*;

/// A header: command, family and protocol, what follows.
fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[0x20 | command, family], &length, body].concat()
}

const V4: &[u8] = &[203, 0, 113, 7, 10, 0, 0, 1, 0x9c, 0x40, 0x15, 0x38];

fn v6() -> Vec<u8> {
    let client = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets();
    [&client[..], &[0; 16], &[0x9c, 0x40, 0x15, 0x38]].concat()
}

fn extension(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// With a name, a checksum that is right, and a kind that nobody knows behind it.
fn with_checksum() -> Vec<u8> {
    let name = extension(0x02, b"db.example.org");
    let body = [V4, &name, &extension(0x03, &[0; 4]), &extension(0xE5, b"?")].concat();
    let mut whole = header(1, 0x11, &body);
    let at = FIXED + V4.len() + name.len() + 3;
    let sum = CRC32C.checksum(&whole).to_be_bytes();
    whole[at..at + 4].copy_from_slice(&sum);
    whole
}

/// Reads a header that a TLS record follows, and gives what is left to read.
async fn read_before(bytes: &[u8], after: &[u8]) -> (Result<Origin, String>, usize) {
    let all = [bytes, after].concat();
    let mut stream = all.as_slice();
    let origin = read(&mut stream).await.map_err(|refusal| refusal.to_string());
    (origin, stream.len())
}

#[test]
fn the_checksum_is_the_one_of_rfc_3720() {
    // Its appendix B.4: 32 bytes of zeros.
    assert_eq!(CRC32C.checksum(&[0; 32]), 0x8a91_36aa);
}

#[tokio::test]
async fn what_balancers_send() {
    let client = |text: &str| Ok(Origin::Client(text.parse().unwrap()));
    let noop = extension(0x04, &[0; 300]);
    for (bytes, origin) in [
        (header(1, 0x11, V4), client("203.0.113.7:40000")),
        (header(1, 0x21, &v6()), client("[2001:db8::7]:40000")),
        (header(1, 0x11, &[V4, &noop].concat()), client("203.0.113.7:40000")),
        (with_checksum(), client("203.0.113.7:40000")),
        // A look whether somebody answers: with nothing, with addresses, with what makes no sense.
        (header(0, 0x00, &[]), Ok(Origin::Balancer)),
        (header(0, 0x11, V4), Ok(Origin::Balancer)),
        (header(0, 0x00, &[0xff; 7]), Ok(Origin::Balancer)),
    ] {
        assert_eq!(read_before(&bytes, b"\x16\x03\x01").await, (origin, 3), "{bytes:?}");
    }
}

#[tokio::test]
async fn what_does_not_count() {
    for (bytes, why) in [
        (b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec(), "the load balancer sent none"),
        (b"\x16".to_vec(), "the load balancer sent none"),
        (b"\r\n\r\n\0\r\nquit\n".to_vec(), "the load balancer sent none"),
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 1 2\r\n".to_vec(), "sent version 1"),
        (header(2, 0x11, V4), "malformed"),
        (header(1, 0x41, V4), "malformed"),
        (header(1, 0x13, V4), "malformed"),
        (header(1, 0x11, &V4[..11]), "malformed"),
        (header(1, 0x21, V4), "malformed"),
        (header(1, 0x11, &[V4, &[1, 0]].concat()), "malformed"),
        (header(1, 0x11, &[V4, &[1, 0, 9, 0]].concat()), "malformed"),
        (header(1, 0x11, &[V4, &extension(0x03, &[1; 4])].concat()), "checksum"),
        (header(1, 0x11, &[V4, &extension(0x03, &[1; 3])].concat()), "checksum"),
        (header(1, 0x11, &vec![0; LONGEST]), "longer than 4096 bytes"),
        // Nobody of TCP: no family, datagrams, a Unix socket.
        (header(1, 0x00, &[]), "names no TCP client"),
        (header(1, 0x12, V4), "names no TCP client"),
        (header(1, 0x31, &[b'/'; 216]), "names no TCP client"),
    ] {
        let (origin, _) = read_before(&bytes, b"").await;
        assert!(origin.as_ref().is_err_and(|said| said.contains(why)), "{bytes:?}: {origin:?}");
    }
}

/// Cut short anywhere, it is the end of the connection and no address.
#[tokio::test]
async fn every_truncation_is_refused() {
    for whole in [with_checksum(), header(1, 0x21, &v6()), header(0, 0x00, &[])] {
        for length in 0..whole.len() {
            let (origin, _) = read_before(&whole[..length], b"").await;
            assert!(origin.is_err_and(|said| said.contains("connection lost")), "{length}");
        }
    }
}

/// A byte that has any other value than it should never makes it another client's connection: the checksum
/// sees to that (the control is the same header without one).
#[tokio::test]
async fn no_damaged_byte_gives_another_address() {
    let whole = with_checksum();
    let (right, _) = read_before(&whole, b"").await;
    for at in 0..whole.len() {
        for flip in 1..=255 {
            let mut damaged = whole.clone();
            damaged[at] ^= flip;
            let (origin, _) = read_before(&damaged, &[0; 300]).await;
            // Two bytes decide whether there is a checksum to look at: a LOCAL header is not looked into,
            // and with the family of IPv6 it lies where the address is taken from.
            let unchecked =
                (at == SIGNATURE.len() && flip == 1) || (at == SIGNATURE.len() + 1 && flip == 0x30);
            assert!(origin.is_err() || origin == right || unchecked, "byte {at} ^ {flip}: {origin:?}");
        }
    }
    let mut unguarded = header(1, 0x11, V4);
    unguarded[FIXED] ^= 1;
    assert!(read_before(&unguarded, &[]).await.0.is_ok_and(|origin| Ok(origin) != right));
}
