//! The command line as people meet it: every verb, every refusal, with exit code, output and messages on record.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use crate::installation::{Installation, text, until};
use crate::transcript::Transcript;

const SHOP: &str = "app = \"shop\"\n\n[postgres.main]\nengine = 15\nsize = \"nano\"\n\
                    maintenance = \"sun 03:00-05:00 Asia/Tokyo\"\nschema = \"schema\"\nowner = \"team-shop\"\n";
const ITEMS: (&str, &str) = ("0001_items.sql", "create table items (id int primary key, name text);");

#[test]
fn help_of_every_verb() {
    let stead = Installation::new();
    let mut said = Transcript::of(&stead);
    let here = stead.folder();
    for verb in [
        "",
        "up",
        "dev",
        "plan",
        "status",
        "sql",
        "url",
        "ca",
        "history",
        "logs",
        "rotate",
        "down",
        "doctor",
        "tenant",
        "tenant create",
        "tenant list",
        "tenant quota",
        "tenant remove",
        "token",
        "token create",
        "token list",
        "token revoke",
        "server",
        "server stop",
        "server replace-gateway",
        "completions",
    ] {
        said.run(here, format!("{verb} --help").trim_start());
    }
    said.run(here, "");
    said.run(here, "--version");
    said.compare("help");
    for shell in ["bash", "zsh", "fish"] {
        let script = stead.ok(&["completions", shell]);
        assert!(script.contains("history") && script.contains("tenant"), "{shell}: {script}");
    }
}

#[test]
fn mistakes_that_need_no_server() {
    let stead = Installation::new();
    let mut said = Transcript::of(&stead);
    let nowhere = stead.folder().to_owned();

    said.note("the command line");
    for line in [
        "nonsense",
        "up --wat",
        "up --wait 3weeks",
        "history -n 0",
        "sql -c 'select 1' -f file.sql",
        "status --tenant ../../etc --stead x",
        "status --tenant acme --stead 'x; drop table steads'",
        "tenant remove acme/steads/shop",
        "token create ci --scope everything",
        "completions tcsh",
        "history --tenant acme --stead shop --since soon",
        "--json nonsense",
        "status",
        "status --tenant acme",
        "up --tenant acme",
    ] {
        said.run(&nowhere, line);
    }
    let long = "x".repeat(200);
    said.run(&nowhere, &format!("status --tenant {long} --stead x"));

    said.note("no server, or none of Stead's");
    said.run(&nowhere, "status --tenant acme --stead shop");
    said.run(&nowhere, "status --tenant acme --stead shop --json");
    said.run(&nowhere, "tenant list");
    said.run(&nowhere, "server stop");
    let token = ("STEAD_TOKEN", "none");
    for url in ["nonsense", "ftp://example.com", "http://"] {
        said.run_with(&nowhere, "tenant list", &[("STEAD_URL", url), token]);
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream
            .write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\nconnection: close\r\n\r\n<html>")
            .unwrap();
    });
    said.run_with(&nowhere, "tenant list", &[("STEAD_URL", &url), token]);
    other.join().unwrap();
    said.run_with(&nowhere, "tenant list", &[("STEAD_URL", &url), token]);
    said.run_with(&nowhere, "tenant list", &[("STEAD_URL", &url)]);
    let home = format!("/tmp/{}", "x".repeat(60));
    let shop = stead.app("shop", SHOP, &[ITEMS]);
    said.run_with(&shop, "up --tenant acme --yes", &[("STEAD_HOME", &home)]);
    assert!(!Path::new(&home).exists());

    said.note("the manifest");
    for (manifest, what) in [
        ("", "empty"),
        ("app = \"shop\n", "not closed"),
        ("app = \"shop\"\n[postgres.main]\nsise = \"small\"\n", "an unknown key"),
        ("app = \"shop\"\n[postgres.main]\nschema = \"migrations\"\n", "no such folder"),
        ("app = \"../etc\"\n[postgres.main]\nallow = [\"10.0.0.1/8\"]\nengine = 14\n", "three mistakes"),
        ("app = \"shop\"\n[postgres.main]\n[postgres.main]\n", "a name twice"),
    ] {
        let app = stead.app("broken", manifest, &[]);
        said.note(what);
        said.run(&app, "plan --tenant acme");
        said.run(&app, "plan --tenant acme --json");
    }
    let app =
        stead.app("broken", SHOP, &[("0001_a.sql", ""), ("9_b.sql", "select 1;"), ("10_c.sql", "select 1;")]);
    said.run(&app, "plan --tenant acme");
    std::fs::write(app.join("stead.toml"), b"app = \"\xff\"\n").unwrap();
    said.run(&app, "plan --tenant acme");
    let app = stead.app("latin", SHOP, &[]);
    std::fs::write(app.join("schema/0001_caf.sql"), b"select 'caf\xe9';").unwrap();
    said.run(&app, "plan --tenant acme");
    assert!(!stead.home.exists(), "nothing of this started anything");
    said.compare("mistakes_without_a_server");
}

