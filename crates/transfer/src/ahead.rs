//! Reading ahead of a slot: while the lake is given what the slot had, the server gathers what it has next.
//!
//! Of a slot that is peeked at nothing more is told before it is advanced, and it must not be advanced before the lake has
//! what it told. So a session reads a temporary copy of the slot, which is used up by that; and as soon as the server has
//! gathered all that was asked for, another session reads a copy of this copy, which begins where it ended. The slot itself
//! stays behind the lake. What is temporary goes with its session, however that ends.

use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::Error;
use crate::source::{Messages, Publication, Source};

/// What a slot has is read ahead where the end of the server's log is farther than so many bytes.
const MUCH: u64 = 32 * 1024 * 1024;
/// Messages that are asked for, at first and at most: each time the server goes through its log from where the slot keeps
/// it, so the more at once the better; they wait in its own memory and on its disk.
const FIRST: u32 = 100_000;
const MOST: u32 = 800_000;

/// See above.
pub(crate) struct Ahead {
    publication: Publication,
    /// Has read what came before, and may be read from until it is asked again.
    other: Option<Session>,
    /// Reads what comes next, where there is much.
    next: JoinSet<Result<Option<Batch>, Error>>,
}

/// A session with a copy of a slot of its own.
struct Session {
    client: Client,
    slot: String,
}

struct Batch {
    session: Session,
    messages: Messages,
}

/// Messages that are asked for at first.
pub(crate) fn first() -> u32 {
    // Of the tests, which have few.
    fail::fail_point!("transfer::ahead.first", |few| few.and_then(|few| few.parse().ok()).unwrap_or(FIRST));
    FIRST
}

/// Those that are asked for where there were more than so many.
pub(crate) fn more(most: u32) -> u32 {
    most.saturating_mul(2).min(MOST)
}

/// Whether what a slot has is worth to be read ahead.
pub(crate) fn is_much(bytes: u64) -> bool {
    fail::fail_point!("transfer::ahead.always", |_| true);
    bytes > MUCH
}

impl Ahead {
    /// Begins where the slot is.
    ///
    /// # Errors
    /// Where the server has no room for two more sessions and slots.
    pub(crate) async fn begin(source: &Source, most: u32) -> Result<Self, Error> {
        let (slot, publication) = (source.slot.to_string(), source.publication.clone());
        let number: u32 = rand::random();
        let session = async |which| {
            let client = source.another("stead transfer, ahead").await?;
            let session = Session { client, slot: format!("stead_{number:08x}_{which}") };
            session.copy(&slot).await?;
            Ok::<_, Error>(session)
        };
        let (first, other) = (session("a").await?, session("b").await?);
        let mut next = JoinSet::new();
        let of = publication.clone();
        next.spawn(async move { first.read(&of, most).await.map(Some) });
        Ok(Self { publication, other: Some(other), next })
    }

    /// The next messages, as [`Source::peek`] has them, while those after them are gathered; nothing once there is not
    /// much any more.
    pub(crate) async fn next(&mut self) -> Result<Option<Messages>, Error> {
        let broken = |why: &str| Error::Strange(format!("reading ahead of the slot: {why}"));
        let read = self.next.join_next().await.ok_or_else(|| broken("nobody does"))?;
        let read = read.map_err(|error| broken(&error.to_string()))??;
        let Some(Batch { session: before, messages }) = read else { return Ok(None) };
        let session = self.other.take().ok_or_else(|| broken("there is no other session"))?;
        let (publication, slot) = (self.publication.clone(), before.slot.clone());
        let most = more(messages.most());
        self.next.spawn(async move {
            if !session.begin_at(&slot).await? {
                return Ok(None);
            }
            session.read(&publication, most).await.map(Some)
        });
        self.other = Some(before);
        Ok(Some(messages))
    }
}

impl Session {
    async fn copy(&self, slot: &str) -> Result<(), Error> {
        let copy = "select pg_copy_logical_replication_slot($1, $2, true)";
        self.client.execute(copy, &[&slot, &self.slot]).await?;
        Ok(())
    }

    /// Its own slot is where this one is now; answers whether that has much.
    async fn begin_at(&self, slot: &str) -> Result<bool, Error> {
        let behind =
            "select (pg_current_wal_flush_lsn() - confirmed_flush_lsn)::int8 from pg_replication_slots
            where slot_name = $1";
        let behind: i64 = self.client.query_one(behind, &[&slot]).await?.get(0);
        if !is_much(u64::try_from(behind).unwrap_or_default()) {
            return Ok(false);
        }
        self.client.execute("select pg_drop_replication_slot($1)", &[&self.slot]).await?;
        self.copy(slot).await?;
        Ok(true)
    }

    /// Has the server gather what its slot has; done when that is.
    async fn read(self, publication: &Publication, most: u32) -> Result<Batch, Error> {
        let mut messages = Messages::used_up(&self.client, &self.slot, publication, most).await?;
        messages.wait().await?;
        Ok(Batch { session: self, messages })
    }
}
