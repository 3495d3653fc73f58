//! The world that a server sees: the system's programs and libraries, its engine and its own tree, and
//! nothing else of the host; an own `/proc` without other users' processes, no network.
//!
//! Entered by the launcher's child in fresh namespaces, still as root. Every mount is private to it and
//! goes away with its last process.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

use crate::files;
use crate::layers::{Layer, left_out};

/// Namespaces of a server: everything but users, so that its user id means the same on the host.
pub(crate) const NAMESPACES: i32 =
    libc::CLONE_NEWPID | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWNET | libc::CLONE_NEWUTS;

/// The root that processes see, a folder of the new root. The host's root is out of reach by
/// `pivot_root`; being in a folder below the namespace's own root besides makes the kernel refuse new user
/// namespaces (it does to whoever is in a chroot), and with them every way to capabilities.
pub(crate) const INNER: &str = "inner";

/// Where the sandbox shows an engine that is not below `/usr`.
pub(crate) const ENGINE: &str = "/engine";

/// Folders of the system that are links into `/usr` on merged systems and folders on others.
const SYSTEM: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// What programs need of `/etc`, where the host has it.
const ETC: &[&str] = &["ld.so.cache", "localtime", "ssl/openssl.cnf", "alternatives"];

/// `/etc/hosts`.
pub(crate) const HOSTS: &str = "127.0.0.1 localhost\n::1 localhost\n";

pub(crate) const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];

/// Size of a server's private `/tmp`.
const TMP_BYTES: u64 = 64 * 1024 * 1024;

/// Options of a `/proc` that shows a process its own user's processes only, and of the kernel nothing; older kernels know
/// fewer of them.
pub(crate) const PROCESSES_ALONE: &[&CStr] = &[c"hidepid=invisible,subset=pid", c"hidepid=2", c""];

/// Options of one that shows no other user's processes, but the kernel.
pub(crate) const OWN_PROCESSES: &[&CStr] = &[c"hidepid=invisible", c"hidepid=2"];

/// What a sandbox is made of.
pub(crate) struct Sandbox {
    pub(crate) home: PathBuf,
    /// The tree below the home.
    pub(crate) tree: PathBuf,
    /// Whose `data` must be.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The engine's folder, shown at [`ENGINE`].
    pub(crate) engine: Option<PathBuf>,
    /// Folders below the home, each with a server's socket or a way outside, and where they are shown.
    pub(crate) sources: Vec<(PathBuf, &'static str)>,
    /// Whether it is shown which authorities the host trusts.
    pub(crate) authorities: bool,
    /// Whether the tree's data are only to be read.
    pub(crate) reads_only: bool,
    pub(crate) control_uid: u32,
    pub(crate) gateway_uid: u32,
    pub(crate) stead_gid: u32,
    pub(crate) hostname: String,
    /// Size of `/dev/shm`, which parallel queries use.
    pub(crate) shm_bytes: u64,
}

/// What failed, in words.
pub(crate) type Failed = String;

pub(crate) trait While<T> {
    fn when(self, what: impl AsRef<str>) -> Result<T, Failed>;
}

impl<T, E: std::fmt::Display> While<T> for Result<T, E> {
    fn when(self, what: impl AsRef<str>) -> Result<T, Failed> {
        self.map_err(|error| format!("{}: {error}", what.as_ref()))
    }
}

/// What is mounted in here from now on is not mounted elsewhere.
pub(crate) fn keep_mounts_private() -> Result<(), Failed> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).when("make mounts private")
}

