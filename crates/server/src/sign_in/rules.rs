//! What the groups of the identity provider give.

use std::str::FromStr;

use component::{Role, TenantName};

/// One rule: members of a group are something.
///
/// Written `GROUP=ROLE`, where a role is `operator`, `support`, or `TENANT:ROLE`. A group and its role may hold the
/// words `{tenant}` and `{role}`: `stead-{tenant}-{role}={tenant}:{role}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    group: String,
    staff: Option<Role>,
    /// Tenant and role, as written.
    member: Option<(String, String)>,
}

/// A text that is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no rule: {1}; write GROUP=operator, GROUP=TENANT:ROLE or stead-{{tenant}}-{{role}}={{tenant}}:{{role}}"
)]
pub struct BadRule(String, &'static str);

const TENANT: &str = "{tenant}";
const ROLE: &str = "{role}";

impl FromStr for Rule {
    type Err = BadRule;

    fn from_str(text: &str) -> Result<Self, BadRule> {
        let wrong = |why| BadRule(text.chars().take(80).collect(), why);
        // The last: a group of LDAP is called cn=admins,dc=example.
        let (group, given) = text.rsplit_once('=').ok_or_else(|| wrong("there is no `=`"))?;
        if group.is_empty() {
            return Err(wrong("the group is missing"));
        }
        let rule = |staff, member| Self { group: group.to_owned(), staff, member };
        match given.split_once(':') {
            None => match given.parse::<Role>() {
                Ok(role) if role.is_staff() => Ok(rule(Some(role), None)),
                _ => Err(wrong("only operator and support are roles in every tenant")),
            },
            Some((tenant, role)) => {
                if tenant != TENANT && tenant.parse::<TenantName>().is_err() {
                    return Err(wrong("what stands before the `:` is no tenant"));
                }
                if role != ROLE && !role.parse::<Role>().is_ok_and(|role| !role.is_staff()) {
                    return Err(wrong("what stands behind the `:` is no role of a member"));
                }
                for (word, used) in [(TENANT, tenant == TENANT), (ROLE, role == ROLE)] {
                    if group.matches(word).count() != usize::from(used) {
                        return Err(wrong("{tenant} and {role} stand once on both sides, or on none"));
                    }
                }
                Ok(rule(None, Some((tenant.to_owned(), role.to_owned()))))
            }
        }
    }
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rules(pub(crate) Vec<Rule>);

/// What somebody is by the groups they are in.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) staff: Option<Role>,
    pub(crate) memberships: Vec<(TenantName, Role)>,
}

impl Rules {
    /// What these groups give; of several roles in one place the mightiest.
    pub(crate) fn given(&self, groups: &[String]) -> Given {
        let mut given = Given::default();
        for (rule, group) in self.0.iter().flat_map(|rule| groups.iter().map(move |group| (rule, group))) {
            if let Some(role) = rule.staff.filter(|_| rule.group == *group) {
                given.staff = Some(given.staff.map_or(role, |other| other.min(role)));
            }
            for (tenant, role) in rule.member.iter().flat_map(|member| member_of(&rule.group, member, group))
            {
                match given.memberships.iter_mut().find(|(other, _)| *other == tenant) {
                    Some((_, other)) => *other = role.min(*other),
                    None => given.memberships.push((tenant, role)),
                }
            }
        }
        given.memberships.sort();
        given
    }
}

/// What a group gives by a pattern. A pattern with both words may fit in several ways, where names hold what parts
/// them: the one whose role is a role is meant.
fn member_of(pattern: &str, member: &(String, String), group: &str) -> Option<(TenantName, Role)> {
    let roles: Vec<&str> = if member.1 == ROLE {
        Role::OF_MEMBERS.iter().map(|role| role.as_str()).collect()
    } else {
        vec![&member.1]
    };
    roles.into_iter().find_map(|role| {
        let pattern = pattern.replace(ROLE, role);
        let tenant = match pattern.split_once(TENANT) {
            Some((before, after)) => group.strip_prefix(before)?.strip_suffix(after)?,
            None => Some(member.0.as_str()).filter(|_| pattern == group)?,
        };
        Some((tenant.parse().ok()?, role.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Rules {
        Rules(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn given(texts: &[&str], groups: &[&str]) -> Given {
        rules(texts).given(&groups.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn groups_give_roles() {
        let texts = [
            "cn=admins,dc=example=operator",
            "helpdesk=support",
            "acme-people=acme:viewer",
            "stead-{tenant}-{role}={tenant}:{role}",
        ];
        assert_eq!(given(&texts, &["helpdesk", "cn=admins,dc=example"]).staff, Some(Role::Operator));
        let one = given(&texts, &["acme-people", "stead-acme-owner", "stead-two-words-auditor", "stead-x"]);
        let named = |name: &str| name.parse::<TenantName>().unwrap();
        assert_eq!(
            one,
            Given {
                staff: None,
                memberships: vec![(named("acme"), Role::Owner), (named("two-words"), Role::Auditor)]
            }
        );
        assert_eq!(given(&texts, &["stead-acme-operator", "operator", ""]), Given::default());
    }

    #[test]
    fn what_is_no_rule_is_refused() {
        for text in [
            "",
            "a",
            "=operator",
            "a=owner",
            "a=acme:operator",
            "a=ACME:owner",
            "a=acme:",
            "a={tenant}:owner",
            "a-{tenant}=acme:owner",
            "{role}-{role}=acme:{role}",
        ] {
            assert!(text.parse::<Rule>().is_err(), "{text}");
        }
    }
}
