//! Settings of an application's own (`app.tenant`), which PostgreSQL keeps for a session but lists nowhere.
//!
//! A session can be asked for the value of one whose name is known, and for no names. So the names are taken
//! from what the client says, `SET app.tenant = …` and `set_config('app.tenant', …)`, and from functions of
//! the database that say so (`carry.rs`). A call of `set_config` with a name that is no literal makes it
//! impossible to know; a name that a function puts together is not seen.

/// Names remembered, count and bytes each.
const MOST: (usize, usize) = (64, 128);
/// How much of a text is kept for the next piece: `set session ` and a name.
const OVERLAP: usize = 160;

/// What a client named.
#[derive(Debug, Default)]
pub(crate) struct OwnSettings {
    names: Vec<Box<str>>,
    /// There may be others.
    unknown: bool,
    /// The end of a text of which there is more to come.
    tail: Vec<u8>,
}

impl OwnSettings {
    /// Looks at a piece of a statement, before which `at` bytes of it have passed and behind which `left` more
    /// are to come.
    pub(crate) fn see(&mut self, at: usize, piece: &[u8], left: usize) {
        if at == 0 && left == 0 {
            return self.look(piece);
        }
        let mut text = if at == 0 { Vec::new() } else { std::mem::take(&mut self.tail) };
        text.extend_from_slice(piece);
        self.look(&text);
        self.tail = if left == 0 { Vec::new() } else { text.split_off(text.len().saturating_sub(OVERLAP)) };
    }

    /// The names, or nothing where there may be others.
    pub(crate) fn names(&self) -> Option<&[Box<str>]> {
        (!self.unknown).then_some(&self.names)
    }

    fn look(&mut self, text: &[u8]) {
        let mut from = 0;
        while let Some(found) = memchr::memchr2(b's', b'S', &text[from..]) {
            let at = from + found;
            from = at + 1;
            let Some(rest) = after(&text[at..], "set") else { continue };
            if at > 0 && is_of_a_name(text[at - 1]) {
                continue;
            }
            match after(rest, "_config") {
                Some(arguments) => match literal(arguments) {
                    Argument::Name(name) => self.add(name),
                    Argument::Other => self.unknown = true,
                    Argument::None => {}
                },
                None => match qualified(rest) {
                    Argument::Name(name) => self.add(name),
                    Argument::Other => self.unknown = true,
                    Argument::None => {}
                },
            }
        }
    }

    fn add(&mut self, name: &[u8]) {
        // Settings of PostgreSQL's own have no dot, and it lists them.
        if !name.contains(&b'.') {
            return;
        }
        let name = String::from_utf8_lossy(name).to_lowercase();
        if self.names.iter().any(|known| **known == *name) {
            return;
        }
        if self.names.len() == MOST.0 || name.len() > MOST.1 {
            self.unknown = true;
        } else {
            self.names.push(name.into());
        }
    }
}

/// What `set_config` was called with.
enum Argument<'a> {
    /// A literal.
    Name(&'a [u8]),
    /// Something that is worked out.
    Other,
    /// It is not called.
    None,
}

fn literal(text: &[u8]) -> Argument<'_> {
    if is_dressed(text) {
        return Argument::Other;
    }
    let Some(inside) = text.trim_ascii_start().strip_prefix(b"(") else { return Argument::None };
    let inside = inside.trim_ascii_start();
    if inside.is_empty() {
        // The end of a piece; the next look has all of it.
        return Argument::None;
    }
    let Some(quoted) = inside.strip_prefix(b"'") else { return Argument::Other };
    match quoted.iter().position(|byte| *byte == b'\'') {
        Some(end) => Argument::Name(&quoted[..end]),
        None => Argument::None,
    }
}

