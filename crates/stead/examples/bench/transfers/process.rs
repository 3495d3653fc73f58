//! A process that is measured: how long it ran, what it took of the processors, and the most memory it had.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// Between two looks at its memory; what it takes and gives back in between is in the kernel's own high-water mark.
const LOOK: Duration = Duration::from_millis(10);
/// Until a process that was told to stop has to be gone.
const STOP: Duration = Duration::from_secs(30);
/// What the kernel counts processor time in.
const TICKS_PER_SECOND: f64 = 100.0;

/// A process under way; ended with this.
pub(crate) struct Run {
    what: String,
    child: Child,
    began: Instant,
    peak_kib: Arc<AtomicU64>,
    looks: tokio::task::JoinHandle<()>,
    /// What it says on standard error.
    said: PathBuf,
}

/// What a process has used.
pub(crate) struct Used {
    /// From its start to its end.
    pub(crate) seconds: f64,
    /// Of all processors.
    pub(crate) cpu_seconds: f64,
    pub(crate) peak_mib: f64,
    /// On standard output.
    pub(crate) said: String,
}

impl Run {
    /// Starts it; `said` is a file for its complaints.
    pub(crate) fn start(what: &str, command: &mut Command, said: PathBuf) -> Self {
        let complaints = std::fs::File::create(&said).unwrap();
        let child = command.stdin(Stdio::null()).stderr(complaints).spawn();
        let child = child.unwrap_or_else(|error| panic!("{what} does not start: {error}"));
        let (began, peak_kib) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let (pid, peak) = (child.id(), peak_kib.clone());
        let looks = tokio::spawn(async move {
            while let Some(kib) = peak_kib_of(pid) {
                peak.fetch_max(kib, Ordering::Relaxed);
                tokio::time::sleep(LOOK).await;
            }
        });
        Self { what: what.to_owned(), child, began, peak_kib, looks, said }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds since its start.
    pub(crate) fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Processor time until now.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        Stat::of(self.child.id()).map_or(0.0, |stat| stat.own)
    }

    /// The most memory until now.
    pub(crate) fn peak_mib(&self) -> f64 {
        mib(self.peak_kib.load(Ordering::Relaxed))
    }

    /// Whether it has ended, its figures being there still.
    pub(crate) fn is_over(&self) -> bool {
        let over = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&self.child)), over).unwrap().is_some()
    }

    /// The end of what it has complained of.
    pub(crate) fn complaints(&self) -> String {
        let text = std::fs::read_to_string(&self.said).unwrap_or_default();
        let lines: Vec<_> = text.lines().rev().take(5).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    /// Once it has ended by itself; an error where it does not in time, or says that it failed.
    pub(crate) async fn ended(self, limit: Duration) -> Result<Used, String> {
        while !self.is_over() {
            if self.began.elapsed() > limit {
                return Err(format!("{} did not end within {limit:?}: {}", self.what, self.complaints()));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.reap()
    }

    /// Tells it to stop.
    pub(crate) async fn stop(self) -> Used {
        rustix::process::kill_process(Pid::from_child(&self.child), rustix::process::Signal::TERM).unwrap();
        let told = Instant::now();
        while !self.is_over() {
            assert!(told.elapsed() < STOP, "{} does not stop: {}", self.what, self.complaints());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.reap().unwrap_or_else(|why| panic!("{why}"))
    }

    /// PostgreSQL's, whose children end with it then.
    pub(crate) fn end_at_once(mut self) {
        let _ = rustix::process::kill_process(Pid::from_child(&self.child), rustix::process::Signal::QUIT);
        let _ = self.child.wait();
    }

    fn reap(mut self) -> Result<Used, String> {
        let (seconds, cpu_seconds) = (self.seconds(), self.cpu_seconds());
        let status = self.child.wait().unwrap();
        if !status.success() {
            return Err(format!("{} failed ({status}): {}", self.what, self.complaints()));
        }
        let mut said = String::new();
        if let Some(mut out) = self.child.stdout.take() {
            std::io::Read::read_to_string(&mut out, &mut said).unwrap();
        }
        Ok(Used { seconds, cpu_seconds, peak_mib: self.peak_mib(), said })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.looks.abort();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The high-water mark of a process that runs.
fn peak_kib_of(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().strip_suffix(" kB")?.parse().ok()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// What the kernel says of a process; seconds of processor time.
pub(crate) struct Stat {
    parent: u32,
    own: f64,
    /// Of its children that have ended.
    ended: f64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Its name may hold anything, and ends with the last bracket.
        let (_, fields) = text.rsplit_once(") ")?;
        let fields: Vec<f64> = fields.split(' ').map(|field| field.parse().unwrap_or_default()).collect();
        let seconds = |place: usize| Some((fields.get(place)? + fields.get(place + 1)?) / TICKS_PER_SECOND);
        let parent = text.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some(Self { parent, own: seconds(11)?, ended: seconds(13)? })
    }
}

/// Processor time of a process and its children, those that have ended too; seconds.
pub(crate) fn family_cpu_seconds(pid: u32) -> f64 {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let others = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = others.filter_map(Stat::of).filter(|stat| stat.parent == pid).map(|stat| stat.own);
    let children: f64 = children.sum();
    Stat::of(pid).map_or(0.0, |stat| stat.own + stat.ended) + children
}
