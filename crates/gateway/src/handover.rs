//! The hand-over: a new gateway takes the place of the one in force, and no client notices.
//!
//! What makes a process *the* gateway of its home is three things: the lock, the status socket, and the
//! listening sockets of the ports. The new process asks for them on the status socket, and gets the very
//! same ones (descriptors, over the Unix socket): so none is ever closed, and who connects meanwhile waits
//! in the kernel's queue for the new process instead of the old one.
//!
//! ```text
//! new                          old
//! hand_over, rank     ->       may it? (rank, uid, `Table::may_hand_over`, nothing falling asleep)
//!                     <-       offer: the lock, the status socket, every port
//! taken               ->       stops accepting
//!                     <-       go                  from here on the new one is the gateway
//! reads the files, accepts     drains (`drain.rs`)
//! ```
//!
//! *go* is the commit. Before it the old process owns everything, whatever the new one holds: if the
//! conversation ends before *go*, the new one closes what it was given and begins again, and the old one
//! accepts on. After it the new one owns everything; if it dies, nobody holds the lock, and its next start
//! opens the ports as any start does. The lock is handed over as well, not given back and taken, so that no
//! third process can come between.
//!
//! **The rank** says who replaces whom: a process takes over only from one of a lower rank. Whoever declares
//! the processes gives each a higher one than the last, so that an old one that is started again never takes
//! over from the new one, in whatever order a machine starts them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::control::Command;
use crate::files::Paths;
use crate::route::Request;
use crate::table::Table;
use crate::{Error, drain, fail_point, status};

/// The old process stops obeying files for no longer than this.
const EXCHANGE: Duration = Duration::from_secs(5);
/// Between two attempts of the new one.
const RETRY: Duration = Duration::from_millis(100);
/// Descriptors in one message; the kernel's limit is 253.
const BATCH: usize = 64;
/// Longest line, bytes.
const MAX_LINE: usize = 4096;

const TAKEN: &[u8] = b"taken\n";
const GO: &[u8] = b"go\n";

/// What the old process says to [`Request::HandOver`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// The descriptors that came with this: the lock, the status socket, the ports.
    Offer(usize),
    /// Not now.
    Later(String),
    /// Not to this one.
    Never(String),
}

/// Why nothing was taken over, this time.
enum NotTaken {
    Later(String),
    Never(String),
}

impl From<io::Error> for NotTaken {
    fn from(error: io::Error) -> Self {
        NotTaken::Later(error.to_string())
    }
}

/// What a process has when it begins to serve.
pub(crate) struct Entered {
    pub(crate) lock: File,
    /// The status socket, where it was handed over.
    pub(crate) status: Option<UnixListener>,
    /// Ports that were handed over.
    pub(crate) ports: Lent,
}

/// Takes the lock where nobody holds it, or the place of a gateway of a lower rank, trying again for as long
/// as `patience`.
pub(crate) async fn enter(paths: &Paths, rank: u64, patience: Duration) -> Result<Entered, Error> {
    let until = Instant::now() + patience;
    loop {
        if let Some(lock) = crate::lock(&paths.lock)? {
            return Ok(Entered { lock, status: None, ports: Lent::default() });
        }
        if rank <= crate::FIRST_RANK {
            return Err(Error::Running(paths.home.clone()));
        }
        let taking = timeout((EXCHANGE * 2).min(patience), take(&paths.socket, rank)).await;
        match taking.unwrap_or_else(|_| Err(NotTaken::Later("it does not answer".into()))) {
            Ok(entered) => return Ok(entered),
            Err(NotTaken::Later(why)) if Instant::now() < until => {
                tracing::info!(why, "the gateway in force does not hand over yet; asking again");
            }
            Err(NotTaken::Later(why) | NotTaken::Never(why)) => return Err(Error::NotHandedOver(why)),
        }
        sleep(RETRY).await;
    }
}

