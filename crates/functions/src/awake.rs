//! Staying awake for answers that come within microseconds.
//!
//! A thread that sleeps until something comes has to be woken, which takes some 20 to 50 microseconds in a virtual
//! machine: as long as a small function takes for its answer. So the engine looks again and again instead of sleeping,
//! but only where that is likely to pay and takes nothing from anybody: while no other call is under way in it, and where
//! the version's last answer came that soon. An answer that is late is slept for, and so is the next one.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::oneshot::Receiver;
use tokio::sync::oneshot::error::TryRecvError;

/// What comes within this is worth staying awake for.
const SOON: Duration = Duration::from_micros(150);

/// Calls under way in the engine.
#[derive(Default)]
pub(crate) struct UnderWay(AtomicUsize);

/// One of them, until it goes.
pub(crate) struct One<'a>(&'a UnderWay);

impl UnderWay {
    pub(crate) fn another(&self) -> One<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        One(self)
    }
}

impl One<'_> {
    fn is_alone(&self) -> bool {
        self.0.0.load(Ordering::Relaxed) == 1
    }
}

impl Drop for One<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a version's last answer came soon.
#[derive(Default)]
pub(crate) struct Soon(AtomicBool);

impl Soon {
    /// Waits for an answer; nothing where none will come.
    pub(crate) async fn wait<T>(&self, call: &One<'_>, answer: &mut Receiver<T>) -> Option<T> {
        let began = Instant::now();
        if self.0.load(Ordering::Relaxed) {
            while call.is_alone() && began.elapsed() < SOON {
                match answer.try_recv() {
                    Ok(answer) => return Some(answer),
                    Err(TryRecvError::Closed) => return None,
                    // Everything else has its turn, and then it is looked what has come.
                    Err(TryRecvError::Empty) => tokio::task::yield_now().await,
                }
            }
        }
        let answered = answer.await.ok();
        self.0.store(began.elapsed() < SOON, Ordering::Relaxed);
        answered
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::channel;

    use super::*;

    #[tokio::test]
    async fn what_comes_late_is_slept_for_and_what_never_comes_is_told() {
        let (under_way, soon) = (UnderWay::default(), Soon(AtomicBool::new(true)));
        let one = under_way.another();
        let (reply, mut answer) = channel();
        reply.send(1).unwrap();
        assert_eq!(soon.wait(&one, &mut answer).await, Some(1));
        assert!(soon.0.load(Ordering::Relaxed));

        let (reply, mut answer) = channel();
        let late = async {
            let began = Instant::now();
            while began.elapsed() < SOON * 2 {
                tokio::task::yield_now().await;
            }
            reply.send(2).unwrap();
        };
        let (answered, ()) = tokio::join!(soon.wait(&one, &mut answer), late);
        assert_eq!(answered, Some(2));
        let (reply, mut answer) = channel::<u8>();
        drop(reply);
        assert_eq!(soon.wait(&one, &mut answer).await, None);
    }

    #[test]
    fn one_is_alone_while_nobody_else_is_there() {
        let under_way = UnderWay::default();
        let one = under_way.another();
        assert!(one.is_alone());
        let other = under_way.another();
        assert!(!one.is_alone());
        drop(other);
        assert!(one.is_alone());
    }
}