/// Makes a new root, lets `furnish` (called in its empty inner folder, with the home) put into it what shall be
/// seen, and goes in. Afterwards the host's files are out of reach for good.
pub(crate) fn enter_new_root<T>(
    home: &Path,
    hostname: &str,
    options: &str,
    furnish: impl FnOnce(&OwnedFd) -> Result<T, Failed>,
) -> Result<T, Failed> {
    keep_mounts_private()?;
    rustix::system::sethostname(hostname.as_bytes()).when("set the host name")?;
    let root = home.join("keeper/root");
    // Opened in this namespace: a mount of another one cannot be bound.
    let home =
        rustix::fs::open(home, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).when("open the home")?;
    tmpfs(&root, options, MountFlags::NOSUID | MountFlags::NODEV)?;
    rustix::process::chdir(&root).when("enter the new root")?;
    dir(INNER)?;
    rustix::process::chdir(INNER).when("enter the new root")?;
    let furnished = furnish(&home)?;
    rustix::process::chdir("..").when("leave the inner root")?;
    rustix::process::pivot_root(".", ".").when("change the root")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH).when("leave the host's root")?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount("/", allowed(flags), "").when("make the root read-only")?;
    if left_out(Layer::Inner) {
        rustix::mount::mount_bind_recursive(INNER, INNER).when("bind the inner root")?;
        rustix::process::chdir(INNER).when("enter the inner root")?;
        rustix::process::pivot_root(".", ".").when("change the root")?;
        rustix::mount::unmount(".", UnmountFlags::DETACH).when("leave the outer root")?;
    } else {
        rustix::process::chroot(INNER).when("enter the inner root")?;
    }
    rustix::process::chdir("/").when("enter the inner root")?;
    Ok(furnished)
}

impl Sandbox {
    /// Goes in.
    pub(crate) fn enter(&self) -> Result<(), Failed> {
        enter_new_root(&self.home, &self.hostname, "mode=0755,size=1m,nr_inodes=256", |home| {
            system()?;
            self.etc()?;
            devices(self.shm_bytes)?;
            self.tree(home)?;
            if let Some(engine) = &self.engine {
                bind(engine, Path::new(&ENGINE[1..]), MountFlags::RDONLY)?;
            }
            for (source, at) in &self.sources {
                let source = files::open_dir(home, source).when("open the folder of a socket")?;
                let source = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
                bind_dir(
                    &source,
                    Path::new(at.trim_start_matches('/')),
                    MountFlags::NOEXEC | MountFlags::RDONLY,
                )?;
            }
            proc()?;
            dir("tmp")?;
            tmpfs(Path::new("tmp"), &format!("mode=1777,size={TMP_BYTES}"), quiet())
        })
    }

    /// `/etc`: what libraries need, and users by the names that servers know them by. Peers on the socket
    /// are known by user id, so "stead-control" is who the kernel says it is.
    fn etc(&self) -> Result<(), Failed> {
        let (control, gateway, stead) = (self.control_uid, self.gateway_uid, self.stead_gid);
        let passwd = format!(
            "root:x:0:0:root:/:/usr/sbin/nologin\n\
             stead-control:x:{control}:{stead}::/:/usr/sbin/nologin\n\
             stead-gateway:x:{gateway}:{stead}::/:/usr/sbin/nologin\n\
             postgres:x:{}:{}::/stead:/usr/sbin/nologin\n",
            self.uid, self.gid
        );
        let group = format!("root:x:0:\nstead:x:{stead}:\npostgres:x:{}:\n", self.gid);
        etc(
            if self.authorities { &["ssl/certs"] } else { &[] },
            &[
                ("passwd", passwd.as_str()),
                ("group", group.as_str()),
                ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
                ("hosts", HOSTS),
            ],
        )
    }

    /// The tree at `/stead`. Its folders lie where the control plane may write, so they are opened without
    /// following links and bound by descriptor.
    fn tree(&self, home: &OwnedFd) -> Result<(), Failed> {
        dir("stead")?;
        let tree = files::open_dir(home, &self.tree).when("open the tree")?;
        let mut data = MountFlags::NOEXEC;
        data.set(MountFlags::RDONLY, self.reads_only);
        for (name, flags) in [
            ("data", data),
            ("run", MountFlags::NOEXEC),
            ("log", MountFlags::NOEXEC),
            ("conf", MountFlags::NOEXEC | MountFlags::RDONLY),
            ("guard", MountFlags::NOEXEC | MountFlags::RDONLY),
        ] {
            let source = files::open_dir(&tree, name).when(name)?;
            if name == "data" && files::access(&source).when(name)?.uid != self.uid {
                return Err("`data` belongs to another user than before".into());
            }
            let source = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
            bind_dir(&source, &Path::new("stead").join(name), flags)?;
        }
        Ok(())
    }
}

