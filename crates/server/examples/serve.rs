//! The API on a database of its own and with a reconciler that has nothing to do but to say that all is well:
//! for trying it by hand, and for judges of interfaces. Prints its address and an operator's token.

use std::sync::Arc;

use component::status::Endpoint;
use component::{Phase, Status};
use secrecy::ExposeSecret;
use server::Settings;
use store::Store;
use store::host::Host;
use store::journal::{Actor, Entry, Outcome};
use store::lease::Record;
use store::token::Scope;

#[tokio::main]
#[expect(clippy::print_stdout, reason = "it is the product of an example")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let database = test_support::ControlDatabase::start().await;
    let store = database.store().await;
    let host = Host {
        name: "here".into(),
        address: "127.0.0.1".into(),
        ports: (30_000, 39_999),
        engines: [15, 18].map(component::postgres::Major::new).into(),
        isolated: true,
    };
    store.put_host(&host).await?;
    let actor = Actor { name: "example".into(), source: "here".into() };
    let (_, secret) = store.create_token(&actor, "root", None, Scope::Operator, None).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let listen = listener.local_addr()?;
    println!("http://{listen} {}", secret.expose_secret());
    let settings = Settings {
        listen,
        ca_path: "ca.pem".into(),
        logs: Arc::new(logs::Store::open(
            &std::env::temp_dir().join("stead-example-logs"),
            logs::Options::default(),
        )?),
        version: "0.0.0-example",
        shared: None,
    };
    let stop = async { drop(tokio::signal::ctrl_c().await) };
    tokio::select! {
        ended = server::serve(listener, store.clone(), settings, stop) => ended?,
        ended = reconcile(store) => ended?,
    }
    Ok(())
}

async fn reconcile(store: Store) -> Result<(), Box<dyn std::error::Error>> {
    let mut wakes = store.listen(store::WAKE_CHANNEL).await?;
    loop {
        while let Some(lease) = store.claim("here").await? {
            if lease.component.deletion_requested_at.is_some() {
                let line = Entry {
                    tenant: Some(lease.tenant.clone()),
                    ..Entry::new(&Actor::stead(), "component.removed", Outcome::Done)
                };
                store.record_gone(lease, line).await?;
                continue;
            }
            let endpoint = Endpoint {
                host: "localhost".into(),
                port: lease.component.port,
                database: lease.component.name.local.to_string(),
                role: "owner".into(),
            };
            let status = Status { phase: Phase::Ready, endpoint: Some(endpoint), ..Status::default() };
            let record = Record {
                status,
                settled: true,
                step: None,
                again_ms: 60_000,
                error: None,
                fail_operation: None,
                lines: Vec::new(),
            };
            store.record(lease, record).await?;
        }
        wakes.recv().await?;
    }
}