/// Asks the gateway in force for its place.
async fn take(socket: &Path, rank: u64) -> Result<Entered, NotTaken> {
    let stream = UnixStream::connect(socket).await?;
    check_peer(&stream)?;
    let mut talk = Talk::new(stream);
    let mut request = serde_json::to_vec(&Request::HandOver { rank }).map_err(io::Error::from)?;
    request.push(b'\n');
    talk.say(&request).await?;
    let line = talk.line().await?;
    let offered = match serde_json::from_slice(&line) {
        Ok(Answer::Offer(offered)) => offered,
        Ok(Answer::Later(why)) => return Err(NotTaken::Later(why)),
        Ok(Answer::Never(why)) => return Err(NotTaken::Never(why)),
        Err(_) => return Err(NotTaken::Never("its version knows no hand-over; stop it first".into())),
    };
    let entered = unpack(std::mem::take(&mut talk.descriptors), offered)?;
    fail_point!("gateway::offer_received");
    talk.say(TAKEN).await?;
    if talk.line().await? != GO {
        return Err(NotTaken::Later("it took its offer back".into()));
    }
    fail_point!("gateway::took_over");
    Ok(entered)
}

fn unpack(descriptors: Vec<OwnedFd>, offered: usize) -> Result<Entered, NotTaken> {
    if descriptors.len() != offered {
        let why = format!("{} of {offered} descriptors arrived", descriptors.len());
        return Err(NotTaken::Later(why));
    }
    let mut descriptors = descriptors.into_iter();
    let (Some(lock), Some(status)) = (descriptors.next(), descriptors.next()) else {
        return Err(NotTaken::Later("it offered nothing".into()));
    };
    let status = UnixListener::from_std(status.into())?;
    let ports = Lent::default();
    for port in descriptors {
        ports.put(port.into())?;
    }
    Ok(Entered { lock: lock.into(), status: Some(status), ports })
}

/// Listening sockets that nobody accepts from yet: handed over, or lent during a hand-over.
#[derive(Default)]
pub(crate) struct Lent {
    sockets: Mutex<BTreeMap<SocketAddr, TcpListener>>,
}

impl Lent {
    pub(crate) fn put(&self, socket: TcpListener) -> io::Result<()> {
        let at = socket.local_addr()?;
        self.lock().insert(SocketAddr::new(at.ip(), at.port()), socket);
        Ok(())
    }

    /// The one of an address.
    pub(crate) fn take(&self, at: SocketAddr) -> Option<TcpListener> {
        self.lock().remove(&at)
    }

    /// Closes those that are left.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, TcpListener>> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What makes this process the gateway of its home, apart from the ports.
pub(crate) struct Office {
    pub(crate) rank: u64,
    lock: File,
    status: OwnedFd,
    commands: mpsc::Sender<Command>,
    answering: Option<JoinHandle<()>>,
}

impl Office {
    /// Begins to answer on the status socket.
    pub(crate) fn open(
        rank: u64,
        lock: File,
        listener: UnixListener,
        commands: mpsc::Sender<Command>,
    ) -> io::Result<Office> {
        let status = listener.as_fd().try_clone_to_owned()?;
        let answering = Some(tokio::spawn(status::serve(listener, commands.clone())));
        Ok(Office { rank, lock, status, commands, answering })
    }

    /// Takes no more conversations; who connects waits.
    async fn pause(&mut self) {
        if let Some(answering) = self.answering.take() {
            answering.abort();
            let _ = answering.await;
        }
    }

    fn resume(&mut self) -> io::Result<()> {
        let listener = UnixListener::from_std(self.status.try_clone()?.into())?;
        self.answering = Some(tokio::spawn(status::serve(listener, self.commands.clone())));
        Ok(())
    }

