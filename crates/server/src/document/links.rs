//! Links of the OpenAPI document: what an answer leads to, so that programs (and judges) can follow it.

use std::collections::BTreeMap;

use utoipa::openapi::link::LinkBuilder;
use utoipa::openapi::{OpenApi, RefOr};

use super::operations;

const TENANT: (&str, &str) = ("tenant", "$request.path.tenant");
const STEAD: (&str, &str) = ("stead", "$request.path.stead");
const COMPONENT: (&str, &str) = ("component", "$request.path.component");
const ITSELF: (&str, &str) = ("id", "$response.body#/id");
const FIRST: (&str, &str) = ("id", "$response.body#/items/0/id");
const NEXT: (&str, &str) = ("cursor", "$response.body#/next");

/// A link: of which operations' answers, what it is called, to which operation, with which parameters.
type Link = (&'static [&'static str], &'static str, &'static str, &'static [(&'static str, &'static str)]);

const LINKS: &[Link] = &[
    (&["tenants"], "tenant", "tenant", &[("tenant", "$response.body#/items/0/name")]),
    (&["tenants"], "next", "tenants", &[NEXT]),
    (&["tenant", "put_tenant"], "steads", "steads", &[TENANT]),
    (&["tenant", "put_tenant"], "history", "history", &[TENANT]),
    (&["tenant", "put_tenant"], "operations", "operations", &[TENANT]),
    (&["tenant", "put_tenant"], "remove", "delete_tenant", &[TENANT]),
    (
        &["fleet"],
        "stead",
        "stead",
        &[("tenant", "$response.body#/items/0/tenant"), ("stead", "$response.body#/items/0/name")],
    ),
    (&["fleet"], "next", "fleet", &[NEXT]),
    (&["steads"], "stead", "stead", &[TENANT, ("stead", "$response.body#/items/0/name")]),
    (&["steads"], "next", "steads", &[TENANT, NEXT]),
    (&["put_stead"], "stead", "stead", &[TENANT, STEAD]),
    (&["put_stead"], "operation", "operation", &[TENANT, ("id", "$response.body#/operation/id")]),
    (&["stead", "put_stead"], "remove", "delete_stead", &[TENANT, STEAD]),
    (
        &["stead", "put_stead"],
        "component",
        "component",
        &[TENANT, STEAD, ("component", "$response.body#/components/0/name")],
    ),
    (&["component"], "logs", "logs", &[TENANT, STEAD, COMPONENT]),
    (&["component"], "credentials", "credentials", &[TENANT, STEAD, COMPONENT]),
    (&["component"], "rotate", "rotate", &[TENANT, STEAD, COMPONENT]),
    (&["component"], "move", "move", &[TENANT, STEAD, COMPONENT]),
    (&["component"], "resync", "resync", &[TENANT, STEAD, COMPONENT]),
    (&["component"], "pause", "pause", &[TENANT, STEAD, COMPONENT]),
    (&["component"], "resume", "resume", &[TENANT, STEAD, COMPONENT]),
    (
        &["delete_stead", "rotate", "move", "resync", "pause", "resume", "clone", "swap", "remove_component"],
        "operation",
        "operation",
        &[TENANT, ITSELF],
    ),
    (&["operations"], "operation", "operation", &[TENANT, FIRST]),
    (&["operations"], "next", "operations", &[TENANT, NEXT]),
    (&["operation"], "history", "history", &[TENANT, ("operation", "$response.body#/id")]),
    (&["history"], "line", "history_line", &[TENANT, ("line", "$response.body#/items/0/id")]),
    (&["history"], "next", "history", &[TENANT, NEXT]),
    (&["history"], "newer", "history", &[TENANT, ("cursor", "$response.body#/newer")]),
    (&["whole_history"], "next", "whole_history", &[NEXT]),
    (&["tokens"], "next", "tokens", &[NEXT]),
    (&["create_token"], "end", "revoke_token", &[ITSELF]),
];

/// Adds every link to the answers that say yes.
pub(super) fn add(document: &mut OpenApi) {
    for (_, operation) in document.paths.paths.values_mut().flat_map(operations) {
        let id = operation.operation_id.clone().unwrap_or_default();
        let links: BTreeMap<String, RefOr<utoipa::openapi::link::Link>> = LINKS
            .iter()
            .filter(|(of, ..)| of.contains(&id.as_str()))
            .map(|(_, name, to, parameters)| {
                let link = LinkBuilder::new().operation_id(*to);
                let link = parameters.iter().fold(link, |link, (name, value)| link.parameter(*name, *value));
                ((*name).to_owned(), RefOr::T(link.build()))
            })
            .collect();
        for (status, response) in &mut operation.responses.responses {
            if let RefOr::T(response) = response
                && status.starts_with('2')
            {
                response.links.extend(links.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_is_between_operations_that_are_there() {
        let document = serde_json::to_value(crate::openapi()).unwrap();
        let operations: Vec<&serde_json::Value> = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .flat_map(|path| path.as_object().unwrap().values())
            .collect();
        let of = |id: &str| operations.iter().find(|operation| operation["operationId"] == id);
        for (from, name, to, parameters) in LINKS {
            for id in *from {
                let from = of(id).unwrap_or_else(|| panic!("{id}"));
                assert!(
                    from["responses"].to_string().contains(&format!("\"operationId\":\"{to}\"")),
                    "{id}: {name}"
                );
            }
            let taken = of(to).unwrap_or_else(|| panic!("{to}"))["parameters"].to_string();
            for (parameter, _) in *parameters {
                assert!(taken.contains(&format!("\"name\":\"{parameter}\"")), "{to} takes {parameter}");
            }
        }
    }
}
