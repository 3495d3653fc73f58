//! Ways out of a worker that somebody might try. Each fails in a worker as it is; and, so that this says something,
//! each succeeds in one without the layers that are there to stop it.
//!
//! Not tried, since this cannot succeed on the machines that these tests run on, whatever is left out:
//! * to load a module or another kernel (`init_module`, `kexec_load`): the kernel has neither;
//! * sockets of the kernel's cipher interface (`AF_ALG`) and 64-bit calls with 32-bit pointers (x32), for the same
//!   reason; the filter refuses both;
//! * to type into the terminal that the keeper was started at (`TIOCSTI`): a worker has a session of its own, no
//!   terminal and no device to make one, and the filter refuses the request;
//! * to raise hard limits of resources: root has no `CAP_SYS_RESOURCE` here;
//! * `/proc/kcore`, `/proc/sysrq-trigger` and `/proc/sched_debug`, which this kernel has not, and `/proc/keys`, where a
//!   worker's user sees none: another test looks that whatever there is of the kind is covered;
//! * capabilities of files: the bounding set is empty, and who leaves that out is root already.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;

use crate::home::*;
use crate::sandboxed::*;

/// What an attempt is made with. It has been one where the program ends with code 0.
const PRELUDE: &str = r#"
import ctypes, errno, json, mmap, os, socket, struct, sys
host = json.loads(os.environ["HOST"])
libc = ctypes.CDLL(None, use_errno=True)
NEWUSER, NEWNET, NEWNS = 0x10000000, 0x40000000, 0x20000
def call(name, *args, otherwise=None):
    args = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    done = libc.syscall(ctypes.c_long(host["calls"][name]), *args)
    if done == -1 and ctypes.get_errno() != otherwise:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return done
def mount(source, target, kind, flags, options=b""):
    call("mount", source, target, kind, flags, options)
"#;

/// Root by all means: without them a worker has every capability over the host.
const ROOT: &str = "User+UserNamespace";

struct Attempt {
    what: &'static str,
    /// The layers that stop it, `+` between them; `Root` stands for itself, `*` for [`ROOT`].
    layers: &'static str,
    code: &'static str,
}

const fn attempt(what: &'static str, layers: &'static str, code: &'static str) -> Attempt {
    Attempt { what, layers, code }
}

