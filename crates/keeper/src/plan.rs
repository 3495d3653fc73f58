//! From a declared unit to everything the launcher has to know.

use std::ffi::CString;
use std::io;
use std::path::PathBuf;

use crate::declared::{invalid, placed};
use crate::engine::{self, Engine};
use crate::host::{self, tree_dir};
use crate::launch::{Plan, Program};
use crate::record::Holder;
use crate::sandbox::{ENGINE, Sandbox};
use crate::trees::{Lock, Locked, Ready, in_use, shown};
use crate::wire::{EngineProgram, Reason, Refusal, Runs, Tree, Unit};
use crate::{files, keeper::Keeper};

/// `/dev/shm` of a server without a memory limit.
const SHM_BYTES: u64 = 256 * 1024 * 1024;

/// Where a process's standard output and error go, below the folder for it.
pub(crate) const OUTPUT: &str = "stderr.log";
pub(crate) const GATEWAY_OUTPUT: &str = "gateway.log";

/// A plan, or who is in the way.
pub(crate) enum Planned {
    Plan { plan: Box<Plan>, repairs: Vec<String> },
    Held(Option<Holder>),
}

fn system(what: &str, error: &io::Error) -> Refusal {
    Refusal { reason: Reason::System, message: format!("{what}: {error}") }
}

impl Keeper {
    /// Whether a unit could be started as it is declared; checked before anything is changed for it.
    pub(crate) fn acceptable(&self, unit: &Unit) -> Result<(), Refusal> {
        let Runs::Engine { tree, bin, program } = &unit.runs else { return Ok(()) };
        engine::find(bin, *program, &self.engine_dirs, &self.trees.host).map_err(invalid)?;
        let there = files::exists(&self.trees.root, host::relative(tree));
        if !there.map_err(|error| system("cannot look for the tree", &error))? {
            let message = format!("there is no `{}`; create the tree first", shown(tree));
            return Err(Refusal { reason: Reason::Absent, message });
        }
        Ok(())
    }

    /// Locks what the unit works on and decides how it is run.
    pub(crate) fn plan(&self, unit: &Unit) -> Result<Planned, Refusal> {
        match &unit.runs {
            Runs::Engine { tree, bin, program } => {
                let engine = engine::find(bin, *program, &self.engine_dirs, &self.trees.host);
                let engine = engine.map_err(invalid)?;
                Ok(match self.trees.ready(tree, self.guard.status.read_only)? {
                    Ok(ready) => self.engine_plan(unit, tree, *program, engine, ready)?,
                    Err(holder) => Planned::Held(holder),
                })
            }
            Runs::Gateway => {
                let locked = self.trees.unit_lock(unit.name.as_str());
                match locked.map_err(|error| system("cannot lock the unit", &error))? {
                    Locked::Ours(lock) => self.gateway_plan(unit, lock),
                    Locked::Busy(holder) => Ok(Planned::Held(holder)),
                }
            }
        }
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
        let real = tree_dir(&self.trees.home, tree).to_string_lossy().into_owned();
        let sandbox = host.isolated.then(|| Sandbox {
            home: self.trees.home.clone(),
            tree: host::relative(tree),
            uid: ready.uid,
            gid: ready.gid,
            engine: engine.folder,
            control_uid: host.control_uid(),
            gateway_uid: host.gateway_uid(),
            stead_gid: host.gid(),
            hostname: unit.name.to_string(),
            shm_bytes: unit.limits.memory_bytes.map_or(SHM_BYTES, |bytes| bytes / 2),
        });
        let mut args = vec![path.clone()];
        for arg in &unit.args {
            args.push(string(placed(arg, host, &real))?);
        }
        let mut env = Vec::new();
        if program == EngineProgram::Postgres && !unit.env.contains_key("PG_OOM_ADJUST_FILE") {
            // When memory runs out a backend goes rather than the server: each makes itself the likelier
            // victim, which needs no privilege.
            env.push(string("PG_OOM_ADJUST_FILE=/proc/self/oom_score_adj")?);
            env.push(string("PG_OOM_ADJUST_VALUE=300")?);
        }
        for (key, value) in &unit.env {
            env.push(string(format!("{key}={}", placed(value, host, &real)))?);
        }
        let log = host.seen_at(&self.trees.home, tree).join("log");
        let plan = Plan {
            program: Program::Path(path),
            args,
            env,
            user: host.isolated.then_some((ready.uid, ready.gid)),
            sandbox,
            output: (log, OUTPUT),
            hold_signals_back: program == EngineProgram::Postgres,
            lock: ready.lock,
        };
        Ok(Planned::Plan { plan: Box::new(plan), repairs: ready.repairs })
    }

    fn gateway_plan(&self, unit: &Unit, lock: Lock) -> Result<Planned, Refusal> {
        let host = &self.trees.host;
        let home = self.trees.home.to_string_lossy().into_owned();
        let mut args = vec![string("stead")?, string("gateway")?, string("--home")?, string(home)?];
        for arg in &unit.args {
            args.push(string(arg.as_str())?);
        }
        let env = unit.env.iter().map(|(key, value)| string(format!("{key}={value}")));
        let env = env.collect::<Result<_, _>>()?;
        let program =
            self.program.try_clone().map_err(|error| system("cannot open the gateway's program", &error))?;
        let plan = Plan {
            program: Program::Open(program),
            args,
            env,
            user: host.isolated.then(|| (host.gateway_uid(), host.gid())),
            sandbox: None,
            output: (self.trees.home.join("logs"), GATEWAY_OUTPUT),
            hold_signals_back: false,
            lock,
        };
        Ok(Planned::Plan { plan: Box::new(plan), repairs: Vec::new() })
    }
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
