//! What a tenant's server could do that was taken over: run as its own user, on the host and inside its
//! sandbox. Two tenants, of whom the first is the attacker.

use std::os::unix::fs::symlink;
use std::path::Path;

use crate::database::{Database, as_user, feed, outcome};
use crate::installation::{Installation, until};

const ENGINE: u32 = 18;

struct Two {
    stead: Installation,
    attacker: Database,
    victim: Database,
}

impl Two {
    fn up() -> Self {
        let mut stead = Installation::new();
        stead.environment = vec![("STEAD_SPARES".into(), "0".into())];
        stead.start();
        let attacker = Database::up(&stead, "acme", ENGINE, "", &[]);
        let victim =
            Database::up(&stead, "bolt", ENGINE, "", &[("1.sql", "create table secret (word text);")]);
        victim.sql("insert into secret values ('of bolt alone'); select 1 / 0").unwrap_err();
        Self { stead, attacker, victim }
    }

    /// Runs a shell as the attacker's user on the host.
    fn outside(&self, script: &str) -> Result<String, String> {
        outcome(&as_user(self.attacker.uid).args(["sh", "-c", script]).output().unwrap())
    }

    /// Runs a shell as the attacker's user inside its sandbox, as a server would that was taken over.
    fn inside(&self, script: &str) -> String {
        let sql = format!(
            "create temp table said (line text);\n\
             copy said from program $$exec 2>&1; ({script}) | tr -cd '\\11\\12\\40-\\176' | sed 's/\\\\/|/g; s/\\t/ /g'; true$$;\n\
             select line from said;"
        );
        feed(self.attacker.admin_psql().args(["-v", "ON_ERROR_STOP=1"]), &sql).unwrap()
    }

    /// Processes of a user of the host.
    fn processes(uid: u32) -> Vec<String> {
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let mine = entries.filter(|entry| {
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            status.lines().any(|line| line.starts_with(&format!("Uid:\t{uid}\t")))
        });
        mine.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    }
}

#[test]
fn a_servers_user_reads_nothing_that_is_not_its_own() {
    let two = Two::up();
    let home = two.stead.home.display().to_string();
    // What everybody may read is what a client needs and what says nothing about tenants.
    let found = two.outside(&format!("find {home} -readable 2>/dev/null; true")).unwrap();
    let own = two.attacker.tree.display().to_string();
    let mut odd: Vec<&str> = found.lines().filter(|path| !path.starts_with(&own)).collect();
    let public = ["", "/host.json", "/server.json", "/engines", "/runtimes", "/ca.pem", "/ca.crt"];
    odd.retain(|path| !public.iter().any(|name| *path == format!("{home}{name}")));
    assert_eq!(odd, Vec::<&str>::new());
    // By name, where names are known: the tree, its parts, the control plane's, keys, tokens and sockets.
    let victim = two.victim.tree.display().to_string();
    for path in [
        format!("{home}/servers"),
        victim.clone(),
        format!("{victim}/data/PG_VERSION"),
        format!("{victim}/conf/pg_hba.conf"),
        format!("{victim}/log"),
        format!("{victim}/run"),
        format!("{own}/data/PG_VERSION"),
        format!("{home}/spares"),
        format!("{home}/units/control.json"),
        format!("{home}/control/run"),
        format!("{home}/control/data/PG_VERSION"),
        format!("{home}/operator.token"),
        format!("{home}/ca"),
        format!("{home}/gateway/tls/key.pem"),
        format!("{home}/gateway/routes"),
        format!("{home}/logs"),
        format!("{home}/spool"),
        format!("{home}/keeper/state"),
        format!("{home}/keeper/keeper.log"),
    ] {
        let said = two.outside(&format!("ls -d {path}/. || cat {path}"));
        assert!(said.as_ref().is_err_and(|why| why.contains("Permission denied")), "{path}: {said:?}");
    }
    // Nor does it get into any socket.
    for socket in [
        format!("{victim}/run/.s.PGSQL.5432"),
        format!("{home}/control/run/.s.PGSQL.5432"),
        format!("{home}/keeper/keeper.sock"),
        format!("{home}/gateway/gateway.sock"),
    ] {
        assert!(Path::new(&socket).exists(), "{socket}");
        let said = two.outside(&format!(
            "exec python3 -c \"import socket; socket.socket(socket.AF_UNIX).connect('{socket}')\""
        ));
        assert!(said.as_ref().is_err_and(|why| why.contains("PermissionError")), "{socket}: {said:?}");
    }
    // The control: as the victim's own user, its own file.
    let own = as_user(two.victim.uid).args(["ls", &format!("{victim}/data/PG_VERSION")]).output().unwrap();
    assert!(outcome(&own).is_err(), "the way there is the control plane's alone");
    let own = format!(
        "cd {victim}/data && exec setpriv --reuid={0} --regid={0} --clear-groups cat PG_VERSION",
        two.victim.uid
    );
    let own = std::process::Command::new("sh").args(["-c", &own]).output().unwrap();
    assert_eq!(outcome(&own).unwrap(), ENGINE.to_string());
    // And the processes of others.
    for uid in [two.victim.uid, two.stead.uid_first(), two.stead.uid_first() + 1] {
        for pid in Two::processes(uid) {
            for deed in
                [format!("kill -0 {pid}"), format!("cat /proc/{pid}/environ"), format!("ls /proc/{pid}/fd")]
            {
                let said = two.outside(&deed);
                assert!(said.is_err(), "user {uid}: {deed}: {said:?}");
            }
        }
    }
    assert!(!Two::processes(two.victim.uid).is_empty(), "the control: there are some");
    two.stead.finish();
}

