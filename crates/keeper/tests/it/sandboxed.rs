//! A worker as its asker has it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::num::NonZeroU8;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::pipe::{PipeFlags, pipe_with};

use crate::home::*;
use keeper::ClientError;
use keeper::wire::*;

pub(crate) const LIMITS: WorkerLimits =
    WorkerLimits { memory_bytes: 256 << 20, tmp_bytes: 32 << 20, pids: 64 };

pub(crate) struct Started {
    pub(crate) name: Name,
    control: OwnedFd,
    stdin: Option<fs::File>,
    stdout: fs::File,
    stderr: fs::File,
    said: Vec<(WorkerMessage, Vec<OwnedFd>)>,
}

pub(crate) fn waiting(name: &str) -> WorkerOrder {
    WorkerOrder {
        worker: crate::home::name(name),
        lang: None,
        files: BTreeMap::new(),
        program: Vec::new(),
        env: BTreeMap::new(),
        limits: LIMITS,
    }
}

impl Home {
    /// A package with these files; its digest.
    pub(crate) fn package(&self, files: &[(&str, &str)]) -> String {
        use sha2::Digest;
        let digest = sha2::Sha256::digest(format!("{files:?}"));
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = self.path.join("packages").join(&digest);
        fs::create_dir_all(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        digest
    }

    /// Waits until there is no process, group or record of a worker.
    #[track_caller]
    pub(crate) fn nothing_left_of_workers(&self) {
        let host = self.host();
        let uids = host.uid_first + host.uid_count - 1024..host.uid_first + host.uid_count;
        until("no record is left", || {
            fs::read_dir(self.path.join("keeper/workers")).unwrap().next().is_none().then_some(())
        });
        for folder in self.groups_of_workers() {
            until("no group is left", || {
                let mut entries = fs::read_dir(&folder).unwrap().flatten();
                (!entries.any(|entry| entry.path().is_dir())).then_some(())
            });
        }
        let of_workers = |pid: i32| {
            let meta = fs::metadata(format!("/proc/{pid}"));
            meta.is_ok_and(|meta| uids.contains(&std::os::unix::fs::MetadataExt::uid(&meta)))
        };
        until("no process is left", || {
            (!self.processes().iter().any(|(pid, _)| of_workers(*pid))).then_some(())
        });
    }
}

impl Started {
    pub(crate) fn waiting(home: &Home, name: &str) -> Self {
        Self::order(home, &waiting(name)).unwrap()
    }

    /// One that runs a program at once.
    pub(crate) fn running(home: &Home, name: &str, program: &[&str]) -> Self {
        let program = program.iter().map(ToString::to_string).collect();
        let env = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        Self::order(home, &WorkerOrder { program, env, ..waiting(name) }).unwrap()
    }