    /// Ends answering.
    pub(crate) async fn close(mut self) {
        self.pause().await;
    }
}

/// Gives everything to a process that asks for it. Where that came about, the private socket on which this
/// one answers from now on; otherwise everything is as it was.
pub(crate) async fn give(
    stream: UnixStream,
    rank: u64,
    office: &mut Office,
    table: &mut Table,
) -> Option<drain::Private> {
    match timeout(EXCHANGE, try_to_give(stream, rank, office, table)).await {
        Ok(Ok(given)) => return given,
        Ok(Err(error)) => tracing::warn!(%error, "a hand-over was broken off; serving on"),
        Err(_) => tracing::warn!("a hand-over took too long; serving on"),
    }
    // Wherever it was broken off.
    drain::remove(table.paths(), office.rank);
    table.take_ports_back().await;
    if office.answering.is_none()
        && let Err(error) = office.resume()
    {
        tracing::error!(%error, "cannot answer on the status socket any more");
    }
    None
}

async fn try_to_give(
    stream: UnixStream,
    rank: u64,
    office: &mut Office,
    table: &mut Table,
) -> io::Result<Option<drain::Private>> {
    check_peer(&stream)?;
    let mut talk = Talk::new(stream);
    let context = table.context();
    // Held to the end: nothing falls asleep meanwhile, and afterwards it is not this process's to decide.
    let duty = context.duty.lay_down();
    let refusal = match (&duty, table.may_hand_over()) {
        _ if rank <= office.rank => {
            let why = format!("a gateway of rank {} serves already, this one is of rank {rank}", office.rank);
            Some(Answer::Never(why))
        }
        (_, Err(why)) => Some(Answer::Later(why)),
        (None, _) => Some(Answer::Later("a server is falling asleep".into())),
        (Some(_), Ok(())) => None,
    };
    if let Some(refusal) = refusal {
        talk.answer(&refusal).await?;
        return Ok(None);
    }
    let mut descriptors = vec![office.lock.as_fd().try_clone_to_owned()?, office.status.try_clone()?];
    descriptors.extend(table.sockets()?);
    for batch in descriptors.chunks(BATCH) {
        talk.send_descriptors(batch).await?;
    }
    fail_point!("gateway::descriptors_sent");
    talk.answer(&Answer::Offer(descriptors.len())).await?;
    drop(descriptors);
    if talk.line().await? != TAKEN {
        return Err(io::Error::other("the other side did not take what it was offered"));
    }
    let private = drain::Private::open(table.paths(), office.rank)?;
    table.lend_ports().await?;
    office.pause().await;
    fail_point!("gateway::accepts_no_more");
    talk.say(GO).await?;
    fail_point!("gateway::handed_over");
    table.forget_ports();
    if let Some(mut duty) = duty {
        *duty = true;
    }
    tracing::info!(rank, "handed over to the next gateway; draining");
    Ok(Some(private))
}

/// Nobody but the gateway's own user gives or takes.
pub(crate) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    let (theirs, ours) = (stream.peer_cred()?.uid(), rustix::process::geteuid().as_raw());
    if theirs == ours {
        return Ok(());
    }
    let why = format!("user {theirs} is at the other end, not the gateway's own ({ours})");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, why))
}

/// Lines with descriptors beside them.
struct Talk {
    stream: UnixStream,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Talk {
    fn new(stream: UnixStream) -> Talk {
        Talk { stream, bytes: Vec::new(), descriptors: Vec::new() }
    }

    async fn say(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let sent = self.send(bytes, &[]).await?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    async fn answer(&self, answer: &Answer) -> io::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        self.say(&line).await
    }

    /// A byte has to go along; a space before the line that follows means nothing there.
    async fn send_descriptors(&self, descriptors: &[OwnedFd]) -> io::Result<()> {
        let descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        self.send(b" ", &descriptors).await.map(drop)
    }

    async fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        self.stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
                let mut beside = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
                    return Err(io::Error::other("too many descriptors in one message"));
                }
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                Ok(rustix::net::sendmsg(&self.stream, &[IoSlice::new(bytes)], &mut beside, flags)?)
            })
            .await
    }

    /// The next line, with its end; what came beside it is in `descriptors`.
    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                return Ok(self.bytes.drain(..=end).collect());
            }
            if self.bytes.len() > MAX_LINE {
                return Err(io::Error::other("a line is too long"));
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> io::Result<()> {
        let Talk { stream, bytes, descriptors } = self;
        stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
                let mut beside = RecvAncillaryBuffer::new(&mut space);
                let mut chunk = [0; 512];
                let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
                let mut into = [IoSliceMut::new(&mut chunk)];
                let received = rustix::net::recvmsg(&*stream, &mut into, &mut beside, flags)?;
                for message in beside.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        descriptors.extend(rights);
                    }
                }
                if received.bytes == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                bytes.extend_from_slice(chunk.get(..received.bytes).unwrap_or_default());
                Ok(())
            })
            .await
    }
}
