//! The programs, and their packages out of what `script/setup --tests` has put into a folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::home::Home;
use functions::route::Route;

/// A way to write a function.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program {
    /// Its name, for people.
    pub(crate) name: &'static str,
    runtime: &'static str,
    handler: &'static str,
    /// Handler that is not there, and the error that it makes.
    broken: (&'static str, &'static str),
    /// Code, by file name.
    files: &'static [(&'static str, &'static str)],
    /// Of what was installed, or of a runtime: what is taken, and where it goes.
    parts: &'static [(&'static str, &'static str)],
    /// What a caller of its URL sees of an error that it did not catch.
    pub(crate) failure: u16,
    /// Whether it says of an answer in pieces that it broke off: `lambda_runtime` writes the trailers that say so into
    /// the body, here as on Lambda.
    pub(crate) tells_breaks: bool,
}

/// A program as functions of a home.
pub(crate) struct Installed {
    pub(crate) program: Program,
    pub(crate) whole: Route,
    /// The same with a time-out of a second.
    pub(crate) short: Route,
    /// The same with a handler that is not there.
    pub(crate) broken: Route,
}

/// Milliseconds that an invocation of [`Installed::whole`] may take: payloads are large and machines busy.
pub(crate) const TIMEOUT_MS: u64 = 60_000;
/// Workers at once.
pub(crate) const CONCURRENCY: u32 = 5;
pub(crate) const MEMORY_MIB: u64 = 512;

const APP_PY: &str = include_str!("../../conformance/app.py");
const APP_MJS: &str = include_str!("../../conformance/app.mjs");
const WEB_PY: &str = include_str!("../../conformance/web.py");
const WEB_MJS: &str = include_str!("../../conformance/web.mjs");

const NOT_FOUND: (&str, &str) = ("app.nobody", "Runtime.HandlerNotFound");

pub(crate) const AWSLAMBDARIC: Program = Program {
    name: "awslambdaric",
    runtime: "provided.al2023",
    handler: "app.handler",
    broken: NOT_FOUND,
    files: &[
        ("bootstrap", "#!/bin/sh\nexec /usr/bin/python3.11 -m awslambdaric \"$_HANDLER\"\n"),
        ("app.py", APP_PY),
    ],
    parts: &[("python", ".")],
    failure: 502,
    tells_breaks: true,
};

pub(crate) const RIC_3: Program = Program {
    name: "aws-lambda-ric 3",
    runtime: "provided.al2023",
    handler: "app.handler",
    broken: NOT_FOUND,
    files: &[
        (
            "bootstrap",
            "#!/bin/sh\nexec /var/task/node /var/task/node_modules/aws-lambda-ric/bin/index.mjs \"$_HANDLER\"\n",
        ),
        ("app.mjs", APP_MJS),
    ],
    parts: &[("ric3", "."), ("nodejs24.x/bin/node", "node")],
    failure: 502,
    tells_breaks: true,
};

pub(crate) const RIC_4: Program = Program {
    name: "aws-lambda-ric 4",
    files: &[
        ("bootstrap", "#!/bin/sh\nexec /var/task/node /var/task/node_modules/aws-lambda-ric/index.mjs\n"),
        ("app.mjs", APP_MJS),
    ],
    parts: &[("ric4", "."), ("nodejs24.x/bin/node", "node")],
    ..RIC_3
};

pub(crate) const RIC_3_STREAM: Program = Program { handler: "app.stream", ..RIC_3 };
pub(crate) const RIC_4_STREAM: Program = Program { handler: "app.stream", ..RIC_4 };

pub(crate) const RUST: Program = Program {
    name: "lambda_runtime",
    runtime: "provided.al2023",
    handler: "plain",
    // Programs in Rust have nothing to look a handler up in: this one ends itself.
    broken: ("nobody", "Runtime.ExitError"),
    files: &[],
    parts: &[("rust", ".")],
    failure: 502,
    tells_breaks: false,
};

pub(crate) const RUST_HTTP: Program = Program { name: "lambda_http", handler: "http", ..RUST };
pub(crate) const RUST_STREAM: Program = Program { handler: "stream", ..RUST };
pub(crate) const RUST_HTTP_STREAM: Program = Program { handler: "http_stream", ..RUST_HTTP };

