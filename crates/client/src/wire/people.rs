//! Who may sign in: members of tenants, the platform's own people, and programs with their tokens.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A member of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Identity of the person.
    pub id: Uuid,
    /// What the journal calls them: an e-mail address.
    pub name: String,
    /// `owner`, `developer`, `auditor` or `viewer`.
    pub role: MemberRole,
    /// Whether the company's identity provider says so; it is edited there then.
    pub provided: bool,
    /// Whether they sign in with a second factor of Stead's.
    pub second_factor: bool,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// When they last signed in.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub signed_in_at: Option<Timestamp>,
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    /// Edits steads, and says who the members are.
    Owner,
    /// Edits steads, reads and writes data.
    Developer,
    /// Reads and exports the record; no data.
    Auditor,
    /// Looks, data included.
    Viewer,
}

/// A member as wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with role")]
pub struct MemberRequest {
    /// What they shall be.
    pub role: MemberRole,
}

/// An invitation as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with name and role")]
pub struct InvitationRequest {
    /// Whom: an e-mail address.
    #[schema(min_length = 3, max_length = 200)]
    pub name: String,
    /// What they become.
    pub role: MemberRole,
}

/// An invitation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// Identity.
    pub id: Uuid,
    /// Whom.
    pub name: String,
    /// What they become.
    pub role: String,
    /// Who made it.
    pub made_by: String,
    /// Until when.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// The link, in the answer to its making and never again; whoever has it is let in, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

impl std::fmt::Debug for Invitation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Invitation({} {} {})", self.id, self.name, self.role)
    }
}

/// A person of the platform's own that is invited, or signed in once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, expecting = "an object with name, role and once")]
pub struct StaffRequest {
    /// Whom: an e-mail address.
    #[schema(min_length = 3, max_length = 200)]
    pub name: String,
    /// What they become.
    pub role: StaffRole,
    /// Whether the link signs in by itself, within minutes, without a password to choose.
    #[serde(default)]
    pub once: bool,
}

/// What the platform's own people may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StaffRole {
    /// Everything, in every tenant.
    Operator,
    /// Looking, in every tenant; no data.
    Support,
}

/// A token as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(
    deny_unknown_fields,
    expecting = "an object with name, scope and, but for operators and support, tenant"
)]
pub struct TokenRequest {
    /// What it is called in the journal.
    #[schema(min_length = 1, max_length = 60)]
    pub name: String,
    /// `operator`, `developer` or `viewer`.
    pub scope: TokenScope,
    /// Whose; needed but for operators and support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Days until it ends; left out: it does not end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 3650)]
    pub days: Option<u16>,
}

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenScope {
    /// Everything, in every tenant.
    Operator,
    /// Looking, in every tenant; no data.
    Support,
    /// Everything in one tenant but its quota and its tokens.
    Owner,
    /// Like owner, but for its members.
    Developer,
    /// Looking, in one tenant, and exporting its record; no data.
    Auditor,
    /// Looking, in one tenant, its data included; no passwords.
    Viewer,
}

/// A token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Identity.
    pub id: Uuid,
    /// What it is called in the journal.
    pub name: String,
    /// What it allows.
    pub scope: TokenScope,
    /// Whose.
    pub tenant: Option<String>,
    /// Since when.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Until when.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// The token itself, in the answer to its making and never again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({} {} {:?})", self.id, self.name, self.scope)
    }
}
