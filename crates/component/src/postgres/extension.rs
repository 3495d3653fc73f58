//! Which extensions a tenant may ask for.
//!
//! Whether an extension is installed is found out on the host; here are refused, with the reason, those that
//! no tenant gets anywhere: they run programs or read files as the server's own user, or open connections
//! from inside its sandbox. `dblink` and every foreign data wrapper are among them: the sandbox has an empty
//! network namespace, so the one thing they would reach is the server's own socket, as its own OS user
//! rather than through the front door (its allow-list, its log), which is no use and a way around.

use crate::manifest::{Fault, shown};

/// PostgreSQL's own limit on names, bytes.
const LONGEST: usize = 63;

/// Languages that do what the server's OS user can do.
const UNTRUSTED: [&str; 8] =
    ["plpython3u", "plpython2u", "plpythonu", "plperlu", "pltclu", "plluau", "plsh", "plr"];

/// Parses the name of an extension.
pub(crate) fn parse(text: &str) -> Result<String, Fault> {
    let fits = (1..=LONGEST).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if !fits {
        let lower = text.trim().to_ascii_lowercase();
        let help = if lower != text && parse(&lower).is_ok() {
            format!("write \"{lower}\"")
        } else {
            "use the name that CREATE EXTENSION takes: lower-case letters, digits, _ and -, like pg_trgm"
                .into()
        };
        return Err(Fault::new(
            format!("\"{}\" is not the name of an extension", shown(text)),
            "not a name",
            help,
        ));
    }
    match refusal(text) {
        None => Ok(text.to_owned()),
        Some((why, instead)) => {
            Err(Fault::new(format!("\"{text}\" is not for tenants: {why}"), "not allowed", instead))
        }
    }
}

/// Why no tenant gets it, and what to do instead.
fn refusal(name: &str) -> Option<(&'static str, &'static str)> {
    if UNTRUSTED.iter().any(|language| name.ends_with(language)) {
        return Some((
            "its language runs anything as the server's own user",
            "write functions in SQL or PL/pgSQL",
        ));
    }
    if name == "file_fdw" {
        return Some(("it reads files of the host and runs programs there", "load files with \\copy"));
    }
    if name == "dblink" || name.ends_with("_fdw") {
        return Some((
            "it opens connections, and a server has no network",
            "let the application talk to both",
        ));
    }
    match name {
        "adminpack" => Some(("it reads and writes files of the host", "load files with \\copy")),
        "pg_surgery" => Some(("it can destroy data, so that only a superuser may use it", "leave it out")),
        "pageinspect" | "pg_walinspect" | "pg_logicalinspect" => Some((
            "it shows pages and WAL as they are on disk, so that only a superuser may use it",
            "leave it out",
        )),
        "http" | "pg_net" => {
            Some(("it opens connections, and a server has no network", "call out from the application"))
        }
        _ => None,
    }
}
