//! The files by which a server and its unit and route are declared, rendered from the spec.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use component::postgres::{ADMIN_ROLE, GATEWAY_ROLE, OWNER_ROLE, Seen, Spec, settings};
use component::{DriverError, Target};
use gateway::route::Route;
use keeper::wire::{EngineProgram, Limits, Name, Restart, Runs, Stop, Tree, Unit, Wanted};

use crate::{Engine, Error, Local, Place};

/// The configuration files of a tree, name and text.
pub(crate) type Texts = Vec<(&'static str, String)>;

/// Bytes beyond which a server of this spec is made read-only.
pub(crate) fn disk_limit(spec: &Spec) -> u64 {
    spec.size.limits().disk_mib.saturating_mul(1024 * 1024)
}

/// Writes a file where it says something else: each write waits for the disk.
pub(crate) fn write_other(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    if compare(path, text) == Seen::Same { Ok(()) } else { write_atomically(path, text, mode) }
}

/// Writes a file whole or not at all: another name first, then a rename.
pub(crate) fn write_atomically(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let wrong = |source| Error::File { path: path.to_owned(), source };
    // Always the same name, so that the draft of a writer that was killed is the next one's, not left over.
    let mut draft = path.as_os_str().to_owned();
    draft.push(".new");
    let draft = PathBuf::from(draft);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_data()));
    crate::fail_point!("driver-local::file-drafted");
    written.and_then(|()| std::fs::rename(&draft, path)).map_err(wrong)
}

/// A file against what it should be.
pub(crate) fn compare(path: &Path, text: &str) -> Seen {
    match std::fs::read(path) {
        Ok(found) if found == text.as_bytes() => Seen::Same,
        Ok(_) => Seen::Differs,
        Err(_) => Seen::Absent,
    }
}

/// `'…'` as in a PostgreSQL configuration file.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

impl Local {
    pub(crate) fn tree_dir(&self, tree: &Tree) -> PathBuf {
        keeper::tree_dir(&self.0.home, tree)
    }

    pub(crate) fn socket_dir(&self, tree: &Tree) -> PathBuf {
        self.tree_dir(tree).join("run")
    }

    /// Names by which PostgreSQL's peer authentication knows the control plane and the gateway.
    fn peers(&self) -> (String, String) {
        if self.0.host.isolated {
            ("stead-control".into(), "stead-gateway".into())
        } else {
            let me = user_name(rustix::process::geteuid().as_raw());
            (me.clone(), me)
        }
    }

    /// The configuration of a server.
    pub(crate) fn texts(&self, tree: &Tree, spec: &Spec, engine: &Engine, read_only: bool) -> Texts {
        let seen = self.0.host.seen_at(&self.0.home, tree);
        let at = |name: &str| quoted(&seen.join(name).display().to_string());
        let mut conf = String::from("# Written by Stead out of the spec; edits by hand are put right.\n");
        let mut line = |name: &str, value: String| {
            let _ = writeln!(conf, "{name} = {value}");
        };
        for setting in settings(spec) {
            line(setting.name, quoted(&setting.value));
        }
        line("port", "5432".into());
        line("unix_socket_directories", at("run"));
        line("unix_socket_permissions", "0770".into());
        line("hba_file", at("conf/pg_hba.conf"));
        line("ident_file", at("conf/pg_ident.conf"));
        line("log_directory", at("log"));
        // A file a day of the week, emptied when the day comes round again.
        line("log_filename", quoted("postgresql-%a.log"));
        line("log_file_mode", "0640".into());
        line("log_rotation_age", "1d".into());
        line("log_rotation_size", "0".into());
        line("log_truncate_on_rotation", "on".into());
        if engine.stat_statements {
            line("shared_preload_libraries", quoted("pg_stat_statements"));
        }
        if read_only {
            line("default_transaction_read_only", "on".into());
        }
        // The keeper puts a file there when the disk is nearly full; an empty folder is read without a word.
        line("include_dir", at("guard"));
        vec![("postgresql.conf", conf), ("pg_hba.conf", hba()), ("pg_ident.conf", self.ident())]
    }

    fn ident(&self) -> String {
        let (control, gateway) = self.peers();
        format!("stead {control} {ADMIN_ROLE}\nstead {gateway} {GATEWAY_ROLE}\n")
    }

    pub(crate) fn file_states(&self, tree: &Tree, texts: &Texts) -> Seen {
        let conf = self.tree_dir(tree).join("conf");
        let states: Vec<Seen> = texts.iter().map(|(name, text)| compare(&conf.join(name), text)).collect();
        if states.iter().all(|state| *state == Seen::Same) {
            Seen::Same
        } else if states.iter().all(|state| *state == Seen::Absent) {
            Seen::Absent
        } else {
            Seen::Differs
        }
    }

