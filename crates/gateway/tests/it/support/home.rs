//! A `$STEAD_HOME` as the driver makes it, and a gateway on it.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use gateway::route::{Route, RouteStatus, Settings, Status};
use gateway::{Client, FIRST_RANK, Limits, Options};
use ipnet::IpNet;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::server::Server;

/// The folder, with a CA of its own.
pub(crate) struct Home {
    folder: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
}

impl Home {
    /// A home with a certificate for `localhost`, `*.stead.localhost`, `127.0.0.1` and `::1`, listening on v4 loopback.
    pub(crate) fn new() -> Home {
        let folder = super::folder();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "a test's CA");
        let key = KeyPair::generate().unwrap();
        let ca = params.self_signed(&key).unwrap();
        let home = Home { ca: Issuer::new(params, key), folder };
        for part in ["gateway/routes", "gateway/tls", "logs"] {
            std::fs::create_dir_all(home.path().join(part)).unwrap();
        }
        std::fs::write(home.ca(), ca.pem()).unwrap();
        home.certify(&KeyPair::generate().unwrap());
        home.listen(&[IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The CA's certificate, for clients.
    pub(crate) fn ca(&self) -> PathBuf {
        self.path().join("ca.pem")
    }

    /// A certificate of the home's CA for a key.
    pub(crate) fn sign(&self, key: &KeyPair) -> String {
        let names = ["localhost", "*.stead.localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        CertificateParams::new(names).unwrap().signed_by(key, &self.ca).unwrap().pem()
    }

    /// Puts a fresh certificate in place.
    pub(crate) fn certify(&self, key: &KeyPair) {
        self.write("gateway/tls/key.pem", &key.serialize_pem());
        self.write("gateway/tls/cert.pem", &self.sign(key));
    }

    /// Puts one in place that is valid from the beginning of one year to that of another.
    pub(crate) fn certify_for(&self, key: &KeyPair, from: i32, to: i32) {
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
        self.write("gateway/tls/key.pem", &key.serialize_pem());
        self.write("gateway/tls/cert.pem", &params.signed_by(key, &self.ca).unwrap().pem());
    }

    /// Says where to listen.
    pub(crate) fn listen(&self, addresses: &[IpAddr]) {
        self.settle(&Settings { listen: addresses.to_vec(), ..Settings::default() });
    }

    /// Says what holds for every route.
    pub(crate) fn settle(&self, settings: &Settings) {
        self.write("gateway/gateway.json", &serde_json::to_string(settings).unwrap());
    }

    /// Settings for v4 loopback, and nothing else asked for.
    pub(crate) fn settings() -> Settings {
        Settings { listen: vec![Ipv4Addr::LOCALHOST.into()], ..Settings::default() }
    }

    /// Opens the port that all servers share, beside their own.
    pub(crate) fn share(&self, port: u16) {
        let settings = Settings { shared_port: Some(port), ..Home::settings() };
        self.write("gateway/gateway.json", &serde_json::to_string(&settings).unwrap());
    }

    /// A route to a server, for everybody on loopback.
    pub(crate) fn route(&self, server: &Server) -> Route {
        Route {
            server: "acme-flights-main".to_owned(),
            generation: 1,
            tenant: "acme".to_owned(),
            stead: "flights".to_owned(),
            component: "postgres.main".to_owned(),
            port: free_port(),
            socket_dir: server.socket_dir(),
            allow: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse::<IpNet>().unwrap()],
            max_sessions: 40,
            sleep: None,
        }
    }

    /// Declares a route, as the driver does: written aside, renamed in.
    pub(crate) fn declare(&self, route: &Route) {
        let json = serde_json::to_string(route).unwrap();
        self.write(&format!("gateway/routes/{}.json", route.server), &json);
    }

    pub(crate) fn undeclare(&self, server: &str) {
        std::fs::remove_file(self.path().join(format!("gateway/routes/{server}.json"))).unwrap();
    }

    /// Writes a file by rename.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        let aside = path.with_file_name(format!(".{}.new", path.file_name().unwrap().display()));
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(aside, path).unwrap();
    }

    /// The connection log, parsed.
    pub(crate) fn log(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path().join("logs/gateway.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Waits for a line of the log.
    pub(crate) async fn logged(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        super::eventually(what, || async { self.log().into_iter().find(|line| wanted(line)) }).await
    }

    pub(crate) async fn client(&self) -> Client {
        super::eventually("the status socket", || async { Client::connect(self.path()).await.ok() }).await
    }

    /// Starts a gateway here and waits until it has looked at its files.
    pub(crate) async fn gateway(&self, limits: Limits) -> Gateway {
        self.gateway_of_rank(FIRST_RANK, limits).await
    }

    /// The same, which takes the place of the one that serves.
    pub(crate) async fn gateway_of_rank(&self, rank: u64, limits: Limits) -> Gateway {
        let (stop, stopped) = oneshot::channel::<()>();
        let options = Options { home: self.path().to_owned(), rank };
        let task = tokio::spawn(gateway::serve(options, limits, async {
            let _ = stopped.await;
        }));
        self.serves(rank).await;
        Gateway { stop: Some(stop), task }
    }

    /// Waits until the gateway of a rank serves.
    pub(crate) async fn serves(&self, rank: u64) -> Status {
        super::eventually("the gateway to serve", async || {
            // In the middle of a hand-over a conversation may end without an answer.
            let status = self.client().await.status().await.ok()?;
            (status.rank == rank).then_some(status)
        })
        .await
    }

    /// Has the gateway look at one route now.
    pub(crate) async fn refresh(&self, server: &str) -> Option<RouteStatus> {
        self.client().await.route(server).await.unwrap()
    }
}

/// A gateway in this process.
pub(crate) struct Gateway {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), gateway::Error>>,
}

impl Gateway {
    /// As SIGTERM.
    pub(crate) async fn stop(mut self) {
        self.stop.take();
        (&mut self.task).await.unwrap().unwrap();
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn drained(mut self) {
        (&mut self.task).await.unwrap().unwrap();
    }

    /// Whether it has ended.
    pub(crate) fn is_done(&self) -> bool {
        self.task.is_finished()
    }
}

/// The usual limits, with less patience.
pub(crate) fn limits() -> Limits {
    Limits { failure_delay: std::time::Duration::from_millis(1), ..Limits::default() }
}

/// A server, a home with a route to it, and a gateway.
pub(crate) async fn front_door(major: u32) -> (Server, Home, Route, Gateway) {
    let server = Server::start(major).await;
    let home = Home::new();
    let route = home.route(&server);
    home.declare(&route);
    let gateway = home.gateway(limits()).await;
    let status = home.refresh(&route.server).await.unwrap();
    assert_eq!(status.error, None);
    (server, home, route, gateway)
}

/// A port that nobody has, outside the range that the kernel gives to outgoing connections.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::random_range(15_000..32_000);
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
    }
}
