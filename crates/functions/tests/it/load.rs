//! A thousand calls at once for twenty workers, which share ten connections to a real PostgreSQL.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::crash::{Chance, pass};
use crate::databases::{WIRE, admin, server, using};
use crate::events::{LATER, files};
use crate::home::{Home, pause, until};
use crate::http::{Connection, Response};

const CALLS: usize = 1000;
const WORKERS: u32 = 20;
const CONNECTIONS: u32 = 10;

/// Says who worked at it, over which connection, how many there were, and what went wrong. Every second call has a
/// session of its own, as those have that connect in their handler.
const CODE: &str = "from wire import *
shared = None
def handler(event, context):
    global shared
    session = shared if event % 2 else None
    if session is None:
        session = Session()
        if session.greeting[-1][0] == b'E':
            return {'worker': socket.gethostname(), 'errors': answer(session.greeting)[2]}
    if event % 2:
        shared = session
    sql = 'with ran as (insert into ran values (%d)) select pg_backend_pid() from pg_sleep(0.005)' % event
    first = session.query(sql)
    second = session.query(\"select count(*) from pg_stat_activity where usename = 'app'\")
    if session is not shared:
        session.socket.close()
    errors = first[2] + second[2]
    if errors and event >= 10000:
        raise Exception(errors)
    return {'worker': socket.gethostname(), 'errors': errors, 'backend': first[1], 'backends': [int(n) for n in second[1]]}";

/// A server that lets the function have no more connections than are declared, and the function. With `surplus` more
/// are declared.
fn deployed(limits: &[&str], surplus: u32) -> Home {
    raise_descriptor_limit();
    let home = Home::with(limits);
    server(&home);
    admin(&home, "postgres", &format!("alter role app connection limit {CONNECTIONS}")).unwrap();
    admin(&home, "app", "create table ran (call int); alter table ran owner to app").unwrap();
    let mut route = using(&home, CONNECTIONS + surplus, &[("wire.py", WIRE), ("index.py", CODE)]);
    let version = route.versions.get_mut(&1).unwrap();
    version.concurrency = WORKERS;
    version.memory_mib = 128;
    home.put(&route);
    home
}

/// A connection for each call.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// All calls at once, and what is answered; at no moment there are more workers than may.
fn called(home: &Home) -> Vec<Response> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut most = 0;
            while !over.load(Ordering::Relaxed) {
                let workers = home.function("f1").workers;
                most = most.max(workers.busy + workers.idle);
                pause();
            }
            most
        });
        let mut calls: Vec<_> = (0..CALLS).map(|call| home.send("f1", &[], &format!("{call}"))).collect();
        let responses = calls.iter_mut().map(|call| call.try_read().expect("an answer")).collect();
        over.store(true, Ordering::Relaxed);
        let most = watching.join().unwrap();
        assert!((2..=WORKERS).contains(&most), "{most}");
        responses
    })
}

/// Of those who were refused each was told so as Lambda says it; what the others were answered.
fn answers(responses: &[Response]) -> Vec<Value> {
    let (answered, refused): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 200);
    for response in refused {
        assert_eq!(
            (response.status, response.header("x-amzn-errortype")),
            (429, Some("TooManyRequestsException"))
        );
        assert_eq!(response.json()["Reason"], "ConcurrentInvocationLimitExceeded", "{response:?}");
    }
    let failed = answered.iter().find(|response| response.header("x-amz-function-error").is_some());
    assert!(failed.is_none(), "{failed:?}");
    answered.into_iter().map(Response::json).collect()
}

fn errors(answers: &[Value]) -> Vec<&Value> {
    answers.iter().flat_map(|answer| answer["errors"].as_array().unwrap()).collect()
}

fn names<'a>(answers: &'a [Value], name: &str) -> BTreeSet<&'a str> {
    let of = |answer: &'a Value| answer[name].as_str().or_else(|| answer[name][0].as_str());
    answers.iter().filter_map(of).collect()
}

/// What was answered ran, once; nobody ever met more connections than may be.
fn went_well(home: &Home, answers: &[Value]) {
    assert_eq!(errors(answers), Vec::<&Value>::new());
    let most = answers.iter().map(|answer| answer["backends"][0].as_u64().unwrap()).max().unwrap();
    assert!(most <= u64::from(CONNECTIONS), "{most}");
    let (workers, backends) = (names(answers, "worker").len(), names(answers, "backend").len());
    println!("{} answered by {workers} workers over {backends} connections", answers.len());
    assert!((2..=WORKERS as usize).contains(&workers), "{workers}");
    assert!((2..=CONNECTIONS as usize).contains(&backends), "{backends}");
    let ran = admin(home, "app", "select count(*) || ' ' || count(distinct call) from ran").unwrap();
    assert_eq!(ran, format!("{0} {0}", answers.len()));
}