pub(crate) const NODE: Program = Program {
    name: "our bootstrap for Node.js",
    runtime: "nodejs24.x",
    handler: "app.handler",
    broken: NOT_FOUND,
    files: &[("app.mjs", APP_MJS)],
    parts: &[],
    failure: 502,
    tells_breaks: true,
};

pub(crate) const NODE_STREAM: Program = Program { handler: "app.stream", ..NODE };

pub(crate) const PYTHON: Program =
    Program { name: "our bootstrap for Python", runtime: "python3.11", files: &[("app.py", APP_PY)], ..NODE };

pub(crate) const FASTAPI: Program = Program {
    name: "FastAPI behind Mangum",
    runtime: "python3.11",
    handler: "web.handler",
    broken: ("nothing.handler", "Runtime.ImportModuleError"),
    files: &[("web.py", WEB_PY)],
    parts: &[("python", ".")],
    failure: 500,
    tells_breaks: true,
};

pub(crate) const EXPRESS: Program = Program {
    name: "Express behind serverless-express",
    runtime: "nodejs24.x",
    files: &[("web.mjs", WEB_MJS)],
    parts: &[("express", ".")],
    ..FASTAPI
};

pub(crate) const INVOKED: &[Program] = &[AWSLAMBDARIC, RIC_3, RIC_4, RUST, NODE, PYTHON];
pub(crate) const ASKED: &[Program] = &[FASTAPI, EXPRESS, RUST_HTTP];
pub(crate) const STREAMED: &[Program] = &[NODE_STREAM, RIC_3_STREAM, RIC_4_STREAM, RUST_HTTP_STREAM];

/// A folder that `script/setup --tests` fills; the environment is that of `script/environment`.
fn folder(variable: &str, otherwise: impl FnOnce() -> PathBuf) -> PathBuf {
    let folder = std::env::var_os(variable).map_or_else(otherwise, PathBuf::from);
    assert!(folder.exists(), "{} is not there: run script/setup --tests", folder.display());
    folder
}

fn cache() -> PathBuf {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache");
    std::env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("stead")
}

/// The environment of Python that has AWS's SDK.
pub(crate) fn python() -> PathBuf {
    folder("STEAD_TEST_PYTHON", || cache().join("python/bin/python"))
}

fn source(part: &str) -> PathBuf {
    let root = if part.starts_with("nodejs") {
        folder("STEAD_RUNTIMES", || "/var/lib/stead/runtimes".into())
    } else {
        folder("STEAD_TEST_LAMBDA", || cache().join("lambda"))
    };
    let source = root.join(part);
    assert!(source.exists(), "{} is not there: run script/setup --tests", source.display());
    source
}

/// As a package is unpacked; links save the copies where the folders are on one disk.
fn place(part: &str, into: &Path) {
    let source = source(part);
    let copied = |how: &str| {
        let mut command = Command::new("cp");
        if source.is_dir() {
            command.args([how, "-T"]).arg(&source).arg(into);
        } else {
            command.arg(how).arg(&source).arg(into);
        }
        command.output().unwrap().status.success()
    };
    assert!(copied("-al") || copied("-a"), "{part} could not be copied into {}", into.display());
}

impl Program {
    /// As functions of a home, in force: `<handle>`, `<handle>s` and `<handle>b`.
    pub(crate) fn install(self, home: &Home, handle: &str) -> Installed {
        let files: Vec<_> = self.files.iter().copied().chain([("package", handle)]).collect();
        let mut version = home.version(self.runtime, self.handler, &files);
        let folder = home.path.join("packages").join(&version.package);
        for (part, into) in self.parts {
            place(part, &folder.join(into));
        }
        // What was made for others to look at is not theirs to change.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        version.concurrency = CONCURRENCY;
        version.memory_mib = MEMORY_MIB;
        version.timeout_ms = TIMEOUT_MS;
        let whole = home.route(handle, version.clone());
        let mut short = home.route(&format!("{handle}s"), version.clone());
        short.versions.get_mut(&1).unwrap().timeout_ms = 1000;
        self.broken.0.clone_into(&mut version.handler);
        let broken = home.route(&format!("{handle}b"), version);
        for route in [&whole, &short, &broken] {
            home.put(route);
        }
        Installed { program: self, whole, short, broken }
    }

    /// The error that its start makes where the handler is not there.
    pub(crate) fn start_error(self) -> &'static str {
        self.broken.1
    }
}
