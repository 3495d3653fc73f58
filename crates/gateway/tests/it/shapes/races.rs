//! Cancel requests that arrive at any moment of many short statements.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::WHOLE;
use super::raw::{Answer, Session};
use super::script::Script;
use crate::support::clients::{encrypted, tcp};
use crate::support::home::front_door;

/// How many statements must have ended each way before the race is over.
const ENOUGH: usize = 25;

/// The first value of the first row.
fn value(answers: &[Answer]) -> Option<String> {
    let row = answers.iter().find(|answer| answer.kind == b'D')?;
    Some(String::from_utf8_lossy(&row.body[6..]).into_owned())
}

/// One short statement, in either protocol, which answers with its own number.
fn statement(n: usize) -> Script {
    let sql = format!("select {n} from pg_sleep(0.002)");
    let script = Script::new("a short statement");
    if n.is_multiple_of(2) { script.ask(&sql) } else { script.run(&sql, &[]).sync().answered() }
}

/// Runs the statement of a number; whether it was cancelled. Anything but its own result or 57014, in step,
/// fails the test.
async fn cancelled(session: &mut Session, n: usize) -> bool {
    let script = statement(n);
    let answers = session.turn(script.name, &script.turns()[0], WHOLE).await;
    let ends = answers.iter().filter(|answer| matches!(answer.kind, b'C' | b'E')).collect::<Vec<_>>();
    let [end] = ends[..] else { panic!("statement {n}: {answers:?}") };
    assert_eq!(answers.last().map(|answer| &answer.body[..]), Some(&b"I"[..]), "statement {n}: {answers:?}");
    match end.sqlstate() {
        None => assert_eq!(value(&answers), Some(n.to_string()), "statement {n}: {answers:?}"),
        Some(code) => assert_eq!(code, "57014", "statement {n}: {answers:?}"),
    }
    end.kind == b'E'
}

/// A cancel request by the key that a session was greeted with; it is over when the gateway closes.
async fn cancel(mut stream: impl AsyncRead + AsyncWrite + Unpin, key: &[u8]) {
    let length = u32::try_from(8 + key.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length[..], &80_877_102_u32.to_be_bytes(), key].concat()).await.unwrap();
    stream.flush().await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancels_race_with_short_statements() {
    for major in [18, 15] {
        let (_server, home, route, gateway) = front_door(major).await;
        let mut target = Session::through(&home, &route).await;
        let mut bystander = Session::through(&home, &route).await;
        let key = target.key.clone();
        let (hit, missed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let over = || hit.load(Ordering::Relaxed) >= ENOUGH && missed.load(Ordering::Relaxed) >= ENOUGH;
        let statements = async {
            let mut n = 0;
            while !over() {
                let count = if cancelled(&mut target, n).await { &hit } else { &missed };
                count.fetch_add(1, Ordering::Relaxed);
                n += 1;
            }
            n
        };
        let cancels = async {
            let mut sent = 0_usize;
            while !over() {
                // As libpq 17 does, and as everybody else does.
                if sent.is_multiple_of(2) {
                    cancel(tcp(&route).await, &key).await;
                } else {
                    cancel(encrypted(tcp(&route).await, &home).await.unwrap(), &key).await;
                }
                sent += 1;
            }
            sent
        };
        let others = async {
            let mut n = 0;
            while !over() {
                assert!(!cancelled(&mut bystander, n).await, "a cancel hit a session that is not its own");
                n += 1;
            }
            n
        };
        let race = tokio::time::timeout(Duration::from_secs(60), async {
            tokio::join!(statements, cancels, others)
        });
        let (statements, sent, others) = race.await.expect("the race ends");
        assert!(sent >= ENOUGH && others > 0, "{statements} statements, {sent} cancels, {others} others");
        // A request is answered when it was delivered, so none can still be on its way.
        assert!(!cancelled(&mut target, statements).await);
        target.leave().await;
        bystander.leave().await;
        gateway.stop().await;
    }
}
