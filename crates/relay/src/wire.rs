//! What the relay is told, and what it answers.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `relay/relay.json`: what holds for every way.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Networks that are not public and may be dialled all the same.
    #[serde(default)]
    pub networks: Vec<IpNet>,
}

/// `relay/routes/<name>.json`: a way, from `relay/sockets/<name>/relay` to the one place that it leads to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// A name or an address.
    pub host: String,
    /// Its TCP port.
    pub port: u16,
}

/// The answer to whoever connects to `relay/run/relay.sock`, once all files were read again and are gone by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// What is wrong with a way, by its name.
    pub troubles: BTreeMap<String, String>,
}
