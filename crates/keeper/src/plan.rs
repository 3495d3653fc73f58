//! From a declared unit to everything the launcher has to know.

use std::ffi::CString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::Gid;

use crate::declared::{invalid, placed};
use crate::engine::{self, Engine};
use crate::host::{self, tree_dir};
use crate::launch::{Plan, Program, User};
use crate::record::Holder;
use crate::sandbox::{ENGINE, Sandbox};
use crate::trees::{Locked, Ready, in_use, shown};
use crate::wire::{EngineProgram, Reason, Refusal, Runs, SOURCE, TARGET, Tool, Tree, Unit};
use crate::{files, keeper::Keeper};

/// `/dev/shm` of a server without a memory limit.
const SHM_BYTES: u64 = 256 * 1024 * 1024;

/// Where a process's standard output and error go, below the folder for it.
pub(crate) const OUTPUT: &str = "stderr.log";
/// That of Stead's own processes.
const LOGS: &str = "logs";
pub(crate) const GATEWAY_OUTPUT: &str = "gateway.log";
pub(crate) const ARCHIVER_OUTPUT: &str = "archiver.log";
pub(crate) const FUNCTIONS_OUTPUT: &str = "functions.log";
/// The relay may write in its own folder alone.
pub(crate) const RELAY: &str = "relay/run";
pub(crate) const RELAY_OUTPUT: &str = "relay.log";
pub(crate) const LAKE_OUTPUT: &str = "lake.log";

/// A plan, or who is in the way.
pub(crate) enum Planned {
    Plan { plan: Box<Plan>, repairs: Vec<String> },
    Held(Option<Holder>),
}

/// What is run in a tree's sandbox.
struct InTree {
    program: Program,
    /// With the program's own name first.
    args: Vec<CString>,
    env: Vec<CString>,
    /// The engine's folder, which the sandbox must show.
    engine: Option<PathBuf>,
    /// The folders below the home with the sockets that it must show, and where.
    sources: Vec<(PathBuf, &'static str)>,
    /// Whether it must show which authorities the host trusts.
    authorities: bool,
    /// Whether the data of the tree are only to be read.
    reads_only: bool,
    /// Whether it is one of Stead's own processes, which others of them leave files for.
    own: bool,
    output: &'static str,
    hold_signals_back: bool,
}

impl InTree {
    /// A verb of this same binary.
    fn own(program: OwnedFd, words: &[&str], output: &'static str) -> Result<Self, Refusal> {
        Ok(Self {
            args: words.iter().map(string).collect::<Result<_, _>>()?,
            env: Vec::new(),
            program: Program::Open(program),
            engine: None,
            sources: Vec::new(),
            authorities: false,
            reads_only: false,
            own: false,
            output,
            hold_signals_back: false,
        })
    }
}

fn system(what: &str, error: &io::Error) -> Refusal {
    Refusal { reason: Reason::System, message: format!("{what}: {error}") }
}

impl Keeper {
    /// Whether a unit could be started as it is declared; checked before anything is changed for it.
    pub(crate) fn acceptable(&self, unit: &Unit) -> Result<(), Refusal> {
        let tree = match &unit.runs {
            Runs::Engine { tree, bin, program } => {
                engine::find(bin, *program, &self.engine_dirs, &self.trees.host).map_err(invalid)?;
                tree
            }
            Runs::Tool { tree, .. }
            | Runs::Transfer { tree, .. }
            | Runs::TransferElsewhere { tree, .. }
            | Runs::Lake { tree } => tree,
            Runs::Gateway | Runs::Archiver | Runs::Functions | Runs::Relay => return Ok(()),
        };
        let there = files::exists(&self.trees.root, host::relative(tree));
        if !there.map_err(|error| system("cannot look for the tree", &error))? {
            let message = format!("there is no `{}`; create the tree first", shown(tree));
            return Err(Refusal { reason: Reason::Absent, message });
        }
        Ok(())
    }

