//! What nobody can be faster than: clusters prepared ahead; a rename, a start, a first SELECT, by hand.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use component::postgres::{Backup, Major, Size, Spec, settings};
use tokio_postgres::{Client, Config, NoTls};

use crate::ms;

/// What is to be had at the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// A session of the superuser, which is trusted, in an engine that nothing was said to.
    Answer,
    /// What a tenant gets: the settings of a server of ours, a password of its own, and a session that signed
    /// in with it.
    SignIn,
    /// The same of a server that had its password before: what waking one takes at least.
    Wake,
}

const PASSWORD: &str = "alter role owner password 'as random as any'";

/// Clusters prepared ahead, on the disk that this is run on.
pub(crate) struct Hand {
    major: Major,
    bin: PathBuf,
    root: PathBuf,
    reached: Until,
    size: Size,
    spares: Vec<PathBuf>,
}

impl Hand {
    /// Prepares so many.
    pub(crate) async fn prepared(reached: Until, size: Size, count: usize) -> Self {
        let name = match reached {
            Until::Answer => "sl",
            Until::SignIn => "st",
            Until::Wake => "sw",
        };
        let root = PathBuf::from(format!("/var/tmp/{name}-{}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        let _ = Command::new("chown").arg("nobody").arg(&root).status().unwrap();
        let (major, bin) = newest_engine();
        let mut hand = Self { major, bin, root, reached, size, spares: Vec::new() };
        for number in 0..count {
            let spare = hand.root.join(format!("spare{number}"));
            hand.prepare(&spare).await;
            hand.spares.push(spare);
        }
        hand
    }

    /// Takes one, milliseconds.
    pub(crate) async fn take(&mut self) -> f64 {
        let (spare, server) = (self.spares.pop().unwrap(), self.root.join("server"));
        let began = Instant::now();
        std::fs::rename(&spare, &server).unwrap();
        let process = self.start(&server);
        let session = match self.reached {
            Until::Answer => self.session("postgres", None).await,
            Until::SignIn => {
                let admin = self.session("postgres", None).await;
                admin.batch_execute(PASSWORD).await.unwrap();
                self.session("owner", Some("as random as any")).await
            }
            Until::Wake => self.session("owner", Some("as random as any")).await,
        };
        session.query_one("select 1", &[]).await.unwrap();
        let took = ms(began);
        stop(process);
        std::fs::remove_dir_all(&server).unwrap();
        took
    }

    /// What `stead move` cannot be faster than: a server that nobody works at is stopped, renamed and started,
    /// and so many clients, each of which had a session, come in again, trusted, and commit a transaction.
    /// Milliseconds until the first and until the last of them has.
    pub(crate) async fn relocate(&mut self, clients: usize) -> (f64, f64) {
        let (spare, server) = (self.spares.pop().unwrap(), self.root.join("server"));
        let process = self.start(&spare);
        let admin = self.session("postgres", None).await;
        admin.batch_execute("create table if not exists moved (n int)").await.unwrap();
        let commit = async |hand: &Self| {
            let session = hand.session("postgres", None).await;
            session.batch_execute("begin; insert into moved values (1); commit").await.unwrap();
            (session, Instant::now())
        };
        let sessions = futures::future::join_all((0..clients).map(|_| commit(self))).await;
        admin.batch_execute("checkpoint").await.unwrap();
        let began = Instant::now();
        stop(process);
        std::fs::rename(&spare, &server).unwrap();
        let process = self.start(&server);
        let again = futures::future::join_all((0..clients).map(|_| commit(self))).await;
        let times = again.iter().map(|(_, done)| (*done - began).as_secs_f64() * 1000.0);
        let (first, last) = times.fold((f64::MAX, 0_f64), |(a, b), time| (a.min(time), b.max(time)));
        drop((sessions, again));
        stop(process);
        std::fs::rename(&server, &spare).unwrap();
        self.spares.push(spare);
        (first, last)
    }

    async fn prepare(&self, dir: &Path) {
        let made = as_nobody(&self.bin.join("initdb"))
            .arg("-D")
            .arg(dir)
            .args(["-U", "postgres", "-A", "trust", "--no-sync", "-k"])
            .output();
        assert!(made.unwrap().status.success());
        std::fs::write(dir.join("pg_hba.conf"), "local all postgres trust\nlocal all all scram-sha-256\n")
            .unwrap();
        if self.reached != Until::Answer {
            let (allow, schema, extensions) = (Vec::new(), Vec::new(), Vec::new());
            let (engine, size) = (self.major, self.size);
            let (maintenance, idle, owner, runbook, protect) = (None, None, None, None, false);
            let spec = Spec {
                engine,
                size,
                allow,
                maintenance,
                idle,
                backup: Backup::default(),
                beside: false,
                origin: None,
                until: None,
                schema,
                extensions,
                protect,
                owner,
                runbook,
            };
            let mut conf = String::new();
            for setting in settings(&spec) {
                conf += &format!("{} = '{}'\n", setting.name, setting.value);
            }
            conf += "shared_preload_libraries = 'pg_stat_statements'\nlog_directory = 'log'\n";
            std::fs::write(dir.join("postgresql.conf"), conf).unwrap();
        }
        let process = self.start(dir);
        let admin = self.session("postgres", None).await;
        admin.batch_execute("create role owner login").await.unwrap();
        if self.reached == Until::Wake {
            admin.batch_execute(PASSWORD).await.unwrap();
        }
        drop(admin);
        stop(process);
        assert!(Command::new("sync").status().unwrap().success());
    }

    fn start(&self, dir: &Path) -> Child {
        let mut server = as_nobody(&self.bin.join("postgres"));
        server.arg("-D").arg(dir).args(["-c", "listen_addresses=", "-c"]);
        server.arg(format!("unix_socket_directories={}", self.root.display()));
        if self.reached == Until::Answer {
            server.args(["-c", "shared_buffers=16MB", "-c", "max_connections=28"]);
        }
        server.stderr(Stdio::null()).spawn().unwrap()
    }

    async fn session(&self, user: &str, password: Option<&str>) -> Client {
        let mut config = Config::new();
        config.host_path(&self.root).user(user).dbname("postgres");
        if let Some(password) = password {
            config.password(password);
        }
        loop {
            if self.root.join(".s.PGSQL.5432").exists()
                && let Ok((session, connection)) = config.connect(NoTls).await
            {
                tokio::spawn(connection);
                return session;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

pub(crate) fn stop(mut server: Child) {
    let _ = Command::new("kill").args(["-INT", &server.id().to_string()]).status();
    server.wait().unwrap();
}

/// The newest that script/setup installs, else Debian's.
pub(crate) fn newest_engine() -> (Major, PathBuf) {
    let installed = std::env::var("STEAD_ENGINES").unwrap_or("/var/lib/stead/engines".into());
    [(18, format!("{installed}/18/bin")), (15, "/usr/lib/postgresql/15/bin".into())]
        .into_iter()
        .map(|(major, bin)| (Major::new(major), PathBuf::from(bin)))
        .find(|(_, bin)| bin.join("postgres").exists())
        .expect("an engine")
}

pub(crate) fn as_nobody(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program).stdout(Stdio::null());
    command
}