const ATTEMPTS: &[Attempt] = &[
    // Files.
    attempt("read a secret of the host", "Root+*+Landlock", "open(host['home'] + '/secret').read()"),
    attempt("list folders of the host", "Root+Landlock", "os.listdir(host['home'])"),
    attempt(
        "ask the keeper",
        "Root+*",
        "s = socket.socket(socket.AF_UNIX); s.connect(host['home'] + '/keeper/keeper.sock')\n\
         s.send(b'{\"op\":\"host\"}\\n'); assert b'units' in s.recv(65536)",
    ),
    attempt("change the system's files", "ReadOnly+*+Landlock", "open('/usr/lib/os-release', 'r+')"),
    attempt("change the package", "ReadOnly+*+Landlock", "open('/var/task/a', 'r+')"),
    attempt("change the bootstraps", "ReadOnly+*+Landlock", "open('/var/runtime/bootstrap', 'r+')"),
    attempt("change the root", "ReadOnly+*+Landlock", "os.mkdir('/x')"),
    attempt(
        "raise its own limit",
        "Root+*+Landlock",
        "[group] = [at for at in os.scandir(host['group'] + '/all.workers') if at.is_dir()]\n\
         open(group.path + '/cgroup.procs', 'w')",
    ),
    attempt("open the kernel's log", "Root+*+Landlock", "open('/dev/kmsg')"),
    attempt(
        "make a device of the host and open it",
        "NoDev+*+Landlock",
        "os.mknod('/tmp/d', 0o20600, os.makedev(1, 11)); os.open('/tmp/d', os.O_RDONLY)",
    ),
    attempt(
        "open files of the host by handle",
        "*+Seccomp+Landlock",
        "at = os.open('/usr', os.O_RDONLY)\n\
         root = ctypes.create_string_buffer(struct.pack('IiII', 8, 1, 2, 0))\n\
         assert 'root' in os.listdir(call('open_by_handle_at', at, root, os.O_RDONLY))",
    ),
    attempt(
        "name files by handle",
        "Seccomp",
        "handle = ctypes.create_string_buffer(struct.pack('Ii', 128, 0) + bytes(128))\n\
         call('name_to_handle_at', -100, b'/usr', handle, ctypes.byref(ctypes.c_int()), 0)",
    ),
    attempt("watch files of everybody", "Seccomp", "call('fanotify_init', 0x200, 0)"),
    attempt("sync and ask quotas", "Seccomp", "call('quotactl', 0x80000100, 0, 0, 0)"),
    attempt("fill /tmp", "Sizes", "open('/tmp/x', 'wb').write(bytes(64 << 20))"),
    attempt("fill /dev/shm", "Sizes", "open('/dev/shm/x', 'wb').write(bytes(80 << 20))"),
    // Mounts.
    attempt("mount over the system", "*+Seccomp+Landlock", "mount(b'x', b'/usr', b'tmpfs', 0)"),
    attempt("make the system writable", "*+Seccomp+Landlock", "mount(b'', b'/usr', b'', 0x1020)"),
    attempt("mount the groups", "*+Seccomp+Landlock", "mount(b'x', b'/tmp', b'cgroup', 0, b'memory')"),
    attempt("unmount /proc", "*+Seccomp+Landlock", "call('umount2', b'/proc', 2)"),
    attempt("make a mount the new way", "*+Seccomp", "call('fsopen', b'tmpfs', 0)"),
    attempt("take a mount", "*+Seccomp", "call('open_tree', -100, b'/usr', 1)"),
    attempt(
        "change the root by pivot_root",
        "*+Seccomp",
        "call('pivot_root', b'/x', b'/x', otherwise=errno.ENOENT)",
    ),
    attempt(
        "walk out of the root",
        "*+Seccomp+Landlock",
        "os.mkdir('/tmp/x'); up = os.open('/', os.O_RDONLY); os.chroot('/tmp/x'); os.fchdir(up)\n\
         os.chdir('../..'); assert 'inner' in os.listdir('.')",
    ),
    // The three holes of bubblewrap: sysctls of root, the launcher's environment, nested user namespaces.
    attempt("set a sysctl", "Proc+*+Landlock", "open('/proc/sys/kernel/core_pattern', 'r+')"),
    attempt(
        "read the launcher's environment",
        "PidNamespace+Proc+*+Landlock",
        "def environ(pid):\n  try: return open(f'/proc/{pid}/environ', 'rb').read()\n  except OSError: return b''\n\
         assert any(b'SECRET_OF_THE_KEEPER' in environ(pid) for pid in os.listdir('/proc'))",
    ),
    attempt("make a user namespace", "Seccomp+Inner", "call('unshare', NEWUSER)"),
    // Namespaces.
    attempt(
        "clone into a user namespace",
        "Seccomp+Inner",
        "pid = call('clone', NEWUSER | 17, 0, 0, 0, 0)\nif pid == 0: os._exit(0)",
    ),
    attempt(
        "clone into a user namespace the new way",
        "Seccomp+Inner",
        "args = ctypes.create_string_buffer(struct.pack('QQQQQQQQ', NEWUSER, 0, 0, 0, 17, 0, 0, 0))\n\
         pid = call('clone3', args, 64)\nif pid == 0: os._exit(0)",
    ),
    attempt("make a network namespace", "*+Seccomp", "call('unshare', NEWNET)"),
    attempt("make a mount namespace", "*+Seccomp", "call('unshare', NEWNS)"),
    attempt(
        "enter the keeper's namespaces",
        "PidNamespace+Proc+*+Seccomp+Landlock",
        "call('setns', os.open(f\"/proc/{host['keeper']}/ns/mnt\", os.O_RDONLY), NEWNS)\n\
         assert open(host['home'] + '/secret').read()",
    ),
    #[cfg(target_arch = "x86_64")]
    attempt(
        "make a user namespace as a 32-bit program",
        "Seccomp+Inner",
        "code = mmap.mmap(-1, 4096, prot=7)\n\
         code.write(bytes([0x53, 0xb8, 0x36, 1, 0, 0, 0xbb, 0, 0, 0, 0x10, 0xcd, 0x80, 0x5b, 0xc3]))\n\
         run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))\n\
         assert run() == 0",
    ),
    // Other processes.
    attempt("signal the keeper", "PidNamespace+*+Landlock", "os.kill(host['keeper'], 0)"),
    attempt(
        "trace the keeper",
        "PidNamespace+*+Seccomp+Landlock",
        "call('ptrace', 0x4206, host['keeper'], 0, 0)",
    ),
    attempt(
        "look through the keeper's root",
        "PidNamespace+Proc+*+Landlock",
        "open(f\"/proc/{host['keeper']}/root{host['home']}/secret\").read()",
    ),
    attempt("be traced", "Seccomp", "call('ptrace', 0, 0, 0, 0)"),
    attempt(
        "read another process's memory",
        "Seccomp",
        "word = ctypes.create_string_buffer(8); at = struct.pack('QQ', ctypes.addressof(word), 8)\n\
         call('process_vm_readv', os.getpid(), at, 1, at, 1, 0)",
    ),
    attempt(
        "take another process's descriptor",
        "Seccomp",
        "call('pidfd_getfd', os.pidfd_open(os.getpid()), 1, 0)",
    ),
    attempt("compare processes", "Seccomp", "call('kcmp', os.getpid(), os.getpid(), 1, 0, 0)"),
    attempt("move pages", "Seccomp", "call('move_pages', 0, 0, 0, 0, 0, 0)"),
    attempt(
        "keep a descriptor of the keeper's",
        "Descriptors",
        "assert any('socket' in os.readlink(f'/proc/self/fd/{fd}') for fd in range(3, 64) \
         if os.path.islink(f'/proc/self/fd/{fd}'))",
    ),
    attempt(
        "fork without end",
        "Limits",
        "for _ in range(200):\n  if os.fork() == 0: import time; time.sleep(60)",
    ),
    attempt("take all memory", "Limits", "x = bytearray(400 << 20)"),
    attempt(
        "be spared when memory runs out",
        "*+Landlock",
        "open('/proc/self/oom_score_adj', 'w').write('0')",
    ),
    attempt("run before everybody else", "*", "os.setpriority(os.PRIO_PROCESS, 0, -10)"),
    // What others do.
    attempt(
        "see how busy the processors were",
        "Proc",
        "assert any(map(int, open('/proc/stat').readline().split()[1:]))",
    ),
    attempt(
        "see how many processes there are",
        "Proc",
        "assert open('/proc/loadavg').read().split()[3] != '1/1'",
    ),
    attempt("see how idle the host was", "Proc", "assert float(open('/proc/uptime').read().split()[1])"),
    attempt("see who waits for a processor", "Proc", "open('/proc/pressure/cpu')"),
    attempt("see what the host has in memory", "Proc", "assert open('/proc/vmstat').read(1)"),
    attempt("see the host's disks", "Proc", "assert open('/proc/partitions').read(1)"),
    attempt(
        "take a cover off",
        "*+Seccomp+Landlock",
        "call('umount2', b'/proc/stat', 2)\n\
         assert any(map(int, open('/proc/stat').readline().split()[1:]))",
    ),
    attempt(
        "make a cover writable",
        "*+Seccomp+Landlock",
        "mount(b'', b'/proc/meminfo', b'', 0x1020); open('/proc/meminfo', 'r+').write('x')",
    ),
    attempt(
        "mount /proc again",
        "*+Seccomp+Landlock",
        "os.mkdir('/tmp/p'); mount(b'x', b'/tmp/p', b'proc', 0)\n\
         assert any(map(int, open('/tmp/p/stat').readline().split()[1:]))",
    ),
    attempt("change what is told", "ReadOnly+*+Landlock", "open('/proc/meminfo', 'r+')"),
    // Users.
    attempt("become root", "*", "os.setuid(0)"),
    attempt(
        "become root by a program of the package",
        "NoSuid+NoNewPrivs+UserNamespace+Landlock+Seccomp",
        "import subprocess; assert subprocess.check_output(['/var/task/id', '-u']) == b'0\\n'",
    ),
    // The network, and what else two processes share.
    attempt(
        "reach the host's loopback",
        "NetNamespace",
        "socket.create_connection(('127.0.0.1', host['port']))",
    ),
    attempt(
        "reach an abstract socket of the host",
        "NetNamespace+Landlock",
        "socket.socket(socket.AF_UNIX).connect('\\0' + host['abstract'])",
    ),
    attempt("send raw packets", "*", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
    attempt("read all packets", "*+Seccomp", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)"),
    attempt("reach the hypervisor", "Seccomp", "socket.socket(socket.AF_VSOCK)"),
    attempt("hear the kernel's devices", "Seccomp", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15)"),
    attempt("have a protocol loaded", "Seccomp", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)"),
    attempt(
        "put something on top of TCP",
        "Seccomp",
        "try: socket.socket().setsockopt(6, 31, b'none')\nexcept OSError as e: assert e.errno != errno.EPERM",
    ),
    attempt(
        "take the loopback down",
        "*",
        "import fcntl\n\
         fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh22x', b'lo', 0))",
    ),
    attempt(
        "answer in the runtime API's place",
        "*",
        "s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
         s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('127.0.0.1', 9001)); s.listen()",
    ),
    attempt("answer in the place of a door to the outside", "*", "socket.socket().bind(('0.0.0.0', 443))"),
    attempt("reach shared memory of the host", "IpcNamespace", "call('shmget', host['shm'], 0, 0)"),
    attempt(
        "reach a message queue of the host",
        "IpcNamespace+Landlock",
        "call('mq_open', host['queue'].encode(), 0, 0, 0)",
    ),
    // The kernel, and the machine.
    attempt(
        "load a program into the kernel",
        "*+Seccomp",
        "call('bpf', 0, struct.pack('IIII', 2, 4, 8, 1) + bytes(112), 128)",
    ),
    attempt(
        "watch the processor",
        "Seccomp",
        "call('perf_event_open', struct.pack('IIQQQQQ', 1, 112, 0, 1, 0, 0, 0x60) + bytes(64), 0, -1, -1, 0)",
    ),
    attempt("serve the kernel's page faults", "Seccomp", "call('userfaultfd', 1)"),
    attempt(
        "queue work in the kernel",
        "Seccomp",
        "call('io_uring_setup', 1, ctypes.create_string_buffer(120))",
    ),
    attempt("keep a key", "Seccomp", "call('add_key', b'user', b'x', b'y', 1, -2)"),
    attempt("read the kernel's log", "*+Seccomp", "call('syslog', 10, 0, 0)"),
    attempt("see the kernel's symbols", "Proc", "assert open('/proc/kallsyms').read(1)"),
    attempt("see the kernel's timers", "Proc+*", "assert open('/proc/timer_list').read(1)"),
    attempt("see how the kernel was built", "Proc", "assert open('/proc/config.gz', 'rb').read(1)"),
    attempt("be laid out as if in the past", "Seccomp", "call('personality', 0x40000)"),
    #[cfg(target_arch = "x86_64")]
    attempt("change segments", "Seccomp", "call('modify_ldt', 0, ctypes.create_string_buffer(64), 64)"),
    attempt("rename the host", "*+Seccomp", "socket.sethostname('x')"),
    attempt("stop accounting", "*+Seccomp", "call('acct', 0)"),
    attempt("stop swapping", "*+Seccomp", "call('swapoff', b'/x', otherwise=errno.ENOENT)"),
    attempt("set the clock", "*+Seccomp", "call('settimeofday', 0, 0)"),
    attempt("end the machine", "*+Seccomp", "call('reboot', 0, 0, 0, 0, otherwise=errno.EINVAL)"),
];

