//! What a server can see and do from inside, as its superuser: the worst case of a tenant gone bad.

use std::fs;

use crate::home::*;

#[test]
fn a_server_sees_nothing_but_its_engine_and_itself() {
    let home = Home::new();
    let (tree, other) = (server("one"), server("two"));
    home.running("pg-one", &tree, 18);
    home.running("pg-two", &other, 15);
    assert_ne!(home.uid(&tree), home.uid(&other));
    let sql = |sql: &str| home.sql(&tree, sql);
    let list = |dir: &str| {
        let names =
            sql(&format!("select coalesce(string_agg(n, ' ' order by n), '') from pg_ls_dir('{dir}') n"));
        names.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };

    let root = list("/");
    for expected in ["dev", "engine", "etc", "proc", "stead", "tmp", "usr"] {
        assert!(root.contains(&expected.to_owned()), "{root:?}");
    }
    for hidden in ["home", "root", "var", "work", "sys", "run", "mnt", "opt", "srv"] {
        assert!(!root.contains(&hidden.to_owned()), "{root:?}");
    }
    assert_eq!(list("/stead"), ["conf", "data", "guard", "log", "run"]);
    assert_eq!(list("/tmp"), [""]);
    let passwd = sql("select pg_read_file('/etc/passwd')");
    let names: Vec<&str> = passwd.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["root", "stead-control", "stead-gateway", "postgres"]);

    // Processes: its own only, and it is the first one.
    let processes = list("/proc");
    assert!(
        processes
            .iter()
            .all(|name| name.parse::<u32>().is_ok() || ["self", "thread-self"].contains(&name.as_str())),
        "{processes:?}"
    );
    assert_eq!(sql("select pg_read_file('/proc/1/comm')"), "postgres");
    assert_eq!(
        sql("copy (select 1) to program 'cat > /tmp/in; hostname > /tmp/h'; select pg_read_file('/tmp/h')"),
        "pg-one"
    );
    home.finish();
}

#[test]
fn a_server_has_namespaces_a_user_and_limits_of_its_own_and_no_privilege() {
    let home = Home::new();
    let tree = server("one");
    home.running("pg-one", &tree, 15);
    let pid = home.pid("pg-one");
    for kind in ["pid", "net", "ipc", "mnt", "uts", "cgroup"] {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/{kind}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |key: &str| status.lines().find_map(|l| l.strip_prefix(key)).unwrap().trim().to_owned();
    let uid = home.uid(&tree).to_string();
    assert!(field("Uid:").split('\t').all(|id| id == uid) && field("Gid:").split('\t').all(|id| id == uid));
    assert_eq!(field("Groups:"), "");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs:"), "1");
    // Descriptors: its own, and the lock.
    let lock = home.dir(&tree).join("lock");
    let open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .map(|fd| fs::read_link(fd.path()).unwrap())
        .collect();
    assert_eq!(open.iter().filter(|target| **target == lock).count(), 1, "{open:?}");
    let keepers = home.path.join("keeper");
    assert!(!open.iter().any(|target| target.starts_with(&keepers)), "{open:?}");
    // When memory runs out a backend is the likelier victim.
    let likely = |pid: i32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default();
    assert_eq!(likely(pid), "0\n");
    until("its backends have settled", || {
        let all = home.processes();
        all.iter().all(|(other, _)| *other == pid || likely(*other) == "300\n").then_some(())
    });
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for controller in ["memory", "pids"] {
        let line = groups.lines().find(|l| l.contains(controller) || l.starts_with("0::/stead")).unwrap();
        assert!(line.ends_with("/pg-one"), "{groups}");
    }
    for folder in home.cgroups() {
        let limit = folder.join("pg-one/memory.limit_in_bytes");
        if limit.exists() {
            assert_eq!(fs::read_to_string(limit).unwrap().trim(), (512u64 << 20).to_string());
        }
    }
    home.finish();
}

#[test]
fn a_server_reaches_no_network_and_writes_nowhere_but_to_its_own_folders() {
    let home = Home::new();
    let tree = server("one");
    home.running("pg-one", &tree, 15);
    let runs = |command: &str| {
        // What is written must be read, or the server may find a broken pipe.
        let sql = format!("copy (select 1) to program $$cat > /dev/null; {command}$$");
        home.psql(&tree, &sql).status.success()
    };
    assert!(runs("true"));
    assert!(!runs("false"));
    // The host's loopback listens; the server's own is not even up.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    assert!(std::process::Command::new("bash").args(["-c", &connect]).status().unwrap().success());
    assert!(!runs(&format!("bash -c \"{connect}\"")));
    for folder in ["/", "/usr", "/etc", "/dev", "/proc", "/stead", "/stead/conf", "/stead/guard", "/usr/lib"]
    {
        assert!(!runs(&format!("touch {folder}/x")), "{folder}");
    }
    for folder in ["/stead/data", "/stead/log", "/stead/run", "/tmp", "/dev/shm"] {
        assert!(runs(&format!("touch {folder}/x")), "{folder}");
        // Whatever it writes there it cannot run.
        let copied = format!("cp /bin/true {folder}/x && chmod 755 {folder}/x && {folder}/x");
        assert!(!runs(&copied), "{folder}");
    }
    assert!(!runs("kill -0 2 && mount -t tmpfs x /tmp"));
    assert!(!runs("unshare -U true"), "no way to privileges by a user namespace");
    assert!(!runs("mknod /tmp/null c 1 3"));
    home.finish();
}

#[test]
fn the_platform_reaches_socket_and_logs_and_other_tenants_do_not() {
    let home = Home::new();
    let (tree, other) = (server("one"), server("two"));
    home.running("pg-one", &tree, 15);
    home.client.create_tree(&other).unwrap();
    let host = home.host();
    let can = |uid: u32, gid: u32, program: &str, args: &[&str]| {
        as_user(uid, gid, program.as_ref()).args(args).output().unwrap().status.success()
    };
    let run = home.dir(&tree).join("run").display().to_string();
    let log = home.dir(&tree).join("log/stderr.log").display().to_string();
    let data = home.dir(&tree).join("data").display().to_string();
    let psql = ["-XAtq", "-U", "postgres", "-d", "postgres", "-h", run.as_str(), "-c", "select 1"];
    for uid in [host.control_uid(), host.gateway_uid()] {
        assert!(can(uid, host.gid(), "/usr/lib/postgresql/15/bin/psql", &psql), "{uid}");
        assert!(can(uid, host.gid(), "/bin/cat", &[&log]), "{uid}");
        assert!(!can(uid, host.gid(), "/bin/ls", &[&data]), "{uid}");
    }
    let stranger = home.uid(&other);
    assert!(!can(stranger, stranger, "/usr/lib/postgresql/15/bin/psql", &psql));
    for path in [&run, &log, &data] {
        assert!(!can(stranger, stranger, "/bin/ls", &[path]), "{path}");
    }
    for path in ["servers", "units", "keeper", "gateway/tls", "ca"] {
        let path = home.path.join(path).display().to_string();
        assert!(!can(stranger, stranger, "/bin/ls", &[&path]), "{path}");
    }
    // Declarations hold environments, which of Stead's own users the control plane alone reads.
    let units = home.path.join("units").display().to_string();
    assert!(can(host.control_uid(), host.gid(), "/bin/ls", &[&units]));
    for uid in [host.gateway_uid(), host.functions_uid(), host.relay_uid()] {
        assert!(!can(uid, host.gid(), "/bin/ls", &[&units]), "{uid}");
        assert!(!can(uid, host.gid(), "/bin/cat", &[&format!("{units}/pg-one.json")]), "{uid}");
    }
    home.finish();
}
