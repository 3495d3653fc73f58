//! That no route is left out of the matrices of who may do what: the routes are taken from the API's own document.

use serde_json::Value;

use crate::rig::Rig;

/// The tests that have a row for routes: as (method, path) next to each other in the text.
const MATRICES: [&str; 2] = [include_str!("access.rs"), include_str!("records.rs")];

/// The texts in quotes of a test, in their order.
fn quoted(source: &str) -> Vec<String> {
    let (mut found, mut signs) = (Vec::new(), source.chars());
    while signs.any(|sign| sign == '"') {
        let mut text = String::new();
        loop {
            match signs.next() {
                None | Some('"') => break,
                Some('\\') => text.extend(signs.next()),
                Some(sign) => text.push(sign),
            }
        }
        found.push(text);
    }
    found
}

/// Every row: a method, and a path with names in it.
fn rows() -> Vec<(String, String)> {
    let texts = MATRICES.iter().flat_map(|source| quoted(source)).collect::<Vec<_>>();
    let is_method = |text: &str| ["GET", "PUT", "POST", "PATCH", "DELETE"].contains(&text);
    let pairs = texts.windows(2).filter(|pair| is_method(&pair[0]) && pair[1].starts_with("/v1/"));
    pairs.map(|pair| (pair[0].clone(), pair[1].split('?').next().unwrap_or_default().to_owned())).collect()
}

/// Whether a path is one of a route's.
fn is_of(path: &str, route: &str) -> bool {
    let (path, route) = (path.split('/'), route.split('/'));
    path.clone().count() == route.clone().count()
        && path.zip(route).all(|(part, of)| part == of || of.starts_with('{') && !part.is_empty())
}

/// The routes of a document behind the sign-in for which there is no row.
fn without_row(document: &Value, rows: &[(String, String)]) -> Vec<String> {
    let mut left = Vec::new();
    for (route, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let open =
                operation["security"].as_array().is_some_and(|ways| ways.contains(&serde_json::json!({})));
            let method = method.to_uppercase();
            if !open && !rows.iter().any(|row| row.0 == method && is_of(&row.1, route)) {
                left.push(format!("{method} {route}"));
            }
        }
    }
    left
}

#[test]
fn every_route_has_a_row() {
    let document = serde_json::to_value(server::openapi()).unwrap();
    let rows = rows();
    let left = without_row(&document, &rows);
    assert!(left.is_empty(), "add a row to the matrix of access.rs (who may do what) for: {left:#?}");
    // The control: each row is needed by some route, and a route that is new is found to have none.
    for (route, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if operation["security"].is_array() {
                continue;
            }
            let method = method.to_uppercase();
            let others: Vec<_> =
                rows.iter().filter(|row| !(row.0 == method && is_of(&row.1, route))).cloned().collect();
            assert!(
                without_row(&document, &others).contains(&format!("{method} {route}")),
                "{method} {route}"
            );
        }
    }
}

#[tokio::test]
async fn routes_without_sign_in_are_these() {
    let rig = Rig::start().await;
    let document = serde_json::to_value(server::openapi()).unwrap();
    let mut open = Vec::new();
    for (route, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let answer = crate::rig::send(rig.anonymous(
                method.to_uppercase().parse().unwrap(),
                &route.replace("{tenant}", "acme").replace("{id}", "00000000-0000-4000-8000-000000000000"),
            ))
            .await;
            // What the document says of sign-in is what the server does.
            assert_eq!(operation["security"].is_array(), answer.status != 401, "{method} {route}");
            if answer.status != 401 {
                open.push(route.as_str());
            }
        }
    }
    assert_eq!(open, ["/v1/ca", "/v1/health", "/v1/openapi.json"]);
}