#[test]
fn a_thousand_calls_at_once_are_answered_over_few_connections() {
    // Nobody waits too long, however busy the machine is.
    let home = deployed(&["queue_wait=60000"], 0);
    let answers = answers(&called(&home));
    assert_eq!(answers.len(), CALLS);
    went_well(&home, &answers);
}

#[test]
fn of_a_thousand_calls_at_once_those_that_find_no_place_are_told() {
    let home = deployed(&["queue=100", "queue_wait=60000"], 0);
    let answers = answers(&called(&home));
    assert!((100..CALLS).contains(&answers.len()), "{}", answers.len());
    went_well(&home, &answers);
}

/// Where more connections are declared than the server has, it is the server that refuses, and calls see it.
#[test]
fn without_the_bound_the_server_refuses() {
    let home = deployed(&["queue_wait=60000"], 5);
    let refused = called(&home).iter().filter(|response| response.text().contains("53300")).count();
    assert!(refused > 0);
}

#[test]
fn a_thousand_events_at_once_are_all_worked_at() {
    let home = deployed(&[], 0);
    // These fail where anything goes wrong.
    let event = |call: usize| format!("{}", 10_000 + call);
    let mut calls: Vec<_> = (0..CALLS).map(|call| home.send("f1", &LATER, &event(call))).collect();
    for call in &mut calls {
        assert_eq!(call.try_read().unwrap().status, 202);
    }
    until("all are worked at", || files(&home, "events/f1").is_empty().then_some(()));
    let ran = admin(&home, "app", "select count(*) || ' ' || count(distinct call) from ran").unwrap();
    assert_eq!(ran, format!("{CALLS} {CALLS}"));
    assert!(files(&home, "dead/f1").is_empty());
}

/// At least once each, and no more often than somebody was killed with it under way.
#[test]
fn events_that_were_accepted_are_worked_at_whenever_the_engine_is_killed() {
    const KILLS: u64 = 4;
    let home = deployed(&["retry=300"], 0);
    // Those of an engine that was killed may still be open while the next one opens its own.
    admin(&home, "postgres", "alter role app connection limit -1").unwrap();
    let (next, over) = (AtomicUsize::new(10_000), AtomicBool::new(false));
    let mut accepted = BTreeSet::new();
    let mut unknown = 0;
    thread::scope(|scope| {
        let send = || {
            let (mut accepted, mut unknown) = (Vec::new(), 0);
            while !over.load(Ordering::Relaxed) {
                let event = next.fetch_add(1, Ordering::Relaxed).to_string();
                let target = "POST /2015-03-31/functions/f1/invocations";
                let connection = Connection::try_unix(&home.path.join("functions/invoke.sock"));
                let Some(mut connection) = connection else {
                    pause();
                    continue;
                };
                connection.send(target, &LATER, event.as_bytes());
                match connection.try_read() {
                    Some(response) if response.status == 202 => accepted.push(event),
                    Some(response) => panic!("{response:?}"),
                    None => unknown += 1,
                }
            }
            (accepted, unknown)
        };
        let clients: Vec<_> = (0..4).map(|_| scope.spawn(send)).collect();
        let mut chance = Chance(11);
        for _ in 0..KILLS {
            let before = next.load(Ordering::Relaxed);
            until("some were sent", || (next.load(Ordering::Relaxed) > before + 50).then_some(()));
            pass(Duration::from_micros(chance.below(200_000)));
            home.kill_engine();
        }
        over.store(true, Ordering::Relaxed);
        for client in clients {
            let (of_client, unknown_to_client) = client.join().unwrap();
            accepted.extend(of_client);
            unknown += unknown_to_client;
        }
    });
    until("all are worked at", || files(&home, "events/f1").is_empty().then_some(()));
    let ran = admin(&home, "app", "select call from ran").unwrap();
    let ran: Vec<_> = ran.lines().map(str::to_owned).collect();
    let once: BTreeSet<_> = ran.iter().cloned().collect();
    println!("{} accepted, {unknown} unknown, {} runs of {}", accepted.len(), ran.len(), once.len());
    assert!(accepted.len() > 100 && accepted.is_subset(&once), "{:?}", accepted.difference(&once));
    assert!(once.len() <= accepted.len() + unknown);
    let under_way = usize::try_from(KILLS * u64::from(WORKERS)).unwrap();
    assert!(ran.len() <= once.len() + under_way, "{} {}", ran.len(), once.len());
    assert!(files(&home, "dead/f1").is_empty());
}
