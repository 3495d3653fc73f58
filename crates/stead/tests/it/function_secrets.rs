//! Secrets of a stead: in a function's environment and nowhere else, replaced without a release.

use std::io::Write;
use std::path::Path;
use std::process::{Output, Stdio};

use crate::crash::dies_at_hearing;
use crate::functions::{MANIFEST, app, get, port};
use crate::installation::{Installation, text, until};

/// Points that the setting of a secret passes.
pub(crate) const SET: [&str; 1] = ["store::secret-before-commit"];

const CODE: &str = "export const handler = async () => process.env.STRIPE_KEY;\n";

/// `stead secret set`, with the value on standard input.
pub(crate) fn set(stead: &Installation, folder: &Path, name: &str, value: &[u8]) -> Output {
    let mut command = stead.command(&["secret", "set", name]);
    command.current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(value).unwrap();
    child.wait_with_output().unwrap()
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).trim().to_owned()
}

/// One that was never set keeps a release waiting; one that is set again is in force without a release; nobody reads it.
#[test]
fn a_secret_is_in_the_environment_and_nowhere_else() {
    let stead = Installation::started();
    let manifest = format!("{MANIFEST}secrets = [\"STRIPE_KEY\"]\n");
    let folder = app(&stead, MANIFEST, CODE);
    stead.ok_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    let port = port(&stead, &folder, "function.api");
    let answer = || {
        let (status, body) = get(port, "/").unwrap();
        (status, serde_json::from_str::<Option<String>>(&body).unwrap().unwrap_or_else(|| "null".into()))
    };
    assert_eq!(answer(), (200, "null".to_owned()));

    std::fs::write(folder.join("stead.toml"), &manifest).unwrap();
    let waits = stead.run_in(&folder, &["up", "--yes"]);
    let said = text(&waits.stderr);
    assert!(
        said.contains("there is no secret STRIPE_KEY; set it with `stead secret set STRIPE_KEY`"),
        "{said}"
    );
    assert_eq!(answer().1, "null", "the release before goes on");

    assert_eq!(
        told(&set(&stead, &folder, "STRIPE_KEY", b"sk_live_first\n")),
        "STRIPE_KEY is set, and in force for function.api"
    );
    assert_eq!(answer().1, "sk_live_first");
    told(&set(&stead, &folder, "STRIPE_KEY", b"sk_live_second"));
    assert_eq!(answer().1, "sk_live_second");
    let releases = stead.ok_in(&folder, &["releases"]);
    assert_eq!(releases.lines().count(), 1 + 2, "{releases}");

    // What nobody uses waits for somebody, and goes again.
    let unused = told(&set(&stead, &folder, "OTHER", b"x"));
    assert_eq!(unused, "OTHER is set; a function finds it once its manifest says secrets = [\"OTHER\"]");
    let listed = stead.ok_in(&folder, &["secret", "list"]);
    assert!(listed.contains("STRIPE_KEY") && listed.contains("function.api"), "{listed}");
    stead.ok_in(&folder, &["secret", "remove", "OTHER"]);
    let gone = stead.run_in(&folder, &["secret", "remove", "OTHER"]);
    assert!(text(&gone.stderr).contains("stead `demo` has no secret OTHER"), "{gone:?}");
    let used = stead.run_in(&folder, &["secret", "remove", "STRIPE_KEY"]);
    assert!(text(&used.stderr).contains("function.api uses the secret STRIPE_KEY"), "{used:?}");

    for (name, value, why) in [
        ("STRIPE_KEY", b"".as_slice(), "is empty"),
        ("STRIPE_KEY", &[b'x'; 5000], "4096 are the most"),
        ("STRIPE_KEY", b"a\0b", "NUL"),
        ("STRIPE_KEY", &[0xff, 0xfe], "no UTF-8"),
        ("AWS_REGION", b"x", "the platform sets it"),
        ("1A", b"x", "cannot be the name of a variable"),
    ] {
        let refused = set(&stead, &folder, name, value);
        assert!(!refused.status.success() && text(&refused.stderr).contains(why), "{refused:?}");
    }
    assert_eq!(answer().1, "sk_live_second");

    // A release that names another one does not start: the one that answers keeps what it has, and is given new values.
    std::fs::write(folder.join("stead.toml"), manifest.replace("STRIPE_KEY", "OTHER_KEY")).unwrap();
    assert!(!stead.run_in(&folder, &["up", "--yes"]).status.success());
    assert_eq!(answer().1, "sk_live_second");
    let used = stead.run_in(&folder, &["secret", "remove", "STRIPE_KEY"]);
    assert!(text(&used.stderr).contains("function.api uses the secret STRIPE_KEY"), "{used:?}");
    let _ = set(&stead, &folder, "STRIPE_KEY", b"sk_live_third");
    until("the new value", || (answer().1 == "sk_live_third").then_some(()));
    std::fs::write(folder.join("stead.toml"), &manifest).unwrap();
    stead.ok_in(&folder, &["up", "--yes"]);
    assert_eq!(answer().1, "sk_live_third");

    // What cannot be understood is not repeated, neither to the caller nor on record.
    let running = stead.running().unwrap();
    let token = std::fs::read_to_string(stead.home.join("operator.token")).unwrap();
    for body in
        ["\"sk_live_raw\"", "{\"value\": 4815162342}", "{\"value\": \"sk_live_raw\", \"sk_live_more\": 1}"]
    {
        let mut curl = std::process::Command::new("curl");
        curl.args([
            "-sS",
            "-X",
            "PUT",
            "-H",
            "@/dev/stdin",
            "-H",
            "content-type: application/json",
            "-d",
            body,
        ]);
        curl.arg(format!("{}/v1/tenants/acme/steads/demo/secrets/PIN", running["url"].as_str().unwrap()));
        let said =
            crate::database::feed(&mut curl, &format!("authorization: Bearer {}\n", token.trim())).unwrap();
        assert!(said.contains("422") && !said.contains("4815162342") && !said.contains("sk_live"), "{said}");
    }

    // On record is that it was set, and by whom.
    let history = stead.ok_in(&folder, &["history", "--json"]);
    assert!(history.contains("secret.set") && history.contains("secret.removed"), "{history}");
    let everything = [history, stead.ok_in(&folder, &["status", "--json"]), stead.said()].concat();
    assert!(!everything.contains("sk_live") && !everything.contains("4815162342"), "a secret is told");
    stead.ok_in(&folder, &["down", "--yes"]);
    stead.finish();
}

/// Killed while a secret is set: it is set or it is not, and a second time does.
#[test]
fn killed_while_a_secret_is_set() {
    let mut stead = Installation::started();
    let folder = app(&stead, &format!("{MANIFEST}secrets = [\"STRIPE_KEY\"]\n"), CODE);
    let _ = stead.run_in(&folder, &["up", "--tenant", "acme", "--yes"]);
    told(&set(&stead, &folder, "STRIPE_KEY", b"before"));
    let port = port(&stead, &folder, "function.api");
    for point in SET {
        dies_at_hearing(&mut stead, point, &folder, &["secret", "set", "STRIPE_KEY"], b"after");
        assert_eq!(get(port, "/").unwrap().1, "\"before\"");
        told(&set(&stead, &folder, "STRIPE_KEY", b"after"));
        until("the new one is in force", || (get(port, "/").unwrap().1 == "\"after\"").then_some(()));
    }
    stead.finish();
}
