//! Whether a session is at rest: nothing under way, no transaction open, nothing half said on either side.
//!
//! The server says ReadyForQuery once for each simple query, function call and Sync that it was sent, and
//! with it whether a transaction is open. So counting those on one side and ReadyForQuery on the other tells
//! when everything that was asked is answered. There is one exception, which is COPY FROM STDIN in the
//! extended protocol: while the server takes data it passes over Syncs, and clients know and send one more.
//!
//! What is not certain counts as not at rest: then a session is in the way of whoever wants it to rest, but
//! nothing is ever lost.

use crate::frames::{Boundary, Listener};
use crate::own_settings::OwnSettings;

/// Longest unnamed statement that is remembered, bytes.
const LONGEST_UNNAMED: usize = 32 * 1024;

/// After a count that may be off by one: the answer to that, and a whole one behind it.
const DOUBT: u8 = 3;

/// Both sides of a session, as far as they have come.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    client: Boundary,
    server: Boundary,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    /// ReadyForQuery that is still to come.
    awaited: u32,
    /// What for, oldest in the lowest bit: set where it was a Sync. Those beyond the 32nd count as queries.
    syncs: u32,
    /// The client sent something that only a Sync will finish.
    open: bool,
    /// The server takes COPY data.
    copying: bool,
    /// How many times more everything must be answered before the count is believed again.
    doubt: u8,
    in_transaction: bool,
    unnamed: Unnamed,
    own_settings: OwnSettings,
}

/// The prepared statement without a name, which lasts until the next one or the next simple query.
#[derive(Debug, Default)]
pub(crate) enum Unnamed {
    /// There is none.
    #[default]
    None,
    /// The Parse message's body.
    Parsed(Vec<u8>),
    /// It is too long to be remembered.
    TooLong,
}

impl Conversation {
    /// Runs over what the client says.
    pub(crate) fn asked(&mut self, bytes: &[u8]) {
        self.client.advance(bytes, &mut Asked(&mut self.state));
    }

    /// Runs over what the server says.
    pub(crate) fn answered(&mut self, bytes: &[u8]) {
        self.server.advance(bytes, &mut Answered(&mut self.state));
    }

    /// Whether the session could be taken off its server now, and nobody would notice.
    pub(crate) fn at_rest(&self) -> bool {
        let State { awaited, open, copying, doubt, in_transaction, .. } = self.state;
        let quiet = awaited == 0 && !open && !copying && doubt == 0 && !in_transaction;
        quiet && self.client.between() && self.server.between()
    }

    /// Whether the client has to say more before the session can come to rest; otherwise it is the server's
    /// turn.
    pub(crate) fn needs_client(&self) -> bool {
        let State { awaited, open, copying, doubt, in_transaction, .. } = self.state;
        open || copying || !self.client.between() || (awaited == 0 && (in_transaction || doubt > 0))
    }

    /// Whether a message to the client can be put in now.
    pub(crate) fn between_answers(&self) -> bool {
        self.server.between()
    }

    /// Whether the server's last message was an error.
    pub(crate) fn last_was_error(&self) -> bool {
        self.server.last_was_error()
    }

    /// The statement without a name.
    pub(crate) fn unnamed(&self) -> &Unnamed {
        &self.state.unnamed
    }

    /// The settings of its own that the client named.
    pub(crate) fn own_settings(&self) -> &OwnSettings {
        &self.state.own_settings
    }

    /// The same conversation with another server, which has said nothing yet.
    pub(crate) fn at_another_server(self) -> Conversation {
        Conversation { server: Boundary::default(), ..self }
    }
}

impl State {
    fn await_answer(&mut self, sync: bool) {
        if sync && self.awaited < u32::BITS {
            self.syncs |= 1 << self.awaited;
        }
        self.awaited = self.awaited.saturating_add(1);
        self.open = false;
    }

    fn ready(&mut self) {
        self.awaited = self.awaited.saturating_sub(1);
        self.syncs >>= 1;
        self.copying = false;
        if self.awaited == 0 {
            self.doubt = self.doubt.saturating_sub(1);
        }
    }

    /// The server takes data, and passes over the Syncs that came right behind the statement that said so.
    fn copy_in(&mut self) {
        self.copying = true;
        if self.awaited > 1 {
            // Which of them came before the end of the data, and are passed over, cannot be told from here.
            self.doubt = DOUBT;
        }
        while self.awaited > 0 && self.syncs & 1 == 1 {
            self.awaited -= 1;
            self.syncs >>= 1;
        }
    }

    /// In the extended protocol an error may come before the server has passed over a Sync, or after.
    fn failed(&mut self) {
        if self.copying && self.awaited == 0 {
            self.doubt = DOUBT;
        }
    }
}

struct Asked<'a>(&'a mut State);

impl Listener for Asked<'_> {
    fn begins(&mut self, kind: u8) {
        let state = &mut *self.0;
        match kind {
            b'Q' => {
                state.await_answer(false);
                state.unnamed = Unnamed::None;
            }
            b'F' => state.await_answer(false),
            b'S' if state.copying => {}
            b'S' => state.await_answer(true),
            b'd' => {}
            b'c' | b'f' => {
                // In the extended protocol a Sync has to follow. Where the server does not take data (any
                // more) it passes over this, as it does over data.
                state.open |= state.copying && state.awaited == 0;
                state.copying = false;
            }
            _ => state.open = true,
        }
    }

    fn body(&mut self, kind: u8, at: usize, bytes: &[u8], left: usize) {
        if matches!(kind, b'Q' | b'P') {
            self.0.own_settings.see(at, bytes, left);
        }
        if kind != b'P' {
            return;
        }
        // Only a statement without a name begins with the end of its name.
        if at == 0 && bytes.first() == Some(&0) {
            let mut text = match std::mem::take(&mut self.0.unnamed) {
                Unnamed::Parsed(text) => text,
                _ => Vec::new(),
            };
            text.clear();
            self.0.unnamed = Unnamed::Parsed(text);
        }
        if let Unnamed::Parsed(text) = &mut self.0.unnamed
            && text.len() == at
        {
            if at + bytes.len() > LONGEST_UNNAMED {
                self.0.unnamed = Unnamed::TooLong;
            } else {
                text.extend_from_slice(bytes);
            }
        }
    }
}

struct Answered<'a>(&'a mut State);

impl Listener for Answered<'_> {
    fn begins(&mut self, kind: u8) {
        match kind {
            b'G' | b'W' => self.0.copy_in(),
            b'E' => self.0.failed(),
            _ => {}
        }
    }

    fn body(&mut self, kind: u8, at: usize, bytes: &[u8], _left: usize) {
        if kind == b'Z' && at == 0 {
            self.0.ready();
            self.0.in_transaction = bytes.first() != Some(&b'I');
        }
    }
}

#[cfg(test)]
mod tests;
