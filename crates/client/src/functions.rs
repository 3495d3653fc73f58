//! Functions: packages, calls, releases, secrets.

use std::time::Duration;

use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};

use crate::http::{Client, Error};
use crate::wire::{Invocation, Operation, Package, Page, Release, Secret, SecretRequest};

impl Client {
    /// Whether a package is there.
    pub async fn has_package(&self, tenant: &str, package: &str) -> Result<bool, Error> {
        let asked: Result<Package, Error> =
            self.send(self.request(Method::GET, &format!("tenants/{tenant}/packages/{package}"))).await;
        match asked {
            Ok(_) => Ok(true),
            Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Uploads a package.
    pub async fn put_package(&self, tenant: &str, package: &str, zip: Vec<u8>) -> Result<Package, Error> {
        let request = self.request(Method::PUT, &format!("tenants/{tenant}/packages/{package}"));
        self.send(request.header("content-type", "application/octet-stream").body(zip)).await
    }

    /// Calls a function with an event, which is JSON.
    pub async fn invoke(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        event: String,
        later: bool,
    ) -> Result<Invocation, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/invocations");
        let request =
            self.request(Method::POST, &path).header("content-type", "application/json").body(event);
        // The longest that a function may take.
        self.send(request.query(&[("later", later)]).timeout(Duration::from_secs(910))).await
    }

    /// Releases of a function, newest first.
    pub async fn releases(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        cursor: Option<&str>,
        limit: Option<u16>,
    ) -> Result<Page<Release>, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/releases");
        self.send(self.request(Method::GET, &path).query(&[("cursor", cursor)]).query(&[("limit", limit)]))
            .await
    }

    /// Has an earlier release of a function run again; the one before the newest where none is named.
    pub async fn rollback(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        to: Option<i64>,
        reason: Option<&str>,
    ) -> Result<Operation, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/rollback");
        let request = self.request(Method::POST, &path).query(&[("to", to)]).query(&[("reason", reason)]);
        self.send(request).await
    }

    /// Has the release of a function that is tried on a share of the calls answer all of them.
    pub async fn promote(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        reason: Option<&str>,
    ) -> Result<Operation, Error> {
        self.edit_component(tenant, stead, component, "promote", reason, None).await
    }

    /// The secrets of a stead, without their values.
    pub async fn secrets(&self, tenant: &str, stead: &str) -> Result<Page<Secret>, Error> {
        self.send(self.request(Method::GET, &format!("tenants/{tenant}/steads/{stead}/secrets"))).await
    }

    /// Sets a secret of a stead.
    pub async fn put_secret(
        &self,
        tenant: &str,
        stead: &str,
        secret: &str,
        value: &SecretString,
        reason: Option<&str>,
    ) -> Result<Operation, Error> {
        let request = self.request(Method::PUT, &format!("tenants/{tenant}/steads/{stead}/secrets/{secret}"));
        let value = SecretRequest { value: value.expose_secret().to_owned() };
        self.send(request.json(&value).query(&[("reason", reason)])).await
    }

    /// Removes a secret of a stead.
    pub async fn delete_secret(
        &self,
        tenant: &str,
        stead: &str,
        secret: &str,
        reason: Option<&str>,
    ) -> Result<(), Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/secrets/{secret}");
        let request = self.request(Method::DELETE, &path).query(&[("reason", reason)]);
        self.text(request).await.map(|_| ())
    }
}
