//! How the command ends: exit codes, and what is said on the way out. `docs/exit-codes.md` is the page of it, and
//! a test compares the two.

use std::io::Write;
use std::process::ExitCode;

use client::wire::Problem;

/// Why a command did not do as asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was refused, or it failed: 1.
    Failed(String),
    /// The server refused: 1.
    Refused(Box<Problem>),
    /// The command line or the manifest is wrong: 2.
    Usage(String),
    /// The same, in clap's words: 2; 0 where help was asked for.
    CommandLine(Box<clap::Error>),
    /// The manifest is wrong, shown with its place: 2.
    Manifest(Box<component::manifest::ManifestError>),
    /// No server answers: 3.
    Unreachable(String),
    /// It is still under way after the time it was given: 4.
    Running(String),
    /// What was asked for was shown, and something in it needs a person: 5.
    Troubled,
    /// Ctrl-C while waiting; what was asked for goes on: 130.
    Interrupted(String),
    /// Whoever read the output has closed it: 0, nothing is said.
    ClosedPipe,
}

impl Failure {
    pub(crate) fn failed(message: impl ToString) -> Self {
        Self::Failed(message.to_string())
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Refused(_) => 1,
            Self::Usage(_) | Self::Manifest(_) => 2,
            Self::CommandLine(error) => u8::try_from(error.exit_code()).unwrap_or(2),
            Self::Unreachable(_) => 3,
            Self::Running(_) => 4,
            Self::Troubled => 5,
            Self::Interrupted(_) => 130,
            Self::ClosedPipe => 0,
        }
    }

    /// Says why on standard error, and answers the exit code.
    pub(crate) fn tell(self, json: bool) -> ExitCode {
        let code = self.code();
        if let Self::CommandLine(error) = &self
            && !(json && error.use_stderr())
        {
            return match error.print().map_err(Self::from) {
                Ok(()) | Err(Self::ClosedPipe) => ExitCode::from(code),
                Err(other) => other.tell(json),
            };
        }
        let text = if json { self.json() } else { self.text() };
        if !text.is_empty() {
            // Nobody to tell: nothing more can be done.
            let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
        }
        ExitCode::from(code)
    }

    fn json(&self) -> String {
        let mut error = match self {
            Self::Troubled | Self::ClosedPipe => return String::new(),
            Self::Refused(problem) => serde_json::json!(problem),
            Self::Failed(detail)
            | Self::Usage(detail)
            | Self::Unreachable(detail)
            | Self::Running(detail)
            | Self::Interrupted(detail) => serde_json::json!({ "detail": detail }),
            Self::CommandLine(error) => {
                let text = error.render().to_string();
                let first = text.lines().next().unwrap_or_default();
                serde_json::json!({ "detail": first.trim_start_matches("error: ") })
            }
            Self::Manifest(error) => {
                let problems: Vec<_> = error
                    .problems()
                    .map(|problem| {
                        serde_json::json!({
                            "pointer": problem.pointer, "line": problem.line, "column": problem.column,
                            "detail": problem.message, "help": problem.help,
                        })
                    })
                    .collect();
                serde_json::json!({ "detail": "stead.toml is wrong", "errors": problems })
            }
        };
        if let Some(fields) = error.as_object_mut() {
            fields.insert("exit_code".into(), self.code().into());
        }
        serde_json::json!({ "error": error }).to_string()
    }

    fn text(self) -> String {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Unreachable(text) | Self::Running(text) => {
                format!("error: {text}")
            }
            Self::Interrupted(text) => text,
            Self::Refused(problem) => refusal(&problem),
            Self::Manifest(error) => {
                let report = format!("{:?}", miette::Report::new(*error));
                // The report puts this word above each of several problems.
                report.lines().filter(|line| line.trim() != "Error:").collect::<Vec<_>>().join("\n")
            }
            Self::CommandLine(_) | Self::Troubled | Self::ClosedPipe => String::new(),
        }
    }
}

/// A refusal: its detail, and the fields where it does not name them itself.
fn refusal(problem: &Problem) -> String {
    // A place as people write it: `postgres.main.size`.
    let place = |pointer: &str| pointer.trim_start_matches('/').replace('/', ".");
    let mut text = match &problem.errors[..] {
        [only] if !only.pointer.is_empty() => format!("error: {}: {}", place(&only.pointer), only.detail),
        _ => format!("error: {}", problem.detail),
    };
    for field in problem.errors.iter().filter(|_| problem.errors.len() > 1) {
        text += &format!("\n  {}: {}", place(&field.pointer), field.detail);
    }
    if problem.status == 401 {
        text += match std::env::var_os("STEAD_TOKEN").filter(|token| !token.is_empty()) {
            Some(_) => "; it is the one in STEAD_TOKEN",
            None => "; it is the operator's of this host: for a server elsewhere set STEAD_TOKEN",
        };
    }
    text
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Refused(problem) => Self::Refused(problem),
            client::Error::Unreachable { .. } => Self::Unreachable(format!(
                "{error}; start one with `stead server`, or say where it is with STEAD_URL"
            )),
            client::Error::Strange(why) => Self::Unreachable(format!(
                "what answers is no Stead server, or one of another version ({why}); look at STEAD_URL"
            )),
        }
    }
}

impl From<clap::Error> for Failure {
    fn from(error: clap::Error) -> Self {
        Self::CommandLine(Box::new(error))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Failed(format!("cannot write the output: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The page and the codes say the same.
    #[test]
    fn the_page_of_exit_codes_is_complete() {
        let page = include_str!("../../../docs/exit-codes.md");
        let text = String::new;
        let failures = [
            Failure::failed(""),
            Failure::Usage(text()),
            Failure::Unreachable(text()),
            Failure::Running(text()),
            Failure::Troubled,
            Failure::Interrupted(text()),
            Failure::ClosedPipe,
        ];
        let mut here: Vec<u8> = failures.iter().map(Failure::code).collect();
        let mut there: Vec<u8> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split_once(" |")?.0.trim().parse().ok())
            .collect();
        here.sort_unstable();
        there.sort_unstable();
        assert_eq!(here, there);
    }
}