#[test]
fn inside_its_sandbox_there_is_nobody_else() {
    let two = Two::up();
    // The control: the way in works, and it is the attacker's user that is there.
    assert_eq!(two.inside("id -u"), two.attacker.uid.to_string());
    assert_eq!(two.inside("cat /stead/data/PG_VERSION"), ENGINE.to_string());
    let home = two.stead.home.display().to_string();
    let victim = two.victim.tree.file_name().unwrap().to_string_lossy().into_owned();
    // Nothing of the home, and no trace of the other tenant in any name, link or mount.
    assert!(
        two.inside(&format!("ls -d {home} /var /root /home /tmp/st-* /run /sys /work"))
            .lines()
            .all(|line| line.contains("No such file"))
    );
    let names = two.inside("cd /; find . -xdev -path ./usr -prune -o -print; ls -lR /stead /tmp /dev; cat /etc/* /proc/self/mountinfo /proc/self/cgroup");
    for trace in ["bolt", victim.as_str()] {
        assert!(!names.contains(trace), "{trace}: {names}");
    }
    assert_eq!(
        two.inside(
            "find / -type d -writable -not -path '/proc/*' -not -path '/stead/data/*' 2>/dev/null | sort"
        )
        .replace('\n', " "),
        "/dev/shm /stead/data /stead/log /stead/run /tmp"
    );
    let ran = two.inside("for d in /dev/shm /stead/data /stead/log /stead/run /tmp; do cp /bin/true $d/x && $d/x && echo ran; rm -f $d/x; done");
    assert!(ran.lines().count() == 5 && ran.lines().all(|line| line.contains("Permission denied")), "{ran}");
    let written = two.inside(
        "for d in / /usr /etc /stead /stead/conf /stead/guard /bin /engine /dev; do touch $d/x; done",
    );
    assert_eq!(written.lines().count(), 9, "{written}");
    // Only its own processes.
    let users = two.inside("for p in /proc/[0-9]*; do stat -c %u $p 2>/dev/null; done | sort -u");
    assert_eq!(users, two.attacker.uid.to_string());
    for pid in Two::processes(two.victim.uid) {
        let said = two.inside(&format!("kill -0 {pid} && cat /proc/{pid}/cmdline"));
        assert!(!said.contains(&victim), "{said}");
    }
    // No network but a loopback that is down or nobody's, and no way to the front door or the API.
    let api = two.stead.running().unwrap()["url"].as_str().unwrap().rsplit(':').next().unwrap().to_owned();
    for port in [two.victim.told("PGPORT"), two.attacker.told("PGPORT"), api.as_str()] {
        let said = two.inside(&format!("bash -c 'echo > /dev/tcp/127.0.0.1/{port}' && echo connected"));
        assert!(!said.contains("connected"), "{port}: {said}");
        let said = std::process::Command::new("bash")
            .args(["-c", &format!("echo > /dev/tcp/127.0.0.1/{port}")])
            .status();
        assert!(said.unwrap().success(), "the control: from outside the port answers");
    }
    let links = two.inside("ls /sys/class/net; cat /proc/net/dev; ip link");
    assert!(!links.contains("eth"), "{links}");
    // No way to more rights.
    let status = two.inside("grep -E 'CapEff|CapPrm|CapBnd|NoNewPrivs' /proc/self/status");
    assert_eq!(
        status.split_whitespace().collect::<Vec<_>>().join(" "),
        "CapPrm: 0000000000000000 CapEff: 0000000000000000 CapBnd: 0000000000000000 NoNewPrivs: 1"
    );
    let said = two.inside("unshare -Ur id -u; mount -t tmpfs none /tmp; chroot / id -u; su -c id");
    assert!(!said.lines().any(|line| line == "0"), "{said}");
    two.stead.finish();
}

