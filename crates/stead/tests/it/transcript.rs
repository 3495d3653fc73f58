//! What a person sees: commands with their exit codes and everything they say, for snapshots.

use std::path::Path;
use std::process::{Output, Stdio};

use crate::installation::{Installation, text};

/// A session at the command line, written down.
pub(crate) struct Transcript<'a> {
    stead: &'a Installation,
    text: String,
}

impl<'a> Transcript<'a> {
    pub(crate) fn of(stead: &'a Installation) -> Self {
        Self { stead, text: String::new() }
    }

    /// A line between the commands.
    pub(crate) fn note(&mut self, note: &str) {
        self.text += &format!("# {note}\n\n");
    }

    /// Runs `stead …` (words apart by spaces; what is in `'…'` is one word) in a folder and writes down how it went.
    pub(crate) fn run(&mut self, folder: &Path, line: &str) -> Output {
        self.run_with(folder, line, &[])
    }

    /// The same with more environment.
    pub(crate) fn run_with(&mut self, folder: &Path, line: &str, environment: &[(&str, &str)]) -> Output {
        let args = words(line);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = self.stead.command(&args);
        command.current_dir(folder).envs(environment.iter().copied()).stdin(Stdio::null());
        let output = command.output().unwrap();
        let shown: String = environment.iter().map(|(name, value)| format!("{name}={value} ")).collect();
        self.text += &format!("$ {shown}stead {line}\n");
        self.text += &text(&output.stdout);
        for line in text(&output.stderr).lines() {
            self.text += &format!("! {line}\n");
        }
        self.text += &format!("[{}]\n\n", output.status.code().unwrap_or(-1));
        output
    }

    /// Compares it with what is on record.
    pub(crate) fn compare(self, name: &str) {
        let mut settings = insta::Settings::clone_current();
        let folder = self.stead.folder().to_string_lossy().into_owned();
        for (pattern, shown) in [
            (&*folder, "/tmp/st"),
            (r"owner:[A-Za-z0-9]{32}@", "owner:<password>@"),
            (r#""password": "[A-Za-z0-9]{32}""#, r#""password": "<password>""#),
            (r"PGPASSWORD=[A-Za-z0-9]{32}|password=[A-Za-z0-9]{32}", "<password>"),
            (r"stead_[A-Za-z0-9]{43}", "<token>"),
            (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
            (r"\b[0-9a-f]{64}\b", "<sha256>"),
            (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", "<moment>"),
            (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{3})?", "<time>"),
            (r"last \d\d:\d\d:\d\d", "last <time>"),
            (r"(localhost|127\.0\.0\.1):\d{4,5}", "$1:<port>"),
            (r"(PGPORT=|port': |port=|\x22port\x22: )\d{4,5}", "$1<port>"),
            (r"(?m)((?:ready|blocked) +1[5-8]\.\d+ +)\d{4,5}", "$1<port>"),
            (r"\b1[5-8]\.\d+\b", "<version>"),
            (r"process \d+", "process <pid>"),
            (r"(on disk +)\d+ MiB", "$1<n> MiB"),
            (r#""(disk_bytes|bytes|behind_bytes|id)": \d+"#, r#""$1": <n>"#),
            (r"\d+ MiB free of \d+", "<n> MiB free of <n>"),
            (r"(ok    engines:).*", "$1 <engines>"),
            (r"stead 0\.\d+\.\d+", "stead <version>"),
            (r"stead/0\.\d+\.\d+", "stead/<version>"),
            (r"(ok   |note ) isolation: .*", "ok    isolation: <as root or not>"),
            (r"(ok   |note ) functions: .*", "ok    functions: <interpreters>"),
            (r"(ok   |note ) huge pages: .*\n", ""),
            (r"\d+ units", "<n> units"),
            // What the keeper did is imported within a second: it may come before or after what others did then.
            (r"(?m)^<time>  keeper .*\n(    .*\n)*", ""),
            (r"(?m)^<time>  operator  [a-z. ]+  credentials\.shown( \d+ times, last <time>)?\n", ""),
            // Several are made at once.
            (r"two postgres\.[ab]  component\.ready", "two postgres.<one>  component.ready"),
            (r"(?m) +$", ""),
        ] {
            settings.add_filter(pattern, shown);
        }
        settings.set_omit_expression(true);
        settings.set_prepend_module_to_snapshot(false);
        settings.bind(|| insta::assert_snapshot!(name, self.text));
    }
}

/// The words of a line.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, part) in line.split('\'').enumerate() {
        if at % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}
