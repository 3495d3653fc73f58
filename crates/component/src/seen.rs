//! What was seen of something that was written down for others to go by.

/// A file or declaration against what it should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Seen {
    /// It is not there.
    #[default]
    Absent,
    /// It is as it should be.
    Same,
    /// It is something else.
    Differs,
}
