//! Putting segments together, and taking away what has been kept long enough.
//!
//! Blocks of one look of the collector are small; big ones compress several times better and are read faster. Closed
//! segments that lie beside each other are rewritten as one, whose blocks hold the lines of one label each. The new file
//! is complete on the disk before it gets its name, and its name makes the old ones void: killed anywhere, the store
//! holds each line once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use jiff::civil::Date;

use crate::batch::Entry;
use crate::block::Builder;
use crate::line::{Label, Owner};
use crate::segment::{self, Name};
use crate::store::{days, lock, owners, sync_folder};
use crate::{At, Error, Store, fail_point};

/// Compression of blocks that stay.
const THOROUGH: i32 = 3;
/// So many small segments beside each other are put together; of a day that is over, two.
const MANY: usize = 8;
/// A segment of this length is left as it is, bytes.
const LARGE: u64 = 32 * 1024 * 1024;
/// Of a segment whose blocks are this large on average, nothing is gained by rewriting it, bytes.
const GOOD: u64 = 32 * 1024;

/// What tidying did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tidied {
    /// Segments that were put together.
    pub merged: usize,
    /// Days that were removed.
    pub removed: usize,
}

impl Store {
    /// Everybody who has lines.
    ///
    /// # Errors
    /// When the folder cannot be listed.
    pub fn owners(&self) -> Result<Vec<Owner>, Error> {
        Ok(owners(&self.root)?.into_iter().map(|(owner, _)| owner).collect())
    }

    /// Removes what is older than its owner's days, and owners of which `keep` says `None`; puts segments of the rest
    /// together. `today` is the day in UTC.
    ///
    /// # Errors
    /// When files cannot be read or written; what was done is done, the rest is as it was.
    pub fn tidy(
        &self,
        owners: Vec<Owner>,
        today: Date,
        keep: impl Fn(Owner) -> Option<u16>,
    ) -> Result<Tidied, Error> {
        let _one = lock(&self.tidying);
        let mut tidied = Tidied::default();
        for owner in owners {
            let folder = self.folder(owner);
            let Some(keep) = keep(owner) else {
                self.let_go(owner, None);
                tidied.removed += days(&folder)?.len();
                std::fs::remove_dir_all(&folder).at("remove", &folder)?;
                continue;
            };
            let first = today.checked_sub(jiff::Span::new().days(i64::from(keep))).unwrap_or(Date::MIN);
            for (day, folder) in days(&folder)? {
                if day < first {
                    self.let_go(owner, Some(first));
                    std::fs::remove_dir_all(&folder).at("remove", &folder)?;
                    tidied.removed += 1;
                } else {
                    tidied.merged += merge_day(&folder, day < today)?;
                }
            }
        }
        Ok(tidied)
    }
}

/// Puts small segments of a day together; answers how many.
fn merge_day(folder: &Path, over: bool) -> Result<usize, Error> {
    let listing = segment::list(folder)?;
    for name in listing.rubbish {
        let path = folder.join(name);
        std::fs::remove_file(&path).at("remove", &path)?;
    }
    let mut merged = 0;
    let mut run: Vec<Name> = Vec::new();
    let mut size = 0;
    for name in &listing.segments {
        let length = match std::fs::metadata(segment::path(folder, *name)) {
            Ok(about) if !name.open => about.len(),
            // It is still written to, or was closed since; the next look finds it so.
            _ => LARGE,
        };
        if length >= LARGE || size + length > LARGE * 2 {
            merged += merge_run(folder, &run, over)?;
            run.clear();
            size = 0;
        }
        if length < LARGE {
            run.push(*name);
            size += length;
        }
    }
    Ok(merged + merge_run(folder, &run, over)?)
}

fn merge_run(folder: &Path, run: &[Name], over: bool) -> Result<usize, Error> {
    let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(0) };
    let worth = run.len() >= if over { 2 } else { MANY } || run.len() == 1 && is_crumbled(folder, *first)?;
    if !worth {
        return Ok(0);
    }
    let name = Name::closed(first.first, last.last);
    if merge(folder, run, name)? { Ok(run.len()) } else { Ok(0) }
}

