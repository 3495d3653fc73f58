//! SQL that a person runs: as their own role, within limits, on record.
//!
//! **Whose rights.** What somebody may see and change is not decided here but by PostgreSQL: the session is signed in as
//! the role that belongs to the person ([`role_of`]), with that role's password, through the gateway's inner door. No
//! session of Stead's own superuser is ever lent to anybody, and nothing here reads a text for what it may do.
//!
//! **What read-only means.** The reader role has no right to write, but PostgreSQL lets everybody call a function that
//! its owner made `security definer`, and that runs with the owner's rights. So what a reader runs, and what others
//! ask to be read-only, also runs inside a transaction that cannot write: begun by Stead, past its first look at
//! data (after which PostgreSQL refuses `set transaction read write`), and rolled back in the end. For nobody to leave
//! that transaction, the text has to be one statement: PostgreSQL's extended protocol takes no more than one, so that
//! no parser of ours has to tell, and with `commit` as the one statement nothing else comes behind it.
//!
//! **Limits.** Time: a deadline of Stead's own, after which the statement is cancelled by a cancel request, and behind it
//! the server's `statement_timeout`. Rows: so many are shown; those behind are read past, because to stop a script in
//! the middle would undo what its transaction did. Bytes: of the whole answer, after which the statement is cancelled
//! all the same; and of one row, of which no more is held in memory ([`wire`]). Sessions: of one person and of one
//! tenant. A reader that reads slowly makes the server wait ([`run`]), until the deadline.
//!
//! **The end.** Whoever asked may go away, cancel, or run into a limit; the control plane may be told to stop: then the
//! statement is cancelled in the database and the session closed. If the process is killed, the server notices within a
//! second that its client is gone (`client_connection_check_interval`), and ends the statement by itself.
//!
//! **Record.** See `store::query`: a query is on record before it begins.

mod output;
mod role;
mod run;
mod running;
pub(crate) mod schema;
mod session;
mod wire;

use std::io;

use async_trait::async_trait;
use component::ComponentId;
use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use output::{Broken, Format};
pub(crate) use role::{DatabaseRole, person_of, role_of};
pub(crate) use run::{Limits, Run};
pub(crate) use running::Running;
pub(crate) use session::{Failed, Session, SignIn};

/// A way to a server, on which PostgreSQL's protocol is spoken without TLS.
pub type Stream = Box<dyn Duplex>;

/// Reads and writes.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// Opens ways to servers, wherever they are.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// A way to a component's server, for a person. Nobody has signed in on it yet.
    ///
    /// # Errors
    /// When nobody is there to answer.
    async fn open(&self, component: ComponentId, who: &str) -> io::Result<Stream>;
}
