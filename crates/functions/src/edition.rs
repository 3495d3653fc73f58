//! One version of a function as it runs: what was declared, and what is known of it now.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::environment;
use crate::route::{Route, Version};

/// A route that changes while workers of it live: they look here for what holds now.
pub(crate) struct Declared(Mutex<Arc<Route>>);

impl Declared {
    pub(crate) fn new(route: Arc<Route>) -> Self {
        Self(Mutex::new(route))
    }

    /// The route in force.
    pub(crate) fn route(&self) -> Arc<Route> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this one is.
    pub(crate) fn set(&self, route: Arc<Route>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = route;
    }
}

/// A version, which never changes, of a route that may.
pub(crate) struct Edition {
    pub(crate) declared: Arc<Declared>,
    pub(crate) number: u64,
    pub(crate) version: Version,
    arn: String,
}

impl Edition {
    pub(crate) fn new(declared: Arc<Declared>, number: u64, version: Version) -> Self {
        let route = declared.route();
        let arn = environment::arn(&route, None);
        Self { declared, number, version, arn }
    }

    /// How long an invocation may take.
    pub(crate) fn timeout(&self) -> Duration {
        Duration::from_millis(self.version.timeout_ms)
    }

    /// The ARN by which it was called.
    pub(crate) fn arn(&self, qualifier: Option<u64>) -> String {
        match qualifier {
            None => self.arn.clone(),
            Some(version) => format!("{}:{version}", self.arn),
        }
    }
}
