//! A running server with its database, and somebody who plays the reconciler.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use component::Role;
use component::status::Endpoint;
use component::{ComponentId, Phase, Status};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use server::{Sessions, Settings, Stream};
use store::Store;
use store::host::Host;
use store::journal::{Actor, Entry, Outcome};
use store::lease::{Lease, Record};
use test_support::{ControlDatabase, IdentityProvider};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Name of the only host.
pub(crate) const HOST: &str = "here";

/// There is no server behind a component.
pub(crate) struct Nowhere;

#[async_trait]
impl Sessions for Nowhere {
    async fn open(&self, _: ComponentId, _: &str) -> std::io::Result<Stream> {
        Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "there is no server"))
    }
}

pub(crate) struct Rig {
    pub(crate) db: ControlDatabase,
    pub(crate) store: Store,
    pub(crate) address: SocketAddr,
    pub(crate) logs: Arc<logs::Store>,
    /// Secret of an operator's token.
    pub(crate) operator: String,
    http: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<std::io::Result<()>>,
    pub(crate) folder: tempfile::TempDir,
    /// The identity provider, where there is one.
    pub(crate) provider: Option<IdentityProvider>,
}

/// What groups give there.
pub(crate) type Provided = &'static [&'static str];

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn is(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status.as_u16(), "{}", self.body);
        self
    }

    /// Is a problem of this status and kind, and looks like one.
    #[track_caller]
    pub(crate) fn problem(self, status: u16, kind: &str) -> Value {
        assert_eq!((self.status, self.body["type"].as_str()), (status, Some(kind)), "{}", self.body);
        assert_eq!(self.body["status"], status);
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert!(!self.body["detail"].as_str().unwrap().is_empty());
        self.body
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }
}

impl Rig {
    /// With one host.
    pub(crate) async fn start() -> Self {
        let rig = Self::without_host().await;
        rig.put_host(true).await;
        rig
    }

    /// With one host, and a stead `flights` with a server in each of two tenants, `acme` and `globex`.
    pub(crate) async fn with_flights() -> Self {
        let rig = Self::start().await;
        for tenant in ["acme", "globex"] {
            let body = json!({"postgres": {"main": {}}});
            rig.put(&format!("/v1/tenants/{tenant}/steads/flights"), &body).await.is(StatusCode::ACCEPTED);
        }
        rig.reconcile().await;
        rig
    }

    pub(crate) async fn without_host() -> Self {
        Self::serving("", None).await
    }

    /// With one host, and people who come by this prefix and this identity provider.
    pub(crate) async fn with_people(prefix: &str, provider: Option<Provided>) -> Self {
        let rig = Self::serving(prefix, provider).await;
        rig.put_host(true).await;
        rig
    }

    async fn serving(prefix: &str, provider: Option<Provided>) -> Self {
        let db = ControlDatabase::start().await;
        let store = db.store().await;
        let folder = tempfile::tempdir().unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let logs = logs::Store::open(&folder.path().join("logs"), logs::Options::default()).unwrap();
        let logs = Arc::new(logs);
        let (mut provider_of, mut settings_of) = (None, None);
        if let Some(rules) = provider {
            let provider = IdentityProvider::start(&format!("http://{address}{prefix}")).await;
            settings_of = Some(server::ProviderSettings {
                issuer: provider.issuer.clone(),
                client_id: "stead".into(),
                client_secret: Some(SecretString::from(test_support::CLIENT_SECRET)),
                scopes: vec!["email".into(), "profile".into()],
                groups_claim: "groups".into(),
                rules: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
            });
            provider_of = Some(provider);
        }
        let settings = Settings {
            listen: address,
            ca_path: folder.path().join("ca.pem"),
            logs: Arc::clone(&logs),
            sessions: Arc::new(Nowhere),
            functions: Arc::new(server::functions::NoEngine),
            version: "0.0.0-test",
            shared: None,
            console: server::ConsoleSettings {
                url: format!("http://{address}{prefix}").parse().unwrap(),
                provider: settings_of,
            },
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async move { drop(stopped.await) };
        let serving = tokio::spawn(server::serve(listener, store.clone(), settings, stopped));
        // Has the process's TLS provider installed, which every HTTP client asks for.
        let _ = client::Client::new("http://localhost", SecretString::from(""));
        let http = reqwest::Client::builder().user_agent("test/1").build().unwrap();
        let mut rig = Self {
            db,
            store,
            address,
            logs,
            operator: String::new(),
            http,
            stop: Some(stop),
            serving,
            folder,
            provider: provider_of,
        };
        rig.operator = rig.token("root", Role::Operator, None).await;
        rig
    }

    pub(crate) async fn put_host(&self, isolated: bool) {
        let host = Host {
            name: HOST.into(),
            address: "127.0.0.1".into(),
            ports: (30_000, 30_099),
            engines: [15, 18].map(component::postgres::Major::new).into(),
            runtimes: ["nodejs24.x".to_owned()].into(),
            isolated,
        };
        self.store.put_host(&host).await.unwrap();
    }

    /// Stops the server as a signal would.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.serving).await.unwrap().unwrap();
    }

    /// Makes a token, and its tenant where there is none.
    pub(crate) async fn token(&self, name: &str, scope: Role, tenant: Option<&str>) -> String {
        let actor = Actor { name: "test".into(), source: "test".into() };
        let tenant = match tenant {
            Some(tenant) => {
                Some(self.store.put_tenant(&actor, &tenant.parse().unwrap(), None).await.unwrap())
            }
            None => None,
        };
        let tenant = tenant.as_ref().map(|tenant| (tenant.id, &tenant.name));
        let (_, secret) = self.store.create_token(&actor, name, tenant, scope, None).await.unwrap();
        secret.expose_secret().to_owned()
    }

