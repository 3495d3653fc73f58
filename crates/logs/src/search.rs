//! Searching: blocks that may hold what is looked for are read by several threads, and lines come out newest first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use jiff::civil::Date;

use crate::block::Row;
use crate::line::{About, Label, Line, LineId, Owner};
use crate::query::Query;
use crate::segment::{self, Found};
use crate::store::{day_of, days, lock};
use crate::withheld::{View, shown};
use crate::{At, Error, Store, filter};

/// Threads of one search, at most.
const THREADS: usize = 4;
/// Blocks that one thread reads ahead of what was given out.
const WAVE: usize = 4;

/// What to look for, where and when.
#[derive(Debug, Clone)]
pub struct Search {
    /// Whose lines.
    pub owner: Owner,
    /// What must be true of them.
    pub query: Query,
    /// Not before this, microseconds since 1970.
    pub since: i64,
    /// Before this.
    pub until: i64,
    /// Only lines that come after this one in the order of answers.
    pub after: Option<(i64, LineId)>,
    /// Only of this stead.
    pub stead: Option<String>,
    /// Only of this component, as it was called then.
    pub component: Option<String>,
    /// Only of this server, by its handle.
    pub server: Option<String>,
    /// How much of a line is seen, by the search too.
    pub view: View,
    /// Nobody waits for the answer any more: turning it true ends the search soon, as if nothing more were there.
    pub given_up: Arc<AtomicBool>,
}

impl Search {
    /// Everything of an owner.
    #[must_use]
    pub fn all(owner: Owner) -> Self {
        Self {
            owner,
            query: Query::default(),
            since: i64::MIN,
            until: i64::MAX,
            after: None,
            stead: None,
            component: None,
            server: None,
            view: View::Whole,
            given_up: Arc::default(),
        }
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Whether a line of this label may be meant.
    fn wants(&self, label: &Label) -> bool {
        let is = |wanted: &Option<String>, has: &Option<String>| wanted.is_none() || wanted == has;
        is(&self.stead, &label.stead)
            && is(&self.component, &label.component)
            && is(&self.server, &label.server)
    }

    /// Whether a line is meant; `line` becomes what the view shows of it.
    #[must_use]
    pub fn takes(&self, line: &mut Line) -> bool {
        if !self.wants(&line.label) || line.at < self.since || line.at >= self.until {
            return false;
        }
        line.fields = shown(self.view, line.label.source, std::mem::take(&mut line.fields));
        self.query.matches(line)
    }

    /// Whether lines that are so many of each severity may be meant.
    fn may_have(&self, severities: &[u32; 5]) -> bool {
        let of = |severity| severities.get(usize::from(severity as u8)).is_none_or(|count| *count > 0);
        self.query.severity().is_none_or(of)
    }

    /// Whether a line may be meant, by what is known without its text.
    pub(crate) fn may_take(&self, about: &About) -> bool {
        about.at >= self.since
            && about.at < self.until
            && self.after.is_none_or(|after| (about.at, about.id) < after)
            && self.query.severity().is_none_or(|severity| severity == about.severity)
    }

    /// The days to look at, the newest first.
    pub(crate) fn days(&self, all: Vec<(Date, PathBuf)>) -> impl Iterator<Item = (Date, PathBuf)> + use<> {
        let until = self.after.map_or(self.until, |(at, _)| at.saturating_add(1).min(self.until));
        let (first, last) = (day_of(self.since), day_of(until.saturating_sub(1)));
        let (whole_first, whole_last) = (self.since == i64::MIN, until == i64::MAX);
        all.into_iter()
            .rev()
            .filter(move |(day, _)| (whole_first || *day >= first) && (whole_last || *day <= last))
    }
}

/// A place of the store that cannot be read; the rest was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Bytes before it.
    pub offset: u64,
    /// How long it is, bytes.
    pub length: u64,
    /// What is wrong.
    pub why: &'static str,
}

/// A block, in an open segment.
pub(crate) struct Place {
    pub(crate) file: Arc<(File, PathBuf)>,
    pub(crate) found: Found,
}

