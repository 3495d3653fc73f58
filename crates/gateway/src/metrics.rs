//! What is counted, as OpenMetrics text. Everything is read at the moment of the question, so that a series
//! exists exactly as long as the route that it is of, and there are no more of them than routes make.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::door::Door;
use crate::session::Context;
use crate::shared::Directory;
use crate::stats::Tally;

/// Where the numbers are.
#[derive(Clone)]
pub(crate) struct Sources {
    pub(crate) context: Arc<Context>,
    pub(crate) directory: Arc<Directory>,
}

/// The text.
pub(crate) fn text(sources: &Sources) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(sources.clone()));
    let mut text = String::with_capacity(16 * 1024);
    encode(&mut text, &registry)?;
    Ok(text)
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Collector for Sources {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        of_servers(&mut page, &self.directory.all())?;
        of_gateway(&mut page, &self.context, &self.directory)?;
        of_process(&mut page, &self.context)
    }
}

type Labels = [(&'static str, String); 4];
/// A number of a server.
type Number = fn(&Door) -> u64;
/// How often each outcome was, at a server.
type Outcomes = fn(&Door) -> &Tally;

/// The page as it is written, a family of series at a time.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn family(
        &mut self,
        (name, unit, help): (&str, Option<Unit>, &str),
        kind: MetricType,
        write: impl FnOnce(MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        write(self.0.encode_descriptor(name, help, unit.as_ref(), kind)?)
    }

    /// One series without labels.
    fn gauge(&mut self, what: (&str, Option<Unit>, &str), value: u64) -> fmt::Result {
        self.family(what, MetricType::Gauge, |one| ConstGauge::new(value).encode(one))
    }

    fn counter(&mut self, what: (&str, Option<Unit>, &str), value: u64) -> fmt::Result {
        self.family(what, MetricType::Counter, |one| ConstCounter::new(value).encode(one))
    }
}

fn gauge(all: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    ConstGauge::new(value).encode(all.encode_family(labels)?)
}

fn counter(all: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(all.encode_family(labels)?)
}

fn histogram(all: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: &Histogram) -> fmt::Result {
    value.encode(all.encode_family(labels)?)
}

fn of_servers(page: &mut Page<'_>, doors: &[Arc<Door>]) -> fmt::Result {
    let doors: Vec<(Labels, &Door)> = doors.iter().map(|door| (labels(door), &**door)).collect();
    let gauges: [(&str, &str, Number); 3] = [
        ("stead_gateway_sessions", "Sessions now", |door| door.sessions().into()),
        ("stead_gateway_sessions_limit", "Sessions that there may be at once", |door| {
            door.route().max_sessions.into()
        }),
        ("stead_gateway_signing_in", "Connections that have not signed in yet", Door::signing_in),
    ];
    for (name, help, number) in gauges {
        page.family((name, None, help), MetricType::Gauge, |mut all| {
            doors.iter().try_for_each(|(labels, door)| gauge(&mut all, labels, number(door)))
        })?;
    }
    let counters: [(&str, Option<Unit>, &str, Number); 6] = [
        ("stead_gateway_sessions_opened", None, "Sessions that began", |door| door.stats.sessions.get()),
        ("stead_gateway_sign_in_failures", None, "Connections that did not prove who they are", |door| {
            door.stats.sign_in_failures()
        }),
        ("stead_gateway_received", Some(Unit::Bytes), "Bytes of sessions from clients", |door| {
            door.stats.received.get()
        }),
        ("stead_gateway_sent", Some(Unit::Bytes), "Bytes of sessions to clients", |door| {
            door.stats.sent.get()
        }),
        ("stead_gateway_wakes_failed", None, "Clients for whom the server did not wake up", |door| {
            door.stats.wakes_failed.get()
        }),
        ("stead_gateway_sleeps", None, "Times that the server fell asleep", |door| door.stats.sleeps.get()),
    ];
    for (name, unit, help, number) in counters {
        page.family((name, unit, help), MetricType::Counter, |mut all| {
            doors.iter().try_for_each(|(labels, door)| counter(&mut all, labels, number(door)))
        })?;
    }
    let tallies: [(&str, &str, Outcomes); 3] = [
        ("stead_gateway_sessions_ended", "Sessions that ended, and how", |door| &door.stats.ended),
        ("stead_gateway_refused", "Connections that came to no session, and why", |door| &door.stats.refused),
        ("stead_gateway_cancels", "Cancel requests", |door| &door.stats.cancels),
    ];
    for (name, help, tally) in tallies {
        page.family((name, None, help), MetricType::Counter, |mut all| {
            doors.iter().try_for_each(|(labels, door)| outcomes(&mut all, labels, tally(door)))
        })?;
    }
    let wake = ("stead_gateway_wake", Some(Unit::Seconds), "Time that the server took to wake up");
    page.family(wake, MetricType::Histogram, |mut all| {
        doors.iter().try_for_each(|(labels, door)| histogram(&mut all, labels, &door.stats.wakes))
    })
}

/// A series for each outcome that there was.
fn outcomes(
    all: &mut MetricEncoder<'_>,
    labels: &(impl EncodeLabelSet + Clone),
    tally: &Tally,
) -> fmt::Result {
    let counts = tally.counts();
    counts.iter().try_for_each(|(word, n)| counter(all, &(labels.clone(), [("outcome", *word)]), *n))
}

fn labels(door: &Door) -> Labels {
    let route = door.route();
    [
        ("tenant", route.tenant.clone()),
        ("stead", route.stead.clone()),
        ("component", route.component.clone()),
        ("server", route.server.clone()),
    ]
}

fn of_gateway(page: &mut Page<'_>, context: &Context, directory: &Directory) -> fmt::Result {
    let stats = &context.stats;
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    page.family(("stead_gateway_build", None, "The program"), MetricType::Info, |mut one| {
        one.encode_info(&version)
    })?;
    page.gauge(("stead_gateway_routes", None, "Routes in force"), count(directory.all().len()))?;
    let faults = stats.faults.load(Ordering::Relaxed);
    page.gauge(("stead_gateway_faults", None, "Files refused and owners without all their ports"), faults)?;
    page.counter(("stead_gateway_connections", None, "Connections accepted"), context.accepted())?;
    let turned_away = "Connections turned away before it was known which server they want";
    page.family(("stead_gateway_turned_away", None, turned_away), MetricType::Counter, |mut all| {
        outcomes(&mut all, &NO_LABELS, &stats.turned_away)
    })?;
    let sign_in = ("stead_gateway_sign_in", Some(Unit::Seconds), "Time from accept to signed in");
    page.family(sign_in, MetricType::Histogram, |one| stats.sign_ins.encode(one))?;
    let dropped = ("stead_gateway_log_lines_dropped", None, "Lines of the connection log that were lost");
    page.counter(dropped, context.log.dropped())?;
    let expiry = context.certificates.current().and_then(|certificate| certificate.until);
    let until =
        ("stead_gateway_certificate_expiry", Some(Unit::Seconds), "When the certificate ends, Unix time");
    let expiry = expiry.and_then(|until| u64::try_from(until.as_second()).ok());
    expiry.map_or(Ok(()), |expiry| page.gauge(until, expiry))
}

/// As other programs name them.
fn of_process(page: &mut Page<'_>, context: &Context) -> fmt::Result {
    let started = u64::try_from(context.stats.started.as_second()).unwrap_or(0);
    page.gauge(("process_start_time", Some(Unit::Seconds), "When it began, Unix time"), started)?;
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        // One of them is the look itself.
        page.gauge(("process_open_fds", None, "Open descriptors"), count(open.count()).saturating_sub(1))?;
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(limit) = limit {
        page.gauge(("process_max_fds", None, "Descriptors that may be open"), limit)?;
    }
    match resident() {
        Some(bytes) => page.gauge(("process_resident_memory", Some(Unit::Bytes), "Memory in use"), bytes),
        None => Ok(()),
    }
}

/// Bytes of memory in use.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

const NO_LABELS: [(&str, &str); 0] = [];

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}