#[test]
fn a_link_in_place_of_a_socket_leads_to_nobody() {
    let two = Two::up();
    let socket = two.attacker.tree.join("run/.s.PGSQL.5432");
    let kept = two.attacker.tree.join("run/kept");
    let app = two.stead.folder().join("acme");
    let (mine, theirs) = (two.attacker.told("PGPASSWORD"), two.victim.told("PGPASSWORD"));
    assert_ne!(mine, theirs);
    for other in [two.victim.tree.join("run/.s.PGSQL.5432"), two.stead.home.join("control/run/.s.PGSQL.5432")]
    {
        std::fs::rename(&socket, &kept).unwrap();
        symlink(&other, &socket).unwrap();
        if other.starts_with(&two.victim.tree) {
            // The control: who asks nobody is led astray, and is the victim's superuser.
            assert_eq!(two.attacker.admin("select word from secret").unwrap(), "of bolt alone");
        }
        // By the front door: not with the attacker's password, and not even with the victim's.
        for password in [mine, theirs] {
            let mut psql = two.attacker.psql();
            let said = feed(psql.env("PGPASSWORD", password), "select word from secret").unwrap_err();
            assert!(said.contains("the server cannot check a sign-in now"), "{said}");
        }
        // By the control plane: it must not put the attacker's password right in somebody else's server.
        let refused = || two.stead.said().matches("socket is somebody else's").count();
        let before = refused();
        let mut rotate = two.stead.command(&["rotate"]).current_dir(&app).spawn().unwrap();
        until("the control plane to be refused", || (refused() > before).then_some(()));
        rotate.kill().unwrap();
        rotate.wait().unwrap();
        assert_eq!(two.victim.sql("select word from secret").unwrap(), "of bolt alone");
        std::fs::remove_file(&socket).unwrap();
        std::fs::rename(&kept, &socket).unwrap();
    }
    let control = as_user(two.stead.uid_first())
        .args(["psql", "-XAtq", "-U", "stead_admin", "-d", "postgres", "-h"])
        .arg(two.stead.home.join("control/run"))
        .args(["-c", "select string_agg(rolname, ' ') from pg_roles where rolname !~ '^pg_'"])
        .output()
        .unwrap();
    assert_eq!(outcome(&control).unwrap(), "stead_admin", "the control plane's server has no other roles");
    // The control: with the socket back in its place the attacker has its own server again.
    until("the attacker's own server", || {
        let again = Database::of(&two.stead, "acme", ENGINE);
        again.sql("select 1").ok()
    });
    two.stead.finish();
}

#[test]
fn a_link_in_place_of_a_log_shows_nothing() {
    let two = Two::up();
    let log = two.attacker.tree.join("log");
    let shown = |tenant: &str| {
        let out = two.stead.run(&["logs", "--tenant", tenant, "--stead", "shop", "--json", "-n", "500"]);
        outcome(&out).unwrap()
    };
    let theirs =
        || until("the victim's log", || Some(shown("bolt")).filter(|said| said.contains("division by zero")));
    theirs();
    for entry in std::fs::read_dir(two.victim.tree.join("log")).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        symlink(entry.path(), log.join(format!("zz-{name}"))).unwrap();
    }
    symlink(two.stead.home.join("operator.token"), log.join("zz-token.json")).unwrap();
    // The control: who follows links reads the victim's log.
    let mut follow = as_user(two.stead.uid_first());
    follow.args(["sh", "-c", &format!("cat {}/zz-*.json", log.display())]);
    assert!(outcome(&follow.output().unwrap()).unwrap().contains("division by zero"));
    let fifo = outcome(&std::process::Command::new("mkfifo").arg(log.join("zz-pipe.json")).output().unwrap());
    fifo.unwrap();
    two.attacker.sql("select 'mine' / 0").unwrap_err();
    let mine = until("the attacker's log", || {
        Some(shown("acme")).filter(|said| said.contains("22P02") || said.contains("mine"))
    });
    assert!(!mine.contains("division by zero") && !mine.contains("bolt"), "{mine}");
    two.stead.finish();
}
