//! Inspections: debuggers at functions, by upgraded connections.

use reqwest::{Method, StatusCode, Upgraded};
use uuid::Uuid;

use crate::http::{Client, Error, refused};
use crate::wire::{INSPECTION_ID, INSPECTION_PROTOCOL};

impl Client {
    /// Inspects a function for as long as the connection is kept, on which the engine says a line of JSON for whatever
    /// happens and something has to be said every few seconds; which inspection it is.
    pub async fn inspect(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
    ) -> Result<(Uuid, Upgraded), Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/inspections");
        self.upgraded(&path).await
    }

    /// A connection to the inspector of a function's worker, within an inspection.
    pub async fn inspector(
        &self,
        tenant: &str,
        stead: &str,
        component: &str,
        inspection: Uuid,
    ) -> Result<Upgraded, Error> {
        let path = format!("tenants/{tenant}/steads/{stead}/components/{component}/inspections/{inspection}");
        self.upgraded(&path).await.map(|(_, connection)| connection)
    }

    async fn upgraded(&self, path: &str) -> Result<(Uuid, Upgraded), Error> {
        let unreachable = |error| self.unreachable(&error);
        let request = self.request(Method::POST, path).header("connection", "upgrade");
        let request = request.header("upgrade", INSPECTION_PROTOCOL).header("content-length", 0);
        let answer = request.send().await.map_err(unreachable)?;
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(answer.status(), &answer.text().await.map_err(unreachable)?));
        }
        let id = answer.headers().get(INSPECTION_ID).and_then(|id| id.to_str().ok()?.parse().ok());
        let id = id.ok_or_else(|| Error::Strange("an inspection without a name".to_owned()))?;
        Ok((id, answer.upgrade().await.map_err(unreachable)?))
    }
}
