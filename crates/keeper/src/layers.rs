//! The layers of a worker's sandbox by name, so that a test can leave some out.
//!
//! Most that a worker could try is stopped by more than one of them. That an attempt fails says little while nobody
//! knows that it would succeed: so each is made a second time without the layers that are there to stop it. Where
//! fail points are not compiled in, none can be left out and nothing of this remains.

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Layer {
    /// Limits of memory and of processes.
    Limits,
    /// Shares of the processors, where a hierarchy has nothing else to do.
    Shares,
    /// Sizes of `/tmp` and `/dev/shm`.
    Sizes,
    PidNamespace,
    NetNamespace,
    IpcNamespace,
    /// A root of its own, in which the host's files are not.
    Root,
    /// That what is shown as the root is a folder below the namespace's root, and not that itself.
    Inner,
    /// What is bound into the root cannot be written to.
    ReadOnly,
    /// Mounts on which set-user-id programs change nothing.
    NoSuid,
    /// Mounts on which device files are none.
    NoDev,
    /// A `/proc` of processes alone, and of one's own.
    Proc,
    UserNamespace,
    /// A user id of its own and no capability.
    User,
    NoNewPrivs,
    Descriptors,
    Landlock,
    Seccomp,
}

/// Whether a test has left it out.
pub(crate) fn left_out(layer: Layer) -> bool {
    let _ = layer;
    fail::fail_point!("layers.left_out", |names: Option<String>| {
        names.unwrap_or_default().split('+').any(|name| name == format!("{layer:?}"))
    });
    false
}
