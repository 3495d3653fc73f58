//! The API on a database of its own and with a reconciler that has nothing to do but to say that all is well:
//! for trying it by hand, and for judges of interfaces. Prints its address and an operator's token, and on the next line
//! a link that signs in to the console once. A number as its argument: so many lines of history are written for `acme`.

use std::sync::Arc;

use async_trait::async_trait;
use component::Role;
use component::status::Endpoint;
use component::{ComponentId, Phase, Status};
use secrecy::ExposeSecret;
use server::{Sessions, Settings, Stream};
use store::Store;
use store::host::Host;
use store::journal::{Actor, Entry, Outcome};
use store::lease::Record;

struct NoServers;

#[async_trait]
impl Sessions for NoServers {
    async fn open(&self, _: ComponentId, _: &str) -> std::io::Result<Stream> {
        Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "there is no server"))
    }
}

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
        runtimes: Default::default(),
        isolated: true,
    };
    store.put_host(&host).await?;
    let actor = Actor { name: "example".into(), source: "here".into() };
    let (_, secret) = store.create_token(&actor, "root", None, Role::Operator, None).await?;
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
        sessions: Arc::new(NoServers),
        functions: Arc::new(server::functions::NoEngine),
        version: "0.0.0-example",
        shared: None,
        console: server::ConsoleSettings { url: format!("http://{listen}").parse()?, provider: None },
    };
    let (_, link) = store.invite(&actor, "ops@stead.example", None, Role::Operator, true).await?;
    println!("http://{listen}/invitations/{}", link.expose_secret());
    if let Some(lines) = std::env::args().nth(1) {
        write_history(&store, &actor, lines.parse()?).await?;
    }
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
                store.record_gone(lease, &[line]).await?;
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

/// Writes lines of many sorts, as a busy tenant has them.
async fn write_history(store: &Store, actor: &Actor, lines: usize) -> Result<(), Box<dyn std::error::Error>> {
    let tenant = store.put_tenant(actor, &"acme".parse()?, None).await?;
    let sorts = [
        ("component.edited", Outcome::Done, "ops@stead.example", Some("ticket 1234: the office has moved")),
        ("server.asleep", Outcome::Noted, "keeper", Some("the server fell asleep")),
        ("server.woken", Outcome::Noted, "keeper", None),
        (
            "stead.edited",
            Outcome::Refused,
            "\u{202b}\u{5d0}\u{5d1}\u{5d2}@acme.example",
            Some("the size is none of nano, small"),
        ),
        ("sign_in.done", Outcome::Done, "ann.with-a-very-long-name.indeed@subsidiary.acme.example", None),
        ("credentials.shown", Outcome::Done, "ci", None),
    ];
    for (n, (action, outcome, name, reason)) in sorts.into_iter().cycle().take(lines).enumerate() {
        let actor = Actor { name: name.into(), source: "203.0.113.7 Mozilla/5.0 (X11; Linux x86_64)".into() };
        let mut line = Entry::new(&actor, action, outcome);
        line.tenant = Some((tenant.id, tenant.name.to_string()));
        line.reason = reason.map(|reason| format!("{reason} ({n})"));
        if !action.starts_with("sign_in") {
            (line.stead, line.component) = (Some("shop".into()), Some("postgres.main".into()));
        }
        if action == "component.edited" {
            line.before = serde_json::json!({"size": "nano", "allow": ["203.0.113.0/24"], "owner": null});
            line.after = serde_json::json!({"size": "small", "allow": ["203.0.113.0/24", "2001:db8::/32"], "owner": "ann"});
        }
        store.journal(&line).await?;
    }
    Ok(())
}
