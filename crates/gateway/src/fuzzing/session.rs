//! A session's two streams: whether it is at rest does not depend on how the network cuts them.

use crate::conversation::Conversation;

/// What is known of a session between two reads.
fn known(conversation: &Conversation) -> String {
    let (rests, client) = (conversation.at_rest(), conversation.needs_client());
    assert!(!(rests && client), "at rest, and it waits for the client");
    let (between, error) = (conversation.between_answers(), conversation.last_was_error());
    format!("{rests} {client} {between} {error} {:?}", conversation.unnamed())
}

/// Pieces of both streams in turn: a byte says whose it is (the highest bit) and how long, then come its bytes.
pub fn session(mut data: &[u8]) {
    let (mut whole, mut bytewise) = (Conversation::default(), Conversation::default());
    while let Some((head, rest)) = data.split_first() {
        let length = usize::from(head & 0x7f).min(rest.len());
        let (piece, rest) = rest.split_at(length);
        if head & 0x80 == 0 {
            whole.asked(piece);
            piece.chunks(1).for_each(|byte| bytewise.asked(byte));
        } else {
            whole.answered(piece);
            piece.chunks(1).for_each(|byte| bytewise.answered(byte));
        }
        assert_eq!(known(&whole), known(&bytewise));
        data = rest;
    }
    // However little may be certain before, whole exchanges bring it to rest, if both sides still make sense.
    if whole.at_rest() {
        whole.asked(b"Q\0\0\0\x0dselect 1\0");
        assert!(!whole.at_rest());
        whole.answered(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I");
        assert!(whole.at_rest());
    }
}