/// A hit before its text is taken apart.
struct Hit {
    row: Row,
    label: Arc<Label>,
    text: Arc<[u8]>,
}

impl Hit {
    fn key(&self) -> (i64, LineId) {
        (self.row.about.at, self.row.about.id)
    }
}

impl PartialEq for Hit {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}
impl Eq for Hit {}
impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Hit {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl Store {
    /// Gives each line that is meant, the newest first; lines of the same moment in the order of their ids, the highest
    /// first. Ends when `each` breaks, or after `most` lines. Answers what could not be read.
    ///
    /// # Errors
    /// When files cannot be read at all.
    pub fn search(
        &self,
        search: &Search,
        most: usize,
        mut each: impl FnMut(Line) -> ControlFlow<()>,
    ) -> Result<Vec<Damage>, Error> {
        let mut damage = Vec::new();
        let mut left = most;
        for (_, folder) in search.days(days(&self.folder(search.owner))?) {
            if search.is_given_up() {
                break;
            }
            let mut places = self.places(&folder, search, &mut damage)?;
            places.sort_by_key(|place| Reverse(place.found.meta.last));
            let mut heap: BinaryHeap<Hit> = BinaryHeap::new();
            let mut wave = 1;
            let mut rest = places.as_slice();
            while !rest.is_empty() || !heap.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(wave * threads()));
                rest = later;
                wave = (wave * 2).min(WAVE);
                let read = |place: &Place| hits(place, search, left);
                for (hits, hurt) in in_parallel(now, read) {
                    heap.extend(hits);
                    damage.extend(hurt);
                }
                // What is not read yet may be as new as this.
                let bound = rest.first().map(|place| place.found.meta.last);
                while heap.peek().is_some_and(|hit| bound.is_none_or(|bound| hit.row.about.at > bound)) {
                    let Some(line) = heap.pop().and_then(|hit| line(&hit, search)) else { continue };
                    if left == 0 || each(line).is_break() {
                        return Ok(damage);
                    }
                    left -= 1;
                    if left == 0 {
                        return Ok(damage);
                    }
                }
            }
        }
        Ok(damage)
    }

    /// Blocks of a day that may hold what is meant.
    pub(crate) fn places(
        &self,
        folder: &Path,
        search: &Search,
        damage: &mut Vec<Damage>,
    ) -> Result<Vec<Place>, Error> {
        let mut places = Vec::new();
        for file in open(folder)? {
            let walk = segment::walk(&file.0).at("read", &file.1)?;
            damage.extend(walk.hurts.into_iter().map(|hurt| Damage {
                path: file.1.clone(),
                offset: hurt.offset,
                length: hurt.length,
                why: hurt.why,
            }));
            let is_closed = file.1.extension().is_some_and(|extension| extension == "seg");
            if is_closed && walk.end < walk.length {
                let (offset, length) = (walk.end, walk.length - walk.end);
                let why = "the end of the file is damaged";
                damage.push(Damage { path: file.1.clone(), offset, length, why });
            }
            for found in walk.blocks {
                let newest = search.after.map_or(i64::MAX, |(at, _)| at);
                if !search.may_have(&found.meta.severities) {
                    continue;
                }
                let meta = &found.meta;
                if meta.last >= search.since
                    && meta.first < search.until
                    && meta.first <= newest
                    && search.wants(&meta.label)
                {
                    places.push(Place { file: Arc::clone(&file), found });
                }
            }
        }
        Ok(places)
    }
}

/// Opens the segments of a day, all at one moment: what is put together meanwhile stays as it was seen.
fn open(folder: &Path) -> Result<Vec<Arc<(File, PathBuf)>>, Error> {
    let mut tries = 0;
    'again: loop {
        tries += 1;
        let mut files = Vec::new();
        for name in segment::list(folder)?.segments {
            let path = segment::path(folder, name);
            match File::open(&path) {
                Ok(file) => files.push(Arc::new((file, path))),
                // It was closed or put together since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound && tries < 100 => continue 'again,
                Err(error) => return Err(error).at("open", &path),
            }
        }
        return Ok(files);
    }
}

/// How many threads a search may use.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(THREADS)
}

