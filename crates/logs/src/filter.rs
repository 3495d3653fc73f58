//! A filter of the words in a block, by which a search leaves alone the blocks that cannot hold what it looks for.
//!
//! A word is a run of ASCII letters, digits and `_`, in small letters. The filter is a Bloom filter (one hash, split in
//! two: Kirsch and Mitzenmacher, 2006) of ten bits a word and six probes: one block in a hundred is read in vain. Blocks
//! of a mebibyte of PostgreSQL's log hold some thousand different words, most of them numbers; the filter is a twentieth
//! of the compressed block. Words rather than groups of three letters, because what people look for in a haystack are
//! ids, and of three hexadecimal digits every block has all.

use std::collections::HashSet;

/// Bits a word.
const BITS: usize = 10;
/// Bits that are set for a word.
const PROBES: u64 = 6;
/// Shorter words are in every block.
const SHORTEST: usize = 2;

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// FNV-1a of a word in small letters; ends with a mix, because FNV's upper bits are weak for short words.
fn hash(word: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in word {
        hash = (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

/// The words of a text.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii() || !is_word(u8::try_from(c).unwrap_or(b' ')))
        .filter(|word| word.len() >= SHORTEST)
}

/// Gathers the words of a block.
#[derive(Default)]
pub(crate) struct Gathering {
    hashes: HashSet<u64>,
    /// Some character is written in a way that hides words.
    opaque: bool,
}

impl Gathering {
    /// Adds the words of a line; `plain`: it is no JSON, so a backslash is one.
    pub(crate) fn add(&mut self, line: &[u8], plain: bool) {
        let mut from = None;
        let mut at = 0;
        while let Some(&byte) = line.get(at) {
            if is_word(byte) {
                from.get_or_insert(at);
                at += 1;
                continue;
            }
            self.word(line, from.take(), at);
            // In JSON what follows a backslash is no letter of a word; only `\u` may stand for one.
            at += match (byte, line.get(at + 1)) {
                (b'\\', Some(b'u')) if !plain => {
                    self.opaque |= line.get(at + 2..at + 4).is_none_or(|upper| upper != b"00");
                    self.opaque |= line.get(at + 4).is_none_or(|digit| !matches!(digit, b'0' | b'1'));
                    6
                }
                (b'\\', _) if !plain => 2,
                _ => 1,
            };
        }
        self.word(line, from, line.len());
    }

    fn word(&mut self, line: &[u8], from: Option<usize>, to: usize) {
        if let Some(word) = from.and_then(|from| line.get(from..to)).filter(|word| word.len() >= SHORTEST) {
            self.hashes.insert(hash(word));
        }
    }

    /// The filter; empty where there can be none, which lets everything pass.
    pub(crate) fn filter(&self) -> Vec<u8> {
        if self.opaque || self.hashes.is_empty() {
            return Vec::new();
        }
        let mut bytes = vec![0_u8; (self.hashes.len() * BITS).div_ceil(8)];
        for hash in &self.hashes {
            for bit in probes(*hash, bytes.len()) {
                if let Some(byte) = bytes.get_mut(bit / 8) {
                    *byte |= 1 << (bit % 8);
                }
            }
        }
        bytes
    }
}

/// Whether the word may be in the block of the filter.
pub(crate) fn may_hold(filter: &[u8], word: &str) -> bool {
    let holds = |bit: usize| filter.get(bit / 8).is_some_and(|byte| byte & (1 << (bit % 8)) != 0);
    filter.is_empty() || word.len() < SHORTEST || probes(hash(word.as_bytes()), filter.len()).all(holds)
}

fn probes(hash: u64, bytes: usize) -> impl Iterator<Item = usize> {
    let (first, step) = (hash & 0xffff_ffff, (hash >> 32) | 1);
    let bits = crate::wide(bytes).max(1) * 8;
    (0..PROBES).map(move |n| crate::narrow(first.wrapping_add(step.wrapping_mul(n)) % bits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_is_never_denied() {
        let mut gathering = Gathering::default();
        let words: Vec<String> = (0..5_000).map(|n| format!("word{n}")).collect();
        for word in &words {
            gathering
                .add(format!("{{\"message\":\"says {}, twice\"}}", word.to_uppercase()).as_bytes(), false);
        }
        let filter = gathering.filter();
        assert!(words.iter().all(|word| may_hold(&filter, word)));
        let wrong = (0..10_000).filter(|n| may_hold(&filter, &format!("other{n}"))).count();
        assert!(wrong < 300, "{wrong} of 10000 pass in vain");
    }

    #[test]
    fn an_escaped_character_hides_no_word() {
        let holds = |line: &str, plain: bool, word: &str| {
            let mut gathering = Gathering::default();
            gathering.add(line.as_bytes(), plain);
            may_hold(&gathering.filter(), word)
        };
        assert!(holds(r#"{"m":"one\ntwo"}"#, false, "two"));
        assert!(!holds(r#"{"m":"one\ntwo"}"#, false, "ntwo"));
        assert!(holds(r"C:\ntwo", true, "ntwo"));
        assert!(holds(r#"{"m":"one\u001btwo"}"#, false, "two"));
        assert!(!holds(r#"{"m":"one\u001btwo"}"#, false, "three"));
        // A letter that is written as a number: no filter, so nothing is denied.
        assert!(holds(r#"{"m":"\u0074wo"}"#, false, "two"));
        assert!(holds(r#"{"m":"na\u00efve"}"#, false, "anything"));
    }

    #[test]
    fn words_of_a_text() {
        assert_eq!(words("héllo wörld_1, a 42!").collect::<Vec<_>>(), ["llo", "rld_1", "42"]);
    }
}
