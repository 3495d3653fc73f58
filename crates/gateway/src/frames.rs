//! Where one message ends and the next begins, without looking inside.
//!
//! A message of our own ("the gateway is restarting") may only be put between two of the server's, and a
//! session may only be taken off its server between two of the client's. So the copying loop runs what it
//! copies past this counter: five bytes looked at for each message.

/// Told of the messages of a stream as they pass.
pub(crate) trait Listener {
    /// A message begins.
    fn begins(&mut self, kind: u8);
    /// A piece of its body, before which `at` bytes of it have passed and behind which `left` are to come.
    fn body(&mut self, kind: u8, at: usize, bytes: &[u8], left: usize);
}

/// Nobody who needs to know.
impl Listener for () {
    fn begins(&mut self, _kind: u8) {}
    fn body(&mut self, _kind: u8, _at: usize, _bytes: &[u8], _left: usize) {}
}

/// Counts through a stream of messages.
#[derive(Debug, Default)]
pub(crate) struct Boundary {
    header: [u8; 5],
    /// Bytes of the header seen.
    have: usize,
    /// Bytes of the body passed, and still to come.
    passed: usize,
    body: usize,
    /// Type of the last message begun.
    last: u8,
    /// The stream made no sense: never again at a boundary.
    lost: bool,
}

impl Boundary {
    /// Runs over bytes on their way through.
    pub(crate) fn advance(&mut self, mut bytes: &[u8], listener: &mut impl Listener) {
        while !bytes.is_empty() && !self.lost {
            if self.body > 0 {
                let (now, later) = bytes.split_at(self.body.min(bytes.len()));
                self.body -= now.len();
                listener.body(self.last, self.passed, now, self.body);
                self.passed += now.len();
                bytes = later;
                continue;
            }
            if self.have == 0
                && let Some(&header) = bytes.first_chunk::<5>()
            {
                self.begin(header, listener);
                bytes = &bytes[5..];
                continue;
            }
            self.header[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.have == 5 {
                self.have = 0;
                self.begin(self.header, listener);
            }
        }
    }

    fn begin(&mut self, [kind, a, b, c, d]: [u8; 5], listener: &mut impl Listener) {
        (self.last, self.passed) = (kind, 0);
        match usize::try_from(u32::from_be_bytes([a, b, c, d])) {
            Ok(length) if length >= 4 => {
                self.body = length - 4;
                listener.begins(kind);
            }
            _ => self.lost = true,
        }
    }

    /// Whether a message of another may come now.
    pub(crate) fn between(&self) -> bool {
        self.have == 0 && self.body == 0 && !self.lost
    }

    /// Whether the last message was an error: before a close, it was the server's last word.
    pub(crate) fn last_was_error(&self) -> bool {
        self.last == b'E'
    }
}

#[cfg(test)]
mod tests {
    use super::{Boundary, Listener};

    /// Two messages, cut at every place.
    #[test]
    fn a_boundary_is_found_however_the_stream_is_cut() {
        let stream = b"Z\0\0\0\x05IE\0\0\0\x08abcd1\0\0\0\x04";
        let ends = [0, 6, 15, 20];
        for cut in 0..=stream.len() {
            for second in cut..=stream.len() {
                let mut boundary = Boundary::default();
                let mut heard = Heard::default();
                boundary.advance(&stream[..cut], &mut heard);
                assert_eq!(boundary.between(), ends.contains(&cut), "after {cut}");
                boundary.advance(&stream[cut..second], &mut heard);
                assert_eq!(boundary.between(), ends.contains(&second), "after {cut} and {second}");
                assert_eq!(boundary.last_was_error(), (11..20).contains(&second), "after {second}");
                if second == stream.len() {
                    assert_eq!(heard.0, "Z[I]E[abcd]1", "cut at {cut}");
                }
            }
        }
    }

    /// Writes down what it is told, pieces of a body put together.
    #[derive(Default)]
    struct Heard(String);

    impl Listener for Heard {
        fn begins(&mut self, kind: u8) {
            self.0.push(char::from(kind));
        }

        fn body(&mut self, _kind: u8, at: usize, bytes: &[u8], _left: usize) {
            let closing = self.0.pop().unwrap_or_default();
            match at {
                0 => self.0.extend([closing, '[']),
                _ => assert_eq!(closing, ']'),
            }
            self.0.extend(bytes.iter().copied().map(char::from).chain([']']));
        }
    }

    #[test]
    fn nonsense_is_never_a_boundary() {
        let mut boundary = Boundary::default();
        boundary.advance(b"Z\0\0\0\x03", &mut ());
        assert!(!boundary.between());
        boundary.advance(b"Z\0\0\0\x05I", &mut ());
        assert!(!boundary.between());
    }
}
