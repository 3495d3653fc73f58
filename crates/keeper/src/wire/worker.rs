//! Workers: short-lived processes in sandboxes of their own, which the function front door asks for.
//!
//! A worker is no unit: nothing declares it, nothing restarts it, and it ends with the process of the unit
//! that asked for it. It is made in two steps, so that the slow one happens ahead of need. *Started*, its
//! sandbox stands, empty, with listeners in its network namespace, and its program (an interpreter, or the
//! launcher itself, waiting) is sealed inside. *Claimed*, it gets its limits, its package and its doors to
//! the outside; what it shall run with comes through its standard input, from whoever asked for it.
//!
//! Each worker has a control socket (`SOCK_SEQPACKET`), whose one end the asker sends along; the keeper and
//! the child write [`WorkerMessage`]s to it, one a packet, some with descriptors. It ends without a last message when
//! the keeper itself ends; the worker lives on, can be stopped, and can no longer be claimed.

use std::collections::BTreeMap;
use std::num::NonZeroU8;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Name;

/// A worker to be started. Goes with four descriptors, in this order: the keeper's end of the control
/// socket, standard input (read end of a pipe), standard output and standard error (write ends).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerOrder {
    /// Its name, chosen by who asks; never used before by the same process.
    pub worker: Name,
    /// Folder with an interpreter, shown at `/var/lang`: one of the host's runtime folders, owned by root.
    #[serde(default)]
    pub lang: Option<PathBuf>,
    /// Small files shown at `/var/runtime`, by name: the bootstraps.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Program and arguments, as paths inside, run at once. Without one the worker waits, sealed, for one line on
    /// standard input, a [`WorkerStart`], and runs what that says.
    #[serde(default)]
    pub program: Vec<String>,
    /// The whole environment of `program`.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Until it is claimed.
    pub limits: WorkerLimits,
}

/// What a worker that waits is told by its asker, as one line of JSON on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStart {
    /// Program and arguments, as paths inside.
    pub program: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
}

/// What a worker may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerLimits {
    /// Bytes of memory, `/tmp` included.
    pub memory_bytes: u64,
    /// Bytes of its `/tmp`.
    pub tmp_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
}

/// What a worker becomes when it is claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerClaim {
    /// Which.
    pub worker: Name,
    /// SHA-256 of the package in hexadecimal: the folder `packages/<it>`, mounted read-only at `/var/task`.
    pub package: String,
    /// What it may use from now on.
    pub limits: WorkerLimits,
    /// TCP ports at which connections to addresses of [`EGRESS_NETWORK`] are taken for the asker; a listener for each
    /// comes in a [`WorkerMessage::Egress`].
    #[serde(default)]
    pub egress: Vec<u16>,
    /// TCP sockets that are connected to nothing, made in its network namespace and so able to reach what listens there;
    /// they come in a [`WorkerMessage::Sockets`]. None but where a debugger shall reach it.
    // Left out where there are none: a keeper of before knows nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sockets: Option<NonZeroU8>,
}

/// Addresses that are local inside a worker's namespace and nowhere else (RFC 2544): the asker's DNS gives out one for
/// each name that a function may reach, and knows by the address that a connection was made to which name was meant.
pub const EGRESS_NETWORK: &str = "198.18.0.0/15";

/// Where the runtime API listens inside.
pub const RUNTIME_API: &str = "127.0.0.1:9001";
/// Where the pool to the stead's servers listens inside.
pub const POSTGRES: &str = "127.0.0.1:5432";
/// Where DNS listens inside.
pub const DNS: &str = "127.0.0.1:53";

/// What is said on a worker's control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerMessage {
    /// The sandbox stands and its program is about to run. With descriptors: listening TCP sockets at
    /// [`RUNTIME_API`] and [`POSTGRES`], a UDP socket bound to [`DNS`].
    Ready,
    /// The groups that count and freeze it. With the descriptors that are named, in this order. Comes once, before
    /// or after [`Self::Ready`].
    Groups(Vec<Group>),
    /// With one listening TCP socket for each port, in this order. Comes before the claim is answered, and only where
    /// it names a port.
    Egress(Vec<u16>),
    /// With the sockets that the claim asked for. Comes before the claim is answered, and only where it asked for some.
    Sockets,
    /// It could not be made; nothing follows.
    Failed(String),
    /// It has ended, with everything it started; nothing follows.
    Ended {
        /// Exit code; absent where a signal ended it.
        code: Option<i32>,
        /// Signal that ended it.
        signal: Option<i32>,
        /// Whether the kernel killed something in it for want of memory.
        out_of_memory: bool,
        /// The most memory that it used, bytes, where the host counts it.
        memory_peak_bytes: Option<u64>,
    },
}

/// What a descriptor of [`WorkerMessage::Groups`] is. Each may be missing where the host has no such controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// `freezer.state` (version 1), open for writing: `FROZEN` or `THAWED`.
    FreezerV1,
    /// `cgroup.freeze` (version 2), open for writing: `1` or `0`.
    FreezerV2,
    /// A file that holds the most memory used so far, in bytes, open for reading.
    MemoryPeak,
}