/// Numbers of the system calls above.
fn calls() -> serde_json::Value {
    serde_json::json!({
        "mount": libc::SYS_mount, "umount2": libc::SYS_umount2, "fsopen": libc::SYS_fsopen,
        "open_tree": libc::SYS_open_tree, "pivot_root": libc::SYS_pivot_root, "unshare": libc::SYS_unshare,
        "clone": libc::SYS_clone, "clone3": libc::SYS_clone3, "setns": libc::SYS_setns,
        "open_by_handle_at": libc::SYS_open_by_handle_at, "name_to_handle_at": libc::SYS_name_to_handle_at,
        "fanotify_init": libc::SYS_fanotify_init, "quotactl": libc::SYS_quotactl, "ptrace": libc::SYS_ptrace,
        "process_vm_readv": libc::SYS_process_vm_readv, "pidfd_getfd": libc::SYS_pidfd_getfd,
        "kcmp": libc::SYS_kcmp, "move_pages": libc::SYS_move_pages, "shmget": libc::SYS_shmget,
        "mq_open": libc::SYS_mq_open, "bpf": libc::SYS_bpf, "perf_event_open": libc::SYS_perf_event_open,
        "userfaultfd": libc::SYS_userfaultfd, "io_uring_setup": libc::SYS_io_uring_setup,
        "add_key": libc::SYS_add_key, "syslog": libc::SYS_syslog, "personality": libc::SYS_personality,
        "acct": libc::SYS_acct, "swapoff": libc::SYS_swapoff, "settimeofday": libc::SYS_settimeofday,
        "reboot": libc::SYS_reboot, "mmap": libc::SYS_mmap, "modify_ldt": 154,
    })
}

