//! A transfer as it is asked for.

use serde_json::json;
use utoipa::openapi::Schema;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Type};

use super::function::texts;
use super::{or_null, text};

fn tables() -> ArrayBuilder {
    let name = || ObjectBuilder::new().schema_type(Type::String).max_length(Some(127));
    let none_else = AdditionalProperties::<Schema>::FreeForm(false);
    let part = ObjectBuilder::new()
        .description(Some("Tables of which not everything is meant."))
        .property("name", name().description(Some("Which tables, like `public.customers`.")))
        .required("name")
        .property("columns", texts("These columns, and those that identify the rows; left out: all."))
        .property("without", texts("All columns but these; not beside `columns`."))
        .property("where", text("Rows of which this is true, like `status <> 'draft'`; left out: all."))
        .additional_properties(Some(none_else));
    ArrayBuilder::new()
        .schema_type(or_null(Type::Array))
        .items(OneOfBuilder::new().item(name()).item(part))
        .description(Some("Tables with their schema, like `public.orders`, `public.*`, or what of them is meant; left out: `public.*`."))
}

fn from() -> OneOfBuilder {
    let name = |description: &str| {
        ObjectBuilder::new().schema_type(Type::String).max_length(Some(128)).description(Some(description))
    };
    let elsewhere = ObjectBuilder::new()
        .description(Some("A server elsewhere."))
        .property("secret", name("The secret of the stead that holds its URL, like `LEGACY_URL`."))
        .property(
            "ca",
            name(
                "The secret that holds the certificate of the authority that its certificate is of, in PEM.",
            ),
        )
        .required("secret")
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)));
    OneOfBuilder::new()
        .description(Some("The server that is read; it cannot be another one later."))
        .item(text("A server of the stead, like `postgres.main`."))
        .item(elsewhere)
}

fn to() -> ObjectBuilder {
    let name = |description: &str| {
        ObjectBuilder::new().schema_type(Type::String).max_length(Some(512)).description(Some(description))
    };
    ObjectBuilder::new()
        .schema_type(or_null(Type::Object))
        .description(Some(
            "A bucket that it writes into, in the place of the stead's own lake; its place cannot be another one later.",
        ))
        .property("bucket", name("The bucket and a place in it, like `s3://acme-lake/flights`."))
        .property("region", text("The region that it is in, like `eu-central-1`; for AWS it is needed."))
        .property("endpoint", text("Where another store answers, like `https://minio.acme.internal:9000`."))
        .property("key", name("The secret of the stead that holds the access key."))
        .property("secret", name("The secret that holds what belongs to the access key."))
        .property(
            "ca",
            text("The secret that holds the certificate of the authority that the store's certificate is of, in PEM."),
        )
        .required("bucket")
        .required("key")
        .required("secret")
        .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
}

pub(super) fn transfer() -> Schema {
    let modes = ["stream", "snapshot", "query"].map(|mode| json!(mode)).into_iter().chain([json!(null)]);
    let none_else = AdditionalProperties::<Schema>::FreeForm(false);
    ObjectBuilder::new()
        .description(Some("A transfer as it is asked for: a server's data in a lake of its own."))
        .property("from", from())
        .property(
            "mode",
            text("`stream`: every change, within a second. `snapshot`: whole tables of one moment, again and again. `query`: rows that are newer, told by `cursor`. Left out: `stream`.")
                .enum_values(Some(modes)),
        )
        .property("tables", tables())
        .property("every", text("Between two copies, queries, or merges of changes: `60s`, `1h`."))
        .property("cursor", text("For a query: the column that grows whenever a row is new or changes, like `updated_at`."))
        .property("overlap", text("For a query: how much is read again, like `10m`, or `1000` for a cursor that is a number."))
        .property("keep", text("For how long earlier versions of tables can be asked for: `7d` unless said."))
        .property("keep_changes", text("For how long changes are kept, like `90d`; left out: for ever."))
        .property("to", to())
        .property("allow", texts("Networks from which the lake may be asked; left out: loopback."))
        .property("owner", text("Whom to ask about it."))
        .property("consumers", texts("Who reads the lake: whom to tell before something of it changes."))
        .property("runbook", text("Where it is written what to do."))
        .additional_properties(Some(none_else))
        .build()
        .into()
}
