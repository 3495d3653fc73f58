//! What is counted. A server's numbers live in its door and end with its route; those of the process live
//! as long as it does. Nothing here is touched while bytes are copied: sessions add up what they have copied
//! now and then (`session.rs`).

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;

/// Upper ends for what a client waits for in sign-in, seconds.
const SIGN_IN: [f64; 12] = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0];
/// Upper ends for how long a server takes to wake up, seconds.
const WAKE: [f64; 10] = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0];

/// A counter for each word of the connection log. There are as many words as `refusal.rs` has.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<BTreeMap<&'static str, u64>>);

impl Tally {
    /// One more.
    pub(crate) fn count(&self, outcome: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(outcome).or_insert(0) += 1;
    }

    /// All of them now.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One server's numbers.
#[derive(Debug)]
pub(crate) struct ServerStats {
    /// Sessions that began.
    pub(crate) sessions: Counter,
    /// How they ended.
    pub(crate) ended: Tally,
    /// Connections that came to no session, and why.
    pub(crate) refused: Tally,
    /// Cancel requests.
    pub(crate) cancels: Tally,
    /// Bytes of sessions from clients to the server.
    pub(crate) received: Counter,
    /// And back.
    pub(crate) sent: Counter,
    /// How long it took to wake the server, seconds.
    pub(crate) wakes: Histogram,
    /// Clients that it did not wake up for.
    pub(crate) wakes_failed: Counter,
    /// Times that it fell asleep.
    pub(crate) sleeps: Counter,
}

impl Default for ServerStats {
    fn default() -> Self {
        ServerStats {
            sessions: Counter::default(),
            ended: Tally::default(),
            refused: Tally::default(),
            cancels: Tally::default(),
            received: Counter::default(),
            sent: Counter::default(),
            wakes: Histogram::new(WAKE),
            wakes_failed: Counter::default(),
            sleeps: Counter::default(),
        }
    }
}

impl ServerStats {
    /// A connection is over.
    pub(crate) fn closed(&self, outcome: &'static str, signed_in: bool) {
        match outcome {
            "cancel_forwarded" | "cancel_unknown" => self.cancels.count(outcome),
            _ if signed_in => self.ended.count(outcome),
            _ => self.refused.count(outcome),
        }
    }

    /// Connections that did not prove who they are.
    pub(crate) fn sign_in_failures(&self) -> u64 {
        let refused = self.refused.counts();
        ["bad_password", "channel_binding"].iter().filter_map(|word| refused.get(word)).sum()
    }
}

/// The numbers of the process.
#[derive(Debug)]
pub(crate) struct ProcessStats {
    /// When it began.
    pub(crate) started: Timestamp,
    /// Connections that were turned away before it was known which server they want.
    pub(crate) turned_away: Tally,
    /// From accept to signed in, seconds.
    pub(crate) sign_ins: Histogram,
    /// Files that were refused, and owners whose ports are not all open.
    pub(crate) faults: AtomicU64,
}

impl Default for ProcessStats {
    fn default() -> Self {
        ProcessStats {
            started: Timestamp::now(),
            turned_away: Tally::default(),
            sign_ins: Histogram::new(SIGN_IN),
            faults: AtomicU64::new(0),
        }
    }
}