/// Does the work for each place, by several threads; answers in the order of the places.
pub(crate) fn in_parallel<T: Send>(places: &[Place], work: impl Fn(&Place) -> T + Sync) -> Vec<T> {
    if places.len() < 2 {
        return places.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let done = std::sync::Mutex::new(Vec::with_capacity(places.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads().min(places.len()) {
            scope.spawn(|| {
                while let Some((number, place)) = Some(next.fetch_add(1, Ordering::Relaxed))
                    .and_then(|number| Some((number, places.get(number)?)))
                {
                    let result = work(place);
                    lock(&done).push((number, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

/// The lines of a block that are meant, at most the newest `most`.
fn hits(place: &Place, search: &Search, most: usize) -> (Vec<Hit>, Option<Damage>) {
    let mut hits = Vec::new();
    let hurt = scan(place, search, |row, text| {
        hits.push(Hit { row: *row, label: Arc::clone(&place.found.meta.label), text: Arc::from(text) });
    });
    if hits.len() > most {
        hits.sort_unstable_by(|left, right| right.cmp(left));
        hits.truncate(most);
    }
    (hits, hurt)
}

/// Gives each line of a block that is meant.
pub(crate) fn scan(place: &Place, search: &Search, mut each: impl FnMut(&Row, &[u8])) -> Option<Damage> {
    let (file, path) = place.file.as_ref();
    let found = &place.found;
    let damage = |why| {
        let (offset, length) = (found.offset, crate::wide(found.prelude.whole()));
        Some(Damage { path: path.clone(), offset, length, why })
    };
    if search.is_given_up() {
        return None;
    }
    // To ask for words of what is withheld would tell by the time it takes whether they are there.
    let (words, needle): (Vec<&str>, _) = match search.view {
        View::Whole => (search.query.words().collect(), search.query.needle()),
        View::Withheld => (Vec::new(), None),
    };
    if found.prelude.filter > 0 && !words.is_empty() {
        match found.filter(file) {
            Ok(filter) if !words.iter().all(|word| filter::may_hold(&filter, word)) => return None,
            Ok(_) => {}
            Err(_) => return damage("a block cannot be read"),
        }
    }
    let (rows, text) = match found.read(file) {
        Ok(Some(read)) => read,
        Ok(None) => return damage("a block is damaged"),
        Err(_) => return damage("a block cannot be read"),
    };
    let candidates = Candidates::of(needle, &text);
    for row in candidates.rows(&rows) {
        let about = &row.about;
        if !search.may_take(about) {
            continue;
        }
        let Some(bytes) = text.get(row.from..row.to) else { return damage("a block is damaged") };
        let label = &found.meta.label;
        if search.query.is_severity_alone() || search.takes(&mut Line::read(about, Arc::clone(label), bytes))
        {
            each(row, bytes);
        }
    }
    None
}

/// Lines worth taking apart: those in which the longest word stands at all, or what every match of an expression has.
enum Candidates {
    All,
    At(Vec<usize>),
}

impl Candidates {
    fn of(needle: Option<&regex::bytes::Regex>, text: &[u8]) -> Self {
        let Some(needle) = needle else { return Self::All };
        // A letter that JSON writes as a number; the same that a block's filter gives way to.
        if memchr::memmem::find(text, b"\\u").is_some() {
            return Self::All;
        }
        Self::At(needle.find_iter(text).map(|hit| hit.start()).collect())
    }

    fn rows<'a>(&'a self, rows: &'a [Row]) -> Box<dyn Iterator<Item = &'a Row> + 'a> {
        match self {
            Self::All => Box::new(rows.iter()),
            Self::At(hits) => {
                let mut before = None;
                Box::new(hits.iter().filter_map(move |at| {
                    let number = rows.partition_point(|row| row.to <= *at);
                    let fresh = before.replace(number) != Some(number);
                    rows.get(number).filter(|_| fresh)
                }))
            }
        }
    }
}

/// The line as the search's view shows it.
fn line(hit: &Hit, search: &Search) -> Option<Line> {
    let mut line = Line::read(&hit.row.about, Arc::clone(&hit.label), &hit.text);
    search.takes(&mut line).then_some(line)
}
