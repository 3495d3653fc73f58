//! The folders of `$STEAD_HOME` that are the platform's: made at the first start, put right at every one.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::files::{self, Access};
use crate::host::Host;
use crate::{During, Error, fail_point};

/// Whose a folder is.
#[derive(Clone, Copy)]
enum Owner {
    /// Root's; the group is root's as well.
    Root,
    /// Root's, with the group "stead".
    RootStead,
    /// The control plane's.
    Control,
    /// The control plane's, with the group of the function front door.
    ControlFunctions,
    /// The function front door's.
    Functions,
    /// The control plane's, with the group of the relay.
    ControlRelay,
    /// The relay's.
    Relay,
    /// The relay's, with the group "stead".
    RelayStead,
}

/// Every platform folder, parents first. Where two of Stead's users write, the folder is sticky: each
/// may replace its own files only.
const FOLDERS: &[(&str, Owner, u32)] = &[
    // With environments: nothing for the gateway or the function front door to read.
    ("units", Owner::Control, 0o700),
    ("servers", Owner::Control, 0o750),
    ("spares", Owner::Control, 0o750),
    ("gateway", Owner::Control, 0o1770),
    ("gateway/routes", Owner::Control, 0o750),
    ("gateway/tls", Owner::Control, 0o750),
    ("logs", Owner::Control, 0o1770),
    ("logs/store", Owner::Control, 0o700),
    ("spool", Owner::Control, 0o1770),
    ("ca", Owner::Control, 0o700),
    ("archiver", Owner::Control, 0o700),
    ("archiver/servers", Owner::Control, 0o700),
    ("backups", Owner::Control, 0o700),
    ("engines", Owner::Root, 0o755),
    ("runtimes", Owner::Root, 0o755),
    // Code, which workers of any user read: each gets its own package alone to see.
    ("packages", Owner::Control, 0o751),
    ("functions", Owner::Control, 0o1770),
    // What the control plane writes there gets the group, by the set-group-id bit.
    ("functions/routes", Owner::ControlFunctions, 0o2750),
    ("functions/spool", Owner::Functions, 0o700),
    ("relay", Owner::ControlRelay, 0o2750),
    ("relay/routes", Owner::ControlRelay, 0o2750),
    // Copiers get there by their sandboxes alone, each to its own.
    ("relay/sockets", Owner::Relay, 0o700),
    ("relay/run", Owner::RelayStead, 0o2750),
    ("keeper", Owner::RootStead, 0o710),
    ("keeper/state", Owner::Root, 0o700),
    ("keeper/locks", Owner::Root, 0o700),
    ("keeper/asleep", Owner::Root, 0o700),
    ("keeper/workers", Owner::Root, 0o700),
    ("keeper/new", Owner::Root, 0o700),
    ("keeper/trash", Owner::Root, 0o700),
    ("keeper/root", Owner::Root, 0o700),
];

/// Makes what is missing and puts owners and modes right; says what it had to put right.
pub(crate) fn ensure(home: impl AsFd, host: &Host) -> Result<Vec<String>, Error> {
    let home = home.as_fd();
    let mut repairs = Vec::new();
    let (uid, gid) = host.root();
    let wanted = Access { uid, gid, mode: 0o755 };
    let had = files::set_access(home, wanted).during(|| "cannot set the home's owner and mode".into())?;
    repairs.extend(had.map(|had| repaired(".", had, wanted)));
    for (path, owner, mode) in FOLDERS {
        let (uid, gid) = match owner {
            Owner::Root => host.root(),
            Owner::RootStead => (host.root().0, host.gid()),
            Owner::Control => (host.control_uid(), host.gid()),
            Owner::ControlFunctions => (host.control_uid(), host.functions_gid()),
            Owner::Functions => (host.functions_uid(), host.functions_gid()),
            Owner::ControlRelay => (host.control_uid(), host.relay_gid()),
            Owner::Relay => (host.relay_uid(), host.relay_gid()),
            Owner::RelayStead => (host.relay_uid(), host.gid()),
        };
        let wanted = Access { uid, gid, mode: *mode };
        let (made, had) = folder(home, path, wanted).during(|| {
            format!(
                "cannot make or put right the folder `{path}`; if something else has that name, move it away"
            )
        })?;
        repairs.extend(had.filter(|_| !made).map(|had| repaired(path, had, wanted)));
        fail_point!("keeper::layout.folder_made");
    }
    Ok(repairs)
}

fn folder(home: impl AsFd, path: &str, wanted: Access) -> io::Result<(bool, Option<Access>)> {
    let home = home.as_fd();
    let made = files::make_dir(home, path)?;
    let dir: OwnedFd = files::open_dir(home, path)?;
    Ok((made, files::set_access(&dir, wanted)?))
}

pub(crate) fn repaired(path: &str, had: Access, wanted: Access) -> String {
    format!(
        "`{path}` belonged to {}:{} with mode {:o}; it belongs to {}:{} with mode {:o} again",
        had.uid, had.gid, had.mode, wanted.uid, wanted.gid, wanted.mode
    )
}
