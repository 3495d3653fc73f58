//! What surrounds every page: who looks, where they are, where they can go.

use super::assets;
use super::{Site, api::Refused, failure::Failure};
use crate::access::{Action, Caller};
use crate::problem::Problem;

/// What surrounds a page.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    /// Prefix of every path.
    pub(crate) base: String,
    /// Who looks, where somebody signed in.
    pub(crate) who: Option<Who>,
    /// The tenant that the page is about.
    pub(crate) tenant: Option<String>,
    /// The stead that the page is about.
    pub(crate) stead: Option<String>,
    /// The entry of the navigation that the page is.
    pub(crate) tab: &'static str,
    /// Whether the person may see and edit the tenant's members.
    pub(crate) members: bool,
    /// Whether the person may take the record along.
    pub(crate) audit: bool,
}

/// Who looks.
#[derive(Debug, Clone)]
pub(crate) struct Who {
    /// As the journal has them.
    pub(crate) name: String,
    /// Whether they see more than one tenant.
    pub(crate) fleet: bool,
    /// Whether they may see what belongs to no tenant.
    pub(crate) whole: bool,
}

impl Frame {
    /// For nobody in particular.
    pub(crate) fn open(site: &Site) -> Self {
        Self {
            base: site.app.console.base().to_owned(),
            who: None,
            tenant: None,
            stead: None,
            tab: "",
            members: false,
            audit: false,
        }
    }

    /// For somebody who signed in.
    pub(crate) fn of(site: &Site, caller: &Caller, tab: &'static str) -> Self {
        let who = Who {
            name: caller.actor.name.clone(),
            fleet: caller.tenants().is_none_or(|own| own.len() != 1),
            whole: caller.may(Action::ReadWholeJournal).is_ok(),
        };
        let audit = who.whole;
        Self { who: Some(who), tab, audit, ..Self::open(site) }
    }

    /// For a page about a tenant.
    pub(crate) fn in_tenant(mut self, caller: &Caller, tenant: &str) -> Self {
        self.members = caller.may_by_name(tenant, Action::EditMembers);
        self.audit = caller.may_by_name(tenant, Action::Audit);
        self.tenant = Some(tenant.to_owned());
        self
    }

    /// For a page about a stead.
    pub(crate) fn in_stead(mut self, caller: &Caller, tenant: &str, stead: &str) -> Self {
        self = self.in_tenant(caller, tenant);
        self.stead = Some(stead.to_owned());
        self
    }

    /// A failure within it.
    pub(crate) fn failure(&self, problem: impl Into<Refused>) -> Failure {
        Failure::within(self.clone(), problem)
    }

    /// The path of a file that pages need; it changes with the file.
    pub(crate) fn asset(&self, name: &str) -> String {
        format!("{}/assets/{}/{name}", self.base, assets::version())
    }

    /// Where the pages of the tenant are.
    pub(crate) fn of_tenant(&self) -> String {
        format!("{}/tenants/{}", self.base, self.tenant.as_deref().unwrap_or_default())
    }

    /// Where the pages of the stead are.
    pub(crate) fn of_stead(&self) -> String {
        format!("{}/steads/{}", self.of_tenant(), self.stead.as_deref().unwrap_or_default())
    }
}

/// What a form's text cannot be read as.
pub(crate) fn unreadable(error: &dyn std::fmt::Display) -> Problem {
    Problem::bad_request(format!("the form cannot be read: {error}; go back and send it again"))
}
