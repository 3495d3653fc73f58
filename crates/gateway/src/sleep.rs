//! Servers that sleep while nobody uses them, and are woken by a client that has signed in.
//!
//! The gateway is the one who sees clients, so it decides; the keeper stops and starts (`keeper::sleep`), and
//! remembers. Neither needs the control plane.
//!
//! - **Idle** means: no byte of a client went to the server for the route's time, and the server itself says
//!   that no session of a client has a statement or a transaction under way. Stead's own sessions do not
//!   count. Sessions at rest do not keep a server awake: they leave it (`hold.rs`), stay with the gateway, and
//!   wake it with their next statement; those that hold what cannot be carried end with 57P01.
//! - **Before it sleeps its verifiers are frozen** into `gateway/asleep/<server>.json`, because a sleeping
//!   server cannot be asked for them. They are looked at only when the server does not answer: awake, what
//!   the server says counts, so a rotated password counts at once. A client that proves itself by a frozen
//!   verifier that has become untrue meanwhile is refused by the woken server itself.
//! - **Only a right password wakes**, not a connection: a port scanner wakes nothing.
//! - **One gateway decides**: one that has handed over (`drain.rs`) is asked whether its sessions use the
//!   server, and decides nothing itself.
//! - **One turn at a time**: a server falls asleep while it is held, so that no session begins at a server
//!   that is being stopped; whoever comes meanwhile wakes it again.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use keeper::wire::{Name, UnitState};
use tokio::sync::{Mutex, RwLock};
use tokio::time::{Instant, sleep};

use crate::door::Door;
use crate::drainers::Drainers;
use crate::duty::Duty;
use crate::files::Paths;
use crate::hold::{self, Because, Wish};
use crate::refusal::Refusal;
use crate::route::{Hold, Sleep};
use crate::{backend, fail_point};
use scram::Verifier;

/// A start after a crash replays WAL first; a client's own patience is shorter than this.
const WAKE: Duration = Duration::from_secs(12);
/// Between two looks at whether a server that was started is ready.
const LOOK: Duration = Duration::from_millis(1);
/// Between two looks at whether a server is idle: an eighth of its time, within these.
const LOOKS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How long sessions may take to come to rest, and how long it may take in all, for a server to fall asleep.
const HOLD: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// What a door knows of its server's sleep.
pub(crate) struct Rest {
    keeper: keeper::Client,
    /// `gateway/asleep/<server>.json`.
    frozen: PathBuf,
    /// A client sent something since the last look.
    pub(crate) touched: AtomicBool,
    /// Held for reading while a session begins at the server, for writing while the server is held.
    pub(crate) turn: Arc<RwLock<()>>,
    /// There is a hold, or one is about to be.
    pub(crate) holding: Arc<AtomicBool>,
    /// Held by the one client that wakes the server for all who wait.
    waking: Mutex<()>,
    duty: Arc<Duty>,
    pub(crate) drainers: Drainers,
}

impl Rest {
    pub(crate) fn new(paths: &Paths, server: &str, duty: Arc<Duty>, drainers: Drainers) -> Rest {
        Rest {
            keeper: keeper::Client::new(&paths.home),
            frozen: paths.asleep.join(format!("{server}.json")),
            touched: AtomicBool::new(true),
            turn: Arc::default(),
            holding: Arc::default(),
            waking: Mutex::new(()),
            duty,
            drainers,
        }
    }

