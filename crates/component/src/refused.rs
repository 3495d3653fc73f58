//! Why a wish cannot be granted.

/// A wish that cannot be granted: which field, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// Field of the component.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub message: String,
}
