//! What must hold of the message parsers, whatever bytes come.
//!
//! Each target takes any bytes and panics where something that must hold does not: not only that nothing
//! panics by itself, but that a stream means the same wherever it is cut, that what was taken apart goes
//! together again, and that decoders of other authors agree. Two run them: `script/fuzz`, which is
//! libFuzzer with `crates/gateway/fuzz`, and the tests below, on stable Rust with every other test.
//!
//! The parsers are nobody else's business and stay private. A fuzz target is a crate of its own, so this
//! module is its way in; it is compiled for tests and with the feature `fuzzing` only.
//!
//! A new target is a function here, its line in [`TARGETS`], and in `fuzz/` a `[[bin]]`, a file of three
//! lines and a folder of seeds. A test says which of them is missing.
#![allow(clippy::panic, reason = "that something does not hold is said by a panic")]

mod sasl;
mod server;
mod session;
mod startup;
#[cfg(test)]
mod tests;

use std::fmt::Debug;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncReadExt, Chain};

pub use sasl::sasl;
pub use server::server;
pub use session::session;
pub use startup::startup;

/// What holds of any bytes.
pub type Target = fn(&[u8]);

/// Every target by the name of its binary and of its folder of seeds.
pub const TARGETS: &[(&str, Target)] =
    &[("startup", startup), ("sasl", sasl), ("server", server), ("session", session)];

/// Where a stream is cut in two: everywhere near its beginning, then here and there.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    let near = length.min(24);
    (0..=near).chain((near..=length).step_by(1 + length / 16))
}

/// The answer of something that reads from memory, which never has to wait.
fn at_once<T>(reading: impl Future<Output = T>) -> T {
    match pin!(reading).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it waits for bytes that are there"),
    }
}

/// Reads once from the whole and once for each place where it can be cut: the answer is the same, and so is
/// what is left unread. Gives the answer and how many bytes it took; of an error, its words and nothing read.
fn however_cut<'a, T: Debug + PartialEq, E: ToString>(
    data: &'a [u8],
    read: impl AsyncFn(&mut Chain<&'a [u8], &'a [u8]>) -> Result<T, E>,
) -> Result<(T, usize), String> {
    let answer = |cut: usize| {
        let mut stream = (&data[..cut]).chain(&data[cut..]);
        let answer = at_once(read(&mut stream)).map_err(|error| error.to_string());
        let (first, second) = stream.into_inner();
        answer.map(|answer| (answer, data.len() - first.len() - second.len()))
    };
    let whole = answer(data.len());
    for cut in cuts(data.len()) {
        assert_eq!(answer(cut), whole, "cut at {cut}");
    }
    whole
}