    /// Locks what the unit works on and decides how it is run.
    pub(crate) fn plan(&self, unit: &Unit) -> Result<Planned, Refusal> {
        let host = &self.trees.host;
        match &unit.runs {
            Runs::Engine { tree, bin, program } => {
                let engine = engine::find(bin, *program, &self.engine_dirs, &self.trees.host);
                let engine = engine.map_err(invalid)?;
                Ok(match self.trees.ready(tree, self.guard.status.read_only)? {
                    Ok(ready) => self.engine_plan(unit, tree, *program, engine, ready)?,
                    Err(holder) => Planned::Held(holder),
                })
            }
            Runs::Tool { tree, tool } => Ok(match self.trees.ready(tree, self.guard.status.read_only)? {
                Ok(ready) => self.tool_plan(unit, tree, *tool, ready)?,
                Err(holder) => Planned::Held(holder),
            }),
            Runs::Transfer { tree, from, outside } => {
                let source = host::relative(from).join("run");
                self.transfer_plan(unit, tree, source, *outside, *outside)
            }
            Runs::TransferElsewhere { tree, outside } => {
                self.transfer_plan(unit, tree, way(tree, "")?, *outside, true)
            }
            Runs::Lake { tree } => {
                let locked = self.trees.unit_lock(unit.name.as_str());
                let lock = match locked.map_err(|error| system("cannot lock the unit", &error))? {
                    Locked::Ours(lock) => lock,
                    Locked::Busy(holder) => return Ok(Planned::Held(holder)),
                };
                let ready = self.trees.beside(tree, lock)?;
                let own = InTree::own(self.own_program()?, &["stead", "lake"], LAKE_OUTPUT)?;
                self.tree_plan(unit, tree, InTree { reads_only: true, own: true, ..own }, ready)
            }
            Runs::Gateway => {
                let user = User { uid: host.gateway_uid(), gid: host.gid(), groups: Vec::new() };
                self.own_plan(unit, "gateway", (LOGS, GATEWAY_OUTPUT), user)
            }
            Runs::Archiver => {
                let user = User { uid: host.control_uid(), gid: host.gid(), groups: Vec::new() };
                self.own_plan(unit, "archiver", (LOGS, ARCHIVER_OUTPUT), user)
            }
            Runs::Functions => {
                // What it makes is for Stead's own processes to read and to reach; its own group lets it read what no
                // other of them may: environments and passwords.
                let groups = vec![Gid::from_raw(host.functions_gid())];
                let user = User { uid: host.functions_uid(), gid: host.gid(), groups };
                self.own_plan(unit, "functions", (LOGS, FUNCTIONS_OUTPUT), user)
            }
            Runs::Relay => {
                let user = User { uid: host.relay_uid(), gid: host.relay_gid(), groups: Vec::new() };
                self.own_plan(unit, "relay", (RELAY, RELAY_OUTPUT), user)
            }
        }
    }

    /// What copies into a tree, or a place outside, from the socket in a folder below the home.
    fn transfer_plan(
        &self,
        unit: &Unit,
        tree: &Tree,
        source: PathBuf,
        outside: bool,
        authorities: bool,
    ) -> Result<Planned, Refusal> {
        let mut sources = vec![(source, SOURCE)];
        if outside {
            sources.push((way(tree, "-to")?, TARGET));
        }
        Ok(match self.trees.ready(tree, self.guard.status.read_only)? {
            Ok(ready) => {
                let own = InTree::own(self.own_program()?, &["stead", "transfer"], OUTPUT)?;
                let in_tree = InTree { sources, authorities, own: true, ..own };
                self.tree_plan(unit, tree, in_tree, ready)?
            }
            Err(holder) => Planned::Held(holder),
        })
    }

    fn engine_plan(
        &self,
        unit: &Unit,
        tree: &Tree,
        program: EngineProgram,
        engine: Engine,
        ready: Ready,
    ) -> Result<Planned, Refusal> {
        let host = &self.trees.host;
        let path = match &engine.folder {
            Some(_) if host.isolated => PathBuf::from(format!("{ENGINE}/bin/{}", program.name())),
            _ => engine.program,
        };
        let path = string(path.to_string_lossy())?;
        let mut env = Vec::new();
        if program == EngineProgram::Postgres && !unit.env.contains_key("PG_OOM_ADJUST_FILE") {
            // When memory runs out a backend goes rather than the server: each makes itself the likelier
            // victim, which needs no privilege.
            env.push(string("PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj")?);
            env.push(string("PG_OOM_ADJUST_VALUE=300")?);
        }
        let in_tree = InTree {
            args: vec![path.clone()],
            env,
            program: Program::Path(path),
            engine: engine.folder,
            sources: Vec::new(),
            authorities: false,
            reads_only: false,
            own: false,
            output: OUTPUT,
            hold_signals_back: program == EngineProgram::Postgres,
        };
        self.tree_plan(unit, tree, in_tree, ready)
    }

