//! What is wrong with a manifest, told to a person: every problem at once, each under its own line of the file.

use std::fmt;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

use super::reader::{Problem, unfit};

/// A line longer than this is not shown; its number is.
const LONGEST_LINE: usize = 400;

/// Everything that is wrong with one file.
#[derive(Debug)]
pub struct ManifestError {
    source: NamedSource<String>,
    problems: Vec<Shown>,
    left_out: usize,
}

/// A problem as `miette` draws it.
#[derive(Debug)]
struct Shown {
    problem: Problem,
    /// Whether the line is fit to be drawn.
    drawn: bool,
}

impl ManifestError {
    pub(crate) fn new(file: &str, text: &str, problems: Vec<Problem>, left_out: usize) -> Self {
        let problems = problems
            .into_iter()
            .map(|problem| {
                let drawn =
                    problem.span.as_ref().is_some_and(|span| line_length(text, span.start) <= LONGEST_LINE);
                Shown { problem, drawn }
            })
            .collect();
        Self { source: NamedSource::new(file, harmless(text)), problems, left_out }
    }

    /// The problems in the order of the file.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().map(|shown| &shown.problem)
    }
}

/// Length of the line around an offset, bytes.
fn line_length(text: &str, offset: usize) -> usize {
    let start = text[..offset].rfind('\n').map_or(0, |newline| newline + 1);
    let end = text[offset..].find('\n').map_or(text.len(), |newline| offset + newline);
    end - start
}

/// The text with each character that a terminal would obey replaced by one of the same length, so that
/// every span still holds.
fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| match (unfit(c), c.len_utf8()) {
            (false, _) => c,
            (true, _) if matches!(c, '\n' | '\r' | '\t') => c,
            (true, 1) => '?',
            (true, 2) => '¿',
            (true, _) => '\u{fffd}',
        })
        .collect()
}

impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.problems[..], self.left_out) {
            ([only], 0) => only.fmt(f),
            (several, 0) => write!(f, "{} has {} problems", self.source.name(), several.len()),
            (several, more) => {
                write!(
                    f,
                    "{} has {} problems, these and {more} more",
                    self.source.name(),
                    several.len() + more
                )
            }
        }
    }
}

impl std::error::Error for ManifestError {}

/// Where there is one problem, the report is that problem; otherwise it is a headline over all of them.
impl Diagnostic for ManifestError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.only()?.help()
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        self.only()?.labels()
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        if self.only().is_some() {
            return None;
        }
        Some(Box::new(self.problems.iter().map(|problem| problem as &dyn Diagnostic)))
    }
}

impl ManifestError {
    fn only(&self) -> Option<&Shown> {
        match &self.problems[..] {
            [only] if self.left_out == 0 => Some(only),
            _ => None,
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = &self.problem;
        if !self.drawn && problem.line > 0 {
            write!(f, "line {}: ", problem.line)?;
        }
        if problem.field.is_empty() {
            f.write_str(&problem.message)
        } else {
            write!(f, "{}: {}", problem.field, problem.message)
        }
    }
}

impl std::error::Error for Shown {}

impl Diagnostic for Shown {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        (!self.problem.help.is_empty()).then(|| Box::new(&self.problem.help) as Box<dyn fmt::Display>)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.problem.span.clone().filter(|_| self.drawn)?;
        let here = LabeledSpan::new_primary_with_span(Some(self.problem.label.clone()), span);
        let earlier = self
            .problem
            .earlier
            .clone()
            .map(|span| LabeledSpan::new_with_span(Some("first here".into()), span));
        Some(Box::new(earlier.into_iter().chain([here])))
    }
}
