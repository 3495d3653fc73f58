//! Lines on their way into the store.

use crate::line::{About, Head, Label, LineId, Owner, Severity};

/// Lines of one owner and label that stood in one part of one file, in the order in which they stood there.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// Whose.
    pub owner: Owner,
    /// By whom, of what.
    pub label: Label,
    /// The file.
    pub file: u64,
    /// The part: lines of this owner and label that stood elsewhere in it there are none.
    pub from: u64,
    /// Its end.
    pub to: u64,
    /// The lines.
    pub entries: Vec<Entry<'a>>,
}

/// A line as it was written, without its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Bytes before it in its file.
    pub offset: u64,
    /// When it was said, microseconds since 1970.
    pub at: i64,
    /// How grave.
    pub severity: Severity,
    /// It is no JSON object.
    pub plain: bool,
    /// It was longer.
    pub cut: bool,
    /// The line; has no line feed.
    pub text: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Reads what a line says of itself; `otherwise` is its time where it says none that can be, `within` the
    /// moments that can be.
    pub(crate) fn new(
        (offset, text, cut): (u64, &'a [u8], bool),
        head: Option<&Head>,
        otherwise: i64,
        within: &std::ops::Range<i64>,
    ) -> Self {
        let cut_head = cut.then(|| Head::of_cut(text));
        let plain = head.is_none();
        let head = head.or(cut_head.as_ref());
        let said = head.and_then(Head::moment).filter(|at| within.contains(at));
        Self {
            offset,
            at: said.unwrap_or(otherwise),
            severity: head.map_or(Severity::Info, Head::severity),
            plain,
            cut,
            text,
        }
    }

    pub(crate) fn about(&self, file: u64) -> About {
        let id = LineId { file, offset: self.offset };
        About { id, at: self.at, severity: self.severity, plain: self.plain, cut: self.cut }
    }
}
