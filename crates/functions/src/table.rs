//! The functions that are served, by handle.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::function::Function;

/// See above.
#[derive(Default)]
pub(crate) struct Table(RwLock<HashMap<String, Arc<Function>>>);

impl Table {
    /// A function by its handle.
    pub(crate) fn get(&self, function: &str) -> Option<Arc<Function>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(function).cloned()
    }

    /// A function by the name that it has in its stead.
    pub(crate) fn named(&self, stead: (&str, &str), component: &str) -> Option<Arc<Function>> {
        self.all().into_iter().find(|function| {
            let route = function.route();
            (route.tenant.as_str(), route.stead.as_str()) == stead && route.component == component
        })
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Function>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Their handles, in order.
    pub(crate) fn handles(&self) -> Vec<String> {
        let mut handles: Vec<_> =
            self.0.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
        handles.sort();
        handles
    }

    pub(crate) fn insert(&self, handle: String, function: Arc<Function>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(handle, function);
    }

    pub(crate) fn remove(&self, handle: &str) -> Option<Arc<Function>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(handle)
    }
}
