//! What is true of every route, added to the OpenAPI document in one place: how to sign in, the problems that
//! any request can meet, what names look like.

mod links;

use std::collections::BTreeMap;

use component::{Category, Health, Kind};
use store::journal::Outcome;
use utoipa::PartialSchema;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::schema::{ArrayItems, KnownFormat, ObjectBuilder, OneOfBuilder, SchemaFormat};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::{Tag, TagBuilder};
use utoipa::openapi::{
    ContactBuilder, ContentBuilder, InfoBuilder, OpenApi, Ref, RefOr, Required, ResponseBuilder, Schema,
    Server, Type,
};

use crate::extract::LONGEST_TEXT;
use crate::problem::MEDIA_TYPE;
use crate::schema::NAME;

const DESCRIPTION: &str = "A stead is a place of one's own: an app's backend, for one customer, operated in its \
stead. Errors are problem documents (RFC 9457). Lists have cursors: give `next` of a page as `cursor` for the next \
one. `Idempotency-Key` makes a request that is sent again one request; `ETag` with `If-Match` keeps you from \
overwriting somebody's edit.";

/// Problems that a request can meet on any route of its sort: status, name, and what it means.
const PROBLEMS: [(&str, &str, &str); 11] = [
    ("400", "BadRequest", "The request cannot be understood"),
    ("401", "Unauthenticated", "No token in force"),
    ("403", "Forbidden", "The token does not allow this"),
    ("404", "NotFound", "It is not there, or not for this token to see"),
    (
        "409",
        "Conflict",
        "Something stands in the way: protection, a quota, a removal, the same request on its way",
    ),
    ("413", "TooLarge", "The body is larger than 8 MiB"),
    ("415", "NotJson", "The body is not JSON"),
    ("422", "Invalid", "Well-formed, but cannot be granted; or an `Idempotency-Key` of another request"),
    ("431", "TooMuchHeader", "The header is larger than the server reads"),
    ("500", "Internal", "A mistake of Stead's own; the log has it under the `x-request-id` of the answer"),
    ("503", "Unavailable", "Not available at the moment; `Retry-After` says when to repeat"),
];

/// Operations whose body may be left out: it then means the defaults.
const OPTIONAL: [&str; 4] = ["put_stead", "plan_stead", "put_tenant", "invoke"];

/// Operations whose request or answer is not kept to be given again.
const STREAMS: [&str; 5] = ["run_query", "put_package", "invoke", "inspect", "reach_inspector"];

/// What the groups of operations are about.
const TAGS: [(&str, &str); 12] = [
    ("installation", "The installation itself: whether it is there, its certificate, this document."),
    ("tenants", "Customers, and what they may use."),
    ("steads", "Apps installed for customers."),
    ("components", "The parts of a stead."),
    ("packages", "The code of functions."),
    ("operations", "What was asked for, and how far it has come."),
    ("history", "Who did what, when, from what to what, and why."),
    ("logs", "What servers and Stead itself wrote."),
    ("queries", "SQL as the role of whoever asks."),
    ("members", "Who may sign in to the console, and as what."),
    ("secrets", "What functions find in their environment and nobody reads."),
    ("tokens", "What programs sign in with."),
];

fn tag(name: &str, description: &str) -> Tag {
    TagBuilder::new().name(name).description(Some(description)).build()
}

/// Completes the document.
pub(crate) fn complete(mut document: OpenApi) -> OpenApi {
    document.info = InfoBuilder::new()
        .title("Stead")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(DESCRIPTION))
        .contact(Some(ContactBuilder::new().name(Some("Whoever operates this installation")).build()))
        .license(Some(
            utoipa::openapi::LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
        ))
        .build();
    document.servers = Some(vec![Server::new("/")]);
    document.tags = Some(TAGS.iter().map(|(name, what)| tag(name, what)).collect());
    let components = document.components.get_or_insert_default();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(
            "A token: `stead token` makes one. Scopes: operator, support, owner, developer, auditor, viewer.",
        ))
        .build();
    components.security_schemes.insert("token".into(), RefOr::T(SecurityScheme::Http(bearer)));
    components.schemas.insert("Problem".into(), client::wire::Problem::schema());
    components.schemas.insert("FieldProblem".into(), client::wire::FieldProblem::schema());
    for (status, name, description) in PROBLEMS {
        components.responses.insert(name.into(), problem(status, description));
    }
    name_items(&mut components.schemas);
    document.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("token", [])]);
    for (path, item) in &mut document.paths.paths {
        for (edits, operation) in operations(item) {
            add_problems(operation, path.contains('{'), edits);
            let streams = operation.operation_id.as_deref().is_some_and(|id| STREAMS.contains(&id));
            if edits && !streams {
                operation.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
            }
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    describe(parameter);
                }
            }
            if let Some(RefOr::T(body)) = &mut operation.request_body {
                let optional = operation.operation_id.as_deref().is_some_and(|id| OPTIONAL.contains(&id));
                body.required = Some(if optional { Required::False } else { Required::True });
            }
        }
    }
    links::add(&mut document);
    document
}

