//! The body that asks for a stead, as the OpenAPI document describes it.
//!
//! What reads a body is [`component::manifest`]; this only says how one looks. It promises no more than shape:
//! whether a time zone exists or an engine is installed is found out by asking, and answered with 422.

mod function;
mod transfer;

use std::borrow::Cow;

use component::manifest::LARGEST;
use component::postgres::{Major, Size};
use serde_json::json;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, SchemaType};
use utoipa::openapi::{RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// What every name looks like.
pub(crate) const NAME: &str = "[a-z]([a-z0-9-]{0,38}[a-z0-9])?";

/// A stead as it is asked for.
pub(crate) struct SteadRequest;

impl ToSchema for SteadRequest {
    fn name() -> Cow<'static, str> {
        "SteadRequest".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push(("ServerRequest".into(), server().into()));
        schemas.push(("Migration".into(), migration().into()));
        schemas.push(("FunctionRequest".into(), function::function().into()));
        schemas.push(("TransferRequest".into(), transfer::transfer().into()));
    }
}

impl PartialSchema for SteadRequest {
    fn schema() -> RefOr<Schema> {
        let by_name = |schema: &str, description: &str| {
            let name =
                ObjectBuilder::new().schema_type(Type::String).pattern(Some(format!("^{NAME}$"))).build();
            let one = utoipa::openapi::Ref::from_schema_name(schema);
            ObjectBuilder::new()
                .schema_type(or_null(Type::Object))
                .property_names(Some(name))
                .additional_properties(Some(RefOr::<Schema>::Ref(one)))
                .description(Some(description))
        };
        let servers = by_name(
            "ServerRequest",
            "PostgreSQL servers by name; the component is called `postgres.NAME`, its database `NAME`.",
        );
        let functions =
            by_name("FunctionRequest", "Functions by name; the component is called `function.NAME`.");
        let transfers = by_name(
            "TransferRequest",
            "Transfers by name; the component is called `transfer.NAME`, and so is the database by which its lake is asked.",
        );
        let app = text("The app that this is an installation of; left out: called like the stead.")
            .pattern(Some(format!("^{NAME}$")));
        ObjectBuilder::new()
            .description(Some("A stead as it is asked for: the manifest as JSON. A field that is `null` is left out."))
            .property("app", app)
            .property("postgres", servers)
            .property("function", functions)
            .property("transfer", transfers)
            .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
            .examples([json!({
                "app": "flights",
                "postgres": { "main": {
                    "engine": 18,
                    "size": "small",
                    "allow": ["203.0.113.0/24", "2001:db8::/32"],
                    "maintenance": "sun 03:00-05:00 Asia/Tokyo",
                    "idle": "5m",
                    "backup": { "every": "1d", "keep": "14d" },
                    "schema": [{ "name": "0001_tables.sql", "sql": "create table airports (faa text primary key)" }],
                    "extensions": ["pg_trgm"],
                    "protect": false,
                    "owner": "team-flights",
                    "runbook": "https://wiki.example.com/flights"
                } },
                "function": { "api": {
                    "code": "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                    "runtime": "nodejs24.x",
                    "handler": "index.handler",
                    "memory": 256,
                    "timeout": 10,
                    "environment": { "LOG_LEVEL": "info" },
                    "uses": ["postgres.main"],
                    "url": "public",
                    "schedule": "0 6 * * mon-fri Europe/Zurich",
                    "egress": ["api.example.com"]
                } }
            })])
            .build()
            .into()
    }
}

fn or_null(one: Type) -> SchemaType {
    SchemaType::from_iter([one, Type::Null])
}

fn text(description: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(or_null(Type::String)).description(Some(description))
}

fn server() -> Schema {
    let engine = ObjectBuilder::new()
        .schema_type(or_null(Type::Integer))
        .minimum(Some(*Major::KNOWN.start()))
        .maximum(Some(*Major::KNOWN.end()))
        .description(Some(
            "Major version; left out: the newest installed, and for an existing server its own.",
        ));
    let sizes = Size::ALL.map(|size| json!(size)).into_iter().chain([json!(null)]);
    let size = text("Memory, disk and sessions; left out: `small`.").enum_values(Some(sizes));
    let allow = ArrayBuilder::new()
        .schema_type(or_null(Type::Array))
        .items(ObjectBuilder::new().schema_type(Type::String).max_length(Some(64)))
        .description(Some("Networks that may connect, IPv4 and IPv6; left out: this machine only."));
    let backup = ObjectBuilder::new()
        .schema_type(or_null(Type::Object))
        .property("every", text("Between two base backups, like `12h`: 1 hour to 30 days; left out: a day."))
        .property(
            "keep",
            ObjectBuilder::new()
                .schema_type(SchemaType::from_iter([Type::String, Type::Integer, Type::Null]))
                .description(Some(
                    "How long every moment can be restored, like `14d`: 1 to 3650 days; or so many base backups, 1 to \
                     1000; left out: 14 days.",
                )),
        )
        .property("drill", text("Between two drills, like `7d`: 1 hour to 365 days; left out: a week."))
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
        .description(Some("How it is backed up; left out: daily, kept for 14 days."));
    let schema = ArrayBuilder::new()
        .schema_type(or_null(Type::Array))
        .items(utoipa::openapi::Ref::from_schema_name("Migration"))
        .description(Some(
            "Migrations; each runs once, in the order of their names, in a transaction of its own.",
        ));
    let extensions = ArrayBuilder::new()
        .schema_type(or_null(Type::Array))
        .items(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[a-z][a-z0-9_-]{0,62}$")))
        .description(Some("Extensions that the database has."));
    let protect = ObjectBuilder::new()
        .schema_type(or_null(Type::Boolean))
        .description(Some("Whether deletion is refused; left out: it is."));
    ObjectBuilder::new()
        .description(Some("A PostgreSQL server as it is asked for."))
        .property("engine", engine)
        .property("size", size)
        .property("allow", allow)
        .property(
            "maintenance",
            text("Weekly window, like `sun 03:00-05:00 Asia/Tokyo`; left out: any time."),
        )
        .property(
            "idle",
            text(
                "It sleeps when no client has run a statement for this long, like `5m` or `1h30m`: 1 second to \
                 30 days; left out: it never sleeps.",
            ),
        )
        .property("backup", backup)
        .property("schema", schema)
        .property("extensions", extensions)
        .property("protect", protect)
        .property("owner", text("Whom to ask about it."))
        .property("runbook", text("Where it is written what to do."))
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
        .build()
        .into()
}

fn migration() -> Schema {
    let name = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,115}\.sql$"))
        .description(Some("Its file name."));
    let sql = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(8 * LARGEST))
        .description(Some("Its text."));
    ObjectBuilder::new()
        .description(Some("A migration."))
        .property("name", name)
        .required("name")
        .property("sql", sql)
        .required("sql")
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
        .build()
        .into()
}
