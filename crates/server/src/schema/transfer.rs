//! A transfer as it is asked for.

use serde_json::json;
use utoipa::openapi::Schema;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder};

use super::function::texts;
use super::text;

pub(super) fn transfer() -> Schema {
    let modes = ["stream", "snapshot", "query"].map(|mode| json!(mode)).into_iter().chain([json!(null)]);
    let none_else = AdditionalProperties::<Schema>::FreeForm(false);
    ObjectBuilder::new()
        .description(Some("A transfer as it is asked for: a server's data in a lake of its own."))
        .property("from", text("The server that is read, like `postgres.main`; it cannot be another one later."))
        .property(
            "mode",
            text("`stream`: every change, within a second. `snapshot`: whole tables of one moment, again and again. `query`: rows that are newer, told by `cursor`. Left out: `stream`.")
                .enum_values(Some(modes)),
        )
        .property("tables", texts("Tables with their schema, like `public.orders`, `public.*`; left out: `public.*`."))
        .property("every", text("Between two copies, queries, or merges of changes: `60s`, `1h`."))
        .property("cursor", text("For a query: the column that grows whenever a row is new or changes, like `updated_at`."))
        .property("overlap", text("For a query: how much is read again, like `10m`, or `1000` for a cursor that is a number."))
        .property("keep", text("For how long earlier versions of tables can be asked for: `7d` unless said."))
        .property("keep_changes", text("For how long changes are kept, like `90d`; left out: for ever."))
        .property("allow", texts("Networks from which the lake may be asked; left out: loopback."))
        .property("owner", text("Whom to ask about it."))
        .property("consumers", texts("Who reads the lake: whom to tell before something of it changes."))
        .property("runbook", text("Where it is written what to do."))
        .additional_properties(Some(none_else))
        .build()
        .into()
}
