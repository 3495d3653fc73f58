//! What a worker is told of the machine: enough for runtimes to size themselves by, and nothing of what others do.

use std::collections::BTreeMap;
use std::fs;

use crate::home::*;
use crate::sandboxed::*;

/// What a program prints in a worker that has been claimed.
#[track_caller]
fn printed(home: &Home, worker: &str, program: &[&str], package: &str) -> String {
    let mut worker = Started::waiting(home, worker);
    worker.ready();
    worker.claim(home, package, &[]);
    worker.run(program, &[("PYTHONPATH", "/var/task")]);
    assert_eq!(worker.ended(), (Some(0), None, false), "{}", worker.errors());
    worker.output()
}

#[test]
fn runtimes_find_the_size_of_their_machine() {
    let home = Home::new();
    let package = home.package(&[]);
    let processors = std::thread::available_parallelism().unwrap();
    let node = "const os = require('os'), fs = require('fs');\n\
        console.log(os.cpus().length, os.cpus().every(c => c.times.idle === 0), os.totalmem(), os.freemem(),\n\
        os.loadavg().join(), os.uptime() > 0, fs.readFileSync('/proc/sys/kernel/random/uuid').length)";
    let told = printed(&home, "node", &["/usr/bin/node", "-e", node], &package);
    let memory = LIMITS.memory_bytes;
    assert_eq!(told, format!("{processors} true {memory} {memory} 0,0,0 true 37\n"));
    let python = "import os, platform\n\
        read = lambda name: open('/proc/' + name).read()\n\
        print(os.cpu_count(), read('loadavg').split()[0], read('meminfo').split()[1], len(read('cpuinfo')) > 100,\n\
        'tmpfs' in read('filesystems'), read('version').split()[0], read('sys/kernel/hostname').strip(),\n\
        platform.release() == read('sys/kernel/osrelease').strip())";
    let told = printed(&home, "python", &["/usr/bin/python3", "-c", python], &package);
    let kib = memory / 1024;
    assert_eq!(told, format!("{processors} 0.00 {kib} True True Linux python True\n"));
    home.finish();
}

/// Everything at the root of `/proc` and below `/proc/sys`: a file's beginning, a folder's content.
const LOOK: &str = r#"
import json, os, sys
def told(path):
    if os.path.islink(path): return os.readlink(path)
    if os.path.isdir(path): return sorted(os.listdir(path))
    with open(path, "rb") as file: return file.read(64).decode(errors="replace")
root = {name: told("/proc/" + name) for name in os.listdir("/proc") if not name.isdigit()}
below = sorted(os.path.join(at, name)[10:] for at, _, names in os.walk("/proc/sys") for name in names)
def writes(name):
    try: open("/proc/sys/" + name, "r+")
    except OSError: return False
    return True
print(json.dumps([root, below, [name for name in below if writes(name)]]))
"#;

#[test]
fn everything_else_at_the_root_of_proc_is_covered() {
    let home = Home::new();
    let told = printed(&home, "w-1", &["/usr/bin/python3", "-S", "-c", LOOK], &home.package(&[]));
    let (mut root, settings, written): (BTreeMap<String, serde_json::Value>, Vec<String>, Vec<String>) =
        serde_json::from_str(&told).unwrap();
    for (link, to) in
        [("self", "1"), ("thread-self", "1/task/1"), ("mounts", "self/mounts"), ("net", "self/net")]
    {
        assert_eq!(root.remove(link).unwrap(), to);
    }
    assert_eq!(root.remove("sys").unwrap(), serde_json::json!(["fs", "kernel", "net", "vm"]));
    for shown in ["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"] {
        assert!(!root.remove(shown).unwrap().as_str().unwrap().is_empty(), "{shown}");
    }
    for (name, told) in root {
        assert!(told == "" || told == serde_json::json!([]), "{name}: {told}");
    }
    assert_eq!(written, Vec::<String>::new());
    for there in ["kernel/pid_max", "kernel/random/boot_id", "vm/overcommit_memory", "net/core/somaxconn"] {
        assert!(settings.iter().any(|name| name == there), "{there} is not in {settings:?}");
    }
    assert!(settings.len() < 24 && !settings.iter().any(|name| name.contains("core_pattern")));
    home.finish();
}

#[test]
fn what_is_told_of_memory_comes_with_the_claim() {
    let home = Home::new();
    let package = home.package(&[]);
    let read = "import time\nfile = open('/proc/meminfo')\nwhile True:\n  file.seek(0)\n  \
                print(file.readline().split()[1], flush=True)\n  time.sleep(0.001)";
    let mut worker = Started::running(&home, "w-1", &["/usr/bin/python3", "-S", "-c", read]);
    worker.ready();
    let total = fs::read_to_string("/proc/meminfo").unwrap();
    let total = total.split_ascii_whitespace().nth(1).unwrap().to_owned();
    let first = worker.line();
    assert_eq!(first, total, "the host's, before anything else is known");
    worker.claim(&home, &package, &[]);
    until("the limit is told", || {
        let line = worker.line();
        assert!(line == total || line == (LIMITS.memory_bytes / 1024).to_string(), "{line}");
        (line != total).then_some(())
    });
    home.client.stop_worker(&worker.name).unwrap();
    worker.ended();
    home.finish();
}
