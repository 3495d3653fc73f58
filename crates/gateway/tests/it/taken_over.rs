//! A server that is no longer itself: what answers at its socket says what no PostgreSQL would. Its own
//! clients have a bad time; the gateway, which everybody shares, must not.

use std::path::Path;
use std::sync::Arc;

use gateway::route::Route;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use crate::sessions::resident;
use crate::support::clients::{connect, encrypted, message, psql, signed_in, sqlstate, tcp};
use crate::support::folder;
use crate::support::home::{Gateway, Home, limits};
use crate::support::raw::{rest, sqlstate_of};
use crate::support::server::Server;

/// How it lies.
#[derive(Clone, Copy)]
enum Lie {
    /// To a session, in place of the first answer; then it closes.
    First(&'static [u8]),
    /// To the gateway's own question, a row that has no end.
    EndlessAnswer,
    /// To a session that has signed in, settings that have no end.
    EndlessGreeting,
    /// To a session's first question.
    Later(&'static [u8]),
}

/// A true server, and in front of it somebody who passes on what is said to it until he lies.
struct TakenOver {
    _server: Server,
    _folder: tempfile::TempDir,
    task: JoinHandle<()>,
    home: Home,
    route: Route,
    gateway: Gateway,
}

impl TakenOver {
    /// With a second route, to the true server, by which others are served.
    async fn start(lie: Lie) -> (TakenOver, Route) {
        let server = Server::start(18).await;
        let home = Home::new();
        let honest = home.route(&server);
        let folder = folder();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let socket: Arc<Path> = server.socket_dir().join(".s.PGSQL.5432").into();
        let task = tokio::spawn(async move {
            loop {
                let (gateway, _) = listener.accept().await.unwrap();
                let socket = socket.clone();
                tokio::spawn(async move {
                    let server = UnixStream::connect(&*socket).await.unwrap();
                    // Whoever hangs up first, that was it.
                    let _ = pass_on(gateway, server, lie).await;
                });
            }
        });
        let mut route = Route { server: "taken-over".to_owned(), ..honest.clone() };
        (route.port, route.socket_dir) = (crate::support::home::free_port(), folder.path().to_owned());
        home.declare(&honest);
        home.declare(&route);
        let gateway = home.gateway(limits()).await;
        home.refresh(&honest.server).await;
        home.refresh(&route.server).await;
        (TakenOver { _server: server, _folder: folder, task, home, route, gateway }, honest)
    }

    async fn stop(self) {
        self.gateway.stop().await;
        self.task.abort();
    }
}

async fn pass_on(mut gateway: UnixStream, mut server: UnixStream, lie: Lie) -> std::io::Result<()> {
    let length = gateway.read_u32().await?;
    let mut startup = length.to_be_bytes().to_vec();
    startup.resize(usize::try_from(length).unwrap(), 0);
    gateway.read_exact(&mut startup[4..]).await?;
    let asks = startup.windows(13).any(|name| name == b"stead_gateway");
    match lie {
        Lie::EndlessAnswer if asks => {
            gateway.write_all(b"R\0\0\0\x08\0\0\0\0D\x7f\xff\xff\xff").await?;
            return for_ever(&mut gateway, &[0; 1 << 16]).await;
        }
        Lie::First(word) if !asks => return gateway.write_all(word).await,
        _ => server.write_all(&startup).await?,
    }
    if let (Lie::EndlessGreeting | Lie::Later(_), false) = (lie, asks) {
        loop {
            let (kind, body) = message(&mut server).await?;
            if let (Lie::EndlessGreeting, b'S') = (lie, kind) {
                let setting = [&b"S\0\x01\0\x04"[..], &[b'x'; 1 << 16]].concat();
                return for_ever(&mut gateway, &setting).await;
            }
            let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
            gateway.write_all(&[&[kind][..], &length, &body].concat()).await?;
            if let (b'R', Some([0, 0, 0, 10 | 11])) = (kind, body.first_chunk()) {
                let (kind, body) = message(&mut gateway).await?;
                let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
                server.write_all(&[&[kind][..], &length, &body].concat()).await?;
            }
            if kind == b'Z' {
                break;
            }
        }
        if let Lie::Later(word) = lie {
            gateway.read_u8().await?;
            gateway.write_all(word).await?;
        }
    }
    copy_bidirectional(&mut gateway, &mut server).await.map(|_| ())
}

async fn for_ever(gateway: &mut UnixStream, word: &[u8]) -> std::io::Result<()> {
    loop {
        gateway.write_all(word).await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_during_sign_in_is_the_servers_own_trouble() {
    for word in [
        &b""[..],
        b"R\0\0",
        b"R\0\0\0\x03",
        b"R\xff\xff\xff\xff",
        b"E\x7f\xff\xff\xffSFATAL\0",
        b"R\0\0\0\x04",
        b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I",
        b"R\0\0\0\x0c\0\0\0\x05salt",
        b"Z\0\0\0\x05I",
    ] {
        let (taken_over, honest) = TakenOver::start(Lie::First(word)).await;
        let error = connect(&taken_over.home, &taken_over.route).await.err().unwrap();
        assert_eq!(sqlstate(&error), Some("57P03"), "{word:?}: {error}");
        assert_eq!(psql(18, &taken_over.home, &honest, "select 1").unwrap(), "1");
        taken_over.stop().await;
    }
}

/// Memory is everybody's: what a server says before its session is ready is kept, so it has an end.
#[tokio::test(flavor = "multi_thread")]
async fn a_word_without_an_end_takes_no_memory() {
    for lie in [Lie::EndlessAnswer, Lie::EndlessGreeting] {
        let (taken_over, honest) = TakenOver::start(lie).await;
        let before = resident();
        let error = connect(&taken_over.home, &taken_over.route).await.err().unwrap();
        assert_eq!(sqlstate(&error), Some("57P03"), "{error}");
        let grown = resident().saturating_sub(before);
        assert!(grown < 100 << 20, "{grown} bytes of it were kept");
        assert_eq!(psql(18, &taken_over.home, &honest, "select 1").unwrap(), "1");
        taken_over.stop().await;
    }
}

/// In a session it is the client's to judge, byte for byte. The gateway says no more where it cannot know
/// whether it would speak in the middle of a message.
#[tokio::test(flavor = "multi_thread")]
async fn nonsense_in_a_session_is_passed_on_and_nothing_put_into_it() {
    for word in [&b"D\0\0\0\x03"[..], b"D\xff\xff\xff\xffrow", b"D\x7f\xff\xff\xffrow", b"D\0\0"] {
        let (taken_over, honest) = TakenOver::start(Lie::Later(word)).await;
        let stream = encrypted(tcp(&taken_over.route).await, &taken_over.home).await.unwrap();
        let mut stream = signed_in(stream).await;
        stream.write_all(b"Q").await.unwrap();
        let mut heard = vec![0; word.len()];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, word);
        assert_eq!(psql(18, &taken_over.home, &honest, "select 1").unwrap(), "1");
        taken_over.home.undeclare("taken-over");
        assert_eq!(rest(&mut stream).await, b"", "{word:?}");
        taken_over.stop().await;
    }
    // The control: between two messages there is a last word.
    let (taken_over, _) = TakenOver::start(Lie::Later(b"D\0\0\0\x06\0\0")).await;
    let stream = encrypted(tcp(&taken_over.route).await, &taken_over.home).await.unwrap();
    let mut stream = signed_in(stream).await;
    stream.write_all(b"Q").await.unwrap();
    assert_eq!(message(&mut stream).await.unwrap(), (b'D', vec![0, 0]));
    taken_over.home.undeclare("taken-over");
    assert_eq!(sqlstate_of(&rest(&mut stream).await).as_deref(), Some("57P01"));
    taken_over.stop().await;
}