#[test]
fn a_stead_from_up_to_down() {
    let stead = Installation::started();
    let shop = stead.app("shop", SHOP, &[ITEMS]);
    let mut said = Transcript::of(&stead);
    let mut run = |line: &str| said.run(&shop, line);
    run("status --all");
    run("plan --tenant acme");
    run("up --tenant acme");
    run("up --tenant acme --yes --reason 'a shop for Acme'");
    run("up --yes");
    run("plan");
    run("plan --json");
    run("status");
    run("status --json");
    run("status --all");
    run("sql postgres.main -c 'select count(*) from items'");
    run("sql --json -c 'select 1 as one, null as nothing; create table more (id int)'");
    run("sql -c 'select 1/0'");
    run("sql --json -c 'select 1/0'");
    run("sql -f missing.sql");
    run("url");
    run("url --json");
    run("url --format jdbc");
    run("url --format env");
    run("rotate");
    run("rotate --json");
    run("logs -n 1");
    std::fs::write(shop.join("stead.toml"), SHOP.replace("nano", "small")).unwrap();
    std::fs::write(shop.join("schema/0002_more.sql"), "alter table items add price numeric;").unwrap();
    run("plan");
    run("up --yes");
    run("history");
    run("history --all --since 2001-01-01");
    // The keeper's lines come within a second; the one after them is the newest.
    until("the keeper's events", || stead.ok_in(&shop, &["history"]).contains("generation 2").then_some(()));
    run("url --format env");
    run("history -n 1 --json");
    run("tenant list");
    run("tenant quota acme --servers 5");
    run("tenant list --json");
    run("token create ci --scope developer --tenant acme --days 30");
    run("token list");
    run("doctor");
    run("down --yes");
    run("down");
    run("down --yes --unprotect");
    run("status");
    run("tenant remove acme");
    run("server stop");
    said.compare("a_stead_from_up_to_down");
    stead.finish();
}