    /// Notes that a client does something. Mostly a look at a line that nobody writes to.
    pub(crate) fn touch(&self) {
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::Relaxed);
        }
    }

    /// What is frozen of a role: nothing where the server has not been put to sleep.
    pub(crate) fn verifier(&self, user: &[u8]) -> Option<Option<Verifier>> {
        let all: BTreeMap<String, String> =
            serde_json::from_slice(&std::fs::read(&self.frozen).ok()?).ok()?;
        let user = std::str::from_utf8(user).ok();
        Some(user.and_then(|user| all.get(user)).and_then(|text| Verifier::parse(text)))
    }

    fn freeze(&self, verifiers: &BTreeMap<String, String>) -> io::Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut draft = self.frozen.clone().into_os_string();
        draft.push(".new");
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(&serde_json::to_vec(verifiers)?)?;
        file.sync_data()?;
        std::fs::rename(draft, &self.frozen)
    }

    /// Forgets what is frozen.
    pub(crate) fn thaw(&self) {
        match std::fs::remove_file(&self.frozen) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, file = %self.frozen.display(), "cannot remove what was frozen");
            }
            _ => {}
        }
    }

    /// Wakes the server and waits until it takes sessions. Of many at once one asks, all wait. Whether it was
    /// this one that woke it.
    pub(crate) async fn wake(&self, unit: &Name, why: String) -> Result<bool, Refusal> {
        let _one = self.waking.lock().await;
        let asleep = self.frozen.exists();
        let woken = self.start(unit, why).await;
        woken.map_err(Refusal::Asleep)?;
        fail_point!("gateway::woken");
        self.thaw();
        Ok(asleep)
    }

    /// Asks the keeper, which answers at once, and looks until the server is ready. What went wrong is told
    /// to the client in few words; the rest is the operator's.
    async fn start(&self, unit: &Name, why: String) -> Result<(), String> {
        let until = Instant::now() + WAKE;
        let name = unit.clone();
        let mut state = self.ask(move |keeper| Ok(Some(keeper.wake(&name, &why)?.state))).await?;
        loop {
            let name = unit.clone();
            if self.ask(move |keeper| keeper.ready(&name)).await? {
                return Ok(());
            }
            match state {
                Some(UnitState::Backoff { last_error, .. }) => {
                    tracing::error!(%unit, last_error, "a server ended by itself while it woke up");
                    return Err("it ends by itself and is tried again".into());
                }
                Some(_) if Instant::now() < until => sleep(LOOK).await,
                Some(_) => return Err(format!("it was not ready within {} s", WAKE.as_secs())),
                None => return Err("it is gone".into()),
            }
            let name = unit.clone();
            state = self.ask(move |keeper| Ok(keeper.unit(&name)?.map(|status| status.state))).await?;
        }
    }

    /// Asks the keeper off the threads that serve: its client blocks for the moment that an answer takes.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&keeper::Client) -> Result<T, keeper::ClientError> + Send + 'static,
    ) -> Result<T, String> {
        let keeper = self.keeper.clone();
        match tokio::task::spawn_blocking(move || question(&keeper)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                tracing::error!(%error, "the keeper did not do as asked");
                Err("what starts and stops it does not answer".into())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}

/// Puts the server of a door to sleep whenever nobody uses it, for as long as there is the door.
pub(crate) fn follow(door: &Arc<Door>) {
    tokio::spawn(watch(Arc::downgrade(door)));
}

async fn watch(door: Weak<Door>) {
    let (mut used, mut was_awake) = (Instant::now(), false);
    loop {
        let Some(open) = door.upgrade().filter(|door| !door.is_shut()) else { return };
        if open.rest.duty.is_laid_down() {
            return;
        }
        let route = open.route();
        let Some(wish) = &route.sleep else {
            drop(open);
            sleep(LOOKS.1).await;
            continue;
        };
        let after = Duration::from_millis(wish.after_ms);
        // A server that stops takes its socket away. Who woke it (a client, an edit) does not matter.
        let awake = backend::socket(&route.socket_dir).exists();
        if open.rest.touched.swap(false, Ordering::Relaxed) || !was_awake {
            used = Instant::now();
        } else if awake && used.elapsed() >= after {
            if let Err(why) = fall_asleep(&open, wish, &route.socket_dir).await {
                tracing::warn!(server = route.server, why, "the server could not be put to sleep");
            }
            used = Instant::now();
        }
        was_awake = awake;
        drop(open);
        sleep((after / 8).clamp(LOOKS.0, LOOKS.1)).await;
    }
}

/// Nothing happens where somebody uses it after all. Sessions at rest leave the server, and are brought back
/// to it when they have something to say.
async fn fall_asleep(door: &Arc<Door>, wish: &Sleep, folder: &Path) -> Result<(), String> {
    let rest = &door.rest;
    let Some(_duty) = rest.duty.act() else { return Ok(()) };
    let server = &door.route().server;
    if rest.drainers.use_it(server).await {
        return Ok(());
    }
    if !door.verifiers.at_rest(folder).await.map_err(|refusal| refusal.to_string())? {
        return Ok(());
    }
    let (patience, deadline) = HOLD;
    let hold = Wish { because: Because::Asleep, patience, deadline, insist: false };
    if let Hold::Busy { why, .. } = hold::everywhere(door, hold).await {
        tracing::debug!(why, "a server that was to sleep is used");
        return Ok(());
    }
    let asleep = stop(door, wish, folder).await;
    hold::release(door, Because::Asleep).await;
    asleep
}

async fn stop(door: &Door, wish: &Sleep, folder: &Path) -> Result<(), String> {
    let rest = &door.rest;
    let verifiers = door.verifiers.all(folder).await.map_err(|refusal| refusal.to_string())?;
    rest.freeze(&verifiers).map_err(|error| format!("its verifiers cannot be kept: {error}"))?;
    fail_point!("gateway::frozen");
    // Between the server's answer and now a client may have begun something after all.
    if rest.touched.load(Ordering::Relaxed) {
        return Ok(());
    }
    door.verifiers.hang_up().await;
    let unit = wish.unit.clone();
    let why = format!("no client ran a statement for {}", spoken(wish.after_ms));
    rest.ask(move |keeper| keeper.sleep(&unit, &why)).await?;
    door.stats.sleeps.inc();
    fail_point!("gateway::asleep");
    Ok(())
}

/// `5 min`, `90 s`.
fn spoken(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        _ if ms.is_multiple_of(60_000) => format!("{} min", ms / 60_000),
        _ => format!("{} s", ms / 1_000),
    }
}

/// What is frozen of servers that are no longer served here.
pub(crate) fn sweep(paths: &Paths, served: impl Fn(&str) -> bool) {
    let Ok(entries) = std::fs::read_dir(&paths.asleep) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let server = name.to_str().and_then(|name| name.split('.').next());
        if !server.is_some_and(&served) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
