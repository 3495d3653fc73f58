//! A release that is tried on a share of the calls: widened, promoted, taken back by hand and by itself.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use crate::crash::dies_at;
use crate::functions::{MANIFEST, app, code, port, save};
use crate::installation::{Installation, text, until};

/// Points that a promotion passes.
pub(crate) const PROMOTE: [&str; 3] =
    ["store::promote-before-commit", "driver-local::function-prepared", "driver-local::function-released"];

/// What a hundred callers are answered, each with a name of their own.
fn callers(port: u16) -> Vec<(u16, Option<u64>)> {
    let ask = |caller: u32| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let asked =
            format!("GET / HTTP/1.1\r\nhost: x\r\nuser-agent: caller-{caller}\r\nconnection: close\r\n\r\n");
        // In one piece, or the kernel waits for more of it.
        stream.write_all(asked.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        (status, serde_json::from_str::<Value>(body).ok().and_then(|body| body["v"].as_u64()))
    };
    (0..100).map(ask).collect()
}

fn count(answers: &[(u16, Option<u64>)], version: u64) -> usize {
    answers.iter().filter(|(_, answered)| *answered == Some(version)).count()
}

#[test]
fn a_release_is_tried_widened_promoted_and_taken_back() {
    let stead = Installation::started();
    let folder = app(&stead, MANIFEST, &code(1));
    // There is nothing that it could be tried against.
    let first = stead.run_in(&folder, &["up", "--tenant", "acme", "--yes", "--canary", "10%"]);
    assert!(text(&first.stderr).contains("there is no release to try"), "{first:?}");
    stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    let port = port(&stead, &folder, "function.api");
    assert_eq!(count(&callers(port), 1), 100);
    let none = stead.run_in(&folder, &["up", "--yes", "--canary", "10%"]);
    assert!(text(&none.stderr).contains("there is no release to try"), "{none:?}");
    let none = stead.run_in(&folder, &["promote"]);
    assert!(text(&none.stderr).contains("nothing to promote"), "{none:?}");
    for wrong in ["0", "100%", "some"] {
        assert_eq!(stead.run_in(&folder, &["up", "--canary", wrong]).status.code(), Some(2), "{wrong}");
    }

    save(&folder, &code(2));
    let up = stead.run_in(&folder, &["up", "--yes", "--canary", "20%"]);
    assert!(text(&up.stderr).contains("release 2 is tried on 20 % of the calls"), "{up:?}");
    let tenth = callers(port);
    assert!((5..=40).contains(&count(&tenth, 2)) && count(&tenth, 1) + count(&tenth, 2) == 100, "{tenth:?}");
    assert_eq!(callers(port), tenth, "who got it gets it again");
    assert!(stead.ok_in(&folder, &["status"]).contains("2 is tried on 20 % of the calls"));
    let releases = stead.ok_in(&folder, &["releases"]);
    assert!(releases.contains("20 %") && releases.contains("live"), "{releases}");

    stead.ok_in(&folder, &["up", "--yes", "--canary", "60"]);
    let most = callers(port);
    assert!((35..=85).contains(&count(&most, 2)), "{most:?}");
    let kept = tenth.iter().zip(&most).all(|(before, after)| before.1 != Some(2) || after.1 == Some(2));
    assert!(kept, "a larger share keeps those who have it");

    stead.ok_in(&folder, &["promote"]);
    assert_eq!(count(&callers(port), 2), 100);

    // By hand, back to what it is tried against.
    save(&folder, &code(3));
    stead.ok_in(&folder, &["up", "--yes", "--canary", "50%"]);
    assert!(count(&callers(port), 3) > 0);
    save(&folder, &code(4));
    stead.ok_in(&folder, &["up", "--yes", "--canary", "50%"]);
    let tried = callers(port);
    assert!(count(&tried, 4) > 0 && count(&tried, 3) == 0, "{tried:?}");
    stead.ok_in(&folder, &["rollback"]);
    assert_eq!(count(&callers(port), 2), 100);

    // By itself.
    save(&folder, "export const handler = async () => { throw new Error('as asked') };\n");
    stead.ok_in(&folder, &["up", "--yes", "--canary", "50%"]);
    let answers = callers(port);
    let failed = answers.iter().filter(|(status, _)| *status == 502).count();
    assert!((3..=30).contains(&failed), "{answers:?}");
    assert_eq!(count(&callers(port), 2), 100, "it gets none any more");
    // As the next look tells.
    let status = || text(&stead.run_in(&folder, &["status"]).stdout).to_owned();
    let _ = stead.run_in(&folder, &["up", "--yes"]);
    until("it is told", || status().contains("gets no calls any more").then_some(()));
    stead.ok_in(&folder, &["rollback"]);
    assert_eq!(count(&callers(port), 2), 100);
    assert!(!status().contains("gets no calls any more"));
    // A plain change answers all, and the way back from it leads to what there was, not to what failed its trial.
    save(&folder, &code(7));
    stead.ok_in(&folder, &["up", "--yes"]);
    assert_eq!(count(&callers(port), 7), 100);
    stead.ok_in(&folder, &["rollback"]);
    assert_eq!(count(&callers(port), 2), 100);

    // What never started is nothing to try against; and what is no part of a release holds for both that run.
    save(&folder, "export const handler = no code;\n");
    assert!(!stead.run_in(&folder, &["up", "--yes"]).status.success());
    save(&folder, &code(8));
    stead.ok_in(&folder, &["up", "--yes", "--canary", "30%"]);
    let tried = callers(port);
    assert!(count(&tried, 8) > 0 && count(&tried, 2) + count(&tried, 8) == 100, "{tried:?}");
    std::fs::write(folder.join("stead.toml"), format!("{MANIFEST}concurrency = 7\n")).unwrap();
    stead.ok_in(&folder, &["up", "--yes", "--canary", "60%"]);
    let status = stead.ok_in(&folder, &["status"]);
    assert!(status.contains("is tried on 60 % of the calls") && status.contains("7 at once"), "{status}");
    let route = stead.list("functions/routes").concat();
    let route = std::fs::read(stead.home.join("functions/routes").join(route)).unwrap();
    let route: Value = serde_json::from_slice(&route).unwrap();
    let versions = route["versions"].as_object().unwrap();
    assert_eq!(versions.len(), 2);
    assert!(versions.values().all(|version| version["concurrency"] == 7), "{versions:?}");
    stead.ok_in(&folder, &["down", "--yes"]);
    stead.finish();
}

#[test]
fn killed_while_a_release_is_promoted() {
    let mut stead = Installation::started();
    let folder = app(&stead, MANIFEST, &code(1));
    stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    let port = port(&stead, &folder, "function.api");
    for (point, number) in PROMOTE.into_iter().zip(2..) {
        save(&folder, &code(number));
        stead.ok_in(&folder, &["up", "--yes", "--canary", "50%"]);
        dies_at(&mut stead, point, &folder, &["promote"]);
        let answers = callers(port);
        assert!(answers.iter().all(|(status, _)| *status == 200), "{point}: {answers:?}");
        if point == PROMOTE[0] {
            stead.ok_in(&folder, &["promote"]);
        }
        until("it answers all", || (count(&callers(port), number.into()) == 100).then_some(()));
    }
    stead.ok_in(&folder, &["down", "--yes"]);
    stead.finish();
}
