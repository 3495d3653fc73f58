//! The table's part in a hand-over: what it lends, takes back or gives away, and what it is afterwards.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::Table;
use crate::drainers::Drainers;
use crate::files::Paths;
use crate::ports::Ports;
use crate::session::Context;
use crate::shared::Directory;

impl Table {
    /// Whether this is a moment at which the next gateway can take over; why not otherwise. What a door
    /// knows only by itself for a while (a server that is held) would be lost.
    pub(crate) fn may_hand_over(&self) -> Result<(), String> {
        fail::fail_point!("gateway::may_not", |_| Err("this is not the moment".to_owned()));
        match self.entries.values().find(|entry| entry.door.is_being_held()) {
            Some(entry) => {
                Err(format!("clients of server {} wait while it is switched", entry.door.route().server))
            }
            None => Ok(()),
        }
    }

    /// Where its files are.
    pub(crate) fn paths(&self) -> &Paths {
        &self.paths
    }

    /// Who handed over to it.
    pub(crate) fn drainers(&self) -> &Drainers {
        &self.context.drainers
    }

    /// What all its connections share.
    pub(crate) fn context(&self) -> Arc<Context> {
        self.context.clone()
    }

    /// Every door by its server.
    pub(crate) fn directory(&self) -> Arc<Directory> {
        self.directory.clone()
    }

    /// The listening sockets of every port.
    pub(crate) fn sockets(&self) -> io::Result<Vec<OwnedFd>> {
        let each: io::Result<Vec<_>> = self.all_ports().map(Ports::sockets).collect();
        Ok(each?.into_iter().flatten().collect())
    }

    /// Accepts no more, and keeps the sockets: who connects waits.
    pub(crate) async fn lend_ports(&mut self) -> io::Result<()> {
        for socket in self.sockets()? {
            self.context.lent.put(socket.into())?;
        }
        self.inner.close().await;
        self.shared.keep(&[]).await;
        self.metrics.keep(&[]).await;
        for entry in self.entries.values_mut() {
            entry.ports.keep(&[]).await;
        }
        Ok(())
    }

    /// Accepts again.
    pub(crate) async fn take_ports_back(&mut self) {
        self.reload().await;
        self.forget_ports();
    }

    /// Closes what nobody wants any more of what was lent or handed over.
    pub(crate) fn forget_ports(&self) {
        self.context.lent.clear();
    }

    /// From now on routes are followed for the sessions that there are: no port is opened, no door is new.
    /// The table holds nothing alive any more.
    pub(crate) fn drain(&mut self) {
        self.draining = true;
        self.alive = mpsc::channel(1).0;
        let alive = self.alive.clone();
        self.inner.let_go(&alive);
        self.shared.let_go(&alive);
        self.metrics.let_go(&alive);
        for entry in self.entries.values_mut() {
            entry.ports.let_go(&alive);
        }
    }
}