/// Has every page say by name what is on it, instead of describing it again.
fn name_items(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let named: Vec<String> = schemas.keys().cloned().collect();
    for (name, schema) in schemas {
        let Some(of) = name.strip_prefix("Page_").filter(|of| named.iter().any(|name| name == of)) else {
            continue;
        };
        if let RefOr::T(Schema::Object(page)) = schema
            && let Some(RefOr::T(Schema::Array(items))) = page.properties.get_mut("items")
        {
            items.items = ArrayItems::RefOrSchema(Box::new(Ref::from_schema_name(of).into()));
        }
    }
}

/// The operations of a path, and whether each is more than a look.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (bool, &mut Operation)> {
    let edits = [&mut item.put, &mut item.post, &mut item.patch, &mut item.delete];
    let looks = item.get.as_mut().map(|operation| (false, operation));
    looks.into_iter().chain(edits.into_iter().flatten().map(|operation| (true, operation)))
}

fn add_problems(operation: &mut Operation, names_something: bool, edits: bool) {
    // Only routes that need no token say anything of sign-in themselves.
    let open = operation.security.is_some();
    let reads_query = operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty());
    let reads_body = operation.request_body.is_some();
    let happens = |status: &str| match status {
        "400" => reads_query || reads_body || edits,
        "401" => !open,
        // What can be asked in no wrong way can still be asked with more than the server reads.
        "431" => open && !reads_query && !reads_body,
        "404" => names_something,
        "415" => reads_body,
        "403" | "409" | "413" | "422" => edits,
        _ => true,
    };
    for (status, name, _) in PROBLEMS.iter().filter(|(status, ..)| happens(status)) {
        let responses = &mut operation.responses.responses;
        responses.entry((*status).into()).or_insert_with(|| Ref::from_response_name(*name).into());
    }
}

fn problem(status: &str, description: &str) -> RefOr<utoipa::openapi::Response> {
    let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let mut response = ResponseBuilder::new().description(description);
    if status != "431" {
        // That one is answered before there is anything to write a problem with.
        response = response.content(MEDIA_TYPE, body);
    }
    let header = |description: &str| {
        HeaderBuilder::new().schema(Some(String::schema())).description(Some(description)).build()
    };
    match status {
        "401" => response = response.header("WWW-Authenticate", header("How to sign in")),
        "503" => response = response.header("Retry-After", header("Seconds until it may be repeated")),
        _ => {}
    }
    response.build().into()
}

fn idempotency_key() -> Parameter {
    let schema = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[!-~]{1,200}$"));
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "Chosen by the caller, new for each request. A request that is sent again with its key is answered as it \
             was the first time, for a day.",
        ))
        .schema(Some(schema))
        .build()
}

/// Says what a parameter looks like that means the same on every route, unless the route itself says it.
fn describe(parameter: &mut Parameter) {
    if let Some(RefOr::T(Schema::Object(own))) = &parameter.schema
        && own.max_length.is_some()
    {
        return;
    }
    let text = |pattern: String| ObjectBuilder::new().schema_type(Type::String).pattern(Some(pattern));
    let one_of = |words: Vec<&'static str>| {
        ObjectBuilder::new().schema_type(Type::String).enum_values(Some(words)).build().into()
    };
    parameter.schema = Some(match parameter.name.as_str() {
        "tenant" | "stead" => text(format!("^{NAME}$")).build().into(),
        "component" => text(format!("^({})\\.{NAME}$", Kind::ALL.map(Kind::as_str).join("|"))).build().into(),
        "cursor" => text("^[A-Za-z0-9_-]+$".to_owned()).build().into(),
        "q" | "actor" | "action" => {
            let plain = text("^[^\\x00-\\x1f\\x7f-\\x9f]*$".to_owned());
            plain.min_length(Some(1)).max_length(Some(LONGEST_TEXT)).build().into()
        }
        "category" => one_of(Category::ALL.map(Category::as_str).to_vec()),
        "outcome" => one_of(Outcome::ALL.map(Outcome::as_str).to_vec()),
        "health" => one_of(Health::ALL.map(Health::as_str).to_vec()),
        "format" => one_of(vec!["ndjson", "csv"]),
        "If-None-Match" => one_of(vec!["*"]),
        "since" | "until" => moment(),
        _ => return,
    });
}

fn moment() -> RefOr<Schema> {
    let moment = ObjectBuilder::new()
        .schema_type(Type::String)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime)));
    let span = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[0-9]{1,6}[smhdw]$"));
    Schema::OneOf(OneOfBuilder::new().item(moment).item(span).build()).into()
}
