//! A server moves to its other place: a new process on a moved data directory, while clients wait.
//!
//! The gateway holds; the old process is stopped, so that there is never more than one writer; the tree is
//! renamed; the new process starts; **the rename of the route file is the switch**; the gateway releases.
//! Killed at any point, a look finds the tree at one place or the other and goes on from there: where it has
//! not been renamed yet the server is started where it was, and the move begins anew. The hold is the gateway's
//! own and ends by itself.

use std::time::{Duration, Instant};

use component::postgres::Spec;
use component::{DriverError, Target};
use futures::TryFutureExt;
use gateway::route::Hold;
use keeper::wire::{UnitState, Wanted};

use crate::session::{Kept, admin};
use crate::{Local, Place, Places, fail_point, lock};

/// How long open transactions may take to end before it is tried another time.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long clients may be held in all; what takes longer than this to stop or start is let go.
const HELD: Duration = Duration::from_secs(15);
/// A server that is still not stopped after this is not waited for with clients held.
const STOP: Duration = Duration::from_secs(5);
/// A start that takes longer is seen by the next look.
const START: Duration = Duration::from_secs(5);
/// From how many vain attempts on transactions that do not end are ended.
const INSIST: u32 = 3;

/// What clients waited for once they rested, milliseconds.
#[derive(Debug, Default)]
struct Times {
    stop_ms: u128,
    start_ms: u128,
    open_ms: u128,
}

fn lap(began: Instant) -> (u128, Instant) {
    let now = Instant::now();
    ((now - began).as_millis(), now)
}

impl Local {
    pub(crate) async fn relocate(
        &self,
        target: &Target,
        spec: &Spec,
        places: &Places,
    ) -> Result<(), DriverError> {
        let Places { here, there, elsewhere: true } = places else { return Ok(()) };
        // What is written now need not be written while clients wait: all of it, and then what came meanwhile.
        let unavailable = crate::act::unavailable;
        let client = self.admin(&here.handle, &self.socket_dir(&here.tree)).await.map_err(unavailable)?;
        for _ in 0..2 {
            client.batch_execute("checkpoint").await.map_err(unavailable)?;
        }
        drop(client);
        self.leave(there).await?;
        let mut times = Times::default();
        let began = Instant::now();
        self.hold(&here.handle).await?;
        fail_point!("driver-local::move-held");
        // Whoever was kept from going on for long may find that clients no longer wait.
        if began.elapsed() > HELD / 3 {
            self.release_hold(&here.handle).await;
            return Err(DriverError::Unavailable(
                "clients came to rest too slowly; nothing was moved".into(),
            ));
        }
        // Where this fails clients wait on: the next look starts the server where it is and goes on from there.
        self.switch(target, spec, here, there, &mut times).await?;
        self.release_hold(&here.handle).await;
        fail_point!("driver-local::move-released");
        tracing::info!(server = here.handle, ?times, "moved");
        self.leave(here).await
    }

    /// Has the gateway keep clients waiting.
    async fn hold(&self, handle: &str) -> Result<(), DriverError> {
        let attempts = lock(&self.0.busy).get(handle).copied().unwrap_or_default();
        let unavailable = |error: gateway::ClientError| DriverError::Unavailable(error.to_string());
        let mut gateway = gateway::Client::connect(&self.0.home).await.map_err(unavailable)?;
        match gateway.hold(handle, PATIENCE, HELD, attempts >= INSIST).await.map_err(unavailable)? {
            Hold::Held { .. } => {
                lock(&self.0.busy).remove(handle);
                Ok(())
            }
            Hold::Busy { in_transaction: false, why } => {
                Err(DriverError::Unavailable(format!("the server is not moved yet: {why}")))
            }
            Hold::Busy { in_transaction: true, why } => {
                lock(&self.0.busy).insert(handle.to_owned(), attempts + 1);
                let then = match INSIST.saturating_sub(attempts + 1) {
                    0 => "next time such transactions are ended".to_owned(),
                    left => format!("{left} more attempts are made before such transactions are ended"),
                };
                Err(DriverError::Unavailable(format!("the server is not moved yet: {why}; {then}")))
            }
        }
    }

    pub(crate) async fn release_hold(&self, handle: &str) {
        let released = async { gateway::Client::connect(&self.0.home).await?.release(handle).await };
        if let Err(error) = released.await {
            tracing::warn!(%error, "a hold could not be released; it ends by itself");
        }
    }

    /// Everything that clients wait for.
    async fn switch(
        &self,
        target: &Target,
        spec: &Spec,
        here: &Place,
        there: &Place,
        times: &mut Times,
    ) -> Result<(), DriverError> {
        let mut began = Instant::now();
        let engine = self.engine(spec)?;
        self.forget_session(&here.handle);
        let Some(mut unit) = self.declared(&here.unit) else {
            return Err(DriverError::Unavailable("the server has no unit to be moved".into()));
        };
        unit.wanted = Wanted::Stopped;
        self.declare(&unit)?;
        let name = here.unit.clone();
        self.keeper(move |keeper| keeper.apply(&name)).await?;
        self.await_unit(&here.unit, STOP, |state| matches!(state, UnitState::Stopped)).await?;
        fail_point!("driver-local::move-stopped");
        (times.stop_ms, began) = lap(began);
        let (from, to) = (here.tree.clone(), there.tree.clone());
        self.keeper(move |keeper| keeper.rename_tree(&from, &to)).await?;
        fail_point!("driver-local::move-renamed");
        let read_only = self.read_only(&there.handle, spec);
        self.write_texts(&there.tree, &self.texts(&there.tree, spec, engine, read_only))?;
        let mut unit = self.server_unit(&there.unit, &there.tree, spec, engine);
        unit.generation = self.declaration(&unit).1;
        self.declare(&unit)?;
        let name = there.unit.clone();
        self.keeper(move |keeper| keeper.apply(&name)).await?;
        let socket = self.socket_dir(&there.tree);
        let client = self.await_ready(&there.unit, &socket, START).await.map_err(DriverError::Unavailable)?;
        fail_point!("driver-local::move-started");
        (times.start_ms, began) = lap(began);
        // The first session of a database reads its catalogs from disk and leaves a copy for the next ones:
        // better this one than sixty clients' at once. And the gateway takes up the route meanwhile.
        let warm = admin(&socket, target.name.local.as_str()).map_err(crate::act::unavailable);
        let (warm, opened) = tokio::join!(warm, self.open_route(target, spec, there));
        warm?;
        opened?;
        (times.open_ms, _) = lap(began);
        lock(&self.0.sessions).insert(there.handle.clone(), Kept::new(client));
        Ok(())
    }

    /// Takes away what is left of a server at a place that it is not at.
    pub(crate) async fn leave(&self, place: &Place) -> Result<(), DriverError> {
        if self.declared(&place.unit).is_some() && !self.tree_dir(&place.tree).is_dir() {
            self.forget_unit(&place.unit).await?;
        }
        fail_point!("driver-local::left");
        Ok(())
    }
}