    /// The typed client.
    pub(crate) fn client(&self, token: &str) -> client::Client {
        client::Client::new(&self.url(""), SecretString::from(token)).unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request as the operator.
    pub(crate) fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.request_as(&self.operator, method, path)
    }

    pub(crate) fn request_as(&self, token: &str, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.anonymous(method, path).bearer_auth(token)
    }

    pub(crate) fn anonymous(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// Makes `acme/flights` with one server that may be removed, settled.
    pub(crate) async fn flights(&self) -> Value {
        let body = json!({"postgres": {"main": {"protect": false}}});
        self.put("/v1/tenants/acme/steads/flights", &body).await.is(StatusCode::ACCEPTED);
        self.reconcile().await;
        self.get("/v1/tenants/acme/steads/flights").await.is(StatusCode::OK).body
    }

    /// Writes to a file as the server of `flights` would, and has it collected.
    pub(crate) async fn log(&self, tenant: &str, lines: &[Value]) {
        let name = tenant.parse().unwrap();
        let id = self.store.tenant(&name).await.unwrap().unwrap().id;
        let server =
            self.store.servers().await.unwrap().into_iter().find(|server| server.tenant == id).unwrap();
        let handle = server.id.handle();
        let label = logs::Label {
            source: logs::Source::Postgres,
            stead: Some(server.stead),
            component: Some(server.component),
            server: Some(handle.clone()),
        };
        let home = self.folder.path();
        let folder = home.join("servers").join(&handle).join("log");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("postgresql-Sun.json");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        for line in lines {
            writeln!(file, "{line}").unwrap();
        }
        let owners = logs::Owners::from([(handle, Some((logs::Owner::Tenant(id), label)))]);
        let round =
            logs::Collector::new(home, Arc::clone(&self.logs)).round(&owners, Timestamp::now()).unwrap();
        assert!(round.bytes > 0 && round.failed.is_empty(), "{round:?}");
    }

    /// Does everything that is due, as a reconciler with a perfect driver would.
    pub(crate) async fn reconcile(&self) {
        while let Some(lease) = self.store.claim(HOST).await.unwrap() {
            self.settle(lease).await;
        }
    }

    /// Brings about what a lease is for.
    pub(crate) async fn settle(&self, lease: Lease) {
        if lease.component.deletion_requested_at.is_some() {
            let line = about(&lease, "component.removed", Outcome::Done);
            self.store.record_gone(lease, &[line]).await.unwrap();
        } else {
            let record = settled(&lease);
            self.store.record(lease, record).await.unwrap();
        }
    }

    /// Plays the reconciler until the guard is dropped.
    pub(crate) fn reconciling(&self) -> Reconciling {
        let store = self.store.clone();
        Reconciling(tokio::spawn(async move {
            let mut wakes = store.listen(store::WAKE_CHANNEL).await.unwrap();
            loop {
                while let Some(lease) = store.claim(HOST).await.unwrap() {
                    if lease.component.deletion_requested_at.is_some() {
                        let line = about(&lease, "component.removed", Outcome::Done);
                        store.record_gone(lease, &[line]).await.unwrap();
                    } else {
                        let record = settled(&lease);
                        store.record(lease, record).await.unwrap();
                    }
                }
                wakes.recv().await.unwrap();
            }
        }))
    }

    /// The journal of a tenant, newest first, as (action, outcome).
    pub(crate) async fn history(&self, tenant: &str) -> Vec<Value> {
        let answer = self.get(&format!("/v1/tenants/{tenant}/history?limit=500")).await.is(StatusCode::OK);
        answer.body["items"].as_array().unwrap().clone()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A reconciler at work.
pub(crate) struct Reconciling(JoinHandle<()>);

impl Drop for Reconciling {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a driver reports of a server that is as wanted.
pub(crate) fn settled(lease: &Lease) -> Record {
    let status = Status {
        phase: Phase::Ready,
        version: Some("18.6".into()),
        endpoint: Some(Endpoint {
            host: "localhost".into(),
            port: lease.component.port,
            database: lease.component.name.local.to_string(),
            role: "owner".into(),
        }),
        observed_at: Some(Timestamp::now()),
        ..Status::default()
    };
    Record {
        status,
        settled: true,
        step: None,
        again_ms: 60_000,
        error: None,
        fail_operation: None,
        lines: Vec::new(),
    }
}

/// A line of the reconciler's.
pub(crate) fn about(lease: &Lease, action: &'static str, outcome: Outcome) -> Entry {
    Entry {
        tenant: Some(lease.tenant.clone()),
        stead: Some(lease.stead.to_string()),
        component: Some(lease.component.name.to_string()),
        ..Entry::new(&Actor::stead(), action, outcome)
    }
}

/// A stream that is compressed comes to its end too, which a client that asks for no compression does not see.
pub(crate) async fn ends_compressed(request: reqwest::RequestBuilder) {
    let response = request.header("accept-encoding", "gzip").send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let bytes = response.bytes().await.unwrap();
    assert!(bytes.starts_with(&[0x1f, 0x8b]) && bytes.len() > 100, "{bytes:?}");
}

pub(crate) async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let text = || Value::String(String::from_utf8_lossy(&bytes).into_owned());
    Answer { status, headers, body: serde_json::from_slice(&bytes).unwrap_or_else(|_| text()) }
}
