//! `stead server`: the control plane of a host.
//!
//! In this order: the home and the keeper (as root, where it is root); then root is given up, while there is
//! still one thread; then the ground (certificates, the control plane's own PostgreSQL, the gateway); then
//! the loops (reconciler, spares, events, certificates) and the API. Ending it leaves everything that serves
//! clients as it is.

use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use component::Role;
use driver_local::{BackupStore, Local, SparePool, certificates};
use jiff::Timestamp;
use rand::RngExt;
use reconciler::Reconciler;
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use store::host::Host;
use store::journal::Actor;
use store::{InstallationKey, Store};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cli::{A_DAY, ServerArgs};
use crate::context::Running;
use crate::exit::Failure;

/// Unix sockets' paths end at 107 bytes, and `/servers/<handle>/run/.s.PGSQL.5432` follows the home.
const LONGEST_HOME: usize = 60;
/// The authority's certificate, readable by everybody.
const CA: &str = "ca.crt";
/// How long requests under way may still take once the server is told to end.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// What the certificate authority is kept as.
pub(super) const AUTHORITY: &str = "authority";
/// How often it is looked for code that nobody runs.
const PACKAGES_LOOK: Duration = Duration::from_mins(10);
/// How often it is looked for what is over.
const EXPIRY_LOOK: Duration = Duration::from_secs(5);
/// How often the gateway's certificate is looked at.
const CERTIFICATE_LOOK: Duration = Duration::from_secs(3600);

/// Whether a folder can be a home; what is wrong with it otherwise.
pub(crate) fn fits(home: &Path) -> Result<(), String> {
    let length = home.as_os_str().len();
    if length > LONGEST_HOME {
        return Err(format!(
            "{} is {length} bytes long, and PostgreSQL's sockets below it allow {LONGEST_HOME}; choose a shorter STEAD_HOME",
            home.display()
        ));
    }
    Ok(())
}

/// Makes the home's folder; refuses one that cannot be a home.
pub(crate) fn make_home(home: &Path) -> Result<(), Failure> {
    fits(home).map_err(Failure::Usage)?;
    std::fs::create_dir_all(home)
        .map_err(|error| Failure::Failed(format!("cannot make {}: {error}", home.display())))
}

/// Runs until Ctrl-C or SIGTERM.
pub(crate) fn run(home: &Path, args: ServerArgs) -> Result<(), Failure> {
    make_home(home)?;
    super::background::ensure_keeper(home)?;
    let host = keeper::Host::read(home).map_err(Failure::failed)?;
    let lock = super::background::lock(home)?;
    // While it is still known who started this: the default home is another one for another user.
    let engine_dirs = super::engine_dirs();
    make_keys(home)?;
    make_backups(&args, &host)?;
    hand_over(home, &host)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Failed(format!("cannot start: {error}")))?;
    let ended = runtime.block_on(serve(home, args, &engine_dirs));
    runtime.shutdown_timeout(Duration::from_secs(2));
    let _ = std::fs::write(home.join("server.json"), "");
    drop(lock);
    ended
}

/// The folder of the installation key.
pub(super) fn make_keys(home: &Path) -> Result<(), Failure> {
    let keys = home.join("keys");
    std::fs::create_dir_all(&keys)
        .and_then(|()| std::fs::set_permissions(&keys, std::fs::Permissions::from_mode(0o700)))
        .map_err(|error| Failure::Failed(format!("cannot make {}: {error}", keys.display())))
}

/// A folder for backups that is not there yet is made while there is the right to; it is the control plane's alone.
fn make_backups(args: &ServerArgs, host: &keeper::Host) -> Result<(), Failure> {
    let Some(folder) = args.backups.as_deref().filter(|text| text.starts_with('/')).map(Path::new) else {
        return Ok(());
    };
    let cannot =
        |error: std::io::Error| Failure::Failed(format!("cannot make {}: {error}", folder.display()));
    if folder.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(folder).map_err(cannot)?;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).map_err(cannot)?;
    if host.isolated { own(folder, host) } else { Ok(()) }
}