/// A home with everything that an attempt may go for, and a keeper that leaves layers out.
struct Ground {
    home: Home,
    package: String,
    host: serde_json::Value,
    /// Without a root as it should be there is no place for a package.
    claims: bool,
    _tcp: TcpListener,
    _unix: UnixListener,
    shared: Shared,
    tried: u32,
}

/// Shared memory and a message queue of the host, as python makes them; gone with this.
struct Shared {
    key: u32,
    queue: String,
}

impl Shared {
    fn new() -> Self {
        let key = std::process::id() | 0x5000_0000;
        let shared = Self { key, queue: format!("stead-{key}") };
        shared.run("assert libc.shmget(key, 4096, 0o1666) >= 0; assert libc.syscall(mq_open, queue, 0o102, 0o666, 0) >= 0");
        shared
    }

    fn run(&self, code: &str) {
        let prelude = format!(
            "import ctypes, os; os.umask(0); libc = ctypes.CDLL(None); key, queue = {}, b'{}'; mq_open, mq_unlink = {}, {}\n",
            self.key,
            self.queue,
            libc::SYS_mq_open,
            libc::SYS_mq_unlink
        );
        let made = Command::new("/usr/bin/python3").args(["-S", "-c", &(prelude + code)]).status().unwrap();
        assert!(made.success());
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.run("libc.shmctl(libc.shmget(key, 0, 0), 0, 0); libc.syscall(mq_unlink, queue)");
    }
}

