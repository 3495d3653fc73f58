//! A server as a test reaches it: through the front door as its owner, and by the back door as Stead's own
//! superuser, who proves that what the owner is refused would work for somebody else.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::installation::{Installation, text};

/// Programs of an engine.
pub(crate) fn programs(engine: u32) -> PathBuf {
    let engines = std::env::var("STEAD_ENGINES").unwrap_or_else(|_| "/var/lib/stead/engines".into());
    if engine == 15 {
        "/usr/lib/postgresql/15/bin".into()
    } else {
        Path::new(&engines).join(format!("{engine}/bin"))
    }
}

/// A server of an installation.
pub(crate) struct Database {
    pub(crate) engine: u32,
    /// How clients are to connect: `PGHOST` and so on.
    pub(crate) environment: Vec<(String, String)>,
    /// Its folder.
    pub(crate) tree: PathBuf,
    /// Its user.
    pub(crate) uid: u32,
    /// The control plane's user, whom the server knows as its superuser.
    control: u32,
}

impl Database {
    /// Makes a stead `shop` of one server for a tenant; `more` are more lines of its manifest.
    pub(crate) fn up(
        stead: &Installation,
        tenant: &str,
        engine: u32,
        more: &str,
        schema: &[(&str, &str)],
    ) -> Self {
        let manifest = format!(
            "app = \"shop\"\n[postgres.main]\nengine = {engine}\nsize = \"nano\"\nprotect = false\nschema = \"schema\"\n{more}"
        );
        let app = stead.app(tenant, &manifest, schema);
        stead.ok_in(&app, &["up", "--tenant", tenant, "--yes"]);
        Self::of(stead, tenant, engine)
    }

    /// The server of a tenant's stead `shop`.
    pub(crate) fn of(stead: &Installation, tenant: &str, engine: u32) -> Self {
        let told = stead.ok(&["url", "--tenant", tenant, "--stead", "shop", "--format", "env"]);
        let environment = told
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
            .collect();
        let handle = stead
            .list("gateway/routes")
            .into_iter()
            .find_map(|file| {
                let route = std::fs::read(stead.home.join("gateway/routes").join(&file)).ok()?;
                let route: Value = serde_json::from_slice(&route).ok()?;
                (route["tenant"] == tenant).then(|| file.trim_end_matches(".json").to_owned())
            })
            .unwrap();
        let tree = stead.home.join("servers").join(handle);
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(tree.join("data")).unwrap());
        Self { engine, environment, tree, uid, control: stead.uid_first() }
    }

    /// One value of the environment that clients are given.
    pub(crate) fn told(&self, name: &str) -> &str {
        &self.environment.iter().find(|(is, _)| is == name).unwrap().1
    }

    /// A program of PostgreSQL's, set up to go through the gateway as the owner.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(programs(self.engine).join(name));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent");
        command.envs(self.environment.iter().cloned()).stdin(Stdio::null());
        command
    }

    /// psql as the owner.
    pub(crate) fn psql(&self) -> Command {
        let mut command = self.program("psql");
        command.arg("-XAtq");
        command
    }

    /// psql as Stead's own superuser: over the socket, as the control plane's user.
    pub(crate) fn admin_psql(&self) -> Command {
        let mut command = as_user(self.control);
        command.arg(programs(self.engine).join("psql")).env_clear().env("LC_ALL", "C.UTF-8");
        command.arg("-XAtq").arg("-h").arg(self.tree.join("run"));
        command.args(["-U", "stead_admin", "-d", self.told("PGDATABASE")]).stdin(Stdio::null());
        command
    }

    /// Runs SQL as the owner; what came of it, or what it was refused with.
    pub(crate) fn sql(&self, sql: &str) -> Result<String, String> {
        feed(self.psql().args(["-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]), sql)
    }

    /// Runs SQL as Stead's own superuser.
    pub(crate) fn admin(&self, sql: &str) -> Result<String, String> {
        feed(self.admin_psql().args(["-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"]), sql)
    }

    /// What the server has logged, as it stands in its files.
    pub(crate) fn log(&self) -> String {
        let mut all = String::new();
        for entry in std::fs::read_dir(self.tree.join("log")).unwrap().flatten() {
            all += &std::fs::read_to_string(entry.path()).unwrap_or_default();
        }
        all
    }
}

/// A command that runs as a user of the host, with no group but its own and no capability.
pub(crate) fn as_user(uid: u32) -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        &format!("--reuid={uid}"),
        &format!("--regid={uid}"),
        "--clear-groups",
        "--inh-caps=-all",
        "--no-new-privs",
    ]);
    command.current_dir("/").stdin(Stdio::null());
    command
}

/// Gives a program its standard input; its output, or what it said when it failed.
pub(crate) fn feed(command: &mut Command, input: &str) -> Result<String, String> {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    // A program that ended early does not read to the end.
    let _ = writer.join().unwrap();
    outcome(&output)
}

/// Standard output of what went well, else standard error.
pub(crate) fn outcome(output: &Output) -> Result<String, String> {
    if output.status.success() {
        Ok(text(&output.stdout).trim_end().to_owned())
    } else {
        Err(format!("{}{}", text(&output.stdout), text(&output.stderr)).trim_end().to_owned())
    }
}