/// Gives what root made on the way here to the control plane, and becomes it.
pub(super) fn hand_over(home: &Path, host: &keeper::Host) -> Result<(), Failure> {
    if !host.isolated {
        return Ok(());
    }
    for name in ["server.lock", "logs/server.log", "keys", "keys/installation.key"] {
        own(&home.join(name), host)?;
    }
    for (name, mode) in [("server.json", 0o600), ("operator.token", 0o600), (CA, 0o644)] {
        let path = home.join(name);
        touch(&path, mode)?;
        own(&path, host)?;
    }
    super::privileges::become_user(host.control_uid(), host.gid())
        .map_err(|error| Failure::Failed(format!("cannot give up root: {error}")))
}

/// Two homes on one machine are two hosts, also to control planes that share their state.
pub(super) fn host_name(local: &Local, home: &Path) -> String {
    format!("{}:{}", local.host().name, home.display())
}

/// What seals the keys of backups.
pub(super) fn wrapping(key: &InstallationKey) -> archiver::Wrapping {
    archiver::Wrapping::of(&key.derived("the keys of backups"))
}

/// The home itself is root's, so that its files are made before root is given up.
fn touch(path: &Path, mode: u32) -> Result<(), Failure> {
    let made = std::fs::OpenOptions::new().create(true).append(true).mode(mode).open(path);
    made.map(|_| ()).map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))
}

