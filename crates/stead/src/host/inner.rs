//! Ways to the servers of this host, for SQL that people run: through the inner door of the gateway.

use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use component::ComponentId;
use gateway::inner::{Call, connect};

/// The gateway of this host.
pub(crate) struct InnerDoor {
    /// `$STEAD_HOME`.
    pub(crate) home: PathBuf,
}

#[async_trait]
impl server::Sessions for InnerDoor {
    async fn open(&self, component: ComponentId, who: &str) -> io::Result<server::Stream> {
        let who = who.chars().take(80).collect();
        let stream = connect(&self.home, &Call { server: component.handle(), who }).await?;
        Ok(Box::new(stream))
    }
}
