//! Workers: made, claimed, ended; what one has and what it does not.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use crate::home::*;
use crate::sandboxed::*;
use keeper::ClientError;
use keeper::wire::*;

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, reason: Reason, says: &str) {
    match result.unwrap_err() {
        ClientError::Refused(refusal) => {
            assert_eq!(refusal.reason, reason, "{refusal}");
            assert!(refusal.message.contains(says), "{refusal}");
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_worker_waits_is_claimed_runs_and_ends() {
    let home = Home::new();
    let package = home.package(&[("hello.txt", "hello from the package")]);
    let mut worker = Started::waiting(&home, "w-1");
    worker.ready();
    worker.claim(&home, &package, &[]);
    let script = "read line < /var/task/hello.txt; echo $line $WHO; id -u; exit 3";
    worker.run(&["/bin/sh", "-c", script], &[("WHO", "you")]);
    assert_eq!(worker.ended(), (Some(3), None, false));
    let uid = home.host().uid_first + home.host().uid_count - 1024;
    assert_eq!(worker.output(), format!("hello from the package you\n{uid}\n"));
    home.nothing_left_of_workers();
    home.finish();
}

#[test]
fn a_worker_is_stopped_whatever_it_does() {
    let home = Home::new();
    let stubborn = ["/bin/sh", "-c", "trap '' TERM INT; sleep 600 & wait"];
    let mut sleeping = Started::running(&home, "w-1", &stubborn);
    sleeping.ready();
    let mut waiting = Started::waiting(&home, "w-2");
    waiting.ready();
    for worker in [&mut sleeping, &mut waiting] {
        home.client.stop_worker(&worker.name).unwrap();
        assert_eq!(worker.ended(), (None, Some(9), false));
    }
    home.client.stop_worker(&name("w-3")).unwrap();
    home.nothing_left_of_workers();
    home.finish();
}

#[test]
fn what_cannot_be_run_is_said() {
    let home = Home::new();
    let mut absent = Started::running(&home, "w-1", &["/usr/bin/no-such-program"]);
    assert!(absent.failed().contains("no-such-program"));
    let mut nonsense = Started::waiting(&home, "w-2");
    nonsense.ready();
    nonsense.say(b"nonsense\n");
    assert!(nonsense.failed().contains("what to run"));
    let mut nothing = Started::waiting(&home, "w-3");
    nothing.ready();
    nothing.say(b"");
    assert!(nothing.failed().contains("what to run"));
    home.nothing_left_of_workers();
    home.finish();
}

/// What a program finds around itself, as JSON.
const AROUND: &str = r#"
import json, os, socket, sys
status = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
fds = [fd for fd in os.listdir("/proc/self/fd")]
fds.remove(str(max(map(int, fds))))
open("/dev/stderr", "w").write("by its name")
open("/dev/null", "w").write("x")
print(json.dumps({
    "ids": [os.getuid(), os.geteuid(), os.getgid(), os.getegid()], "groups": os.getgroups(),
    "caps": [status[key] for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "ignored": hex(int(status["SigIgn"], 16) & 0x7fffffff), "sealed": [status["NoNewPrivs"], status["Seccomp"]],
    "cwd": os.getcwd(), "env": dict(os.environ), "fds": sorted(fds), "host": socket.gethostname(),
    "root": sorted(os.listdir("/")), "processes": [name for name in os.listdir("/proc") if name.isdigit()], "dev": sorted(os.listdir("/dev")),
    "var": sorted(os.listdir("/var")), "runtime": sorted(os.listdir("/var/runtime")),
    "session": [os.getsid(0), os.getpid()], "users": open("/proc/self/uid_map").read().split(),
    "passwd": [line.split(":")[0] for line in open("/etc/passwd")], "dns": open("/etc/resolv.conf").read(),
    "ns": {kind: os.readlink("/proc/self/ns/" + kind) for kind in os.listdir("/proc/self/ns")},
    "group": open("/proc/self/cgroup").read(), "oom": open("/proc/self/oom_score_adj").read(),
    "bootstrap": open("/var/runtime/bootstrap.py").read(),
}))
"#;

#[test]
fn a_worker_finds_what_it_needs_and_nothing_else() {
    let home = Home::new();
    let order = WorkerOrder {
        files: BTreeMap::from([("bootstrap.py".to_owned(), "the bootstrap".to_owned())]),
        program: ["/usr/bin/python3", "-S", "-c", AROUND].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("WHO".to_owned(), "you".to_owned()), ("LC_ALL".into(), "C.UTF-8".into())]),
        ..waiting("w-1")
    };
    let mut worker = Started::order(&home, &order).unwrap();
    assert_eq!(worker.ended(), (Some(0), None, false), "{}", worker.errors());
    assert_eq!(worker.errors(), "by its name");
    let found: serde_json::Value = serde_json::from_str(&worker.output()).unwrap();
    let uid = home.host().uid_first + home.host().uid_count - 1024;
    let none = "0000000000000000";
    let expected = serde_json::json!({
        "ids": [uid, uid, uid, uid], "groups": [], "caps": [none, none, none, none, none],
        // Python itself ignores SIGPIPE and SIGXFSZ; 32 and above are the C library's.
        "ignored": "0x1001000", "sealed": ["1", "2"], "cwd": "/var/task", "env": {"WHO": "you", "LC_ALL": "C.UTF-8"},
        "fds": ["0", "1", "2"], "host": "w-1", "session": [1, 1],
        "processes": ["1"], "var": ["lang", "runtime", "task"],
        "dev": ["fd", "full", "null", "random", "shm", "stderr", "stdin", "stdout", "urandom", "zero"],
        "runtime": ["bootstrap.py"], "users": [uid.to_string(), uid.to_string(), "1"],
        "passwd": ["root", "sbx_user"], "dns": "nameserver 127.0.0.1\n", "oom": "500\n",
        "bootstrap": "the bootstrap",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(found[key], *value, "{key}");
    }
    for hidden in ["home", "root", "srv", "sys", "run", "mnt", "work", "boot"] {
        assert!(!found["root"].as_array().unwrap().contains(&hidden.into()), "{}", found["root"]);
    }
    for (kind, of) in found["ns"].as_object().unwrap() {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        let shared = kind.starts_with("time");
        assert_eq!(of.as_str() == ours.to_str(), shared, "{kind}");
    }
    for line in found["group"].as_str().unwrap().lines() {
        assert!(line.ends_with(":/") || !line.contains("stead"), "{line}");
    }
    home.finish();
}

#[test]
fn node_and_python_serve_with_their_libraries() {
    let home = Home::new();
    let package = home.package(&[("index.mjs", "console.log('node', 6 * 7)"), ("app.py", "answer = 42")]);
    let python = "import ssl, sqlite3, multiprocessing, concurrent.futures as f, tempfile, app\n\
        ssl.create_default_context(); tempfile.TemporaryFile().write(b'x'); multiprocessing.Lock()\n\
        print('python', sum(f.ThreadPoolExecutor(4).map(lambda n: n, range(4))) + app.answer - 6)";
    let programs = [
        (vec!["/usr/bin/node", "/var/task/index.mjs"], "node 42\n"),
        (vec!["/usr/bin/python3", "-c", python], "python 42\n"),
    ];
    for (nth, (program, says)) in programs.into_iter().enumerate() {
        let mut worker = Started::waiting(&home, &format!("w-{nth}"));
        worker.ready();
        worker.claim(&home, &package, &[]);
        worker.run(&program, &[("PYTHONPATH", "/var/task"), ("HOME", "/tmp")]);
        assert_eq!(worker.ended(), (Some(0), None, false), "{}", worker.errors());
        assert_eq!(worker.output(), says);
    }
    home.finish();
}

#[test]
fn an_interpreter_comes_from_a_folder_of_runtimes_only() {
    let home = Home::new();
    let lang = home.path.join("runtimes/shell");
    fs::create_dir_all(lang.join("bin")).unwrap();
    fs::copy("/bin/dash", lang.join("bin/sh")).unwrap();
    let program = ["/var/lang/bin/sh", "-c", "touch /var/lang/x || echo read-only"].map(str::to_owned);
    let mut order = WorkerOrder { lang: Some(lang.clone()), program: program.to_vec(), ..waiting("w-1") };
    order.env = BTreeMap::from([("PATH".to_owned(), "/usr/bin".to_owned())]);
    let mut worker = Started::order(&home, &order).unwrap();
    assert_eq!(worker.ended(), (Some(0), None, false));
    assert_eq!(worker.output(), "read-only\n");

    std::os::unix::fs::symlink("/root", home.path.join("runtimes/link")).unwrap();
    let foreign = home.path.join("runtimes/foreign");
    fs::create_dir(&foreign).unwrap();
    std::os::unix::fs::chown(&foreign, Some(home.host().control_uid()), None).unwrap();
    for (bad, says) in [
        ("/root".into(), "no runtime"),
        (home.path.join("runtimes"), "no runtime"),
        (home.path.join("runtimes/../keeper"), "no runtime"),
        (home.path.join("runtimes/shell/bin"), "no runtime"),
        (home.path.join("runtimes/absent"), "cannot be found"),
        (home.path.join("runtimes/link"), "is a link"),
        (foreign, "others than root"),
    ] {
        let order = WorkerOrder { lang: Some(bad), ..waiting("w-2") };
        refused(Started::order(&home, &order).map(drop), Reason::Invalid, says);
    }
    home.finish();
}

/// Asks each address for a word, by TCP or UDP.
const ASKS: &str = r#"
import socket, sys
for kind, host, port in [address.split(",") for address in sys.argv[1:]]:
    s = socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    s.settimeout(10)
    try:
        s.connect((host, int(port)))
        s.send(b"?")
        print(host, port, s.recv(100).decode())
    except OSError as error:
        print(host, port, error.strerror)
"#;

#[test]
fn a_worker_reaches_its_asker_and_nobody_else() {
    let home = Home::new();
    let package = home.package(&[]);
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let mut worker = Started::waiting(&home, "w-1");
    let mut sockets = worker.ready().into_iter();
    worker.claim(&home, &package, &[443, 5432, 9001]);
    let mut listeners: Vec<(String, TcpListener)> = Vec::new();
    for what in ["runtime", "postgres"] {
        listeners.push((what.into(), sockets.next().unwrap().into()));
    }
    let dns = UdpSocket::from(sockets.next().unwrap());
    let egress = worker.egress();
    assert_eq!(egress.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [443, 5432, 9001]);
    listeners.extend(egress.into_iter().map(|(port, fd)| (format!("egress {port}"), fd.into())));
    let outside = format!("tcp,127.0.0.1,{port}");
    let asks = [
        "tcp,127.0.0.1,9001",
        "tcp,127.0.0.1,5432",
        "udp,127.0.0.1,53",
        "tcp,198.18.0.7,443",
        "tcp,198.19.255.9,5432",
        "tcp,198.18.0.1,9001",
        "tcp,198.18.0.7,444",
        outside.as_str(),
        "tcp,192.0.2.1,443",
        "tcp,169.254.169.254,80",
    ];
    let mut program = vec!["/usr/bin/python3", "-c", ASKS];
    program.extend(asks);
    worker.run(&program, &[]);
    dns.set_nonblocking(false).unwrap();
    // The keeper's listeners wait for nobody, as their taker's runtime wants them.
    let answer = |listener: &TcpListener, what: &str| {
        if let Ok((mut peer, _)) = listener.accept() {
            peer.set_nonblocking(false).unwrap();
            peer.read_exact(&mut [0]).unwrap();
            let meant = peer.local_addr().unwrap();
            peer.write_all(format!("{what} at {meant}").as_bytes()).unwrap();
        }
    };
    dns.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
    let output = worker.output_while(|| {
        listeners.iter().for_each(|(what, listener)| answer(listener, what));
        if let Ok((_, peer)) = dns.recv_from(&mut [0; 10]) {
            dns.send_to(b"dns", peer).unwrap();
        }
    });
    assert_eq!(worker.ended(), (Some(0), None, false), "{}", worker.errors());
    let expected = format!(
        "127.0.0.1 9001 runtime at 127.0.0.1:9001\n127.0.0.1 5432 postgres at 127.0.0.1:5432\n\
         127.0.0.1 53 dns\n198.18.0.7 443 egress 443 at 198.18.0.7:443\n\
         198.19.255.9 5432 egress 5432 at 198.19.255.9:5432\n198.18.0.1 9001 egress 9001 at 198.18.0.1:9001\n\
         198.18.0.7 444 Connection refused\n127.0.0.1 {port} Connection refused\n\
         192.0.2.1 443 Network is unreachable\n169.254.169.254 80 Network is unreachable\n"
    );
    assert_eq!(output, expected);
    home.finish();
}

#[test]
fn what_listens_in_a_worker_is_reached_by_sockets_of_its_claim_alone() {
    const LISTENS: &str = r#"
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("listens", flush=True)
for _ in range(2):
    peer, address = listener.accept()
    peer.sendall(b"inside")
    peer.close()
"#;
    let home = Home::new();
    let package = home.package(&[]);
    // Outside it is somebody else's.
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = outside.local_addr().unwrap();
    let mut worker = Started::waiting(&home, "w-1");
    worker.ready();
    refused(worker.try_claim_reachable(&home, &package, &[], 65), Reason::Invalid, "sockets are at most 64");
    worker.try_claim_reachable(&home, &package, &[443], 2).unwrap();
    assert_eq!(worker.egress().len(), 1);
    let sockets = worker.sockets();
    assert_eq!(sockets.len(), 2);
    worker.run(&["/usr/bin/python3", "-c", LISTENS, &at.port().to_string()], &[]);
    assert_eq!(worker.line(), "listens");
    for socket in sockets {
        rustix::io::ioctl_fionbio(&socket, false).unwrap();
        rustix::net::connect(&socket, &at).unwrap();
        let mut said = String::new();
        TcpStream::from(socket).read_to_string(&mut said).unwrap();
        assert_eq!(said, "inside");
    }
    assert_eq!(worker.ended(), (Some(0), None, false), "{}", worker.errors());
    outside.set_nonblocking(true).unwrap();
    assert!(outside.accept().is_err(), "nobody came here");
    home.finish();
}

#[test]
fn limits_hold_and_a_claim_changes_them() {
    let home = Home::new();
    let package = home.package(&[]);
    let small = WorkerLimits { memory_bytes: 48 << 20, tmp_bytes: 1 << 20, pids: 4 };
    let eat = "x = bytearray(100 << 20); print(len(x))";
    let fill = "open('/tmp/x', 'wb').write(bytes(4 << 20)); print('full')";
    let fork = "import os, time\nfor _ in range(20):\n  if os.fork() == 0: time.sleep(60)\nprint('forked')";
    for (nth, (program, out_of_memory)) in [(eat, true), (fill, false), (fork, false)].into_iter().enumerate()
    {
        let program = ["/usr/bin/python3", "-S", "-c", program];
        let order = WorkerOrder {
            program: program.map(str::to_owned).to_vec(),
            limits: small,
            ..waiting(&format!("small-{nth}"))
        };
        let mut worker = Started::order(&home, &order).unwrap();
        let (code, signal, memory) = worker.ended();
        assert!(code != Some(0) && memory == out_of_memory, "{program:?} {code:?} {signal:?} {memory}");
        assert_eq!(signal, out_of_memory.then_some(9));
        assert_eq!(worker.output(), "", "{program:?}");

        let mut worker =
            Started::order(&home, &WorkerOrder { limits: small, ..waiting(&format!("large-{nth}")) })
                .unwrap();
        worker.ready();
        worker.claim(&home, &package, &[]);
        worker.run(&program, &[]);
        assert_eq!(worker.ended(), (Some(0), None, false), "{program:?} {}", worker.errors());
    }
    home.finish();
}

#[test]
fn a_worker_is_frozen_and_thawed_by_its_asker_and_stopped_while_it_is() {
    let home = Home::new();
    let count = "import sys, time\nwhile True: print(1, flush=True); time.sleep(0.001)";
    let mut worker = Started::running(&home, "w-1", &["/usr/bin/python3", "-S", "-c", count]);
    worker.ready();
    let groups = worker.groups();
    let (kind, freezer) = groups.iter().find(|(kind, _)| *kind != Group::MemoryPeak).unwrap();
    let (freeze, thaw) = match kind {
        Group::FreezerV1 => (&b"FROZEN"[..], &b"THAWED"[..]),
        _ => (&b"1"[..], &b"0"[..]),
    };
    worker.until_writes();
    rustix::io::write(freezer, freeze).unwrap();
    until("it writes no more", || (!worker.writes_within(Duration::from_millis(100))).then_some(()));
    rustix::io::write(freezer, thaw).unwrap();
    worker.until_writes();
    let (_, peak) = groups.iter().find(|(kind, _)| *kind == Group::MemoryPeak).unwrap();
    let mut text = [0u8; 64];
    let n = rustix::io::read(peak, &mut text).unwrap();
    let peak: u64 = std::str::from_utf8(&text[..n]).unwrap().trim().parse().unwrap();
    assert!((1 << 20..LIMITS.memory_bytes).contains(&peak), "{peak}");
    rustix::io::write(freezer, freeze).unwrap();
    home.client.stop_worker(&worker.name).unwrap();
    assert_eq!(worker.ended(), (None, Some(9), false));
    home.nothing_left_of_workers();
    home.finish();
}

#[test]
fn a_claim_is_for_one_worker_and_one_package() {
    let home = Home::new();
    let package = home.package(&[("a", "1")]);
    let mut worker = Started::waiting(&home, "w-1");
    worker.ready();
    refused(worker.try_claim(&home, "../keeper", &[]), Reason::Invalid, "SHA-256");
    refused(worker.try_claim(&home, &package, &[80, 80]), Reason::Invalid, "different ports");
    // Too early: its sandbox is just being made.
    let mut soon = Started::waiting(&home, "w-3");
    let early = (0..100).any(|_| soon.try_claim(&home, &package, &[]).is_ok());
    if !early {
        soon.ready();
        soon.claim(&home, &package, &[]);
    }
    soon.run(&["/bin/cat", "/var/task/a"], &[]);
    assert_eq!(soon.ended(), (Some(0), None, false));
    let mut nobody = Started::waiting(&home, "w-2");
    nobody.name = name("w-9");
    refused(nobody.try_claim(&home, &package, &[]), Reason::Absent, "no worker");
    worker.claim(&home, &package, &[]);
    refused(worker.try_claim(&home, &package, &[]), Reason::Invalid, "claimed before");
    worker.run(&["/bin/sh", "-c", "echo > /var/task/b || echo > /var/task/a || cat /var/task/a"], &[]);
    assert_eq!(worker.ended(), (Some(0), None, false));
    assert_eq!(worker.output(), "1");

    // What cannot be claimed as asked is ended: half claimed it is nobody's.
    let absent = "0".repeat(64);
    let link = "1".repeat(64);
    std::os::unix::fs::symlink("/root", home.path.join("packages").join(&link)).unwrap();
    for (nth, bad) in [absent, link].iter().enumerate() {
        let mut worker = Started::waiting(&home, &format!("bad-{nth}"));
        worker.ready();
        refused(worker.try_claim(&home, bad, &[]), Reason::System, "open the package");
        assert_eq!(worker.ended(), (None, Some(9), false));
    }
    home.finish();
}

#[test]
fn workers_do_not_meet() {
    let home = Home::new();
    let write = "echo mine > /tmp/x; echo mine > /dev/shm/x; echo ready; exec sleep 600";
    let mut one = Started::running(&home, "w-1", &["/bin/sh", "-c", write]);
    one.until_writes();
    let look = "echo /proc/[0-9]* /tmp/* /dev/shm/*; id -u";
    let mut other = Started::running(&home, "w-2", &["/bin/sh", "-c", look]);
    assert_eq!(other.ended().0, Some(0), "{}", other.errors());
    let uid = home.host().uid_first + home.host().uid_count - 1023;
    let seen = other.output();
    assert_eq!(seen, format!("/proc/1 /tmp/* /dev/shm/*\n{uid}\n"));
    home.client.stop_worker(&one.name).unwrap();
    assert_eq!(one.ended(), (None, Some(9), false));
    home.finish();
}

#[test]
fn what_is_no_order_is_refused() {
    let home = Home::new();
    let order = |change: fn(&mut WorkerOrder)| {
        let mut order = waiting("w-1");
        change(&mut order);
        Started::order(&home, &order).map(drop)
    };
    let invalid = |result, says| refused(result, Reason::Invalid, says);
    invalid(order(|o| o.limits.memory_bytes = 1), "memory_bytes");
    invalid(order(|o| o.limits.tmp_bytes = 0), "tmp_bytes");
    invalid(order(|o| o.limits.pids = 0), "pids");
    invalid(order(|o| o.program = vec!["sh".into()]), "absolute");
    invalid(order(|o| o.program = vec!["/a".into(), "\0".into()]), "NUL");
    invalid(order(|o| drop(o.env.insert("A=B".into(), String::new()))), "variable");
    invalid(order(|o| drop(o.files.insert("../x".into(), String::new()))), "no name");
    invalid(order(|o| drop(o.files.insert("x".into(), "y".repeat(300 << 10)))), "more than");
    invalid(home.client.call(&Request::StartWorker(waiting("w-1"))).map(drop), "four descriptors");
    let _lives = Started::waiting(&home, "w-1");
    refused(order(|_| {}), Reason::Busy, "another name");
    // Large files fit.
    let text = "z".repeat(250 << 10);
    let mut large = waiting("w-2");
    large.files = BTreeMap::from([("x".to_owned(), text)]);
    large.program = ["/usr/bin/wc", "-c", "/var/runtime/x"].map(str::to_owned).to_vec();
    let mut large = Started::order(&home, &large).unwrap();
    assert_eq!(large.ended().0, Some(0));
    assert_eq!(large.output(), format!("{} /var/runtime/x\n", 250 << 10));
    home.finish();
}

/// Sends a request with descriptors, raw; whether it was answered.
fn ask_with(home: &Home, line: &[u8], fds: &[std::os::fd::BorrowedFd<'_>]) -> bool {
    let mut stream = std::os::unix::net::UnixStream::connect(home.path.join("keeper/keeper.sock")).unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(fds)));
    let flags = rustix::net::SendFlags::empty();
    rustix::net::sendmsg(&stream, &[std::io::IoSlice::new(line)], &mut ancillary, flags).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    !answer.is_empty()
}

#[test]
fn descriptors_that_nobody_wants_are_closed() {
    let home = Home::new();
    let refused = serde_json::to_vec(&Request::StartWorker(WorkerOrder {
        program: vec!["relative".into()],
        ..waiting("w-1")
    }));
    for (line, count, answered) in [
        (b"{\"op\":\"host\"}".to_vec(), 4, true),
        (b"nonsense".to_vec(), 4, true),
        (refused.unwrap(), 4, true),
        (b"{\"op\":\"host\"}".to_vec(), 5, false),
        (b"{\"op\":".to_vec(), 2, false),
    ] {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let line = [&line[..], if answered { b"\n" } else { b"" }].concat();
        let fds = vec![std::os::fd::AsFd::as_fd(&writer); count];
        assert_eq!(ask_with(&home, &line, &fds), answered, "{line:?}");
        drop(writer);
        // Ends only when the keeper has closed what it got.
        assert_eq!(fs::File::from(reader).read(&mut [0]).unwrap(), 0);
    }
    home.finish();
}

#[test]
fn many_workers_live_at_once_each_with_a_user_of_its_own() {
    const MANY: usize = 60;
    let home = Home::new();
    let open = || fs::read_dir(format!("/proc/{}/fd", home.keeper_pid())).unwrap().count();
    let before = open();
    let mut workers: Vec<Started> =
        (0..MANY).map(|nth| Started::waiting(&home, &format!("w-{nth}"))).collect();
    for worker in &mut workers {
        worker.ready();
        worker.run(&["/usr/bin/id", "-u"], &[]);
    }
    let mut uids = std::collections::BTreeSet::new();
    for worker in &mut workers {
        assert_eq!(worker.ended().0, Some(0));
        uids.insert(worker.output());
    }
    // One that has ended leaves its user to the next; never two at a time.
    assert!(uids.len() > 1 && uids.iter().all(|uid| uid.trim().parse::<u32>().is_ok()), "{uids:?}");
    home.nothing_left_of_workers();
    until("the keeper holds no more open than before", || (open() <= before).then_some(()));
    home.finish();
}

#[test]
fn a_keeper_that_is_not_root_makes_no_workers() {
    let mut home = Home::of_user(34);
    home.start();
    refused(Started::order(&home, &waiting("w-1")).map(drop), Reason::Invalid, "not root");
    home.finish();
}

/// Prints its figures (`--no-capture`); asserts only what no busy machine can miss.
#[test]
fn a_worker_is_quickly_there() {
    const ROUNDS: usize = 50;
    let home = Home::new();
    let package = home.package(&[("a", "1")]);
    let (mut starts, mut claims) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let began = Instant::now();
        let mut worker = Started::waiting(&home, &format!("w-{round}"));
        worker.ready();
        starts.push(began.elapsed());
        let began = Instant::now();
        worker.claim(&home, &package, &[80, 443]);
        claims.push(began.elapsed());
        worker.run(&["/bin/true"], &[]);
        assert_eq!(worker.ended().0, Some(0));
    }
    starts.sort();
    claims.sort();
    let (start, claim) = (starts[ROUNDS / 2], claims[ROUNDS / 2]);
    println!("median of {ROUNDS}: from the order until it is ready {start:?}, a claim {claim:?}");
    assert!(start < Duration::from_millis(200) && claim < Duration::from_millis(100));
    home.finish();
}
