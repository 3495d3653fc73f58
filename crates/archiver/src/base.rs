//! A base backup: the server's own `BASE_BACKUP`, compressed, encrypted and stored in parts.
//!
//! The server reads its files and sends one tar; here it is packed on a thread of its own while the next part is
//! read, and stored while the one after that is packed. What is in memory is bounded by a few parts. `backup.json`
//! is written last: what is listed is whole.

use bytes::{Buf, Bytes};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::archive::{Base, Part};
use crate::replication::{Failed, Session, row};
use crate::seal::{Packer, Sealer};
use crate::{ArchiveId, Error, Lsn, Objects, fail_point};

/// Bytes of a part, compressed.
const PART: usize = 16 * 1024 * 1024;
/// Messages of the server that wait to be packed.
const WAITING: usize = 16;
/// A manifest has 200 bytes for each file.
const LONGEST_MANIFEST: usize = 256 * 1024 * 1024;

/// Where a base backup goes.
pub(crate) struct Target<'a> {
    pub(crate) objects: &'a Objects,
    pub(crate) archive: ArchiveId,
    pub(crate) sealer: &'a Sealer,
    /// Bytes of a segment of the log.
    pub(crate) segment_bytes: u64,
}

/// A position and its timeline, as `BASE_BACKUP` says them at its beginning and its end.
fn position(body: Bytes) -> Result<(Lsn, u32), Failed> {
    let strange = Failed::Strange("BASE_BACKUP does not say where it is");
    match row(body)?.as_slice() {
        [Some(lsn), Some(timeline), ..] => match (lsn.parse(), timeline.parse()) {
            (Ok(lsn), Ok(timeline)) => Ok((lsn, timeline)),
            _ => Err(strange),
        },
        _ => Err(strange),
    }
}

impl Target<'_> {
    /// Makes a base backup of the server that the session is with, and stores it.
    pub(crate) async fn make(&self, session: &mut Session) -> Result<Base, Error> {
        let started_at = Timestamp::now();
        session.start_base_backup("stead").await?;
        let (start, timeline) = loop {
            let message = session.next().await?;
            match message.tag {
                b'D' => break position(message.body)?,
                b'T' => {}
                _ => return Err(Failed::Strange("BASE_BACKUP").into()),
            }
        };
        let folder = self.archive.object(&Base::folder(start));
        let (plain, packed) = (mpsc::channel(WAITING), mpsc::channel(1));
        let (sealer, (to_store, stored)) = (self.sealer.clone(), packed);
        let (to_pack, packing) = plain;
        let packer = tokio::task::spawn_blocking(move || pack(packing, &to_store, &sealer));
        let (read, stored) = tokio::join!(read(session, to_pack), self.store(&folder, stored));
        let packed = packer.await.map_err(|error| std::io::Error::other(error.to_string()))?;
        // What failed first stopped the others, which then complain of that.
        let read = match (stored, read, packed) {
            (Err(error), _, _) => return Err(error),
            (_, Err(Failed::Io(error)), Err(packed)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
                return Err(packed.into());
            }
            (_, Err(error), _) => return Err(error.into()),
            (_, _, Err(error)) => return Err(error.into()),
            (Ok(parts), Ok(read), Ok(())) => (parts, read),
        };
        let (parts, Read { end, bytes, manifest }) = read;
        let sealer = self.sealer.clone();
        let sealed = tokio::task::spawn_blocking(move || sealer.seal(&manifest)).await;
        let sealed = sealed.map_err(|error| std::io::Error::other(error.to_string()))??;
        let manifest = self.put_part(&folder, "manifest.zst.age".to_owned(), sealed).await?;
        fail_point!("archiver::base-stored");
        let (log_from, stopped_at) = (start.floor(self.segment_bytes), Timestamp::now());
        let base = Base { timeline, start, log_from, end, started_at, stopped_at, bytes, parts, manifest };
        let text = serde_json::to_vec_pretty(&base).map_err(std::io::Error::from)?;
        self.objects.put(&format!("{folder}/backup.json"), text.into()).await?;
        fail_point!("archiver::base-listed");
        Ok(base)
    }

    async fn store(&self, folder: &str, mut parts: mpsc::Receiver<Vec<u8>>) -> Result<Vec<Part>, Error> {
        let mut stored = Vec::new();
        while let Some(sealed) = parts.recv().await {
            let name = format!("{:06}.zst.age", stored.len());
            stored.push(self.put_part(folder, name, sealed).await?);
            fail_point!("archiver::base-part-stored");
        }
        Ok(stored)
    }

    async fn put_part(&self, folder: &str, name: String, sealed: Vec<u8>) -> Result<Part, Error> {
        let sha256 = hex(&Sha256::digest(&sealed));
        let part = Part { name, bytes: sealed.len() as u64, sha256 };
        self.objects.put(&format!("{folder}/{}", part.name), sealed.into()).await?;
        Ok(part)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What came besides the tar.
struct Read {
    end: Lsn,
    bytes: u64,
    manifest: Vec<u8>,
}

/// Reads the tar into `plain`, the manifest and the end.
async fn read(session: &mut Session, plain: mpsc::Sender<Bytes>) -> Result<Read, Failed> {
    enum In {
        Nothing,
        Tar,
        Manifest,
    }
    let (mut now, mut archives, mut bytes, mut manifest) = (In::Nothing, 0, 0, Vec::new());
    let mut plain = Some(plain);
    let mut end = None;
    loop {
        let mut message = session.next().await?;
        match message.tag {
            b'd' if !message.body.is_empty() => match (message.body.get_u8(), &now) {
                (b'n', _) => {
                    archives += 1;
                    if archives > 1 {
                        return Err(Failed::Strange("it has tablespaces, of which no backup is made"));
                    }
                    now = In::Tar;
                }
                (b'm', _) => {
                    // The tar is complete.
                    plain = None;
                    now = In::Manifest;
                }
                (b'd', In::Tar) => {
                    bytes += message.body.len() as u64;
                    let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
                    let plain = plain.as_ref().ok_or_else(gone)?;
                    plain.send(message.body).await.map_err(|_| gone())?;
                }
                (b'd', In::Manifest) if manifest.len() + message.body.len() <= LONGEST_MANIFEST => {
                    manifest.extend_from_slice(&message.body);
                }
                (b'p', _) => {}
                _ => return Err(Failed::Strange("BASE_BACKUP")),
            },
            // After the copy comes where it ended; before it come the tablespaces.
            b'D' if matches!(now, In::Manifest) => end = Some(position(message.body)?.0),
            b'D' | b'T' | b'H' | b'c' | b'C' => {}
            b'Z' => break,
            _ => return Err(Failed::Strange("BASE_BACKUP")),
        }
    }
    let end = end.ok_or(Failed::Strange("BASE_BACKUP ended too early"))?;
    Ok(Read { end, bytes, manifest })
}

/// Packs what comes into parts.
fn pack(
    mut plain: mpsc::Receiver<Bytes>,
    packed: &mpsc::Sender<Vec<u8>>,
    sealer: &Sealer,
) -> std::io::Result<()> {
    let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    let mut packer = Packer::new()?;
    while let Some(bytes) = plain.blocking_recv() {
        packer.write(&bytes)?;
        if let Some(part) = packer.take(PART) {
            packed.blocking_send(sealer.encrypt(&part)?).map_err(gone)?;
        }
    }
    packed.blocking_send(sealer.encrypt(&packer.finish()?)?).map_err(gone)
}
