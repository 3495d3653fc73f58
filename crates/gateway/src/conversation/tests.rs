use super::{Conversation, LONGEST_UNNAMED, Unnamed};

/// A message of the kind with the body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes();
    [&[kind], &length[..], body].concat()
}

/// Client's messages in upper and lower case as they are on the wire, `<` before what the server says:
/// `Q<CZ` is a query and its answer. `T` and `I` after `Z` give the transaction's state.
fn play(script: &str) -> Conversation {
    let mut conversation = Conversation::default();
    let mut letters = script.bytes().peekable();
    let mut server = false;
    while let Some(letter) = letters.next() {
        match letter {
            b'<' => server = true,
            b'>' => server = false,
            b'Z' => {
                let status = letters.next_if(|next| matches!(next, b'T' | b'E')).unwrap_or(b'I');
                conversation.answered(&message(b'Z', &[status]));
            }
            kind if server => conversation.answered(&message(kind, b"\0\0")),
            kind => conversation.asked(&message(kind, b"name\0text\0\0\0")),
        }
    }
    conversation
}

#[test]
fn a_session_rests_when_everything_is_answered() {
    for script in ["", "Q<TDCZ", "PBDES<12TDCZ", "QQ<CZCZ", "Q<CZT>Q<CZ", "F<VZ", "PS<1Z>BES<2CZ"] {
        assert!(play(script).at_rest(), "{script}");
    }
    for script in ["Q", "Q<C", "PBE", "PBEH<12C", "QQ<CZ", "Q<CZT", "Q<EZE", "PBES<12C", "PBESPBE<12CZ"] {
        assert!(!play(script).at_rest(), "{script}");
    }
}

/// While it takes data the server passes over Syncs; clients send one more at the end.
#[test]
fn copy_in_ends_in_rest() {
    // The last: a client that had not heard of the error still sends data, which the server passes over.
    for script in
        ["Q<G>ddc<CZ", "Q<G>df<EZ", "BES<2G>ddcS<CZ", "BE<2G>dSdcS<CZ", "BEdcS<2GCZ", "Q<G>dd<EZ>dc"]
    {
        assert!(play(script).at_rest(), "{script}");
    }
    for script in ["Q<G", "Q<G>d", "Q<G>dc", "Q<G>dc<C", "BES<2G", "BES<2G>dc", "BES<2G>dcS", "BES<2G>dcS<C"]
    {
        assert!(!play(script).at_rest(), "{script}");
    }
}

/// Where it cannot be told which Syncs the server passed over, some exchanges later it can.
#[test]
fn a_doubtful_count_is_not_believed() {
    for script in ["BESdcSQ<2GCZCZ", "BES<2GEZ>cS<Z", "BES<2G>d<E>cS<Z"] {
        assert!(!play(script).at_rest(), "{script}");
        assert!(play(script).needs_client(), "{script}");
        let later = format!("{script}{}", ">Q<CZ".repeat(3));
        assert!(play(&later).at_rest(), "{later}");
    }
}

#[test]
fn it_is_known_whose_turn_it_is() {
    for script in ["PBE", "Q<CZT", "Q<G>d", "BES<2G>dc"] {
        assert!(play(script).needs_client(), "{script}");
    }
    for script in ["Q", "PBES", "Q<CZT>Q", "Q<G>dc", "BES<2G>dcS"] {
        assert!(!play(script).needs_client(), "{script}");
    }
}

/// As many as anybody likes in one go.
#[test]
fn a_long_pipeline_comes_to_rest() {
    let script = "PBES".repeat(100) + "<" + &"12CZ".repeat(100);
    assert!(play(&script).at_rest());
    let script = "PBES".repeat(100) + "<" + &"12CZ".repeat(99);
    assert!(!play(&script).at_rest());
}

/// However the stream is cut, and with other statements in between.
#[test]
fn the_statement_without_a_name_is_remembered() {
    let parse = message(b'P', b"\0select $1\0\0\x01\0\0\0\x17");
    let stream = [parse.clone(), message(b'P', b"named\0select 2\0\0\0"), message(b'S', b"")].concat();
    for cut in 0..=stream.len() {
        let mut conversation = Conversation::default();
        conversation.asked(&stream[..cut]);
        conversation.asked(&stream[cut..]);
        assert!(matches!(conversation.unnamed(), Unnamed::Parsed(text) if *text == parse[5..]), "{cut}");
        conversation.asked(&message(b'Q', b"select 3\0"));
        assert!(matches!(conversation.unnamed(), Unnamed::None));
    }
    let mut conversation = Conversation::default();
    conversation.asked(&message(b'P', &vec![0; LONGEST_UNNAMED + 1]));
    assert!(matches!(conversation.unnamed(), Unnamed::TooLong));
    conversation.asked(&parse);
    assert!(matches!(conversation.unnamed(), Unnamed::Parsed(_)));
}
