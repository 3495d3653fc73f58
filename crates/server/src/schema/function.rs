//! A function as it is asked for.

use component::function::RUNTIMES;
use serde_json::json;
use utoipa::openapi::schema::{AdditionalProperties, ArrayBuilder, ObjectBuilder, SchemaType};
use utoipa::openapi::{Schema, Type};

use super::{or_null, text};

fn number(from: u32, to: u32, description: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(or_null(Type::Integer))
        .minimum(Some(from))
        .maximum(Some(to))
        .description(Some(description))
}

pub(super) fn texts(description: &str) -> ArrayBuilder {
    let item = ObjectBuilder::new().schema_type(Type::String).max_length(Some(300));
    ArrayBuilder::new().schema_type(or_null(Type::Array)).items(item).description(Some(description))
}

pub(super) fn function() -> Schema {
    let runtimes = RUNTIMES.iter().map(|facts| json!(facts.name)).chain([json!(null)]);
    let environment = ObjectBuilder::new()
        .schema_type(or_null(Type::Object))
        .property_names(Some(
            ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z_][A-Za-z0-9_]*$")).build(),
        ))
        .additional_properties(Some(utoipa::openapi::RefOr::<Schema>::T(
            ObjectBuilder::new().schema_type(Type::String).build().into(),
        )))
        .description(Some("Environment variables, 4096 bytes in all."));
    let url = ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Type::String, Type::Boolean, Type::Null]))
        .description(Some(
            "Who may call its URL: `public` or true, `token`; left out or false: it has none.",
        ));
    let none_else = AdditionalProperties::<Schema>::FreeForm(false);
    ObjectBuilder::new()
        .description(Some("A function as it is asked for."))
        .property(
            "code",
            text("The hash of an uploaded package; left out of an existing function: its own.")
                .pattern(Some("^sha256:[0-9a-f]{64}$")),
        )
        .property("runtime", text("What runs it, by AWS's names.").enum_values(Some(runtimes)))
        .property(
            "handler",
            text("File and function in the package, like `index.handler`; runtimes other than `provided` want one.")
                .pattern(Some("^[A-Za-z0-9._/:-]{1,128}$")),
        )
        .property("memory", number(128, 10_240, "Memory of a worker, MiB; left out: 256."))
        .property("timeout", number(1, 900, "Seconds that an invocation may take; left out: 30."))
        .property("concurrency", number(1, 1_000, "Workers at once, at most; left out: 20."))
        .property("environment", environment)
        .property("secrets", texts("Secrets of the stead in its environment, each by its name, like `STRIPE_KEY`."))
        .property("uses", texts("Servers of the stead that it reaches, like `postgres.main`."))
        .property("url", url)
        .property(
            "schedule",
            text("When it is called: cron's five fields and a time zone, like `0 6 * * mon-fri Europe/Zurich`."),
        )
        .property("egress", texts("Names that it may reach outside, like `api.example.com:443`; left out: none."))
        .property("owner", text("Whom to ask about it."))
        .property("runbook", text("Where it is written what to do."))
        .additional_properties(Some(none_else))
        .build()
        .into()
}