    fn tool_plan(&self, unit: &Unit, tree: &Tree, tool: Tool, ready: Ready) -> Result<Planned, Refusal> {
        let in_tree = InTree::own(self.own_program()?, &["stead", "tool", tool.name()], OUTPUT)?;
        self.tree_plan(unit, tree, in_tree, ready)
    }

    fn own_program(&self) -> Result<OwnedFd, Refusal> {
        self.program.try_clone().map_err(|error| system("cannot open Stead's own program", &error))
    }

    /// What works on a tree: as the tree's user, in its sandbox.
    fn tree_plan(&self, unit: &Unit, tree: &Tree, in_tree: InTree, ready: Ready) -> Result<Planned, Refusal> {
        let host = &self.trees.host;
        let InTree {
            program,
            mut args,
            mut env,
            engine,
            sources,
            authorities,
            reads_only,
            own,
            output,
            hold_signals_back,
        } = in_tree;
        let real = tree_dir(&self.trees.home, tree).to_string_lossy().into_owned();
        let sandbox = host.isolated.then(|| Sandbox {
            home: self.trees.home.clone(),
            tree: host::relative(tree),
            uid: ready.uid,
            gid: ready.gid,
            engine,
            sources,
            authorities,
            reads_only,
            control_uid: host.control_uid(),
            gateway_uid: host.gateway_uid(),
            stead_gid: host.gid(),
            hostname: unit.name.to_string(),
            shm_bytes: unit.limits.memory_bytes.map_or(SHM_BYTES, |bytes| bytes / 2),
        });
        for arg in &unit.args {
            args.push(string(placed(arg, host, &real))?);
        }
        for (key, value) in &unit.env {
            env.push(string(format!("{key}={}", placed(value, host, &real)))?);
        }
        let log = host.seen_at(&self.trees.home, tree).join("log");
        let plan = Plan {
            program,
            args,
            env,
            user: host.isolated.then(|| User {
                uid: ready.uid,
                gid: ready.gid,
                groups: if own { vec![Gid::from_raw(host.gid())] } else { Vec::new() },
            }),
            sandbox,
            output: (log, output),
            hold_signals_back,
            lock: ready.lock,
        };
        Ok(Planned::Plan { plan: Box::new(plan), repairs: ready.repairs })
    }

    /// A verb of this same binary.
    fn own_plan(
        &self,
        unit: &Unit,
        verb: &str,
        (folder, output): (&str, &'static str),
        user: User,
    ) -> Result<Planned, Refusal> {
        let locked = self.trees.unit_lock(unit.name.as_str());
        let lock = match locked.map_err(|error| system("cannot lock the unit", &error))? {
            Locked::Ours(lock) => lock,
            Locked::Busy(holder) => return Ok(Planned::Held(holder)),
        };
        let host = &self.trees.host;
        let home = self.trees.home.to_string_lossy().into_owned();
        let mut args = vec![string("stead")?, string(verb)?, string("--home")?, string(home)?];
        for arg in &unit.args {
            args.push(string(arg.as_str())?);
        }
        let env = unit.env.iter().map(|(key, value)| string(format!("{key}={value}")));
        let env = env.collect::<Result<_, _>>()?;
        let plan = Plan {
            program: Program::Open(self.own_program()?),
            args,
            env,
            user: host.isolated.then_some(user),
            sandbox: None,
            output: (self.trees.home.join(folder), output),
            hold_signals_back: false,
            lock,
        };
        Ok(Planned::Plan { plan: Box::new(plan), repairs: Vec::new() })
    }
}

/// The folder with the socket of a way of a transfer's.
fn way(tree: &Tree, which: &str) -> Result<PathBuf, Refusal> {
    let name =
        tree.name().ok_or_else(|| invalid("a transfer with a way outside works on a tree with a name"))?;
    Ok(PathBuf::from("relay/sockets").join(format!("{name}{which}")))
}

fn string(text: impl AsRef<str>) -> Result<CString, Refusal> {
    CString::new(text.as_ref()).map_err(|_| invalid("an argument holds a NUL character"))
}

/// A refusal for what is held by somebody.
pub(crate) fn held(unit: &Unit, holder: Option<&Holder>) -> Refusal {
    let what = unit.tree().map_or_else(|| "its lock".into(), |tree| format!("`{}`", shown(tree)));
    let message = format!("cannot start on {what}: {}", in_use(holder));
    Refusal { reason: Reason::Busy, message }
}
