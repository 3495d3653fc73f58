//! The relay as a process of its own would be: files, sockets and connections.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use relay::wire::{Route, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// A home with a relay, which ends with it.
struct Home {
    folder: tempfile::TempDir,
    relay: JoinHandle<()>,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.relay.abort();
    }
}

impl Home {
    async fn new(networks: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("relay/routes")).unwrap();
        let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        let settings = serde_json::to_string(&Settings { networks }).unwrap();
        std::fs::write(folder.path().join("relay/relay.json"), settings).unwrap();
        let home = folder.path().to_owned();
        let relay = tokio::spawn(async move { relay::run(&home, std::future::pending()).await.unwrap() });
        let home = Self { folder, relay };
        while relay::refresh(home.path(), "").await.is_err() {
            tokio::task::yield_now().await;
        }
        home
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.path().join(format!("relay/routes/{name}.json"))
    }

    async fn lead(&self, name: &str, host: &str, port: u16) {
        let route = serde_json::to_string(&Route { host: host.to_owned(), port }).unwrap();
        std::fs::write(self.file(name), route).unwrap();
        relay::refresh(self.path(), name).await.unwrap();
    }

    /// Connects; the first line that is said, and the connection.
    async fn connect(&self, name: &str) -> (String, UnixStream) {
        let socket = self.path().join("relay/sockets").join(name).join(relay::SOCKET);
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let mut line = Vec::new();
        loop {
            match stream.read_u8().await.unwrap() {
                b'\n' => return (String::from_utf8(line).unwrap(), stream),
                byte => line.push(byte),
            }
        }
    }
}

/// Answers each connection with a word.
async fn says(word: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(word.as_bytes()).await;
                // Until the other side has gone.
                let _ = stream.read(&mut [0]).await;
            });
        }
    });
    port
}

async fn hears(mut stream: impl AsyncReadExt + Unpin, length: usize) -> String {
    let mut word = vec![0; length];
    stream.read_exact(&mut word).await.unwrap();
    String::from_utf8(word).unwrap()
}

#[tokio::test]
async fn a_way_leads_to_the_one_place_that_its_file_names() {
    let home = Home::new(&["127.0.0.0/8", "::1/128"]).await;
    let (one, other) = (says("one").await, says("two").await);
    home.lead("a", "127.0.0.1", one).await;
    home.lead("b", "localhost", other).await;
    let (said, mut first) = home.connect("a").await;
    assert_eq!((said.as_str(), hears(&mut first, 3).await.as_str()), ("", "one"));
    let (said, second) = home.connect("b").await;
    assert_eq!((said.as_str(), hears(second, 3).await.as_str()), ("", "two"));
    // Led elsewhere, the connections of before end.
    home.lead("a", "127.0.0.1", other).await;
    assert_eq!(first.read(&mut [0]).await.unwrap_or(0), 0);
    assert_eq!(hears(home.connect("a").await.1, 3).await, "two");
    // Without its file there is no way, and no folder.
    std::fs::remove_file(home.file("a")).unwrap();
    relay::refresh(home.path(), "a").await.unwrap();
    assert!(!home.path().join("relay/sockets/a").exists());
    // What cannot be read is told to who asks for it, and the others go on.
    std::fs::write(home.file("a"), "{}").unwrap();
    assert!(relay::refresh(home.path(), "a").await.unwrap_err().to_string().contains("missing field"));
    assert_eq!(hears(home.connect("b").await.1, 3).await, "two");
}

#[tokio::test]
async fn what_is_not_public_is_dialled_only_where_the_operator_says_so() {
    let port = says("one").await;
    // The control: the place is there.
    assert_eq!(hears(TcpStream::connect(("127.0.0.1", port)).await.unwrap(), 3).await, "one");
    let home = Home::new(&["10.0.0.0/8"]).await;
    for host in ["127.0.0.1", "localhost", "::1", "169.254.169.254", "0.0.0.0", "::ffff:127.0.0.1"] {
        home.lead("a", host, port).await;
        let (said, mut stream) = home.connect("a").await;
        assert!(said.contains("is not a public one"), "{host}: {said}");
        assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0, "{host}");
    }
}

#[tokio::test]
async fn who_does_not_answer_is_told_with_why() {
    let home = Home::new(&["127.0.0.0/8"]).await;
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    home.lead("a", "127.0.0.1", nobody).await;
    assert!(home.connect("a").await.0.contains("refused"));
    home.lead("a", "no-such-host.invalid", 5432).await;
    assert!(home.connect("a").await.0.contains("lookup"));
}