/// Whether a segment is as the collector left it.
fn is_crumbled(folder: &Path, name: Name) -> Result<bool, Error> {
    if name.first != name.last {
        return Ok(false);
    }
    let path = segment::path(folder, name);
    let file = File::open(&path).at("open", &path)?;
    let walk = segment::walk(&file).at("read", &path)?;
    let raw: u64 = walk.blocks.iter().map(|found| u64::from(found.meta.raw)).sum();
    let labels =
        walk.blocks.iter().map(|found| &found.meta.label).collect::<std::collections::BTreeSet<_>>().len();
    Ok(walk.blocks.len() > labels && raw / crate::wide(walk.blocks.len()) < GOOD)
}

/// Lines of one label, from several segments.
struct Stream {
    builder: Builder,
    label: Arc<Label>,
}

/// Writes one segment in place of several. False where one of them is damaged: it is left as it is, so that what can be
/// read of it stays where a person would look for it.
fn merge(folder: &Path, run: &[Name], name: Name) -> Result<bool, Error> {
    let path = segment::path(folder, name);
    let draft = folder.join(format!("{}.new", name.file()));
    let mut options = std::fs::OpenOptions::new();
    let file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft).at("make", &draft)?;
    let mut out = std::io::BufWriter::new(file);
    let mut streams: BTreeMap<Label, Stream> = BTreeMap::new();
    for part in run {
        let part = segment::path(folder, *part);
        let file = File::open(&part).at("open", &part)?;
        let walk = segment::walk(&file).at("read", &part)?;
        if !walk.hurts.is_empty() || walk.end < walk.length {
            return abandon(&draft);
        }
        for found in walk.blocks {
            let label = Arc::clone(&found.meta.label);
            let Some((rows, text)) = found.read(&file).at("read", &part)? else { return abandon(&draft) };
            let stream = streams
                .entry(Label::clone(&label))
                .or_insert_with(|| Stream { builder: Builder::new(Arc::clone(&label)), label });
            let mut rows = rows.iter();
            for from in &found.meta.parts {
                stream.builder.part(from.file, from.from, from.to);
                for row in rows.by_ref().take(crate::narrow(from.lines)) {
                    if stream.builder.is_full() {
                        let next = Builder::new(Arc::clone(&stream.label));
                        let full = std::mem::replace(&mut stream.builder, next);
                        write(&mut out, full).at("write", &draft)?;
                        stream.builder.part(from.file, row.about.id.offset, from.to);
                    }
                    let about = &row.about;
                    stream.builder.add(&Entry {
                        offset: about.id.offset,
                        at: about.at,
                        severity: about.severity,
                        plain: about.plain,
                        cut: about.cut,
                        text: text.get(row.from..row.to).unwrap_or_default(),
                    });
                }
            }
        }
    }
    for stream in streams.into_values().filter(|stream| !stream.builder.is_empty()) {
        write(&mut out, stream.builder).at("write", &draft)?;
    }
    let file = out.into_inner().map_err(std::io::IntoInnerError::into_error).at("write", &draft)?;
    file.sync_all().at("write", &draft)?;
    fail_point!("logs::merge-drafted");
    std::fs::rename(&draft, &path).at("rename", &draft)?;
    sync_folder(folder)?;
    fail_point!("logs::merged");
    for part in run.iter().filter(|part| **part != name) {
        let part = segment::path(folder, *part);
        std::fs::remove_file(&part).at("remove", &part)?;
        fail_point!("logs::part-removed");
    }
    Ok(true)
}

fn abandon(draft: &Path) -> Result<bool, Error> {
    std::fs::remove_file(draft).at("remove", draft)?;
    Ok(false)
}

fn write(out: &mut impl Write, block: Builder) -> std::io::Result<()> {
    let (_, head, body) = block.finish(THOROUGH)?;
    out.write_all(&head)?;
    out.write_all(&body)
}
