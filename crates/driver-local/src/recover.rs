//! The control plane's own server, brought back on an empty host: with it comes the knowledge of everything else.

use archiver::restore::{Known, Plan, Source, archives};
use archiver::{About, ArchiveId};
use component::postgres::Major;
use jiff::Timestamp;
use keeper::wire::{Name, Tree};

use crate::archives::{BackupStore, CONTROL, InUse, failed};
use crate::{Error, Local, files};

/// What was found and brought back.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// The host that the control plane was on, as it called itself.
    pub host: String,
    /// Up to when its state was stored.
    pub until: Timestamp,
}

impl Local {
    /// Brings the control plane's own server back from the newest of its archives, into a host that has none.
    ///
    /// # Errors
    /// [`Error::Backups`] when the host has one, the store none, the key is another, or it cannot be brought back.
    pub async fn recover_control(&self, store: &BackupStore) -> Result<Recovered, Error> {
        if self.control_spec().is_some() {
            let home = self.home().display();
            return Err(failed(format!("{home} has a control plane already; recover into an empty folder")));
        }
        let objects = archiver::Objects::open(&store.location).map_err(failed)?;
        let in_use = InUse { objects: objects.clone(), wrapping: store.wrapping.clone() };
        let _ = self.0.backups.set(in_use);
        let mut newest: Option<(Timestamp, About, Source, Plan)> = None;
        let mut of_other_key: Option<ArchiveId> = None;
        for (archive, about) in archives(&objects).await.map_err(failed)? {
            if !about.control {
                continue;
            }
            let opened = Source::open(objects.clone(), archive, |sealed| store.wrapping.unseal(sealed)).await;
            let source = match opened {
                Ok(source) => source,
                Err(archiver::Error::OtherKey { archive }) => {
                    of_other_key = Some(archive);
                    continue;
                }
                Err(error) => return Err(failed(error)),
            };
            let Ok(plan) = source.plan(None, Known::Everything).await else { continue };
            let until = plan.reaches();
            if newest.as_ref().is_none_or(|(known, ..)| *known < until) {
                newest = Some((until, about, source, plan));
            }
        }
        let Some((until, about, source, plan)) = newest else {
            let shown = objects.shown();
            return Err(failed(match of_other_key {
                Some(archive) => format!(
                    "the control plane in {shown} (archive {archive}) was sealed with another installation key; give \
                     the right one with --key"
                ),
                None => format!("there is no backup of a control plane in {shown}"),
            }));
        };
        let unit = Name::parse(format!("{CONTROL}-restore")).map_err(failed)?;
        // Of an attempt that was killed.
        self.discard(&unit, &Tree::Control).await;
        self.bring_back(&source, &plan, &Tree::Control, &unit).await.map_err(failed)?;
        let major = Major::new(about.engine);
        let marker = self.tree_dir(&Tree::Control).join("conf/engine.json");
        files::write_atomically(&marker, &major.to_string(), 0o644)?;
        crate::fail_point!("driver-local::control-recovered");
        Ok(Recovered { host: about.host, until })
    }
}