    pub(crate) fn order(home: &Home, order: &WorkerOrder) -> Result<Self, ClientError> {
        let flags = SocketFlags::CLOEXEC;
        let (control, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        let (input, stdin) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (stdout, output) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let (stderr, errors) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        home.client.start_worker(order, [theirs.as_fd(), input.as_fd(), output.as_fd(), errors.as_fd()])?;
        Ok(Self {
            name: order.worker.clone(),
            control,
            stdin: Some(stdin.into()),
            stdout: stdout.into(),
            stderr: stderr.into(),
            said: Vec::new(),
        })
    }

    /// Waits for a message that fits; others are kept.
    #[track_caller]
    fn hear<T>(&mut self, what: &str, fits: impl Fn(&WorkerMessage) -> Option<T>) -> (T, Vec<OwnedFd>) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(at) = self.said.iter().position(|(message, _)| fits(message).is_some()) {
                let (message, fds) = self.said.remove(at);
                return (fits(&message).unwrap(), fds);
            }
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now())).unwrap();
            let ready =
                rustix::event::poll(&mut [PollFd::new(&self.control, PollFlags::IN)], Some(&left)).unwrap();
            assert!(ready > 0, "waited in vain for {what}; heard {:?}", self.said);
            let heard = self.receive();
            assert!(heard, "the control socket ended before {what}; heard {:?}", self.said);
        }
    }

    fn receive(&mut self) -> bool {
        let mut bytes = vec![0u8; 65536];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::net::recvmsg(
            &self.control,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let mut fds = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(given) = message {
                fds.extend(given);
            }
        }
        if received.bytes == 0 {
            return false;
        }
        let message = serde_json::from_slice(&bytes[..received.bytes]).unwrap();
        self.said.push((message, fds));
        true
    }

    /// The runtime API's, the database's and DNS's sockets.
    #[track_caller]
    pub(crate) fn ready(&mut self) -> Vec<OwnedFd> {
        let fds = self.until_ready();
        assert_eq!(fds.len(), 3);
        fds
    }

    #[track_caller]
    pub(crate) fn until_ready(&mut self) -> Vec<OwnedFd> {
        let is = |message: &WorkerMessage| match message {
            WorkerMessage::Ready => Some(Ok(())),
            WorkerMessage::Failed(why) => Some(Err(why.clone())),
            _ => None,
        };
        let (ready, fds) = self.hear("ready", is);
        assert_eq!(ready, Ok(()));
        fds
    }

    #[track_caller]
    pub(crate) fn groups(&mut self) -> Vec<(Group, OwnedFd)> {
        let is = |message: &WorkerMessage| match message {
            WorkerMessage::Groups(groups) => Some(groups.clone()),
            _ => None,
        };
        let (groups, fds) = self.hear("groups", is);
        assert_eq!(groups.len(), fds.len());
        groups.into_iter().zip(fds).collect()
    }

    #[track_caller]
    pub(crate) fn egress(&mut self) -> Vec<(u16, OwnedFd)> {
        let is = |message: &WorkerMessage| match message {
            WorkerMessage::Egress(ports) => Some(ports.clone()),
            _ => None,
        };
        let (ports, fds) = self.hear("egress", is);
        assert_eq!(ports.len(), fds.len());
        ports.into_iter().zip(fds).collect()
    }

    #[track_caller]
    pub(crate) fn failed(&mut self) -> String {
        let is = |message: &WorkerMessage| match message {
            WorkerMessage::Failed(why) => Some(why.clone()),
            _ => None,
        };
        self.hear("failed", is).0
    }

    /// Exit code, signal, and whether memory ran out.
    #[track_caller]
    pub(crate) fn ended(&mut self) -> (Option<i32>, Option<i32>, bool) {
        let is = |message: &WorkerMessage| match message {
            WorkerMessage::Ended { code, signal, out_of_memory, .. } => {
                Some((*code, *signal, *out_of_memory))
            }
            WorkerMessage::Failed(why) => panic!("it could not be made: {why}"),
            _ => None,
        };
        self.hear("its end", is).0
    }

    #[track_caller]
    pub(crate) fn claim(&self, home: &Home, package: &str, egress: &[u16]) {
        self.try_claim(home, package, egress).unwrap();
    }

    pub(crate) fn try_claim(&self, home: &Home, package: &str, egress: &[u16]) -> Result<(), ClientError> {
        self.try_claim_reachable(home, package, egress, 0)
    }

    /// With sockets to what will listen inside.
    pub(crate) fn try_claim_reachable(
        &self,
        home: &Home,
        package: &str,
        egress: &[u16],
        sockets: u8,
    ) -> Result<(), ClientError> {
        home.client.claim_worker(&WorkerClaim {
            worker: self.name.clone(),
            package: package.to_owned(),
            limits: LIMITS,
            egress: egress.to_vec(),
            sockets: NonZeroU8::new(sockets),
        })
    }

    /// The sockets that came with the claim.
    #[track_caller]
    pub(crate) fn sockets(&mut self) -> Vec<OwnedFd> {
        self.hear("sockets", |message| (*message == WorkerMessage::Sockets).then_some(())).1
    }

    /// Says what to run to one that waits.
    pub(crate) fn run(&mut self, program: &[&str], env: &[(&str, &str)]) {
        let start = WorkerStart {
            program: program.iter().map(ToString::to_string).collect(),
            env: env.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        };
        let mut line = serde_json::to_vec(&start).unwrap();
        line.push(b'\n');
        self.say(&line);
    }

    /// Writes to its standard input, and nothing more afterwards.
    pub(crate) fn say(&mut self, bytes: &[u8]) {
        self.stdin.take().unwrap().write_all(bytes).unwrap();
    }

    /// Whether it writes something within a time, all of which is taken.
    pub(crate) fn writes_within(&mut self, time: Duration) -> bool {
        let time = Timespec::try_from(time).unwrap();
        let ready =
            rustix::event::poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&time)).unwrap();
        ready > 0 && self.stdout.read(&mut [0; 65536]).unwrap() > 0
    }

    #[track_caller]
    pub(crate) fn until_writes(&mut self) {
        until("it writes", || self.writes_within(Duration::from_secs(1)).then_some(()));
    }

    /// The next line that it writes.
    pub(crate) fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while self.stdout.read(&mut byte).unwrap() > 0 && byte != *b"\n" {
            line.extend(byte);
        }
        String::from_utf8(line).unwrap()
    }

    /// All that it writes until its end, while something else is done again and again.
    pub(crate) fn output_while(&mut self, mut act: impl FnMut()) -> String {
        let mut text = Vec::new();
        loop {
            act();
            let time = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            let ready =
                rustix::event::poll(&mut [PollFd::new(&self.stdout, PollFlags::IN)], Some(&time)).unwrap();
            let mut chunk = [0; 4096];
            match if ready > 0 { self.stdout.read(&mut chunk).unwrap() } else { continue } {
                0 => return String::from_utf8(text).unwrap(),
                n => text.extend_from_slice(&chunk[..n]),
            }
        }
    }

    /// All that it wrote, once it has ended.
    pub(crate) fn output(&mut self) -> String {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text).unwrap();
        text
    }

    pub(crate) fn errors(&mut self) -> String {
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).unwrap();
        text
    }
}