/// `/etc`: what programs need of the host's and of it `more`, and files of its own.
pub(crate) fn etc(more: &[&str], files: &[(&str, &str)]) -> Result<(), Failed> {
    dir("etc")?;
    dir("etc/ssl")?;
    for name in ETC.iter().chain(more) {
        let source = Path::new("/etc").join(name);
        if let Ok(source) = fs::canonicalize(&source) {
            bind(&source, &Path::new("etc").join(name), MountFlags::RDONLY)?;
        }
    }
    for (name, text) in files {
        fs::write(Path::new("etc").join(name), text).when(name)?;
    }
    Ok(())
}

pub(crate) fn devices(shm_bytes: u64) -> Result<(), Failed> {
    dir("dev")?;
    for name in DEVICES {
        let target = Path::new("dev").join(name);
        fs::write(&target, "").when("dev")?;
        rustix::mount::mount_bind(Path::new("/dev").join(name), &target).when("bind a device")?;
    }
    for (name, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        symlink(Path::new("/proc/self").join(target), Path::new("dev").join(name)).when("dev")?;
    }
    dir("dev/shm")?;
    tmpfs(Path::new("dev/shm"), &format!("mode=1777,size={shm_bytes}"), quiet())
}

/// The flags of a mount, without those of layers that are left out.
pub(crate) fn allowed(mut flags: MountFlags) -> MountFlags {
    for (layer, flag) in [
        (Layer::ReadOnly, MountFlags::RDONLY),
        (Layer::NoSuid, MountFlags::NOSUID),
        (Layer::NoDev, MountFlags::NODEV),
    ] {
        flags.set(flag, flags.contains(flag) && !left_out(layer));
    }
    flags
}

fn quiet() -> MountFlags {
    MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC
}

pub(crate) fn dir(path: impl AsRef<Path>) -> Result<(), Failed> {
    let path = path.as_ref();
    fs::create_dir(path).when(format!("make {}", path.display()))
}

pub(crate) fn tmpfs(at: &Path, options: &str, flags: MountFlags) -> Result<(), Failed> {
    let options = std::ffi::CString::new(options).when("mount options")?;
    rustix::mount::mount("tmpfs", at, "tmpfs", allowed(flags), options.as_c_str())
        .when(format!("mount a tmpfs at {}", at.display()))
}

pub(crate) fn system() -> Result<(), Failed> {
    bind_dir(Path::new("/usr"), Path::new("usr"), MountFlags::RDONLY)?;
    for name in SYSTEM {
        let source = Path::new("/").join(name);
        match fs::symlink_metadata(&source) {
            Ok(meta) if meta.is_symlink() => {
                let target = fs::read_link(&source).when(name)?;
                symlink(target, name).when(name)?;
            }
            Ok(meta) if meta.is_dir() => bind_dir(&source, Path::new(name), MountFlags::RDONLY)?,
            _ => {}
        }
    }
    Ok(())
}

fn proc() -> Result<(), Failed> {
    dir("proc")?;
    mount_proc(Path::new("proc"), PROCESSES_ALONE)
}

/// Mounts a `/proc` of the new process namespace, with the first of these options that the kernel knows.
pub(crate) fn mount_proc(at: &Path, options: &[&CStr]) -> Result<(), Failed> {
    let mut last = Ok(());
    for options in options {
        last = rustix::mount::mount("proc", at, "proc", quiet(), *options);
        if last.is_ok() {
            break;
        }
    }
    last.when("mount /proc")
}

fn bind(source: &Path, target: &Path, flags: MountFlags) -> Result<(), Failed> {
    if source.is_dir() {
        return bind_dir(source, target, flags);
    }
    fs::write(target, "").when(format!("make {}", target.display()))?;
    bound(source, target, flags)
}

fn bind_dir(source: &Path, target: &Path, flags: MountFlags) -> Result<(), Failed> {
    dir(target)?;
    bound(source, target, flags)
}

/// What is mounted below the source is left out on purpose.
pub(crate) fn bound(source: &Path, target: &Path, flags: MountFlags) -> Result<(), Failed> {
    rustix::mount::mount_bind(source, target).when(format!("bind {}", target.display()))?;
    let flags = flags | MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount_remount(target, allowed(flags), "").when(format!("protect {}", target.display()))
}