#[test]
fn refusals_of_a_server() {
    let stead = Installation::started();
    let mut said = Transcript::of(&stead);
    let two = stead.app("two", "app = \"two\"\n[postgres.a]\nengine = 15\nsize = \"nano\"\n[postgres.b]\nengine = 15\nsize = \"nano\"\n", &[]);
    said.note("which component");
    said.run(&two, "up --tenant acme --yes");
    for line in ["sql -c 'select 1'", "url", "rotate", "url postgres.c", "url 'postgres.a; drop table x'"] {
        said.run(&two, line);
    }

    said.note("which stead, whose, and by which token");
    said.run(&two, "status --tenant nobody");
    said.run(&two, "status --stead other");
    said.run(&two, "history --tenant nobody");
    said.run_with(&two, "status", &[("STEAD_TOKEN", "wrong")]);
    said.run_with(&two, "status --json", &[("STEAD_TOKEN", "wrong")]);
    stead.ok(&["tenant", "create", "globex"]);
    let token = |scope: &str, tenant: &str| {
        stead.ok(&["token", "create", "test", "--scope", scope, "--tenant", tenant]).trim().to_owned()
    };
    let (stranger, viewer) = (token("developer", "globex"), token("viewer", "acme"));
    said.run_with(&two, "status", &[("STEAD_TOKEN", &stranger)]);
    said.run_with(&two, "tenant list", &[("STEAD_TOKEN", &stranger)]);
    for line in ["url postgres.a", "rotate postgres.a", "down --yes", "token list", "tenant create more"] {
        said.run_with(&two, line, &[("STEAD_TOKEN", &viewer)]);
    }
    said.run(&two, "token create ci --scope viewer");
    said.run(&two, "token revoke 00000000-0000-0000-0000-000000000000");
    said.run(&two, "tenant remove acme");

    said.note("more than the quota");
    said.run(&two, "tenant quota globex --servers 1");
    said.run(&two, "up --tenant globex --yes");

    said.note("an edit that cannot be");
    let path = two.join("stead.toml");
    let manifest = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, manifest.replacen("15", "16", 1)).unwrap();
    said.run(&two, "plan");
    std::fs::write(&path, manifest.split("[postgres.b]").next().unwrap()).unwrap();
    said.run(&two, "plan");
    said.run(&two, "up --yes");

    said.note("on record");
    said.run(&two, "history --all");
    said.run(&two, "history --all --tenant globex");
    // Where no stead is named, not even by a manifest, the tenant is meant.
    said.run(stead.folder(), "history --tenant globex");
    let whole = stead.ok(&["history", "--installation", "--action", "tenant.created"]);
    assert!(whole.contains("acme") && whole.contains("globex"), "{whole}");
    said.compare("refusals_of_a_server");

    if rustix::process::geteuid().is_root() {
        // The build's folder may be closed to other users.
        let binary = stead.folder().join("stead");
        std::fs::copy(crate::installation::STEAD, &binary).unwrap();
        let mut stranger = std::process::Command::new(binary);
        stranger.arg("status").env_clear().env("STEAD_HOME", &stead.home).env("HOME", "/");
        let output = stranger.current_dir(&two).uid(65_534).gid(65_534).output().unwrap();
        assert!(text(&output.stderr).contains("is another user's; run this as that user"), "{output:?}");
    }
    stead.finish();
}

#[test]
fn a_migration_that_fails_and_one_that_was_edited() {
    let stead = Installation::started();
    let manifest = SHOP.replace("nano\"\n", "nano\"\nprotect = false\n");
    let shop = stead.app(
        "shop",
        &manifest,
        &[ITEMS, ("0002_bad.sql", "insert into items values (1);\nselect nope();")],
    );
    let mut said = Transcript::of(&stead);
    said.run(&shop, "up --tenant acme --yes");
    said.run(&shop, "status");
    said.run(&shop, "status --all");
    said.run(&shop, "sql -c 'select count(*) from items'");
    said.note("again, unchanged: it is tried again at once");
    said.run(&shop, "up --yes");
    said.note("corrected: it goes on where it stopped");
    std::fs::write(shop.join("schema/0002_bad.sql"), "insert into items values (1);").unwrap();
    said.run(&shop, "plan");
    said.run(&shop, "up --yes");
    said.run(&shop, "sql -c 'select count(*) from items'");
    said.note("edited after it ran");
    std::fs::write(shop.join("schema/0002_bad.sql"), "insert into items values (2);").unwrap();
    said.run(&shop, "plan");
    said.run(&shop, "up --yes --json");
    std::fs::remove_file(shop.join("schema/0002_bad.sql")).unwrap();
    said.run(&shop, "up --yes");
    said.note("put back");
    std::fs::write(shop.join("schema/0002_bad.sql"), "insert into items values (1);").unwrap();
    said.run(&shop, "up --yes");
    said.run(&shop, "status");
    said.run(&shop, "history");
    said.compare("a_migration_that_fails");
    stead.finish();
}

#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
    let stead = Installation::started();
    let shop = stead.app("shop", SHOP, &[ITEMS]);
    stead.ok_in(&shop, &["up", "--tenant", "acme", "--yes"]);
    for verb in [
        "plan",
        "up --yes",
        "status",
        "status --all",
        "status --json",
        "url",
        "url --json",
        "ca",
        "history",
        "history --json",
        "logs",
        "logs --json",
        "rotate",
        "doctor",
        "tenant list",
        "token list",
        "token create x --scope operator",
        "completions bash",
        "sql --json -c 'select 1'",
        "--help",
        "up --help",
        "--version",
    ] {
        let args: Vec<&str> = verb.split_whitespace().collect();
        let args = if verb.starts_with("sql") { vec!["sql", "--json", "-c", "select 1"] } else { args };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output =
            stead.command(&args).current_dir(&shop).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let said = text(&output.stderr).replace("this is shown once; use it as STEAD_TOKEN\n", "");
        assert_eq!((output.status.code(), &*said), (Some(0), ""), "{verb} into a closed pipe");

        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output =
            stead.command(&args).current_dir(&shop).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{verb} onto a full disk: {said}");
        assert!(said.contains("cannot write the output: No space left on device"), "{verb}: {said}");
    }
    stead.finish();
}