/// `app.tenant` in ` session app.tenant = 5`.
fn qualified(text: &[u8]) -> Argument<'_> {
    if is_dressed(text) {
        return Argument::Other;
    }
    if !text.first().is_some_and(u8::is_ascii_whitespace) {
        return Argument::None;
    }
    let mut text = text.trim_ascii_start();
    if let Some(rest) = after(text, "session")
        && rest.first().is_some_and(|byte| !is_of_a_name(*byte))
    {
        text = rest.trim_ascii_start();
    }
    let end = text.iter().position(|byte| !is_of_a_name(*byte) && *byte != b'.').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    match name {
        _ if is_dressed(rest) && (name.is_empty() || name.ends_with(b".")) => Argument::Other,
        _ if name.contains(&b'.') => Argument::Name(name),
        _ => Argument::None,
    }
}

/// Whether what comes is quoted, or a comment: names in that are not read.
fn is_dressed(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    text.starts_with(b"\"") || text.starts_with(b"/*") || text.starts_with(b"--")
}

fn is_of_a_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || !byte.is_ascii()
}

fn after<'a>(text: &'a [u8], word: &str) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(word.len())?;
    head.eq_ignore_ascii_case(word.as_bytes()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::OwnSettings;

    fn names(text: &str) -> Option<Vec<String>> {
        let mut seen = OwnSettings::default();
        seen.see(0, text.as_bytes(), 0);
        seen.names().map(|names| names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn names_are_taken_from_what_a_client_says() {
        for (text, wanted) in [
            ("select 1", &[][..]),
            ("set timezone = 'UTC'; set search_path to app.x", &[]),
            ("SET App.Tenant = '5'", &["app.tenant"]),
            ("begin;set\tsession  app.tenant to 5", &["app.tenant"]),
            ("select set_config('app.tenant', $1, false)", &["app.tenant"]),
            (
                "select pg_catalog.SET_CONFIG ( 'app.tenant' , '5', false), set_config('a.b', '', true)",
                &["app.tenant", "a.b"],
            ),
            ("select set_config('timezone', 'UTC', false)", &[]),
            ("update t set a = t.b, reset.x = 1; select offset.a", &[]),
            ("reset app.tenant", &[]),
            ("set", &[]),
            ("set ", &[]),
            ("set session", &[]),
            ("select 'set_config'", &[]),
        ] {
            assert_eq!(
                names(text).as_deref(),
                Some(&wanted.iter().map(ToString::to_string).collect::<Vec<_>>()[..]),
                "{text}"
            );
        }
        for text in [
            "select set_config($1, $2, false)",
            "select set_config(name, value, false) from s",
            "select \"set_config\"('app.tenant', '5', false)",
            "set \"app.tenant\" = 5",
            "set session app.\"tenant\" = 5",
            "set/* a */app.tenant = 5",
            "set -- a\n app.tenant = 5",
        ] {
            assert_eq!(names(text), None, "{text}");
        }
        let many: String = (0..100).map(|n| format!("set a.b{n} = 1;")).collect();
        assert_eq!(names(&many), None);
    }

    /// A text that comes in two pieces, cut anywhere.
    #[test]
    fn a_name_is_found_across_pieces() {
        for text in
            ["select 1; set session app.tenant = 5; select 2", "select set_config('app.tenant', 'x', false)"]
        {
            let mut seen = OwnSettings::default();
            for (at, byte) in text.bytes().enumerate() {
                seen.see(at, &[byte], text.len() - at - 1);
            }
            assert!(
                seen.names().is_some_and(|names| names.iter().any(|name| **name == *"app.tenant")),
                "{text}"
            );
            for cut in 1..text.len() {
                let mut seen = OwnSettings::default();
                let (first, second) = text.as_bytes().split_at(cut);
                seen.see(0, first, second.len());
                seen.see(first.len(), second, 0);
                let names = seen.names().map(|names| names.iter().any(|name| **name == *"app.tenant"));
                assert_eq!(names, Some(true), "{text} cut at {cut}");
            }
        }
    }
}
