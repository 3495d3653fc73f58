//! Who may put servers to sleep: the gateway in force, and no longer the one that has handed over to it.

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The duty, until it is laid down.
#[derive(Default)]
pub(crate) struct Duty {
    laid_down: RwLock<bool>,
}

impl Duty {
    /// To be held while a server is put to sleep; `None` where that is not this process's to do, or not now.
    pub(crate) fn act(&self) -> Option<RwLockReadGuard<'_, bool>> {
        self.laid_down.try_read().ok().filter(|laid_down| !**laid_down)
    }

    /// To be held during a hand-over, and set at its end; `None` while a server falls asleep.
    pub(crate) fn lay_down(&self) -> Option<RwLockWriteGuard<'_, bool>> {
        self.laid_down.try_write().ok()
    }

    /// Whether it is another's now.
    pub(crate) fn is_laid_down(&self) -> bool {
        self.laid_down.try_read().is_ok_and(|laid_down| *laid_down)
    }
}