/// Never through a link: in `logs` others of Stead's users may make names, and root must not give away
/// what such a name leads to.
fn own(path: &Path, host: &keeper::Host) -> Result<(), Failure> {
    match std::os::unix::fs::lchown(path, Some(host.control_uid()), Some(host.gid())) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::Failed(format!("cannot give {} to the control plane: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

async fn serve(home: &Path, args: ServerArgs, engine_dirs: &[PathBuf]) -> Result<(), Failure> {
    let listener = TcpListener::bind(args.listen).await.map_err(|error| {
        Failure::Failed(format!("cannot listen on {}: {error}; choose another with --listen", args.listen))
    })?;
    let listen = listener.local_addr().map_err(Failure::failed)?;
    let local =
        Local::open(home, &args.address, engine_dirs, &super::runtime_dirs()).map_err(Failure::failed)?;
    let names = certificate_names(&args);
    certificates::ensure(home, &names, Timestamp::now()).map_err(Failure::failed)?;
    // The folder of the authority is closed, because its key is there; its certificate is for every client
    // on this host.
    std::fs::copy(certificates::ca_path(home), home.join(CA)).map_err(Failure::failed)?;
    let settings = gateway::route::Settings {
        listen: args.gateway_listen.clone(),
        shared_port: args.shared().map(|shared| shared.port),
        proxy_protocol_from: args.proxy_protocol_from.clone(),
        metrics: args.gateway_metrics,
        drain_ms: (args.gateway_drain != A_DAY).then_some(args.gateway_drain * 1000),
    };
    local.write_gateway_settings(&settings).map_err(Failure::failed)?;
    let state = match &args.state {
        Some(url) => PgConnectOptions::from_str(url).map_err(|error| {
            Failure::Usage(format!("--state: {error}; write it like postgres://user:password@host/database"))
        })?,
        None => {
            let control = local.control_server().await.map_err(Failure::failed)?;
            PgConnectOptions::new()
                .socket(&control.socket_dir)
                .username(control.user)
                .database(control.database)
        }
    };
    local.gateway().await.map_err(Failure::failed)?;
    local
        .functions(args.gateway_listen.clone(), args.egress_networks.clone())
        .await
        .map_err(Failure::failed)?;
    local.relay(args.egress_networks.clone()).await.map_err(Failure::failed)?;
    let key_path = home.join("keys/installation.key");
    let key = InstallationKey::read_or_make(&key_path).map_err(Failure::failed)?;
    let wrapping = wrapping(&key);
    // A disk that is nearly full makes servers read-only so that what is left is the control plane's.
    let state = state.application_name("stead").options([("default_transaction_read_only", "off")]);
    let store = Store::open(state, key).await.map_err(Failure::failed)?;
    store.check_key().await.map_err(|error| Failure::Failed(format!("{error} ({})", key_path.display())))?;
    let name = host_name(&local, home);
    store
        .put_host(&Host {
            name: name.clone(),
            address: args.address.clone(),
            ports: args.ports,
            engines: local.engines().majors(),
            runtimes: local.runtimes().names(),
            isolated: local.host().isolated,
        })
        .await
        .map_err(Failure::failed)?;
    // With the state everything comes back that clients know this installation by.
    let authority = certificates::authority(home).map_err(Failure::failed)?;
    store.keep(AUTHORITY, &authority).await.map_err(Failure::failed)?;
    let backups = BackupStore {
        location: backup_location(home, &args)?,
        wrapping,
        host: name.clone(),
        age: Duration::from_secs(args.backup_age.max(1)),
    };
    local.back_up_to(backups).await.map_err(Failure::failed)?;
    // This process is the only worker of this host, so leases of the last one are void.
    store.drop_leases(&name).await.map_err(Failure::failed)?;
    operator_token(home, &store).await?;

    let logs = super::logs::open(home).map_err(Failure::failed)?;
    let reading = Arc::clone(&logs);
    local.before_leaving(Box::new(move || Box::pin(super::logs::last_look(Arc::clone(&reading)))));

    let (stopper, stop) = watch::channel(false);
    let mut loops = JoinSet::new();
    let driver = Arc::new(local.clone());
    loops.spawn(Reconciler { store: store.clone(), host: name.clone(), driver }.run(stop.clone()));
    loops.spawn(SparePool { local: local.clone(), count: args.spares }.run(stop.clone()));
    loops.spawn(super::spool::run(store.clone(), home.to_owned(), name, stop.clone()));
    loops.spawn(super::logs::collect(store.clone(), Arc::clone(&logs), home.to_owned(), stop.clone()));
    loops.spawn(super::logs::tidy(store.clone(), Arc::clone(&logs), stop.clone()));
    loops.spawn(renew(home.to_owned(), names, stop.clone()));
    loops.spawn(expire(store.clone(), stop.clone()));
    loops.spawn(sweep(local.clone(), stop.clone()));
    loops.spawn(super::gateway::run(local.clone(), stop.clone()));
    let settings = server::Settings {
        listen,
        ca_path: certificates::ca_path(home),
        logs: Arc::clone(&logs),
        sessions: Arc::new(super::inner::InnerDoor { home: home.to_owned() }),
        functions: Arc::new(super::functions::InvokeSocket::new(home)),
        version: env!("CARGO_PKG_VERSION"),
        shared: args.shared(),
        console: args.console.settings(listen).map_err(Failure::failed)?,
    };
    let stopping = {
        let mut stop = stop.clone();
        async move {
            let _ = stop.wait_for(|stopped| *stopped).await;
        }
    };
    let api = tokio::spawn(server::serve(listener, store.clone(), settings, stopping));
    let running = Running { url: format!("http://{listen}"), pid: std::process::id() };
    // Written last: whoever finds it finds a server that answers.
    std::fs::write(home.join("server.json"), serde_json::json!(running).to_string())
        .map_err(Failure::failed)?;
    tracing::info!(url = running.url, home = %home.display(), "the Stead server is up");

    let why = super::ended().await;
    tracing::info!(why, "stopping; servers go on");
    let _ = stopper.send(true);
    while loops.join_next().await.is_some() {}
    // Requests under way get a moment; what they asked for is in the database either way.
    let answered = tokio::time::timeout(LAST_ANSWERS, api).await;
    store.close().await;
    match answered {
        Ok(ended) => ended.map_err(Failure::failed)?.map_err(Failure::failed),
        Err(_) => Ok(()),
    }
}

/// Where backups go.
fn backup_location(home: &Path, args: &ServerArgs) -> Result<archiver::Location, Failure> {
    let folder = home.join("backups").display().to_string();
    let options = driver_local::store_options(std::env::vars());
    archiver::Location::parse(args.backups.as_deref().unwrap_or(&folder), options)
        .map_err(|why| Failure::Usage(format!("--backups: {why}")))
}

/// Names and addresses that clients may have reached the gateway by.
fn certificate_names(args: &ServerArgs) -> Vec<String> {
    let mut names =
        vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned(), args.address.clone()];
    names.extend(args.gateway_listen.iter().filter(|ip| !ip.is_unspecified()).map(ToString::to_string));
    names.extend(args.shared().map(|shared| format!("*.{}", shared.domain)));
    let mut seen = std::collections::BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

/// The first operator's token: made once, kept in a file that only this host's operator can read.
async fn operator_token(home: &Path, store: &Store) -> Result<(), Failure> {
    let path = home.join("operator.token");
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let mut token = text.trim().to_owned();
    if token.is_empty() {
        let rng = rand::rng();
        let body: String = rng.sample_iter(rand::distr::Alphanumeric).take(43).map(char::from).collect();
        token = format!("{}{body}", store::token::PREFIX);
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| writeln!(file, "{token}").and_then(|()| file.sync_all()));
        written.map_err(|error| Failure::Failed(format!("cannot write {}: {error}", path.display())))?;
    }
    let actor = Actor { name: "stead".into(), source: "first start".into() };
    store
        .put_token(&actor, "operator", None, Role::Operator, None, &SecretString::from(token))
        .await
        .map(|_| ())
        .map_err(Failure::failed)
}

/// Has what was made for a while removed when its time is over.
async fn expire(store: Store, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        if let Err(error) = store.sweep_sessions().await {
            tracing::warn!(%error, "sessions that are over cannot be removed; trying again");
        }
        if let Err(error) = store.remove_expired().await {
            tracing::warn!(%error, "what is over cannot be removed; trying again");
        }
        if let Err(error) = store.sweep_packages().await {
            tracing::warn!(%error, "packages that no release needs cannot be removed; trying again");
        }
        if let Err(error) = store.settle_queries().await {
            tracing::warn!(%error, "queries that are over cannot be put on record; trying again");
        }
        tokio::select! { () = tokio::time::sleep(EXPIRY_LOOK) => {}, _ = stop.changed() => {} }
    }
}

/// Removes code of functions that nobody runs any more from this host.
async fn sweep(local: Local, mut stop: watch::Receiver<bool>) {
    const TROUBLE: &str = "code of functions that nobody runs cannot be removed; trying again";
    while !*stop.borrow() {
        let here = local.clone();
        match tokio::task::spawn_blocking(move || here.sweep_packages()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "{TROUBLE}"),
            Err(error) => tracing::error!(%error, "{TROUBLE}"),
        }
        tokio::select! { () = tokio::time::sleep(PACKAGES_LOOK) => {}, _ = stop.changed() => {} }
    }
}

/// Renews the gateway's certificate when its time comes; the gateway takes up a new one by itself.
async fn renew(home: PathBuf, names: Vec<String>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        tokio::select! { () = tokio::time::sleep(CERTIFICATE_LOOK) => {}, _ = stop.changed() => {} }
        match certificates::ensure(&home, &names, Timestamp::now()) {
            Ok(true) => tracing::info!("the gateway's certificate was renewed"),
            Ok(false) => {}
            Err(error) => tracing::error!(%error, "the gateway's certificate cannot be renewed"),
        }
    }
}