    pub(crate) fn write_texts(&self, tree: &Tree, texts: &Texts) -> Result<(), Error> {
        let conf = self.tree_dir(tree).join("conf");
        for (name, text) in texts {
            let path = conf.join(name);
            // A claimed spare has most of it right; each write waits for the disk.
            if compare(&path, text) != Seen::Same {
                write_atomically(&path, text, 0o644)?;
                crate::fail_point!("driver-local::file-written");
            }
        }
        Ok(())
    }

    /// The unit of a server, at generation 1.
    pub(crate) fn server_unit(&self, unit: &Name, tree: &Tree, spec: &Spec, engine: &Engine) -> Unit {
        let limits = spec.size.limits();
        Unit {
            name: unit.clone(),
            generation: 1,
            wanted: Wanted::Running,
            runs: Runs::Engine {
                tree: tree.clone(),
                bin: engine.bin.clone(),
                program: EngineProgram::Postgres,
            },
            args: ["-D", "/stead/data", "-c", "config_file=/stead/conf/postgresql.conf"]
                .map(str::to_owned)
                .to_vec(),
            env: environment(),
            limits: Limits {
                memory_bytes: Some(limits.memory_mib * 1024 * 1024),
                pids: Some(u64::from(limits.sessions) + 64),
            },
            stop: Stop::default(),
            restart: Restart::Always,
            sleeps: spec.idle.is_some(),
        }
    }

    /// The unit as it is declared now.
    pub(crate) fn declared(&self, unit: &Name) -> Option<Unit> {
        let text = std::fs::read(self.0.home.join("units").join(format!("{unit}.json"))).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What is declared of a unit against what shall be, and the generation to declare it with: the same
    /// declaration keeps its own, so that a running process is left alone; another one restarts it.
    pub(crate) fn declaration(&self, wanted: &Unit) -> (Seen, u64) {
        match self.declared(&wanted.name) {
            None => (Seen::Absent, wanted.generation),
            Some(found) if found == (Unit { generation: found.generation, ..wanted.clone() }) => {
                (Seen::Same, found.generation)
            }
            Some(found) => (Seen::Differs, found.generation + 1),
        }
    }

    pub(crate) fn declare(&self, unit: &Unit) -> Result<(), Error> {
        let path = self.0.home.join("units").join(format!("{}.json", unit.name));
        self.0.keeper.declare(unit).map_err(|source| Error::File { path, source })
    }

    pub(crate) fn route_path(&self, handle: &str) -> PathBuf {
        self.0.home.join("gateway/routes").join(format!("{handle}.json"))
    }

    /// The front door of a server.
    pub(crate) fn route(&self, target: &Target, spec: &Spec, place: &Place) -> Route {
        Route {
            server: place.handle.clone(),
            generation: target.generation,
            tenant: target.tenant.to_string(),
            stead: target.stead.to_string(),
            component: target.name.to_string(),
            port: target.port,
            socket_dir: self.socket_dir(&place.tree),
            allow: spec.allow.clone(),
            max_sessions: spec.size.limits().sessions,
            sleep: spec
                .idle
                .map(|idle| gateway::route::Sleep { unit: place.unit.clone(), after_ms: idle.as_millis() }),
        }
    }
}

pub(crate) fn environment() -> std::collections::BTreeMap<String, String> {
    [("LANG", "C.UTF-8"), ("LC_ALL", "C.UTF-8"), ("PATH", "/usr/bin:/bin"), ("TZ", "UTC")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

/// Stead's own roles by the uid of the peer, the tenant's by password; nobody over a network, there is none.
fn hba() -> String {
    format!(
        "local all,replication {ADMIN_ROLE} peer map=stead\n\
         local postgres {GATEWAY_ROLE} peer map=stead\n\
         local all {GATEWAY_ROLE} reject\n\
         local postgres,template1 {OWNER_ROLE} reject\n\
         local all all scram-sha-256\n"
    )
}

fn user_name(uid: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let found = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| uid.to_string())
}

impl From<Error> for DriverError {
    fn from(error: Error) -> Self {
        match &error {
            Error::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Self::Refused(component::Condition {
                    kind: component::ConditionKind::DiskFull,
                    message: format!("{error}; free some space on the host's disk"),
                })
            }
            _ => Self::Unavailable(error.to_string()),
        }
    }
}
