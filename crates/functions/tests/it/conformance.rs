//! The clients of Lambda's interfaces that others wrote, unchanged, against this engine.
//!
//! Below a package: the runtime interface clients by AWS itself (for Python, for Node.js in both their generations, for
//! Rust). In front of one: the frameworks that people run behind a URL. Calling one: AWS's SDK for Python. Each is put
//! through the same, whatever language it is in; `script/setup --tests` installs them.

mod asked;
mod installed;
mod invoked;
mod sdk;
mod streamed;

use std::thread;

use crate::home::Home;
use installed::{Installed, Program};

/// Calls queue longer than a machine that compiles something beside it takes to start five interpreters.
const LIMITS: &[&str] = &["queue_wait=120000", "queue=1000"];

fn home() -> Home {
    Home::with(LIMITS)
}

/// What is invoked with events.
fn invoked(program: &Program) {
    let home = home();
    invoked::everything(&home, &program.install(&home, "f1"));
}

/// What is asked by HTTP.
fn asked(program: &Program) {
    let home = home();
    asked::everything(&home, &program.install(&home, "f1"));
}

/// What answers in pieces.
fn streamed(program: &Program) {
    let home = home();
    streamed::everything(&home, &program.install(&home, "f1"));
}

#[test]
fn awslambdaric_runs() {
    invoked(&installed::AWSLAMBDARIC);
}

#[test]
fn aws_lambda_ric_3_runs() {
    invoked(&installed::RIC_3);
}

#[test]
fn aws_lambda_ric_4_runs() {
    invoked(&installed::RIC_4);
}

#[test]
fn lambda_runtime_runs() {
    invoked(&installed::RUST);
}

#[test]
fn the_bootstraps_of_our_own_run_the_same() {
    let home = home();
    thread::scope(|scope| {
        for (handle, program) in [("f1", installed::NODE), ("f2", installed::PYTHON)] {
            let home = &home;
            scope.spawn(move || invoked::everything(home, &program.install(home, handle)));
        }
    });
}

#[test]
fn fastapi_behind_mangum_answers_through_its_url() {
    asked(&installed::FASTAPI);
}

#[test]
fn express_behind_serverless_express_answers_through_its_url() {
    asked(&installed::EXPRESS);
}

#[test]
fn lambda_http_answers_through_its_url() {
    asked(&installed::RUST_HTTP);
}

#[test]
fn node_streams() {
    streamed(&installed::NODE_STREAM);
}

#[test]
fn aws_lambda_ric_3_streams() {
    streamed(&installed::RIC_3_STREAM);
}

#[test]
fn aws_lambda_ric_4_streams() {
    streamed(&installed::RIC_4_STREAM);
}

#[test]
fn lambda_http_streams() {
    streamed(&installed::RUST_HTTP_STREAM);
}

#[test]
fn boto3_invokes() {
    let home = home();
    sdk::everything(&home, "s");
}

/// As customers do who share a host: everything above at the same time.
#[test]
fn all_of_them_run_at_once_on_one_engine() {
    let home = home();
    let handles: Vec<String> = (1..).map(|n| format!("f{n}")).take(16).collect();
    let mut handles = handles.iter();
    let mut of = |programs: &'static [Program]| -> Vec<_> {
        programs.iter().map(|program| (program, handles.next().unwrap().as_str())).collect()
    };
    let invoked = of(installed::INVOKED);
    let asked = of(installed::ASKED);
    let streamed = of(installed::STREAMED);
    let go = |everything: fn(&Home, &Installed), programs: Vec<(&'static Program, &str)>| {
        for (program, handle) in programs {
            everything(&home, &program.install(&home, handle));
        }
    };
    thread::scope(|scope| {
        for (everything, programs) in [
            (invoked::everything as fn(&Home, &Installed), invoked),
            (asked::everything, asked),
            (streamed::everything, streamed),
        ] {
            for program in programs {
                let go = &go;
                scope.spawn(move || go(everything, vec![program]));
            }
        }
        scope.spawn(|| sdk::everything(&home, "s"));
    });
}
