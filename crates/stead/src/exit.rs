//! How the command ends: exit codes, and what is said on the way out. `docs/exit-codes.md` is the page of it.

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
    /// The manifest is wrong, shown with its place: 2.
    Manifest(Box<component::manifest::ManifestError>),
    /// No server answers: 3.
    Unreachable(String),
    /// It is still under way after the time it was given: 4.
    Running(String),
    /// A program that was run for the command ended with this code of its own.
    Child(u8),
    /// Whoever read the output has closed it: 0, nothing is said.
    ClosedPipe,
}

impl Failure {
    pub(crate) fn failed(message: impl ToString) -> Self {
        Self::Failed(message.to_string())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Failed(_) | Self::Refused(_) => 1,
            Self::Usage(_) | Self::Manifest(_) => 2,
            Self::Unreachable(_) => 3,
            Self::Running(_) => 4,
            Self::Child(code) => *code,
            Self::ClosedPipe => 0,
        }
    }

    /// Says why on standard error, and answers the exit code.
    pub(crate) fn tell(self, json: bool) -> ExitCode {
        let code = self.code();
        let text = if json { self.json() } else { self.text() };
        if !text.is_empty() {
            // Nobody to tell: nothing more can be done.
            let _ = writeln!(std::io::stderr().lock(), "{}", text.trim_end());
        }
        ExitCode::from(code)
    }

    fn json(&self) -> String {
        match self {
            Self::Child(_) | Self::ClosedPipe => String::new(),
            Self::Refused(problem) => serde_json::json!({ "error": problem }).to_string(),
            Self::Failed(detail) | Self::Usage(detail) | Self::Unreachable(detail) | Self::Running(detail) => {
                serde_json::json!({ "error": { "detail": detail, "exit_code": self.code() } }).to_string()
            }
            Self::Manifest(error) => {
                let problems: Vec<_> = error.problems().map(|problem| problem.message.clone()).collect();
                serde_json::json!({ "error": { "detail": problems.join("; "), "exit_code": 2 } }).to_string()
            }
        }
    }

    fn text(self) -> String {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::Unreachable(text) | Self::Running(text) => {
                format!("error: {text}")
            }
            Self::Refused(problem) => {
                let mut text = format!("error: {}", problem.detail);
                for field in &problem.errors {
                    text += &format!("\n  {}: {}", field.pointer, field.detail);
                }
                text
            }
            Self::Manifest(error) => format!("{:?}", miette::Report::new(*error)),
            Self::Child(_) | Self::ClosedPipe => String::new(),
        }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        match error {
            client::Error::Refused(problem) => Self::Refused(problem),
            client::Error::Unreachable { .. } => Self::Unreachable(format!(
                "{error}; start one with `stead server`, or say where it is with STEAD_URL"
            )),
            client::Error::Strange(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Failed(error.to_string()),
        }
    }
}
