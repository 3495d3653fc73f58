//! What is done to a data directory from the inside: as the user that it belongs to, in its sandbox, because what is
//! in it came from a server that may have been taken over.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

/// How long the sender may take between two parts.
const PATIENCE: Duration = Duration::from_secs(120);
/// Reads of the stream.
const BUFFER: usize = 1024 * 1024;

/// Unpacks the tar that comes from a socket into the folder `into`, and says `done` there when all of it is unpacked.
/// The socket lies where the control plane alone makes names.
///
/// # Errors
/// When the tar makes no sense or cannot be written; the sender is told why.
pub fn unpack(socket: &Path, into: &Path) -> io::Result<()> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let unpacked = untar(&stream, into);
    let said = match &unpacked {
        Ok(()) => "done\n".to_owned(),
        Err(error) => format!("{}\n", error.to_string().replace('\n', " ")),
    };
    (&stream).write_all(said.as_bytes())?;
    unpacked
}

/// Plain files and folders below `into` and nothing else: a server's backup has links only to tablespaces, and Stead's
/// servers have none.
fn untar(stream: &UnixStream, into: &Path) -> io::Result<()> {
    let mut archive = tar::Archive::new(BufReader::with_capacity(BUFFER, stream));
    // What is appended to the server's own tar comes behind its end.
    archive.set_ignore_zeros(true);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(false);
    archive.set_preserve_mtime(false);
    archive.set_overwrite(true);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if !(kind.is_file() || kind.is_dir()) {
            let path = entry.path()?.display().to_string();
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{path}` is no file and no folder"),
            ));
        }
        if !entry.unpack_in(into)? {
            let path = entry.path()?.display().to_string();
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("`{path}` leads out of the backup"),
            ));
        }
    }
    Ok(())
}

/// Bytes of `global/pg_control` that are used, and where its checksum is: they differ from one engine to the next.
const CHECKSUMS: &[(u32, usize)] = &[(1300, 288), (1700, 288), (1800, 292)];

/// Gives a cluster that was stopped in order a system identifier of its own; its log has to be reset afterwards.
///
/// The file begins with the identifier (8 bytes) and its own version (4 bytes); a CRC-32C of everything before it ends
/// it. This is what `pg_createsubscriber` does to a copy.
///
/// # Errors
/// When the file is not as it should be.
pub fn identify(control: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(control)?;
    let mut bytes = Vec::new();
    Read::by_ref(&mut file).take(8192).read_to_end(&mut bytes)?;
    let strange =
        |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", control.display()));
    let version = bytes.get(8..12).and_then(|v| v.try_into().ok()).map(u32::from_ne_bytes);
    let version = version.ok_or_else(|| strange("it is too short"))?;
    let at = CHECKSUMS.iter().find(|(known, _)| *known == version);
    let (_, at) = *at.ok_or_else(|| strange(&format!("its version {version} is not known")))?;
    let checksum = bytes.get(at..at + 4).and_then(|sum| sum.try_into().ok()).map(u32::from_ne_bytes);
    if checksum != Some(crc32c(&bytes[..at])) {
        return Err(strange("its checksum is wrong"));
    }
    bytes[..8].copy_from_slice(&fresh_identifier()?.to_ne_bytes());
    let checksum = crc32c(&bytes[..at]).to_ne_bytes();
    bytes[at..at + 4].copy_from_slice(&checksum);
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&bytes)?;
    file.sync_all()
}

/// As PostgreSQL makes one: seconds in the upper half, then what is random.
fn fresh_identifier() -> io::Result<u64> {
    let seconds = Timestamp::now().as_second().cast_unsigned();
    let mut random = [0; 4];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    Ok(seconds << 32 | u64::from(u32::from_ne_bytes(random)))
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(bytes)
}