impl Ground {
    fn without(layers: &str) -> Self {
        let mut home = Home::empty();
        let left_out = format!("layers.left_out=return({layers})");
        let env = [("SECRET", "SECRET_OF_THE_KEEPER"), ("FAILPOINTS", left_out.as_str())];
        home.start_with(&env[..if layers.is_empty() { 1 } else { 2 }]);
        let secret = home.path.join("secret");
        fs::write(&secret, "secret").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let package = home.package(&[("a", "1")]);
        let id = home.path.join("packages").join(&package).join("id");
        fs::copy("/usr/bin/id", &id).unwrap();
        fs::set_permissions(&id, fs::Permissions::from_mode(0o4755)).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let name = home.path.display().to_string();
        let unix = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let shared = Shared::new();
        let group = home.cgroups().into_iter().find(|folder| folder.join("tasks").exists());
        let host = serde_json::json!({
            "calls": calls(), "home": home.path, "keeper": home.keeper_pid(), "abstract": name,
            "port": tcp.local_addr().unwrap().port(),
            "group": group.unwrap_or_else(|| home.cgroups().remove(0)),
            "shm": shared.key, "queue": shared.queue,
        });
        let claims = !layers.split('+').any(|layer| ["Root", "Inner"].contains(&layer));
        Self { home, package, host, claims, _tcp: tcp, _unix: unix, shared, tried: 0 }
    }

    /// Whether it was one, and what it said.
    fn escapes(&mut self, attempt: &Attempt) -> (bool, String) {
        self.tried += 1;
        let mut order = waiting(&format!("w-{}", self.tried));
        order.files = BTreeMap::from([("bootstrap".to_owned(), "x".to_owned())]);
        let mut worker = Started::order(&self.home, &order).unwrap();
        let _served = worker.until_ready();
        if self.claims {
            worker.claim(&self.home, &self.package, &[]);
        }
        let code = format!("{PRELUDE}{}", attempt.code);
        worker.run(&["/usr/bin/python3", "-S", "-c", &code], &[("HOST", &self.host.to_string())]);
        let (code, signal, out_of_memory) = worker.ended();
        let said = worker.errors();
        let why = format!("{code:?} {signal:?} {out_of_memory} {}", said.lines().last().unwrap_or_default());
        (code == Some(0), why)
    }

    fn finish(self) {
        self.home.nothing_left_of_workers();
        drop(self.shared);
        self.home.finish();
    }
}

#[test]
fn nothing_leads_out_of_a_worker() {
    assert!(ATTEMPTS.len() >= 40);
    let mut ground = Ground::without("");
    let mut out = Vec::new();
    for attempt in ATTEMPTS {
        let (escaped, why) = ground.escapes(attempt);
        println!("{:<50} {why}", attempt.what);
        if escaped {
            out.push(attempt.what);
        }
    }
    assert!(out.is_empty(), "these succeed: {out:#?}");
    ground.finish();
}

#[test]
fn everything_leads_out_of_a_worker_without_the_layers_that_stop_it() {
    let mut by_layers: BTreeMap<String, Vec<&Attempt>> = BTreeMap::new();
    for attempt in ATTEMPTS {
        by_layers.entry(attempt.layers.replace('*', ROOT)).or_default().push(attempt);
    }
    let mut stopped = Vec::new();
    for (layers, attempts) in by_layers {
        let mut ground = Ground::without(&layers);
        for attempt in attempts {
            let (escaped, why) = ground.escapes(attempt);
            if !escaped {
                stopped.push(format!("{} without {layers}: {why}", attempt.what));
            }
        }
        ground.finish();
    }
    assert!(stopped.is_empty(), "these are stopped by something else: {stopped:#?}");
}