/// `stead up` where nothing runs starts a server in the background; two at once start one.
#[test]
fn two_at_once_start_one_server() {
    let stead = Installation::new();
    let shop = stead.app("shop", SHOP, &[ITEMS]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let mut said = Transcript::of(&stead);
    said.note("the port of the API is taken");
    said.run_with(&shop, "up --tenant acme --yes", &[("STEAD_LISTEN", &listen)]);
    said.run(&shop, "doctor");
    said.compare("a_server_that_cannot_start");

    let both: Vec<_> = (0..2)
        .map(|_| {
            let mut command = stead.command(&["up", "--tenant", "acme", "--yes"]);
            command.current_dir(&shop).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let both: Vec<_> = both.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let starts =
        both.iter().filter(|output| text(&output.stderr).contains("starting a Stead server")).count();
    assert_eq!(starts, 1, "{both:#?}");
    // Both planned to make it; one may have been overtaken by the other, and says so.
    let done = both.iter().filter(|output| output.status.success()).count();
    let overtaken =
        both.iter().filter(|output| text(&output.stderr).contains("changed by somebody else")).count();
    assert!(done >= 1 && done + overtaken == 2, "{both:#?}");
    let url =
        |output: &std::process::Output| text(&output.stdout).lines().last().unwrap_or_default().to_owned();
    let again = stead.run_in(&shop, &["up", "--yes"]);
    assert!(
        again.status.success() && both.iter().any(|output| url(output) == url(&again)),
        "{both:#?} {again:#?}"
    );
    stead.finish();
}

/// Ctrl-C while `up` waits ends the waiting, not the work.
#[test]
fn ctrl_c_ends_the_waiting_not_the_work() {
    let stead = Installation::started();
    let gate = (
        "0002_gate.sql",
        "do $$ begin while not exists (select from items) loop perform pg_sleep(0.02); end loop; end $$;",
    );
    let shop = stead.app("shop", SHOP, &[ITEMS]);
    stead.ok_in(&shop, &["up", "--tenant", "acme", "--yes"]);
    std::fs::write(shop.join("schema").join(gate.0), gate.1).unwrap();
    let mut command = stead.command(&["up", "--tenant", "acme", "--yes"]);
    let up = command.current_dir(&shop).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let status = || {
        let output = stead.run_in(&shop, &["status", "--json"]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()
    };
    until("the second migration", || {
        status().filter(|status| status["components"][0]["step"] == "migrate 0002_gate.sql")
    });
    let pid = rustix::process::Pid::from_raw(i32::try_from(up.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let up = up.wait_with_output().unwrap();
    assert_eq!(up.status.code(), Some(130), "{up:?}");
    assert_eq!(text(&up.stderr), "stopped waiting; what was asked for goes on: see `stead status`\n");

    let mut said = Transcript::of(&stead);
    said.run(&shop, "up --yes --wait 0");
    said.run(&shop, "status");
    said.compare("under_way");
    stead.ok_in(&shop, &["sql", "-c", "insert into items values (1)"]);
    stead.ok_in(&shop, &["up", "--yes"]);
    stead.finish();
}

/// At a terminal `up` asks; `script` (of util-linux) is the terminal.
#[test]
fn a_terminal_is_asked() {
    let stead = Installation::started();
    let shop = stead.app("shop", SHOP, &[ITEMS]);
    let at_terminal = |answer: &str| {
        let program = crate::installation::STEAD;
        let mut command = stead.command(&[]);
        let environment: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command = std::process::Command::new("script");
        command
            .args(["-qec", &format!("{program} up --tenant acme"), "/dev/null"])
            .env_clear()
            .envs(environment);
        command.env("TERM", "xterm").current_dir(&shop).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), text(&output.stdout))
    };
    let (code, said) = at_terminal("n\n");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("Apply this? [y/N]") && said.contains("nothing was changed"), "{said}");
    let (code, said) = at_terminal("y\n");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("postgresql://owner:"), "{said}");
    stead.finish();
}
