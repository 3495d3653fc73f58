//! Transfers into a bucket: what their secrets say, and the way there.
//!
//! As with servers elsewhere, the control plane asks no bucket: the copier does, by a relay that judges each address.

use component::Target;
use component::function::Variable;
use component::transfer::{Bucket, Reached, Unknown};
use keeper::wire::TARGET;
use relay::wire::Route;
use secrecy::{ExposeSecret, SecretString};

use crate::Local;
use crate::transfer::Names;

/// What the secrets of a transfer say of its bucket.
pub(crate) struct Known<'b> {
    bucket: &'b Bucket,
    key: SecretString,
    secret: SecretString,
    ca: Option<String>,
}

/// Reads the secrets of a transfer into a bucket.
pub(crate) fn known<'b>(target: &Target, bucket: &'b Bucket) -> Result<Known<'b>, Unknown> {
    let value = |name: &Variable| target.secrets.get(name).ok_or_else(|| Unknown::Unset(name.clone()));
    let word = |name: &Variable| {
        let word = value(name)?.expose_secret().trim();
        let is_word = !word.is_empty() && word.bytes().all(|b| b.is_ascii_graphic());
        let unfit = || Unknown::Unfit(name.clone(), "is no access key, nor what belongs to one".to_owned());
        is_word.then(|| SecretString::from(word)).ok_or_else(unfit)
    };
    let ca = bucket.ca.as_ref().map(value).transpose()?.map(|ca| ca.expose_secret().to_owned());
    Ok(Known { bucket, key: word(&bucket.key)?, secret: word(&bucket.secret)?, ca })
}

impl Known<'_> {
    /// Where the relay is to lead.
    pub(crate) fn route(&self) -> Route {
        let Reached { endpoint, .. } = self.bucket.reached();
        Route { host: endpoint.host().to_owned(), port: endpoint.port() }
    }

    /// What the copier is told of the bucket.
    pub(crate) fn settings(self, local: &Local, names: &Names) -> transfer::wire::Bucket {
        let Reached { endpoint, region, in_path } = self.bucket.reached();
        transfer::wire::Bucket {
            socket: local.way_seen_at(&names.target_way(), TARGET),
            place: self.bucket.bucket.to_string(),
            endpoint: endpoint.to_string(),
            in_path,
            region,
            ca: self.ca,
            key: self.key,
            secret: self.secret,
            key_name: self.bucket.key.to_string(),
            secret_name: self.bucket.secret.to_string(),
        }
    }
}
