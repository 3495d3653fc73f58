//! Whatever is said in SQL, a client hears through the gateway exactly what it would hear at the server's own
//! socket: the same messages, of the same bytes, in the same order, however the client's bytes are cut.
//!
//! Tables and types are made once for both ways, so that the object ids that messages carry are the same;
//! process ids and cancel keys alone are masked.

mod extended;
mod races;
mod raw;
mod script;
mod simple;
mod values;

use std::collections::BTreeSet;

use gateway::route::Route;

use self::raw::{Session, difference};
use self::script::Script;
use crate::support::home::{Gateway, Home, front_door};
use crate::support::server::Server;

/// What scripts stand on.
const FIXTURE: &str = "create schema shapes; set search_path to shapes; \
    create table t (n int primary key, x text); \
    create table once (n int unique deferrable initially deferred); \
    create type pair as (a int, b text); create type mood as enum ('sad', 'ok'); \
    create domain positive as int check (value > 0)";

/// What makes each script begin as the one before it began.
const RESET: &str = "set search_path to shapes; truncate t, once; \
    select lo_unlink(oid) from pg_largeobject_metadata";

/// Sent in one piece.
const WHOLE: usize = usize::MAX;

/// The types of all messages that a server has for a session that is no replication.
const KINDS: &[u8] = b"123ACDEGHIKNRSTVZcdnst";

/// Both ways to one server.
struct Ways {
    server: Server,
    home: Home,
    route: Route,
    gateway: Gateway,
}

impl Ways {
    async fn open(major: u32) -> Ways {
        let (mut server, home, route, gateway) = front_door(major).await;
        let two_phase = "alter system set max_prepared_transactions = 4";
        server.admin().await.batch_execute(two_phase).await.unwrap();
        server.stop();
        server.boot().await;
        let fixture = Script::new("fixture").ask(FIXTURE);
        let said = Session::direct(&server).await.play(&fixture, WHOLE).await;
        assert!(said.iter().all(|answer| answer.kind != b'E'), "{said:?}");
        Ways { server, home, route, gateway }
    }

    async fn direct(&self, script: &Script) -> Vec<raw::Answer> {
        reset(Session::direct(&self.server).await).await.play(script, WHOLE).await
    }

    async fn through(&self, script: &Script, cut: usize) -> Vec<raw::Answer> {
        reset(Session::through(&self.home, &self.route).await).await.play(script, cut).await
    }

    /// Plays scripts directly and then through the gateway in every cut; panics with all differences.
    /// The types of messages that came.
    async fn compare(&self, scripts: &[Script], cuts: &[usize]) -> BTreeSet<u8> {
        let (mut differences, mut kinds) = (Vec::new(), BTreeSet::new());
        for script in scripts {
            let direct = self.direct(script).await;
            kinds.extend(direct.iter().map(|answer| answer.kind).filter(|kind| *kind != 0));
            for &cut in cuts {
                let through = self.through(script, cut).await;
                let found = difference(&direct, &through);
                differences.extend(found.map(|found| format!("{}, cut {cut}: {found}", script.name)));
            }
        }
        assert!(differences.is_empty(), "{}", differences.join("\n"));
        kinds
    }
}

/// Puts the tables back; what is said meanwhile is nobody's answer.
async fn reset(mut session: Session) -> Session {
    let script = Script::new("reset").ask(RESET);
    let said = session.turn(script.name, &script.turns()[0], WHOLE).await;
    assert!(said.iter().all(|answer| answer.kind != b'E'), "{said:?}");
    session
}

/// All scripts on one major, as clients send them and cut as no client would.
async fn alike(major: u32) {
    let ways = Ways::open(major).await;
    let mut kinds = BTreeSet::new();
    for scripts in [
        simple::statements(),
        simple::copies(),
        extended::portals(),
        extended::pipelines(),
        values::scripts(),
    ] {
        assert!(scripts.iter().all(|script| script.size() < 100_000), "one of them belongs to the large");
        kinds.extend(ways.compare(&scripts, &[WHOLE, 1, 7]).await);
    }
    ways.compare(&[simple::hung_up_on(0)], &[WHOLE]).await;
    kinds.extend(ways.compare(&extended::large(), &[WHOLE, 4093]).await);
    // A script that no longer does what it is for would be alike, too.
    assert_eq!(kinds, KINDS.iter().copied().collect());
    ways.gateway.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_is_alike_on_18() {
    alike(18).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_is_alike_on_15() {
    alike(15).await;
}

/// The control of both tests above.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_is_a_difference() {
    let ways = Ways::open(18).await;
    let script = || {
        let statements = ["listen news", "notify news, 'said'", "select 1 / 0", "select 'said' as said"];
        Script::new("control").ask_all(statements)
    };
    let direct = ways.direct(&script()).await;
    assert_eq!(difference(&direct, &ways.through(&script(), WHOLE).await), None);
    // On the way to the server.
    let tampered = ways.through(&script().tampered(b"said"), WHOLE).await;
    assert!(difference(&direct, &tampered).is_some());
    // On the way back: any byte that is not masked, any type, any message too few.
    for at in 0..direct.len() {
        for byte in 0..direct[at].body.len() {
            let mut flipped = direct.clone();
            flipped[at].body[byte] ^= 1;
            assert!(difference(&direct, &flipped).is_some(), "byte {byte} of {:?}", direct[at]);
        }
        let (mut retyped, mut shorter) = (direct.clone(), direct.clone());
        retyped[at].kind ^= 1;
        shorter.remove(at);
        assert!(difference(&direct, &retyped).is_some() && difference(&direct, &shorter).is_some());
    }
    ways.gateway.stop().await;
}

/// A server that hangs up on input it has not read resets its socket, and has said why all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_up_on_unread_input_has_the_last_word() {
    let ways = Ways::open(18).await;
    ways.compare(&[simple::hung_up_on(100_000)], &[WHOLE]).await;
    ways.gateway.stop().await;
}
