//! Where one message of the server ends and the next begins, without looking inside.
//!
//! A message of our own ("the gateway is restarting") may only be put between two of the server's. So the
//! copying loop runs what it copies past this counter: five bytes looked at for each message.

/// Counts through a stream of messages.
#[derive(Debug, Default)]
pub(crate) struct Boundary {
    header: [u8; 5],
    /// Bytes of the header seen.
    have: usize,
    /// Bytes of the body still to come.
    body: usize,
    /// Type of the last message begun.
    last: u8,
    /// The stream made no sense: never again at a boundary.
    lost: bool,
}

impl Boundary {
    /// Runs over bytes on their way through.
    pub(crate) fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            if self.body > 0 {
                let skip = self.body.min(bytes.len());
                self.body -= skip;
                bytes = &bytes[skip..];
                continue;
            }
            if self.have == 0
                && let Some(&[kind, a, b, c, d]) = bytes.first_chunk::<5>()
            {
                self.begin([kind, a, b, c, d]);
                bytes = &bytes[5..];
                continue;
            }
            self.header[self.have] = bytes[0];
            self.have += 1;
            bytes = &bytes[1..];
            if self.have == 5 {
                self.have = 0;
                self.begin(self.header);
            }
        }
    }

    fn begin(&mut self, [kind, a, b, c, d]: [u8; 5]) {
        self.last = kind;
        match usize::try_from(u32::from_be_bytes([a, b, c, d])) {
            Ok(length) if length >= 4 => self.body = length - 4,
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
    use super::Boundary;

    /// Two messages, cut at every place.
    #[test]
    fn a_boundary_is_found_however_the_stream_is_cut() {
        let stream = b"Z\0\0\0\x05IE\0\0\0\x08abcd1\0\0\0\x04";
        let ends = [0, 6, 15, 20];
        for cut in 0..=stream.len() {
            for second in cut..=stream.len() {
                let mut boundary = Boundary::default();
                boundary.advance(&stream[..cut]);
                assert_eq!(boundary.between(), ends.contains(&cut), "after {cut}");
                boundary.advance(&stream[cut..second]);
                assert_eq!(boundary.between(), ends.contains(&second), "after {cut} and {second}");
                assert_eq!(boundary.last_was_error(), (11..20).contains(&second), "after {second}");
            }
        }
    }

    #[test]
    fn nonsense_is_never_a_boundary() {
        let mut boundary = Boundary::default();
        boundary.advance(b"Z\0\0\0\x03");
        assert!(!boundary.between());
        boundary.advance(b"Z\0\0\0\x05I");
        assert!(!boundary.between());
    }
}
