//! Asking the keeper for sandboxed processes.
//!
//! A sandbox comes with everything that it will ever have to the outside as descriptors: pipes, listeners inside its
//! own network namespace, a socket on which keeper and launcher say what becomes of it. So whoever speaks on a listener
//! is known by the listener, and nothing that a function sends has to be believed.

use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use keeper::wire::{Name, Reply, Request, WorkerClaim, WorkerLimits, WorkerMessage, WorkerOrder};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use rustix::pipe::PipeFlags;
use tokio::io::{AsyncBufReadExt, BufReader, Interest};
use tokio::net::unix::pipe;
use tokio::net::{TcpListener, UdpSocket, UnixStream};
use tokio::time::{Instant, timeout, timeout_at};

use crate::control_socket::{self, ControlSocket};

/// How long the keeper may take to answer; it makes processes one after the other.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no sandbox.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Failed {
    /// The keeper does not answer.
    #[error("the keeper does not answer: {0}")]
    Unreachable(String),
    /// The keeper refuses.
    #[error("the keeper made no sandbox: {0}")]
    Refused(String),
    /// What was made is not usable.
    #[error("the sandbox ended before it was ready: {0}")]
    Ended(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}

/// What a sandbox begins with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Kind {
    /// The folder shown at `/var/lang`.
    pub(crate) lang: Option<PathBuf>,
    /// What runs at once; nothing: the sandbox waits for a program.
    pub(crate) program: Vec<String>,
}

/// Asks the keeper of a home.
pub(crate) struct Sandboxes {
    socket: PathBuf,
    next: AtomicU64,
}

/// A sandbox that stands; nothing of a function is in it yet.
pub(crate) struct Sandbox {
    pub(crate) name: Name,
    pub(crate) control: ControlSocket,
    pub(crate) input: pipe::Sender,
    pub(crate) output: pipe::Receiver,
    pub(crate) errors: pipe::Receiver,
    pub(crate) runtime_api: TcpListener,
    pub(crate) postgres: TcpListener,
    pub(crate) dns: UdpSocket,
    /// What was said on the control socket and nobody has looked at yet.
    pub(crate) said: Said,
}

impl Sandboxes {
    pub(crate) fn new(home: &Path) -> Self {
        Self { socket: home.join("keeper/keeper.sock"), next: AtomicU64::new(1) }
    }

    /// Makes one, and waits until it stands.
    pub(crate) async fn start(
        &self,
        kind: &Kind,
        files: BTreeMap<String, String>,
        env: BTreeMap<String, String>,
        limits: WorkerLimits,
    ) -> Result<Sandbox, Failed> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        // An earlier engine's workers may not all have ended yet.
        let name = Name::parse(format!("w-{:x}-{number:x}", std::process::id()))
            .map_err(|error| Failed::Refused(error.to_string()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .map_err(io::Error::from)?;
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(io::Error::from);
        let (stdin, input) = pipe()?;
        let (output, stdout) = pipe()?;
        let (errors, stderr) = pipe()?;
        let order = WorkerOrder {
            worker: name.clone(),
            lang: kind.lang.clone(),
            files,
            program: kind.program.clone(),
            env,
            limits,
        };
        self.ask(
            &Request::StartWorker(order),
            &[theirs.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        )
        .await?;
        drop((theirs, stdin, stdout, stderr));
        for end in [&input, &output, &errors] {
            rustix::io::ioctl_fionbio(end, true).map_err(io::Error::from)?;
        }
        let mut control = ControlSocket::new(ours)?;
        let mut said = Vec::new();
        let (runtime_api, postgres, dns) = ready(&mut control, &mut said).await?;
        Ok(Sandbox {
            name,
            control,
            input: pipe::Sender::from_owned_fd(input)?,
            output: pipe::Receiver::from_owned_fd(output)?,
            errors: pipe::Receiver::from_owned_fd(errors)?,
            runtime_api,
            postgres,
            dns,
            said,
        })
    }

    /// Gives a sandbox its package and limits; when this returns, both are in place.
    pub(crate) async fn claim(&self, claim: WorkerClaim) -> Result<(), Failed> {
        self.ask(&Request::ClaimWorker(claim), &[]).await
    }

    /// Ends a sandbox with everything in it.
    pub(crate) async fn stop(&self, worker: Name) -> Result<(), Failed> {
        self.ask(&Request::StopWorker { worker }, &[]).await
    }

    async fn ask(&self, request: &Request, fds: &[std::os::fd::BorrowedFd<'_>]) -> Result<(), Failed> {
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        let answer = timeout(PATIENCE, self.exchange(&line, fds))
            .await
            .map_err(|_| Failed::Unreachable(format!("no answer within {} s", PATIENCE.as_secs())))??;
        match serde_json::from_slice(&answer) {
            Ok(Reply::Done) => Ok(()),
            Ok(Reply::Refused(refusal)) => Err(Failed::Refused(refusal.message)),
            _ => Err(Failed::Refused("its answer is not understood; run one version of both".to_owned())),
        }
    }

    async fn exchange(&self, line: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<Vec<u8>> {
        let stream = UnixStream::connect(&self.socket).await?;
        let mut rest = line;
        let mut fds = fds;
        while !rest.is_empty() {
            let sent = stream.async_io(Interest::WRITABLE, || send(&stream, rest, fds)).await?;
            rest = rest.get(sent..).unwrap_or_default();
            // They went with the first bytes.
            fds = &[];
        }
        let mut answer = Vec::new();
        BufReader::new(stream).read_until(b'\n', &mut answer).await?;
        if answer.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(answer)
    }
}

fn send(stream: &UnixStream, bytes: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("too many descriptors for one message"));
    }
    Ok(rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?)
}

type Said = Vec<(WorkerMessage, Vec<OwnedFd>)>;

/// Waits for the word that the sandbox stands, and for its listeners; what is said before it is kept.
async fn ready(
    control: &mut ControlSocket,
    said: &mut Said,
) -> Result<(TcpListener, TcpListener, UdpSocket), Failed> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let message = timeout_at(deadline, control.receive()).await;
        match message.map_err(|_| Failed::Ended("it did not get ready".to_owned()))?? {
            Some((WorkerMessage::Ready, fds)) => return listeners(fds),
            Some((WorkerMessage::Failed(why), _)) => return Err(Failed::Refused(why)),
            Some((WorkerMessage::Ended { code, signal, .. }, _)) => {
                return Err(Failed::Ended(format!("exit code {code:?}, signal {signal:?}")));
            }
            Some(other) => said.push(other),
            None => return Err(Failed::Ended("nobody is left who could say why".to_owned())),
        }
    }
}

fn listeners(fds: Vec<OwnedFd>) -> Result<(TcpListener, TcpListener, UdpSocket), Failed> {
    let mut fds = fds.into_iter();
    let mut next = || fds.next().ok_or_else(|| Failed::Ended("its listeners are missing".to_owned()));
    let (runtime_api, postgres, dns) = (next()?, next()?, next()?);
    Ok((control_socket::tcp(runtime_api)?, control_socket::tcp(postgres)?, udp(dns)?))
}

fn udp(fd: OwnedFd) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::from(fd);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}
